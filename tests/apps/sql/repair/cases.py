"""What a weak model writes over our own schemas, what it is to become, and what has to be mended for it."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CASES", "HOPELESS", "UNCHANGED", "Case"]


class Case(NamedTuple):
    """One slip or several."""

    database: str
    broken: str
    sql: str
    kinds: str
    dialect: str = "sqlite"


CASES = (
    Case(
        "funds",
        "SELECT i.fnd_abbr FROM mf_info AS i" + " JOIN mf_company" * 40 + " WHERE co_abbr = 'X'",
        "SELECT i.fnd_abbr FROM mf_info AS i JOIN mf_company ON i.co_code = mf_company.co_code WHERE co_abbr = 'X'",
        "repeat join",
    ),
    Case("funds", "```sql\nSELECT fnd_code FROM mf_info\n```", "SELECT fnd_code FROM mf_info", "text"),
    Case(
        "funds",
        "Sure, here you go:\n```\nSELECT fnd_code FROM mf_info;\n```\nThis lists all funds.",
        "SELECT fnd_code FROM mf_info",
        "text",
    ),
    Case("funds", "SQL: SELECT COUNT(*) FROM mf_info", "SELECT COUNT(*) FROM mf_info", "text"),
    Case("funds", "The answer is SELECT COUNT(*) FROM mf_info", "SELECT COUNT(*) FROM mf_info", "text"),
    Case("funds", "SELECT COUNT(*) FROM mf_info; SELECT 2; DROP TABLE mf_info", "SELECT COUNT(*) FROM mf_info", "text"),
    Case(
        "funds",
        "SELECT fnd_code FROM mf_info WHERE fnd_type = ‘bond’",
        "SELECT fnd_code FROM mf_info WHERE fnd_type = 'bond'",
        "text",
    ),
    Case(
        "funds",
        "SELECT fnd_code FROM mf_info WHERE fnd_type = 'bond",
        "SELECT fnd_code FROM mf_info WHERE fnd_type = 'bond'",
        "text",
    ),
    Case(
        "funds",
        "SELECT fnd_code FROM mf_info WHERE fnd_type = 'bond AND curr = 'X' ORDER BY fnd_code",
        "SELECT fnd_code FROM mf_info WHERE fnd_type = 'bond' AND curr = 'X' ORDER BY fnd_code",
        "text",
    ),
    Case(
        "funds",
        "SELECT fnd_code FROM mf_info WHERE (fnd_type = 'bond' OR fnd_type = 'index'",
        "SELECT fnd_code FROM mf_info WHERE (fnd_type = 'bond' OR fnd_type = 'index')",
        "text",
    ),
    Case("funds", "SELECT COUNT(* FROM mf_info", "SELECT COUNT(*) FROM mf_info", "text"),
    Case("funds", "SELECT COUNT(*)) FROM mf_info", "SELECT COUNT(*) FROM mf_info", "text"),
    Case(
        "funds",
        "First we find the type. Then we count.\nSELECT COUNT(*) FROM mf_info WHERE fnd_type = "
        "'bond'\n\nQuestion: How many are there?\nSQL: SELECT 1",
        "SELECT COUNT(*) FROM mf_info WHERE fnd_type = 'bond'",
        "text",
    ),
    Case(
        "funds",
        "SELECT fnd_code FROM mf_info WHERE fnd_type = 'bond' AND\nThis query finds the bonds.",
        "SELECT fnd_code FROM mf_info WHERE fnd_type = 'bond'",
        "text clause",
    ),
    Case(
        "funds",
        "SELECT fnd_code FROM mf_info WHERE mgt_fee > 1 AND mgt_fee > 1 AND mgt_fee > 1 AND mgt",
        "SELECT fnd_code FROM mf_info WHERE mgt_fee > 1",
        "repeat repeat text",
    ),
    Case(
        "funds",
        "SELECT fnd_code, fnd_code, fnd_code, fnd_code FROM mf_info",
        "SELECT fnd_code FROM mf_info",
        "repeat repeat repeat",
    ),
    Case(
        "funds",
        "SELECT fnd_code FROM mf_info WHERE fnd_type IN ('bond', 'index', 'bond', 'index')",
        "SELECT fnd_code FROM mf_info WHERE fnd_type IN ('bond', 'index')",
        "repeat repeat",
    ),
    Case("funds", "SELECT fnd_code FROM mf_info<|im_end|>\n<|im_start|>user", "SELECT fnd_code FROM mf_info", "text"),
    Case(
        "equities",
        "SELECT stk_abbr FROM eq_info WHERE board == 'main'",
        "SELECT stk_abbr FROM eq_info WHERE board = 'main'",
        "keyword",
    ),
    Case(
        "equities",
        "SELECT stk_abbr FROM eq_info WHERE board ! = 'main'",
        "SELECT stk_abbr FROM eq_info WHERE board <> 'main'",
        "keyword",
    ),
    Case(
        "equities",
        "SELECT stk_abbr FROM eq_info WHERE emp_cnt => 100 AND rd_cnt =< 5",
        "SELECT stk_abbr FROM eq_info WHERE emp_cnt >= 100 AND rd_cnt <= 5",
        "keyword keyword",
    ),
    Case(
        "equities",
        "SELCT stk_abbr FORM eq_info WEHRE board = 'main'",
        "SELECT stk_abbr FROM eq_info WHERE board = 'main'",
        "keyword keyword keyword",
    ),
    Case(
        "equities",
        "SELECT exch, COUNT(*) FROM eq_info GRUOP BY exch ODER BY exch DSEC",
        "SELECT exch, COUNT(*) FROM eq_info GROUP BY exch ORDER BY exch DESC",
        "keyword keyword keyword",
    ),
    Case(
        "equities",
        "SELECT exch, COUNT(*) FROM eq_info GROUPBY exch ORDERBY exch",
        "SELECT exch, COUNT(*) FROM eq_info GROUP BY exch ORDER BY exch",
        "keyword keyword",
    ),
    Case(
        "equities",
        "SELECT exch, COUNT(*) FROM eq_info GROUP exch",
        "SELECT exch, COUNT(*) FROM eq_info GROUP BY exch",
        "keyword",
    ),
    Case("equities", "SELECT DISTINT board FROM eq_info", "SELECT DISTINCT board FROM eq_info", "keyword"),
    Case("equities", "SELECT COUNT * FROM eq_info", "SELECT COUNT(*) FROM eq_info", "keyword"),
    Case("equities", "SELECT COUNT DISTINCT exch FROM eq_info", "SELECT COUNT(DISTINCT exch) FROM eq_info", "keyword"),
    Case(
        "equities",
        "SELECT CUONT(*), AVGG(emp_cnt) FROM eq_info",
        "SELECT COUNT(*), AVG(emp_cnt) FROM eq_info",
        "keyword keyword",
    ),
    Case(
        "equities",
        "SELECT stk_abbr FROM eq_info ORDER BY emp_cnt LIMT 3",
        "SELECT stk_abbr FROM eq_info ORDER BY emp_cnt LIMIT 3",
        "keyword",
    ),
    Case(
        "equities",
        "SELECT stk_abbr FROM eq_info WHERE AND board = 'main'",
        "SELECT stk_abbr FROM eq_info WHERE board = 'main'",
        "clause",
    ),
    Case(
        "equities",
        "SELECT stk_abbr FROM eq_info WHERE board = 'main' AND ORDER BY stk_abbr",
        "SELECT stk_abbr FROM eq_info WHERE board = 'main' ORDER BY stk_abbr",
        "clause",
    ),
    Case(
        "equities",
        "SELECT exch, COUNT(*) FROM eq_info GROUP BY exch WHERE GROUP BY exch",
        "SELECT exch, COUNT(*) FROM eq_info GROUP BY exch",
        "clause repeat",
    ),
    Case(
        "equities",
        "SELECT stk_abbr FROM eq_info WHERE board = 'main' WHERE exch = 'NORTH'",
        "SELECT stk_abbr FROM eq_info WHERE board = 'main' AND exch = 'NORTH'",
        "clause",
    ),
    Case("equities", "SELECT stk_abbr FROM FROM eq_info", "SELECT stk_abbr FROM eq_info", "keyword"),
    Case(
        "equities", "SELECT FROM eq_info WHERE board = 'main'", "SELECT * FROM eq_info WHERE board = 'main'", "clause"
    ),
    Case(
        "equities",
        "SELECT i.stk_abbr FROM eq_info AS i WHERE i.board = 'main' JOIN eq_val AS v ON v.stk_code = "
        "i.stk_code WHERE v.pe_ttm < 10",
        "SELECT i.stk_abbr FROM eq_info AS i JOIN eq_val AS v ON v.stk_code = i.stk_code WHERE i.board = "
        "'main' AND v.pe_ttm < 10",
        "clause",
    ),
    Case(
        "equities",
        "SELECT TOP 3 stk_abbr FROM eq_info ORDER BY emp_cnt DESC",
        "SELECT stk_abbr FROM eq_info ORDER BY emp_cnt DESC LIMIT 3",
        "dialect",
    ),
    Case(
        "equities",
        "SELECT stk_abbr FROM eq_info WHERE YEAR(lst_dt) = 2010",
        "SELECT stk_abbr FROM eq_info WHERE CAST(STRFTIME('%Y', lst_dt) AS INTEGER) = 2010",
        "dialect",
    ),
    Case(
        "equities",
        "SELECT stk_abbr FROM eq_info WHERE EXTRACT(YEAR FROM lst_dt) > 2015",
        "SELECT stk_abbr FROM eq_info WHERE CAST(STRFTIME('%Y', lst_dt) AS INTEGER) > 2015",
        "dialect",
    ),
    Case(
        "equities",
        "SELECT stk_abbr FROM eq_info WHERE STRFTIME('%Y', lst_dt) = 2010",
        "SELECT stk_abbr FROM eq_info WHERE STRFTIME('%Y', lst_dt) = '2010'",
        "value",
    ),
    Case(
        "equities",
        "SELECT DATE_FORMAT(trd_dt, '%Y-%m'), AVG(cls) FROM eq_quote GROUP BY DATE_FORMAT(trd_dt, '%Y-%m')",
        "SELECT STRFTIME('%Y-%m', trd_dt), AVG(cls) FROM eq_quote GROUP BY STRFTIME('%Y-%m', trd_dt)",
        "dialect dialect",
    ),
    Case(
        "equities",
        "SELECT TO_CHAR(trd_dt, 'YYYY-MM'), AVG(cls) FROM eq_quote GROUP BY TO_CHAR(trd_dt, 'YYYY-MM')",
        "SELECT STRFTIME('%Y-%m', trd_dt), AVG(cls) FROM eq_quote GROUP BY STRFTIME('%Y-%m', trd_dt)",
        "dialect dialect",
    ),
    Case(
        "equities",
        "SELECT LEFT(stk_code, 2), CONCAT(stk_code, '-', exch) FROM eq_info",
        "SELECT SUBSTRING(stk_code, 1, 2), (stk_code || '-' || exch) FROM eq_info",
        "dialect dialect",
    ),
    Case(
        "equities",
        "SELECT stk_abbr FROM eq_info WHERE lst_dt > NOW() - INTERVAL 1 YEAR",
        "SELECT stk_abbr FROM eq_info WHERE lst_dt > DATE(CURRENT_TIMESTAMP, '-1 year')",
        "dialect dialect",
    ),
    Case(
        "equities",
        "SELECT `stk_abbr` FROM `eq_info` WHERE STRFTIME('%Y', lst_dt) = '2010'",
        "SELECT \"stk_abbr\" FROM \"eq_info\" WHERE TO_CHAR(CAST(lst_dt AS TIMESTAMP), 'YYYY') = '2010'",
        "dialect",
        "postgres",
    ),
    Case(
        "equities",
        "SELECT [stk_abbr] FROM [eq_info] WHERE NOW() > lst_dt",
        'SELECT "stk_abbr" FROM "eq_info" WHERE CURRENT_TIMESTAMP > lst_dt',
        "dialect dialect",
        "duckdb",
    ),
    Case(
        "equities",
        "SELECT TOP 2 stk_abbr FROM eq_info ORDER BY stk_abbr",
        "SELECT stk_abbr FROM eq_info ORDER BY stk_abbr NULLS FIRST LIMIT 2",
        "dialect",
        "postgres",
    ),
    Case(
        "equities",
        "SELECT DATE_FORMAT(trd_dt, '%Y-%m') AS m, AVG(cls) FROM eq_quote GROUP BY m",
        "SELECT STRFTIME(CAST(trd_dt AS TIMESTAMP), '%Y-%m') AS m, AVG(cls) FROM eq_quote GROUP BY m",
        "dialect",
        "duckdb",
    ),
    Case("macro", "SELECT reg_name FROM region", "SELECT reg_name FROM mc_region", "table"),
    Case("macro", "SELECT reg_name FROM mc_regions", "SELECT reg_name FROM mc_region", "table"),
    Case(
        "macro",
        "SELECT pmi_mfg, new_ord FROM survey WHERE reg_code = 'R001'",
        "SELECT pmi_mfg, new_ord FROM mc_pmi WHERE reg_code = 'R001'",
        "table",
    ),
    Case(
        "macro",
        "SELECT macro.mc_region.reg_name FROM macro.mc_region",
        "SELECT mc_region.reg_name FROM mc_region",
        "table",
    ),
    Case("macro", "SELECT AVG(regions.area_km) FROM regions", "SELECT AVG(mc_region.area_km) FROM mc_region", "table"),
    Case(
        "macro", "SELECT mc_cpi.cpi_yoy, mc_cpi.stat_dt", "SELECT mc_cpi.cpi_yoy, mc_cpi.stat_dt FROM mc_cpi", "table"
    ),
    Case("macro", "SELECT unemp_rt, wage_yoy", "SELECT unemp_rt, wage_yoy FROM mc_labor", "table"),
    Case(
        "macro",
        "SELECT T1.reg_name FROM mc_region WHERE T1.cont = 'Meridia'",
        "SELECT mc_region.reg_name FROM mc_region WHERE mc_region.cont = 'Meridia'",
        "alias",
    ),
    Case(
        "macro",
        "SELECT T1.reg_name, T2.gdp_nom FROM mc_region JOIN mc_gdp ON T1.reg_code = T2.reg_code",
        "SELECT mc_region.reg_name, mc_gdp.gdp_nom FROM mc_region JOIN mc_gdp ON mc_region.reg_code = mc_gdp.reg_code",
        "alias alias",
    ),
    Case(
        "funds", "SELECT MAX(f.v.shrp_1y) FROM mf_perf AS f", "SELECT MAX(f.shrp_1y) FROM mf_perf AS f", "alias alias"
    ),
    Case("funds", "SELECT MAX(f.v.f.shrp_1y) FROM mf_perf AS f", "SELECT MAX(f.shrp_1y) FROM mf_perf AS f", "alias"),
    Case(
        "funds", "SELECT main.mf_perf.shrp_1y FROM mf_perf", "SELECT mf_perf.shrp_1y FROM mf_perf", "alias", "postgres"
    ),
    Case("macro", "SELECT mc_region.reg_name FROM mc_region AS r", "SELECT r.reg_name FROM mc_region AS r", "alias"),
    Case(
        "macro",
        "SELECT rg.reg_name FROM mc_region AS reg JOIN mc_gdp AS gdp ON reg.reg_code = gdp.reg_code",
        "SELECT reg.reg_name FROM mc_region AS reg JOIN mc_gdp AS gdp ON reg.reg_code = gdp.reg_code",
        "alias",
    ),
    Case("macro", "SELECT region_name FROM mc_region", "SELECT reg_name FROM mc_region", "column"),
    Case("macro", "SELECT reg_nme, capitl FROM mc_region", "SELECT reg_name, capital FROM mc_region", "column column"),
    Case("macro", "SELECT MAX(unemployment_rate) FROM mc_labor", "SELECT MAX(unemp_rt) FROM mc_labor", "column"),
    # A name in words: what one column of the table is about, and what another table's column means word for word.
    Case("equities", "SELECT revenue FROM eq_inc", "SELECT opr_rev FROM eq_inc", "column"),
    Case(
        "funds",
        "SELECT short_name_of_fund_company FROM mf_info",
        "SELECT mf_company.co_abbr FROM mf_info JOIN mf_company ON mf_info.co_code = mf_company.co_code",
        "column join",
    ),
    Case(
        "macro",
        "SELECT g.reg_name, r.gdp_nom FROM mc_gdp AS g JOIN mc_region AS r ON g.reg_code = r.reg_code",
        "SELECT r.reg_name, g.gdp_nom FROM mc_gdp AS g JOIN mc_region AS r ON g.reg_code = r.reg_code",
        "owner owner",
    ),
    Case(
        "macro",
        "SELECT r.reg_name, r.gdp_nom FROM mc_region AS r",
        "SELECT r.reg_name, mc_gdp.gdp_nom FROM mc_region AS r JOIN mc_gdp ON r.reg_code = mc_gdp.reg_code",
        "owner join",
    ),
    Case(
        "macro",
        "SELECT reg_name, gdp_nom FROM mc_gdp WHERE stat_yr = 2023",
        "SELECT mc_region.reg_name, gdp_nom FROM mc_gdp JOIN mc_region ON mc_gdp.reg_code = "
        "mc_region.reg_code WHERE stat_yr = 2023",
        "owner join",
    ),
    Case(
        "macro",
        "SELECT reg_code, reg_name, gdp_nom FROM mc_gdp",
        "SELECT mc_gdp.reg_code, mc_region.reg_name, gdp_nom FROM mc_gdp JOIN mc_region ON mc_gdp.reg_code = "
        "mc_region.reg_code",
        "owner join owner",
    ),
    Case(
        "macro",
        "SELECT reg_name, gdp_nom FROM mc_region JOIN mc_gdp",
        "SELECT reg_name, gdp_nom FROM mc_region JOIN mc_gdp ON mc_region.reg_code = mc_gdp.reg_code",
        "join",
    ),
    Case(
        "macro",
        "SELECT reg_name, gdp_nom FROM mc_region, mc_gdp",
        "SELECT reg_name, gdp_nom FROM mc_region JOIN mc_gdp ON mc_region.reg_code = mc_gdp.reg_code",
        "join",
    ),
    Case(
        "macro",
        "SELECT r.reg_name, g.gdp_nom FROM mc_region AS r JOIN mc_gdp AS g ON r.id = g.region_id",
        "SELECT r.reg_name, g.gdp_nom FROM mc_region AS r JOIN mc_gdp AS g ON r.reg_code = g.reg_code",
        "join",
    ),
    Case(
        "macro",
        "SELECT r.reg_name, g.gdp_nom FROM mc_region AS r JOIN mc_gdp AS g ON r.reg_code = r.reg_code",
        "SELECT r.reg_name, g.gdp_nom FROM mc_region AS r JOIN mc_gdp AS g ON r.reg_code = g.reg_code",
        "join",
    ),
    Case(
        "macro",
        "SELECT reg_code, gdp_nom FROM mc_region JOIN mc_gdp ON reg_code = reg_code",
        "SELECT mc_region.reg_code, gdp_nom FROM mc_region JOIN mc_gdp ON mc_region.reg_code = mc_gdp.reg_code",
        "join owner",
    ),
    Case(
        "macro",
        "SELECT l.unemp_rt, p.cpi_yoy FROM mc_labor AS l JOIN mc_cpi AS p",
        "SELECT l.unemp_rt, p.cpi_yoy FROM mc_labor AS l JOIN mc_cpi AS p ON l.reg_code = p.reg_code AND "
        "l.stat_dt = p.stat_dt",
        "join",
    ),
    Case(
        "macro",
        "SELECT cont, COUNT(*) FROM mc_region",
        "SELECT cont, COUNT(*) FROM mc_region GROUP BY cont",
        "grouping",
    ),
    Case(
        "macro",
        "SELECT cont, inc_grp, COUNT(*) FROM mc_region GROUP BY cont",
        "SELECT cont, inc_grp, COUNT(*) FROM mc_region GROUP BY cont, inc_grp",
        "grouping",
    ),
    Case(
        "macro",
        "SELECT cont FROM mc_region WHERE COUNT(*) > 2 GROUP BY cont",
        "SELECT cont FROM mc_region GROUP BY cont HAVING COUNT(*) > 2",
        "grouping",
    ),
    Case(
        "macro",
        'SELECT reg_name FROM mc_region WHERE cont = "Meridia"',
        "SELECT reg_name FROM mc_region WHERE cont = 'Meridia'",
        "value",
    ),
    Case(
        "macro",
        "SELECT reg_name FROM mc_region WHERE cont = Meridia",
        "SELECT reg_name FROM mc_region WHERE cont = 'Meridia'",
        "value",
    ),
    Case(
        "macro",
        "SELECT COUNT(*) FROM mc_cpi WHERE stat_dt = 2024-06-30",
        "SELECT COUNT(*) FROM mc_cpi WHERE stat_dt = '2024-06-30'",
        "value",
    ),
    Case(
        "macro",
        "SELECT reg_name FROM mc_region WHERE reg_code IN (SELECT reg_code FROM gdp WHERE gdp_nom > 100)",
        "SELECT reg_name FROM mc_region WHERE reg_code IN (SELECT reg_code FROM mc_gdp WHERE gdp_nom > 100)",
        "table",
    ),
    Case(
        "macro",
        "WITH top AS (SELECT reg_code, SUM(gdp_nm) AS total FROM mc_gdp GROUP BY reg_code) SELECT reg_name, "
        "total FROM mc_region JOIN top ON mc_region.reg_code = top.reg_cod",
        "WITH top AS (SELECT reg_code, SUM(gdp_nom) AS total FROM mc_gdp GROUP BY reg_code) SELECT reg_name, "
        "total FROM mc_region JOIN top ON mc_region.reg_code = top.reg_code",
        "column column",
    ),
    Case(
        "macro",
        "SELECT reg_code FROM mc_fiscal WHERE bdg_bl < 0 UNION SELECT reg_code FROM mc_fiscl WHERE debt_gdp "
        "> 80 ORDER BY mc_fiscal.reg_code",
        "SELECT reg_code FROM mc_fiscal WHERE bdg_bal < 0 UNION SELECT reg_code FROM mc_fiscal WHERE "
        "debt_gdp > 80 ORDER BY reg_code",
        "table column column",
    ),
    Case(
        "macro",
        "SELECT reg_name FROM mc_region AS r WHERE NOT EXISTS (SELECT 1 FROM mc_policy AS d WHERE d.reg_code "
        "= d.reg_code)",
        "SELECT reg_name FROM mc_region AS r WHERE NOT EXISTS(SELECT 1 FROM mc_policy AS d WHERE d.reg_code "
        "= r.reg_code)",
        "owner",
    ),
    Case(
        "macro",
        "SELECT reg_name FROM mc_region AS r WHERE EXISTS (SELECT 1 FROM mc_policy AS d WHERE d.reg_code = r.regcode)",
        "SELECT reg_name FROM mc_region AS r WHERE EXISTS(SELECT 1 FROM mc_policy AS d WHERE d.reg_code = r.reg_code)",
        "column",
    ),
    Case(
        "macro",
        "SELECT reg_name, SUM(gdp_nom) AS total FROM mc_gdp GROUP BY reg_name ORDER BY totl DESC LIMT 3",
        "SELECT mc_region.reg_name, SUM(gdp_nom) AS total FROM mc_gdp JOIN mc_region ON mc_gdp.reg_code = "
        "mc_region.reg_code GROUP BY mc_region.reg_name ORDER BY total DESC LIMIT 3",
        "keyword owner owner column join",
    ),
    Case(
        "funds",
        "SELECT mgr_name, fnd_abbr FROM mf_manager",
        "SELECT mgr_name, mf_info.fnd_abbr FROM mf_manager JOIN mf_mgr_hist ON mf_manager.mgr_id = "
        "mf_mgr_hist.mgr_id JOIN mf_info ON mf_mgr_hist.fnd_code = mf_info.fnd_code",
        "owner join join",
    ),
    Case(
        "funds",
        "SELECT fnd_abbr FROM mf_info WHERE co_abbr = 'Bluecrest'",
        "SELECT fnd_abbr FROM mf_info JOIN mf_company ON mf_info.co_code = mf_company.co_code WHERE "
        "mf_company.co_abbr = 'Bluecrest'",
        "owner join",
    ),
    Case(
        "funds",
        "SELECT f.fnd_abbr FROM mf_info f JOIN mf_manager m ON f.mgr_id = m.mgr_id WHERE m.mgr_name = 'X'",
        "SELECT f.fnd_abbr FROM mf_info AS f JOIN mf_mgr_hist ON f.fnd_code = mf_mgr_hist.fnd_code JOIN "
        "mf_manager AS m ON mf_mgr_hist.mgr_id = m.mgr_id WHERE m.mgr_name = 'X'",
        "join",
    ),
    Case(
        "funds",
        "SELECT mf_info.fnd_abbr, mf_scale.net_ast FROM mf_scale WHERE rpt_dt = '2024-06-30'",
        "SELECT mf_info.fnd_abbr, mf_scale.net_ast FROM mf_scale JOIN mf_info ON mf_scale.fnd_code = "
        "mf_info.fnd_code WHERE rpt_dt = '2024-06-30'",
        "join",
    ),
    Case(
        "funds",
        "SELECT s.net_ast, a.stk_pct FROM mf_scale AS s, mf_alloc AS a",
        "SELECT s.net_ast, a.stk_pct FROM mf_scale AS s JOIN mf_alloc AS a ON s.fnd_code = a.fnd_code AND "
        "s.rpt_dt = a.rpt_dt",
        "join",
    ),
    Case(
        "funds",
        "Here's it:\n```sql\nSELCT fnd_name, ret_1yr FROM fund_info i JOIN mf_perf p WHERE i.fnd_type == "
        '"bond" ODER BY p.ret_1yr DSEC LIMIT 5;\n```',
        "SELECT fnd_name, ret_1y FROM mf_info AS i JOIN mf_perf AS p ON i.fnd_code = p.fnd_code WHERE "
        "i.fnd_type = 'bond' ORDER BY p.ret_1y DESC LIMIT 5",
        "text keyword keyword keyword keyword table value join column column",
    ),
    Case(
        "funds",
        "SELECT fnd_code FROM mf_info WHERE fnd_code = 000032",
        "SELECT fnd_code FROM mf_info WHERE fnd_code = '000032'",
        "value",
    ),
    Case(
        "funds",
        "select fnd_code from mf_info where fnd_type = 'bond' and mgt_fee > 1\n\nThis query selects the codes.",
        "SELECT fnd_code FROM mf_info WHERE fnd_type = 'bond' AND mgt_fee > 1",
        "text",
    ),
    Case(
        "equities",
        "SELECT stk_abbr FROM eq_info WHERE exch IN ('NORTH', 'SOUTH' AND board = 'main'",
        "SELECT stk_abbr FROM eq_info WHERE exch IN ('NORTH', 'SOUTH') AND board = 'main'",
        "text",
    ),
    Case(
        "equities",
        "SELECT i.stk_abbr, d.sec_name FROM eq_info AS i",
        "SELECT i.stk_abbr, eq_ind.sec_name FROM eq_info AS i JOIN eq_ind ON i.ind_code = eq_ind.ind_code",
        "alias owner join",
    ),
    Case(
        "equities",
        "SELECT sec_name, SUM(tot_mv) AS total FROM eq_val WHERE val_dt = '2024-12-31' ORDER BY total DESC",
        "SELECT eq_ind.sec_name, SUM(tot_mv) AS total FROM eq_val JOIN eq_info ON eq_val.stk_code = "
        "eq_info.stk_code JOIN eq_ind ON eq_info.ind_code = eq_ind.ind_code WHERE val_dt = '2024-12-31' "
        "GROUP BY eq_ind.sec_name ORDER BY total DESC",
        "owner join join grouping",
    ),
    Case(
        "equities",
        "SELECT c.net_prf, f.opr_cf FROM eq_inc AS c JOIN eq_cf AS f ON c.stk_code = f.stock_code",
        "SELECT c.net_prf, f.opr_cf FROM eq_inc AS c JOIN eq_cf AS f ON c.stk_code = f.stk_code",
        "column",
    ),
    Case(
        "equities",
        "SELECT stk_abbr FROM eq_info WHERE stk_code IN (SELECT stk_code FROM eq_rating WHERE rating = 'buy')",
        "SELECT stk_abbr FROM eq_info WHERE stk_code IN (SELECT stk_code FROM eq_rating WHERE rtg = 'buy')",
        "column",
    ),
    Case(
        "equities",
        "SELECT eq_info.stk_abbr FROM eq_quote WHERE eq_quote.cls > 100",
        "SELECT eq_info.stk_abbr FROM eq_quote JOIN eq_info ON eq_quote.stk_code = eq_info.stk_code WHERE "
        "eq_quote.cls > 100",
        "join",
    ),
    Case(
        "macro",
        "SELECT r.reg_name FROM mc_region AS r JOIN mc_labor AS l ON r.reg_code = l.reg_code WHERE x.unemp_rt > 5",
        "SELECT r.reg_name FROM mc_region AS r JOIN mc_labor AS l ON r.reg_code = l.reg_code WHERE l.unemp_rt > 5",
        "alias",
    ),
    Case(
        "macro",
        "SELECT reg_name FROM mc_region WHERE reg_code = (SELECT reg_code FROM mc_gdp ORDER BY gdp_nom DESC LIMIT 1",
        "SELECT reg_name FROM mc_region WHERE reg_code = (SELECT reg_code FROM mc_gdp ORDER BY gdp_nom DESC LIMIT 1)",
        "text",
    ),
)

UNCHANGED = (
    # looks odd, and is meant
    ("funds", "SELECT fnd_code, fnd_code FROM mf_info"),
    ("funds", "SELECT DISTINCT fnd_type FROM mf_info ORDER BY fnd_type DESC LIMIT 3"),
    ("funds", "SELECT fnd_abbr, MAX(mgt_fee) FROM mf_info"),
    ("funds", "SELECT i.fnd_abbr FROM mf_info AS i, mf_perf AS p WHERE i.fnd_code = p.fnd_code AND p.star = 5"),
    ("funds", "SELECT m.mgr_name FROM mf_manager AS m CROSS JOIN mf_bmk_idx"),
    ("funds", "SELECT fnd_code FROM mf_info JOIN mf_perf USING (fnd_code) ORDER BY ret_1y"),
    ("funds", "SELECT fnd_code FROM mf_info NATURAL JOIN mf_perf ORDER BY ret_1y"),
    ("funds", "SELECT fnd_abbr FROM mf_info WHERE is_etf AND stat = 'active'"),
    ("funds", "SELECT fnd_abbr FROM mf_info WHERE fnd_abbr = 'SELCT x FORM y; GRUOP BY ('"),
    ("funds", "SELECT fnd_abbr AS form, mgt_fee AS lmit FROM mf_info ORDER BY lmit"),
    ("funds", "SELECT whre.fnd_abbr FROM mf_info AS whre WHERE whre.mgt_fee > 1"),
    ("funds", "SELECT COUNT(*) FILTER(WHERE is_etf = 1) FROM mf_info"),
    ("funds", "SELECT fnd_code FROM mf_info AS a WHERE mgt_fee > (SELECT AVG(b.mgt_fee) FROM mf_info AS b "
     "WHERE b.fnd_type = a.fnd_type)"),
    ("funds", "SELECT a.fnd_code FROM mf_scale AS a JOIN mf_scale AS b ON a.fnd_code = b.fnd_code "
     "AND a.net_ast > b.net_ast WHERE a.rpt_dt = '2024-06-30' AND b.rpt_dt = '2024-03-31'"),
    ("funds", "SELECT a.fnd_abbr FROM mf_info AS a JOIN mf_alloc AS c JOIN mf_scale AS b "
     "ON a.fnd_code = b.fnd_code AND b.fnd_code = c.fnd_code"),
    ("equities", "SELECT STRFTIME('%Y', lst_dt) AS y, COUNT(*) FROM eq_info GROUP BY y ORDER BY y"),
    ("equities", "SELECT exch, COUNT(*) FROM eq_info GROUP BY 1 ORDER BY 2 DESC"),
    ("equities", "SELECT i.stk_abbr, AVG(q.cls) FROM eq_info AS i JOIN eq_quote AS q ON i.stk_code = q.stk_code "
     "GROUP BY i.stk_code"),
    ("equities", "WITH top AS (SELECT stk_code AS c, SUM(amt) AS t FROM eq_quote GROUP BY stk_code) "
     "SELECT i.stk_abbr, top.t FROM top JOIN eq_info AS i ON i.stk_code = top.c ORDER BY top.t DESC"),
    ("equities", "SELECT stk_abbr, RANK() OVER (PARTITION BY exch ORDER BY emp_cnt DESC) AS place FROM eq_info"),
    ("equities", "SELECT t.n FROM (SELECT exch, COUNT(*) AS n FROM eq_info GROUP BY exch) AS t WHERE t.n > 2"),
    ("macro", "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 5) SELECT SUM(n) FROM c"),
    ("macro", "SELECT reg_code FROM mc_fiscal EXCEPT SELECT reg_code FROM mc_trade ORDER BY reg_code"),
    ("macro", "SELECT a.reg_name, b.reg_name FROM mc_partner AS p JOIN mc_region AS a ON p.reg_code = a.reg_code "
     "JOIN mc_region AS b ON p.ptn_code = b.reg_code"),
    ("macro", "SELECT reg_name FROM mc_region WHERE reg_code IN (SELECT reg_code FROM mc_pmi WHERE pmi_mfg > 50)"),
    ("macro", "SELECT reg_name FROM mc_region LEFT JOIN mc_policy ON mc_region.reg_code = mc_policy.reg_code "
     "WHERE dec_dt IS NULL"),
)  # fmt: skip
"""What is fine as it is."""

HOPELESS = (
    "",
    "   ",
    "I do not know.",
    "UPDATE mf_info SET mgt_fee = 0",
    "DROP TABLE mf_info",
    "SELECT",
    "SELECT password FROM secrets",
    "SELECT load_extension('x')",
    "SELECT * FROM sqlite_master",
    "WITH x AS (DELETE FROM mf_nav RETURNING *) SELECT * FROM x",
)
"""What stays no query of the funds."""
