"""What may be asked of the macro database."""

from __future__ import annotations

from deltatune.apps.sql.questions.template import Choice, Template

__all__ = ["TEMPLATES"]

REGION = "SELECT reg_code, reg_name FROM mc_region"
CONTINENT = "SELECT DISTINCT cont FROM mc_region"
GROUP = "SELECT DISTINCT inc_grp FROM mc_region"
MONTH = "SELECT DISTINCT stat_dt FROM mc_cpi"
YEAR = "SELECT DISTINCT stat_yr FROM mc_fiscal"
DAY = "SELECT DISTINCT trd_dt FROM mc_yield"
TOP = Choice("n", (3, 5))
HIGH = Choice("way", (("highest", "DESC"), ("lowest", "ASC")))


def _ask(name: str, sql: str, slots: tuple[Choice | str, ...], *asks: str) -> Template:
    return Template(f"macro-{name}", "macro", asks, sql, slots)


TEMPLATES = (
    _ask(
        "capital", "SELECT capital FROM mc_region WHERE reg_name = :reg_name", (REGION,),
        "What is the capital of {reg_name}?",
        "Name the capital city of {reg_name}.",
        "Which city is the capital of {reg_name}?",
    ),
    _ask(
        "central-bank", "SELECT cb_name FROM mc_region WHERE cur_code = :cur_code", ("SELECT cur_code FROM mc_region",),
        "Which central bank issues {cur_code}?",
        "Name the central bank behind the currency {cur_code}.",
        "Who is the central bank for {cur_code}?",
    ),
    _ask(
        "members", "SELECT reg_name FROM mc_region WHERE eu_flag = 1", (),
        "Which regions are members of the union?",
        "List the members of the union.",
        "Name all regions that belong to the union.",
    ),
    _ask(
        "by-continent", "SELECT cont, COUNT(*), SUM(area_km) FROM mc_region GROUP BY cont", (),
        "How many regions are on each continent, and how large are they together?",
        "Count regions and sum their area by continent.",
        "By continent, show the number of regions and the total area.",
    ),
    _ask(
        "inflation-on", "SELECT p.cpi_yoy, p.core_yoy FROM mc_cpi AS p JOIN mc_region AS r ON p.reg_code = r.reg_code "
        "WHERE r.reg_name = :reg_name AND p.stat_dt = :stat_dt", (REGION, MONTH),
        "What were headline and core inflation in {reg_name} at {stat_dt}?",
        "Give the yearly change of consumer prices in {reg_name} for {stat_dt}, with and without food and energy.",
        "Show inflation and core inflation of {reg_name} as of {stat_dt}.",
    ),
    _ask(
        "inflation-above", "SELECT r.reg_name, p.cpi_yoy FROM mc_cpi AS p JOIN mc_region AS r "
        "ON p.reg_code = r.reg_code WHERE p.stat_dt = :stat_dt AND p.cpi_yoy > :level ORDER BY p.cpi_yoy DESC, "
        "r.reg_name ASC", (MONTH, Choice("level", (1, 2, 3))),
        "Which regions had inflation over {level}% at {stat_dt}? Highest first, ties by name.",
        "List regions whose consumer prices rose more than {level} percent in the year to {stat_dt}, "
        "from high to low, then by name.",
        "At {stat_dt}, where was inflation above {level}%? Sort in falling order, equal ones by name.",
    ),
    _ask(
        "food-over-core", "SELECT COUNT(*) FROM mc_cpi WHERE stat_dt = :stat_dt AND food_yoy > core_yoy", (MONTH,),
        "In how many regions did food prices rise faster than core prices at {stat_dt}?",
        "Count the regions where food inflation exceeded core inflation on {stat_dt}.",
        "For {stat_dt}, how many regions show a food inflation above the core?",
    ),
    _ask(
        "mean-by-continent", "SELECT r.cont, AVG(p.cpi_yoy) FROM mc_cpi AS p JOIN mc_region AS r "
        "ON p.reg_code = r.reg_code WHERE p.stat_dt BETWEEN :first AND :last GROUP BY r.cont",
        (Choice("first", ("2023-01-31", "2023-07-31")), Choice("last", ("2024-06-30", "2024-12-31"))),
        "What was average inflation by continent between {first} and {last}?",
        "Average the yearly change of consumer prices by continent from {first} to {last}.",
        "By continent, show mean inflation over the months {first} to {last}.",
    ),
    _ask(
        "gdp-rank", "SELECT r.reg_name, SUM(g.gdp_nom) AS total FROM mc_gdp AS g JOIN mc_region AS r "
        "ON g.reg_code = r.reg_code WHERE g.stat_yr = :stat_yr GROUP BY r.reg_code, r.reg_name ORDER BY total {way} "
        "LIMIT :n", (YEAR, TOP, HIGH),
        "Which {n} regions had the {way} nominal output in {stat_yr}?",
        "Rank regions by nominal gross domestic product of {stat_yr} and show the {n} {way}.",
        "Show the {n} economies with the {way} total output of the year {stat_yr}.",
    ),
    _ask(
        "invest-share", "SELECT r.reg_name, 100 * g.inv_fix / g.gdp_nom AS share FROM mc_gdp AS g JOIN mc_region AS r "
        "ON g.reg_code = r.reg_code WHERE g.stat_yr = :stat_yr AND g.stat_qtr = :q",
        (YEAR, Choice("q", (1, 2, 3, 4))),
        "What percentage of output was fixed investment in each region in quarter {q} of {stat_yr}?",
        "Show fixed investment over nominal output by region, in percent, for Q{q} {stat_yr}.",
        "By region, give the share of fixed investment in output, in percent, quarter {q} of {stat_yr}.",
    ),
    _ask(
        "shrinking", "SELECT reg_name FROM mc_region WHERE reg_code IN (SELECT reg_code FROM mc_gdp "
        "WHERE gdp_yoy < :level "
        "AND stat_yr = :stat_yr)", (YEAR, Choice("level", (0, 1, 1.5))),
        "Which regions had a quarter with real growth below {level}% in {stat_yr}?",
        "List regions that grew by less than {level} percent in at least one quarter of {stat_yr}.",
        "In {stat_yr}, where did real yearly growth fall under {level}% in some quarter?",
    ),
    _ask(
        "gdp-step", "SELECT stat_dt, 100 * (gdp_nom / LAG(gdp_nom) OVER (ORDER BY stat_dt) - 1) AS growth FROM mc_gdp "
        "WHERE reg_code = :reg_code ORDER BY stat_dt", (REGION,),
        "By how many percent did nominal output of region {reg_code} change from quarter to quarter?",
        "Show the quarterly growth in percent of nominal output for {reg_code} by date.",
        "Quarter by quarter, give the growth of nominal output in region {reg_code}, in percent.",
    ),
    _ask(
        "hikes", "SELECT r.reg_name, COUNT(*) AS cnt FROM mc_policy AS d JOIN mc_region AS r ON "
        "d.reg_code = r.reg_code "
        "WHERE d.chg_bp {sign} 0 AND STRFTIME('%Y', d.dec_dt) = :year GROUP BY r.reg_code, r.reg_name "
        "ORDER BY cnt DESC, r.reg_name ASC",
        (Choice("sign", (("raise", ">"), ("cut", "<"))), Choice("year", ("2023", "2024"))),
        "How many times did each region {sign} its policy rate in {year}? Most first, ties by name.",
        "Count by region the decisions to {sign} the policy rate in {year}, in falling order, then by name.",
        "Rank regions by how often they chose to {sign} rates in {year}, equal ones by name.",
    ),
    _ask(
        "last-rate", "SELECT r.reg_name, d.rate_new FROM mc_policy AS d JOIN mc_region AS r ON d.reg_code = r.reg_code "
        "WHERE d.dec_dt = (SELECT MAX(x.dec_dt) FROM mc_policy AS x WHERE x.reg_code = d.reg_code AND "
        "x.dec_dt <= :day)",
        (Choice("day", ("2023-12-31", "2024-06-30", "2024-12-31")),),
        "What was the policy rate of each region on {day}?",
        "By region, give the rate set in the latest decision up to {day}.",
        "Show the policy rate in force in every region as of {day}.",
    ),
    _ask(
        "contested", "SELECT COUNT(*) FROM mc_policy WHERE vote_agn >= :n AND chg_bp <> 0",
        (Choice("n", (2, 3, 4)),),
        "How many changes of the policy rate had at least {n} votes against them?",
        "Count rate changes with {n} or more opposing votes.",
        "What is the number of decisions that changed the rate with {n} or more against?",
    ),
    _ask(
        "fx-range", "SELECT MIN(mid_rt), MAX(mid_rt), AVG(mid_rt) FROM mc_fx WHERE cur_code = :cur_code",
        ("SELECT cur_code FROM mc_region",),
        "What were the lowest, highest and average middle rates of {cur_code}?",
        "Show minimum, maximum and mean of the middle exchange rate of {cur_code}.",
        "Between which values did {cur_code} trade at the middle rate, and what was its average?",
    ),
    _ask(
        "fx-moves", "SELECT trd_dt, chg_pct FROM mc_fx WHERE cur_code = :cur_code AND ABS(chg_pct) > :level "
        "ORDER BY trd_dt DESC", ("SELECT cur_code FROM mc_region", Choice("level", (0.3, 0.5, 0.8))),
        "On which days did {cur_code} move by more than {level}% either way? Latest first.",
        "List the daily changes of {cur_code} larger than {level} percent in size, from new to old.",
        "Show, newest first, the days when the rate of {cur_code} changed by over {level}%.",
    ),
    _ask(
        "trade-balance", "SELECT r.reg_name, SUM(t.trd_bal) AS balance FROM mc_trade AS t JOIN mc_region AS r "
        "ON t.reg_code = r.reg_code WHERE STRFTIME('%Y', t.stat_dt) = :year GROUP BY r.reg_code, r.reg_name "
        "HAVING SUM(t.trd_bal) > 0", (Choice("year", ("2022", "2023", "2024")),),
        "Which regions had a trade surplus in {year}, and how large was it?",
        "List regions with a positive trade balance over the year {year}, with the sum.",
        "For {year}, show each region that exported more than it imported, and the balance.",
    ),
    _ask(
        "partners", "SELECT b.reg_name, p.exp_val FROM mc_partner AS p JOIN mc_region AS a ON p.reg_code = a.reg_code "
        "JOIN mc_region AS b ON p.ptn_code = b.reg_code WHERE a.reg_name = :reg_name AND p.stat_yr = :stat_yr "
        "ORDER BY p.exp_val DESC LIMIT :n",
        ("SELECT DISTINCT reg_name, stat_yr FROM mc_partner JOIN mc_region USING (reg_code)", TOP),
        "Who were the {n} largest buyers of exports from {reg_name} in {stat_yr}, and for how much?",
        "Rank the partners of {reg_name} by exports to them in {stat_yr}; show {n} with the value.",
        "To which {n} regions did {reg_name} export most in {stat_yr}? Give the amounts.",
    ),
    _ask(
        "unemployment", "SELECT r.inc_grp, 100 * SUM(l.unempl) / SUM(l.lab_frc) AS rate FROM mc_labor AS l "
        "JOIN mc_region AS r ON l.reg_code = r.reg_code WHERE l.stat_dt = :stat_dt GROUP BY r.inc_grp "
        "ORDER BY rate {way}",
        (MONTH, Choice("way", (("high to low", "DESC"), ("low to high", "ASC")))),
        "What is the unemployment rate, in percent, of each income group as a whole at {stat_dt}, from {way}?",
        "Divide the unemployed by the labour force of each income group at {stat_dt}, in percent, {way}.",
        "By income group, show the joint unemployment rate on {stat_dt} in percent, ordered {way}.",
    ),
    _ask(
        "jobs-and-prices", "SELECT r.reg_name FROM mc_labor AS l JOIN mc_cpi AS p ON l.reg_code = p.reg_code "
        "AND l.stat_dt = p.stat_dt JOIN mc_region AS r ON l.reg_code = r.reg_code WHERE l.stat_dt = :stat_dt "
        "AND l.wage_yoy > p.cpi_yoy", (MONTH,),
        "In which regions did wages grow faster than prices at {stat_dt}?",
        "List regions with real wage gains on {stat_dt}: wages up by more than consumer prices.",
        "At {stat_dt}, where was the yearly growth of wages above inflation?",
    ),
    _ask(
        "money-ratio", "SELECT r.reg_name, m.loan_bal / m.dep_bal AS ratio FROM mc_money AS m JOIN mc_region AS r "
        "ON m.reg_code = r.reg_code WHERE m.stat_dt = :stat_dt ORDER BY ratio DESC LIMIT :n", (MONTH, TOP),
        "Which {n} regions had the most loans for each unit of deposits at {stat_dt}?",
        "Rank regions by loans over deposits on {stat_dt}; give {n} with the ratio.",
        "Show the {n} highest ratios of loans to deposits as of {stat_dt}, with the region.",
    ),
    _ask(
        "reserves-growth", "SELECT r.reg_name, b.fx_rsv - a.fx_rsv AS chg FROM mc_money AS a JOIN mc_money AS b "
        "ON a.reg_code = b.reg_code JOIN mc_region AS r ON a.reg_code = r.reg_code WHERE a.stat_dt = :old "
        "AND b.stat_dt = :new AND r.cont = :cont",
        (CONTINENT, Choice("old", ("2022-12-31", "2023-06-30")), Choice("new", ("2024-06-30", "2024-12-31"))),
        "By how much did reserves change from {old} to {new} in the regions of {cont}?",
        "For each region in {cont}, show the change of foreign exchange reserves between {old} and {new}.",
        "On the continent {cont}, how did the reserves of each region move from {old} to {new}?",
    ),
    _ask(
        "curve", "SELECT y_2y, y_10y, y_10y - y_2y FROM mc_yield WHERE reg_code = :reg_code AND trd_dt = :trd_dt",
        (REGION, DAY),
        "What were the 2-year and 10-year yields of {reg_code} on {trd_dt}, and the difference?",
        "Show 2-year yield, 10-year yield and their spread for region {reg_code} on {trd_dt}.",
        "Give for {reg_code} the yields at 2 and 10 years on {trd_dt} and by how much they differ.",
    ),
    _ask(
        "yield-days", "SELECT r.reg_name, COUNT(*) FROM mc_yield AS y JOIN mc_region AS r ON y.reg_code = r.reg_code "
        "WHERE y.y_10y > :level AND r.inc_grp = :inc_grp GROUP BY r.reg_code, r.reg_name",
        (Choice("level", (2, 3, 4)), GROUP),
        "On how many days was the 10-year yield above {level}% in each region of income group {inc_grp}?",
        "Count by region the days with a 10-year yield over {level} percent, income group {inc_grp} only.",
        "For regions in the {inc_grp} income group, how often did the yield at 10 years exceed {level}%?",
    ),
    _ask(
        "survey", "SELECT r.reg_name, s.pmi_mfg FROM mc_pmi AS s JOIN mc_region AS r ON s.reg_code = r.reg_code "
        "WHERE s.stat_dt = :stat_dt AND s.pmi_mfg {sign} 50 AND s.new_ord {sign} 50",
        (MONTH, Choice("sign", (("above", ">"), ("below", "<")))),
        "In which regions were both the manufacturing index and new orders {sign} 50 at {stat_dt}?",
        "List regions whose manufacturing survey and new orders were {sign} 50 on {stat_dt}, with the index.",
        "At {stat_dt}, where did manufacturing and new orders both stand {sign} 50? Show the manufacturing index.",
    ),
    _ask(
        "debt", "SELECT r.reg_name, f.debt_gdp FROM mc_fiscal AS f JOIN mc_region AS r ON f.reg_code = r.reg_code "
        "WHERE f.stat_yr = :stat_yr AND f.debt_gdp > (SELECT AVG(debt_gdp) FROM mc_fiscal WHERE stat_yr = :stat_yr)",
        (YEAR,),
        "Which regions had a debt ratio above the average in {stat_yr}, and what was it?",
        "List regions whose public debt relative to output exceeded the mean in {stat_yr}, with the ratio.",
        "In {stat_yr}, where was public debt in percent of output higher than average? Show it.",
    ),
    _ask(
        "spending-mix", "SELECT f.stat_yr, 100 * SUM(f.exp_edu) / SUM(f.exp_tot), 100 * SUM(f.exp_def) / "
        "SUM(f.exp_tot) "
        "FROM mc_fiscal AS f JOIN mc_region AS r ON f.reg_code = r.reg_code WHERE r.cont = :cont GROUP BY f.stat_yr",
        (CONTINENT,),
        "What shares of spending, in percent, went to education and defence in {cont} each year?",
        "By year, show education and defence in percent of total public spending in {cont}.",
        "For the continent {cont}, give yearly the percentage of public spending on education and on defence.",
    ),
    _ask(
        "deficit-or-debt", "SELECT reg_code FROM mc_fiscal WHERE stat_yr = :stat_yr AND bdg_bal < 0 UNION "
        "SELECT reg_code FROM mc_fiscal WHERE stat_yr = :stat_yr AND debt_gdp > :level",
        (YEAR, Choice("level", (60, 80, 100))),
        "Which region codes had a budget deficit or debt above {level}% of output in {stat_yr}?",
        "Give the codes of regions with a negative budget balance or a debt ratio over {level} percent in {stat_yr}.",
        "For {stat_yr}, find region codes where the budget was in deficit or debt exceeded {level}% of output.",
    ),
)  # fmt: skip
