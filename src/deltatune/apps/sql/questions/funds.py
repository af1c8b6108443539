"""What may be asked of the funds database."""

from __future__ import annotations

from deltatune.apps.sql.questions.template import Choice, Template

__all__ = ["TEMPLATES"]

FUND = "SELECT fnd_code, fnd_abbr FROM mf_info"
TYPE = "SELECT DISTINCT fnd_type FROM mf_info"
COMPANY = "SELECT DISTINCT co_abbr FROM mf_company JOIN mf_info USING (co_code)"
QUARTER = "SELECT DISTINCT rpt_dt FROM mf_scale"
NAV_DAY = "SELECT fnd_abbr, nav_dt FROM mf_info JOIN mf_nav USING (fnd_code)"
TOP = Choice("n", (3, 5, 10))
HIGH = Choice("way", (("highest", "DESC"), ("lowest", "ASC")))


def _ask(name: str, sql: str, slots: tuple[Choice | str, ...], *asks: str) -> Template:
    return Template(f"funds-{name}", "funds", asks, sql, slots)


TEMPLATES = (
    _ask(
        "code-of", "SELECT fnd_code FROM mf_info WHERE fnd_abbr = :fnd_abbr", (FUND,),
        "What is the code of the fund {fnd_abbr}?",
        "Give me the fund code of {fnd_abbr}.",
        "Under which code is {fnd_abbr} listed?",
    ),
    _ask(
        "fees-of", "SELECT mgt_fee, cst_fee FROM mf_info WHERE fnd_abbr = :fnd_abbr", (FUND,),
        "Which management and custody fee does {fnd_abbr} charge?",
        "Show the management fee and the custody fee of {fnd_abbr}.",
        "How much are management and custody at the fund {fnd_abbr}?",
    ),
    _ask(
        "count-type", "SELECT COUNT(*) FROM mf_info WHERE fnd_type = :fnd_type", (TYPE,),
        "How many {fnd_type} funds are there?",
        "Count the funds of type {fnd_type}.",
        "What is the number of {fnd_type} funds?",
    ),
    _ask(
        "count-by-type", "SELECT fnd_type, COUNT(*) FROM mf_info GROUP BY fnd_type", (),
        "How many funds does each type have?",
        "List the fund types with their number of funds.",
        "Count funds by type.",
    ),
    _ask(
        "nav-on", "SELECT n.unit_nav FROM mf_nav AS n JOIN mf_info AS i ON n.fnd_code = i.fnd_code "
        "WHERE i.fnd_abbr = :fnd_abbr AND n.nav_dt = :nav_dt", (NAV_DAY,),
        "What was the net asset value of {fnd_abbr} on {nav_dt}?",
        "Tell me the unit value of {fnd_abbr} as of {nav_dt}.",
        "How much was one share of {fnd_abbr} worth on {nav_dt}?",
    ),
    _ask(
        "nav-range", "SELECT MAX(n.unit_nav), MIN(n.unit_nav) FROM mf_nav AS n JOIN mf_info AS i "
        "ON n.fnd_code = i.fnd_code WHERE i.fnd_abbr = :fnd_abbr AND n.nav_dt BETWEEN :first AND :last",
        (FUND, Choice("first", ("2024-10-07", "2024-11-04")), Choice("last", ("2024-11-29", "2024-12-20"))),
        "What were the highest and lowest net asset values of {fnd_abbr} between {first} and {last}?",
        "From {first} to {last}, between which maximum and minimum did the value of {fnd_abbr} move?",
        "Show the largest and the smallest unit value of {fnd_abbr} in the time from {first} to {last}.",
    ),
    _ask(
        "worst-day", "SELECT n.nav_dt, n.chg_pct FROM mf_nav AS n JOIN mf_info AS i ON n.fnd_code = i.fnd_code "
        "WHERE i.fnd_abbr = :fnd_abbr ORDER BY n.chg_pct ASC, n.nav_dt ASC LIMIT 1", (FUND,),
        "On which day did {fnd_abbr} lose most, and how many percent?",
        "Find the worst day of {fnd_abbr} with its change in percent.",
        "When was the largest daily loss of {fnd_abbr}, and how large was it?",
    ),
    _ask(
        "company-of", "SELECT c.co_name FROM mf_company AS c JOIN mf_info AS i ON c.co_code = i.co_code "
        "WHERE i.fnd_abbr = :fnd_abbr", (FUND,),
        "Which company runs the fund {fnd_abbr}?",
        "Give the full name of the company behind {fnd_abbr}.",
        "Who is the management company of {fnd_abbr}?",
    ),
    _ask(
        "company-funds", "SELECT i.fnd_abbr FROM mf_info AS i JOIN mf_company AS c ON i.co_code = c.co_code "
        "WHERE c.co_abbr = :co_abbr AND i.fnd_type = :fnd_type",
        ("SELECT DISTINCT co_abbr, fnd_type FROM mf_company JOIN mf_info USING (co_code)",),
        "List the {fnd_type} funds of {co_abbr}.",
        "Which {fnd_type} funds does {co_abbr} offer?",
        "Name all funds of type {fnd_type} managed by {co_abbr}.",
    ),
    _ask(
        "company-count", "SELECT c.co_abbr, COUNT(*) AS cnt FROM mf_company AS c JOIN mf_info AS i "
        "ON c.co_code = i.co_code GROUP BY c.co_abbr ORDER BY cnt DESC, c.co_abbr ASC LIMIT :n",
        (Choice("n", (2, 3)),),
        "Which {n} companies have the most funds, and how many? Order ties by name.",
        "Rank companies by their number of funds, then by name, and show the first {n} with the number.",
        "Show the top {n} fund companies by count of funds, equal ones by name.",
    ),
    _ask(
        "cheap", "SELECT fnd_abbr, mgt_fee FROM mf_info WHERE fnd_type = :fnd_type AND mgt_fee < "
        "(SELECT AVG(mgt_fee) FROM mf_info WHERE fnd_type = :fnd_type)", (TYPE,),
        "Which {fnd_type} funds charge less for management than the average {fnd_type} fund, and how much?",
        "List {fnd_type} funds with a management fee below the mean of their type, with the fee.",
        "Find the {fnd_type} funds that are cheaper to manage than {fnd_type} funds on average; show fees.",
    ),
    _ask(
        "avg-fee", "SELECT fnd_type, AVG(mgt_fee) AS fee FROM mf_info GROUP BY fnd_type ORDER BY fee {way}", (HIGH,),
        "What is the average management fee by fund type, the {way} first?",
        "Show the mean management fee of each type of fund, starting with the {way}.",
        "Rank fund types by average management fee, {way} at the top.",
    ),
    _ask(
        "best-return", "SELECT i.fnd_abbr, p.ret_1y FROM mf_perf AS p JOIN mf_info AS i ON p.fnd_code = i.fnd_code "
        "WHERE i.fnd_type = :fnd_type ORDER BY p.ret_1y {way}, i.fnd_code LIMIT :n", (TYPE, TOP, HIGH),
        "Which {n} {fnd_type} funds had the {way} one-year return?",
        "Show the {n} {fnd_type} funds with the {way} return over one year, and the return.",
        "Of all {fnd_type} funds, name the {n} with the {way} yearly performance.",
    ),
    _ask(
        "sharpe-above", "SELECT COUNT(*) FROM mf_perf WHERE shrp_1y > :level AND mdd_1y > :loss",
        (Choice("level", (0, 0.3, 0.5)), Choice("loss", (-10, -15, -20))),
        "How many funds have a Sharpe ratio above {level} and a largest drawdown better than {loss}%?",
        "Count the funds whose one-year Sharpe ratio exceeds {level} while the drawdown stays above {loss}%.",
        "What number of funds reached a Sharpe ratio over {level} with a maximum drawdown above {loss}%?",
    ),
    _ask(
        "beats-bench-type", "SELECT i.fnd_type, AVG(p.ret_1y), AVG(p.vol_1y) FROM mf_perf AS p JOIN mf_info AS i "
        "ON p.fnd_code = i.fnd_code WHERE i.stat = 'active' GROUP BY i.fnd_type HAVING COUNT(*) >= :n",
        (Choice("n", (2, 3, 4)),),
        "For each type with at least {n} active funds, what are the average one-year return and volatility?",
        "Show mean yearly return and volatility of active funds by type, only for types with {n} or more of them.",
        "Average the return and the volatility over one year of active funds by type; leave out types below {n} funds.",
    ),
    _ask(
        "managers-of", "SELECT m.mgr_name, h.beg_dt FROM mf_manager AS m JOIN mf_mgr_hist AS h ON m.mgr_id = h.mgr_id "
        "JOIN mf_info AS i ON h.fnd_code = i.fnd_code WHERE i.fnd_abbr = :fnd_abbr AND h.end_dt IS NULL", (FUND,),
        "Who manages {fnd_abbr} now, and since when?",
        "Name the present manager of {fnd_abbr} with the first day in charge.",
        "Which manager is in charge of {fnd_abbr} at the moment, and from what date?",
    ),
    _ask(
        "idle-managers", "SELECT mgr_name FROM mf_manager WHERE NOT EXISTS (SELECT 1 FROM mf_mgr_hist "
        "WHERE mf_mgr_hist.mgr_id = mf_manager.mgr_id AND mf_mgr_hist.end_dt IS NULL)", (),
        "Which managers are in charge of no fund at present?",
        "List fund managers without any current fund.",
        "Name those managers who do not run a fund now.",
    ),
    _ask(
        "busy-managers", "SELECT m.mgr_name, COUNT(*) AS cnt FROM mf_manager AS m JOIN mf_mgr_hist AS h "
        "ON m.mgr_id = h.mgr_id WHERE h.end_dt IS NULL GROUP BY m.mgr_id, m.mgr_name HAVING COUNT(*) >= :n "
        "ORDER BY cnt DESC, m.mgr_name ASC", (Choice("n", (2, 3)),),
        "Which managers run {n} or more funds now? Show the number, the most first, ties by name.",
        "List managers with at least {n} current funds, by their number in falling order, then by name.",
        "Rank the managers who are in charge of {n} funds or more, with the count, then alphabetically.",
    ),
    _ask(
        "degree", "SELECT edu, COUNT(*) FROM mf_manager WHERE gender = :gender GROUP BY edu",
        (Choice("gender", ("F", "M")),),
        "How many managers of gender {gender} hold each degree?",
        "Count managers with gender {gender} by highest degree.",
        "Group the fund managers of gender {gender} by education and count them.",
    ),
    _ask(
        "size-at", "SELECT i.fnd_abbr, s.net_ast FROM mf_scale AS s JOIN mf_info AS i ON s.fnd_code = i.fnd_code "
        "WHERE s.rpt_dt = :rpt_dt ORDER BY s.net_ast DESC LIMIT :n", (QUARTER, TOP),
        "Which {n} funds were the largest by net assets at {rpt_dt}?",
        "Show the {n} biggest funds at the end of the quarter {rpt_dt}, with their net assets.",
        "Rank funds by net assets as of {rpt_dt} and give the first {n}.",
    ),
    _ask(
        "company-size", "SELECT c.co_abbr, SUM(s.net_ast) AS total FROM mf_company AS c JOIN mf_info AS i "
        "ON c.co_code = i.co_code JOIN mf_scale AS s ON i.fnd_code = s.fnd_code WHERE s.rpt_dt = :rpt_dt "
        "GROUP BY c.co_abbr ORDER BY total DESC", (QUARTER,),
        "What are the total net assets of each fund company at {rpt_dt}, the largest first?",
        "Rank fund companies by the net assets they manage as of {rpt_dt}.",
        "Sum net assets by company for {rpt_dt} in falling order.",
    ),
    _ask(
        "inflow", "SELECT i.fnd_abbr, s.sub_shr - s.rdm_shr AS net_in FROM mf_scale AS s JOIN mf_info AS i "
        "ON s.fnd_code = i.fnd_code WHERE s.rpt_dt = :rpt_dt AND s.sub_shr > s.rdm_shr", (QUARTER,),
        "Which funds had more subscriptions than redemptions in the quarter to {rpt_dt}, and how many shares net?",
        "List funds with a net inflow of shares for {rpt_dt}, with the amount.",
        "For the quarter ending {rpt_dt}, show each fund that grew by net subscriptions and by how much.",
    ),
    _ask(
        "growth", "SELECT i.fnd_abbr, 100 * (b.net_ast - a.net_ast) / a.net_ast AS growth FROM mf_scale AS a "
        "JOIN mf_scale AS b ON a.fnd_code = b.fnd_code JOIN mf_info AS i ON a.fnd_code = i.fnd_code "
        "WHERE a.rpt_dt = :old AND b.rpt_dt = :new ORDER BY growth DESC LIMIT :n",
        ("SELECT DISTINCT a.rpt_dt AS old, b.rpt_dt AS new FROM mf_scale AS a JOIN mf_scale AS b "
         "ON a.fnd_code = b.fnd_code AND a.rpt_dt < b.rpt_dt", TOP),
        "Which {n} funds grew most in net assets from {old} to {new}, in percent?",
        "Between {old} and {new}, show the {n} funds with the strongest percentage growth of net assets.",
        "Rank funds by the change of net assets in percent from {old} to {new}; give {n}.",
    ),
    _ask(
        "lag-size", "SELECT rpt_dt, net_ast - LAG(net_ast) OVER (ORDER BY rpt_dt) AS chg FROM mf_scale "
        "WHERE fnd_code = :fnd_code ORDER BY rpt_dt", (FUND,),
        "How did the net assets of fund {fnd_code} change from quarter to quarter?",
        "Show for fund {fnd_code} the change of net assets against the quarter before, by date.",
        "Quarter by quarter, by how much did the net assets of the fund with code {fnd_code} move?",
    ),
    _ask(
        "institutions", "SELECT i.fnd_type, AVG(s.inst_pct) FROM mf_scale AS s JOIN mf_info AS i "
        "ON s.fnd_code = i.fnd_code WHERE s.rpt_dt = :rpt_dt GROUP BY i.fnd_type", (QUARTER,),
        "What share do institutions hold on average in each type of fund at {rpt_dt}?",
        "Average the institutional share by fund type as of {rpt_dt}.",
        "By fund type, show the mean percentage in institutional hands on {rpt_dt}.",
    ),
    _ask(
        "heavy-stocks", "SELECT i.fnd_abbr FROM mf_alloc AS a JOIN mf_info AS i ON a.fnd_code = i.fnd_code "
        "WHERE a.rpt_dt = :rpt_dt AND a.stk_pct > :level AND a.csh_pct < :cash",
        (QUARTER, Choice("level", (50, 60, 80)), Choice("cash", (8, 12, 15))),
        "Which funds held over {level}% stocks and under {cash}% cash at {rpt_dt}?",
        "List funds whose stock share was above {level}% while cash was below {cash}% on {rpt_dt}.",
        "As of {rpt_dt}, name the funds with more than {level}% in stocks and less than {cash}% in cash.",
    ),
    _ask(
        "top-holding", "SELECT s.stk_abbr, h.nav_pct FROM mf_holding AS h JOIN mf_security AS s "
        "ON h.stk_code = s.stk_code JOIN mf_info AS i ON h.fnd_code = i.fnd_code WHERE i.fnd_abbr = :fnd_abbr "
        "AND h.rpt_dt = :rpt_dt ORDER BY h.rnk LIMIT :n",
        ("SELECT DISTINCT fnd_abbr, rpt_dt FROM mf_holding JOIN mf_info USING (fnd_code)", TOP),
        "What were the top {n} stocks of {fnd_abbr} at {rpt_dt}, with their share of net assets?",
        "Show the {n} largest positions of {fnd_abbr} on {rpt_dt} and their weight.",
        "Name the first {n} holdings of the fund {fnd_abbr} as of {rpt_dt}, with percentages.",
    ),
    _ask(
        "holders-of", "SELECT COUNT(DISTINCT h.fnd_code) FROM mf_holding AS h JOIN mf_security AS s "
        "ON h.stk_code = s.stk_code WHERE s.stk_abbr = :stk_abbr AND h.rpt_dt = :rpt_dt",
        ("SELECT DISTINCT stk_abbr, rpt_dt FROM mf_holding JOIN mf_security USING (stk_code)",),
        "How many funds held {stk_abbr} among their largest positions at {rpt_dt}?",
        "Count the funds with {stk_abbr} in their top holdings on {rpt_dt}.",
        "In how many funds was {stk_abbr} a main position as of {rpt_dt}?",
    ),
    _ask(
        "industry-value", "SELECT s.ind_name, SUM(h.mkt_val) AS total FROM mf_holding AS h JOIN mf_security AS s "
        "ON h.stk_code = s.stk_code JOIN mf_info AS i ON h.fnd_code = i.fnd_code WHERE h.rpt_dt = :rpt_dt "
        "AND i.fnd_type = :fnd_type GROUP BY s.ind_name ORDER BY total DESC LIMIT :n",
        ("SELECT DISTINCT rpt_dt, fnd_type FROM mf_holding JOIN mf_info USING (fnd_code)", TOP),
        "In which {n} industries did {fnd_type} funds hold the most value at {rpt_dt}?",
        "Rank industries by the value that {fnd_type} funds held on {rpt_dt}; show {n} with the value.",
        "Sum the positions of {fnd_type} funds by industry as of {rpt_dt} and give the top {n}.",
    ),
    _ask(
        "never-held", "SELECT stk_abbr FROM mf_security WHERE stk_code NOT IN "
        "(SELECT stk_code FROM mf_holding WHERE rpt_dt = :rpt_dt AND rnk <= :n)", (QUARTER, Choice("n", (1, 2, 3))),
        "Which stocks were among the top {n} positions of no fund at {rpt_dt}?",
        "List stocks that no fund had in its first {n} holdings on {rpt_dt}.",
        "As of {rpt_dt}, name the stocks missing from the top {n} of every fund.",
    ),
    _ask(
        "both-types", "SELECT co_code FROM mf_info WHERE fnd_type = :one INTERSECT "
        "SELECT co_code FROM mf_info WHERE fnd_type = :two",
        (Choice("one", ("equity", "mixed")), Choice("two", ("bond", "money", "index"))),
        "Which company codes have both {one} and {two} funds?",
        "Give the codes of companies that offer {one} funds as well as {two} funds.",
        "Find the companies, by code, with at least one {one} and at least one {two} fund.",
    ),
    _ask(
        "profit", "SELECT SUM(f.net_prf) FROM mf_fin AS f JOIN mf_info AS i ON f.fnd_code = i.fnd_code "
        "WHERE i.fnd_type = :fnd_type AND f.rpt_dt BETWEEN :first AND :last",
        (TYPE, Choice("first", ("2023-01-01", "2024-01-01")), Choice("last", ("2024-09-30", "2024-12-31"))),
        "What was the total net profit of {fnd_type} funds from {first} to {last}?",
        "Sum the net profit of all {fnd_type} funds between {first} and {last}.",
        "How much profit did {fnd_type} funds make together in the time {first} to {last}?",
    ),
    _ask(
        "cost-ratio", "SELECT i.fnd_abbr, 100 * f.tot_exp / s.net_ast / 1000 AS ratio FROM mf_fin AS f "
        "JOIN mf_scale AS s ON f.fnd_code = s.fnd_code AND f.rpt_dt = s.rpt_dt JOIN mf_info AS i "
        "ON f.fnd_code = i.fnd_code WHERE f.rpt_dt = :rpt_dt ORDER BY ratio DESC LIMIT :n", (QUARTER, TOP),
        "Which {n} funds had the highest costs in percent of net assets in the quarter to {rpt_dt}?",
        "Show the {n} funds with the largest ratio of total costs to net assets at {rpt_dt}, in percent.",
        "Rank funds by costs over net assets for {rpt_dt}, in percent; give the top {n}.",
    ),
    _ask(
        "paid-dividends", "SELECT i.fnd_abbr, SUM(d.div_10) AS cash FROM mf_div AS d JOIN mf_info AS i "
        "ON d.fnd_code = i.fnd_code WHERE STRFTIME('%Y', d.ex_dt) = :year GROUP BY i.fnd_code, i.fnd_abbr",
        (Choice("year", ("2022", "2023", "2024")),),
        "How much cash for ten shares did each fund pay in {year}?",
        "Sum the dividends for ten shares by fund in the year {year}.",
        "For {year}, show every fund that paid a dividend and the total for ten shares.",
    ),
    _ask(
        "no-dividends", "SELECT fnd_abbr FROM mf_info WHERE fnd_type = :fnd_type "
        "AND fnd_code NOT IN (SELECT fnd_code FROM mf_div)", (TYPE,),
        "Which {fnd_type} funds have never paid a dividend?",
        "List the {fnd_type} funds without any dividend.",
        "Name funds of type {fnd_type} for which no dividend is recorded.",
    ),
    _ask(
        "best-in-type", "SELECT fnd_type, fnd_abbr, ret_1y FROM (SELECT i.fnd_type, i.fnd_abbr, p.ret_1y, ROW_NUMBER() "
        "OVER (PARTITION BY i.fnd_type ORDER BY p.ret_1y DESC, i.fnd_code) AS place FROM mf_perf AS p "
        "JOIN mf_info AS i "
        "ON p.fnd_code = i.fnd_code) AS ranked WHERE place <= :n", (Choice("n", (1, 2, 3)),),
        "Show the best {n} funds of each type by one-year return.",
        "For every fund type, which {n} funds lead in the yearly return?",
        "Per type, list the {n} funds with the highest return over one year.",
    ),
    _ask(
        "named-like", "SELECT fnd_abbr FROM mf_info WHERE fnd_abbr LIKE :pattern AND est_dt > :first",
        (Choice("pattern", ("%Growth%", "%Value%", "%Income%", "%Leaders%")),
         Choice("first", ("2012-01-01", "2015-01-01"))),
        "Which funds founded after {first} have a short name that matches {pattern}?",
        "List funds established later than {first} whose abbreviation is like {pattern}.",
        "Find funds with {pattern} in the short name and an establishment date after {first}.",
    ),
)  # fmt: skip
