"""What may be asked of the equities database."""

from __future__ import annotations

from deltatune.apps.sql.questions.template import Choice, Template

__all__ = ["TEMPLATES"]

STOCK = "SELECT stk_code, stk_abbr FROM eq_info"
BOARD = "SELECT DISTINCT board FROM eq_info"
INDUSTRY = "SELECT DISTINCT ind_name FROM eq_ind JOIN eq_info USING (ind_code)"
SECTOR = "SELECT DISTINCT sec_name FROM eq_ind JOIN eq_info USING (ind_code)"
PERIOD = "SELECT DISTINCT rpt_dt FROM eq_inc"
FISCAL = "SELECT DISTINCT rpt_yr, rpt_qtr FROM eq_inc"
DAY = "SELECT DISTINCT trd_dt FROM eq_quote"
TOP = Choice("n", (3, 5, 10))
HIGH = Choice("way", (("highest", "DESC"), ("lowest", "ASC")))


def _ask(name: str, sql: str, slots: tuple[Choice | str, ...], *asks: str) -> Template:
    return Template(f"equities-{name}", "equities", asks, sql, slots)


TEMPLATES = (
    _ask(
        "listed-when", "SELECT lst_dt FROM eq_info WHERE stk_abbr = :stk_abbr", (STOCK,),
        "When was {stk_abbr} listed?",
        "Give the listing date of {stk_abbr}.",
        "On which day did trading in {stk_abbr} start?",
    ),
    _ask(
        "auditor", "SELECT audit_co FROM eq_info WHERE stk_code = :stk_code", (STOCK,),
        "Who audits the company with stock code {stk_code}?",
        "Name the auditor of stock {stk_code}.",
        "Which firm is the auditor of {stk_code}?",
    ),
    _ask(
        "board-count", "SELECT COUNT(*) FROM eq_info WHERE board = :board", (BOARD,),
        "How many companies are on the {board} board?",
        "Count the stocks of the {board} board.",
        "What is the number of companies listed on the {board} board?",
    ),
    _ask(
        "margin-names", "SELECT stk_abbr FROM eq_info WHERE is_mgn = 1", (),
        "Which stocks can be bought on margin?",
        "List all stocks that are open to margin buying.",
        "Name the stocks eligible for margin trading.",
    ),
    _ask(
        "by-exchange", "SELECT exch, COUNT(*), SUM(tot_shr) FROM eq_info GROUP BY exch", (),
        "How many stocks does each exchange list, and how many shares in total?",
        "Count stocks and sum total shares by exchange.",
        "By exchange, show the number of companies and their total shares.",
    ),
    _ask(
        "listed-between", "SELECT stk_abbr, lst_dt FROM eq_info WHERE lst_dt BETWEEN :first AND :last "
        "ORDER BY lst_dt, stk_abbr",
        (Choice("first", ("1998-01-01", "2003-01-01", "2008-01-01")), Choice("last", ("2012-12-31", "2018-12-31"))),
        "Which companies were listed between {first} and {last}, in order of date, then of name?",
        "List the stocks with a listing date from {first} to {last}, with the date; oldest first, ties by name.",
        "Show by date, and on the same date by name, what was listed in the time from {first} to {last}.",
    ),
    _ask(
        "research-share", "SELECT stk_abbr, 100.0 * rd_cnt / emp_cnt AS share FROM eq_info ORDER BY "
        "share DESC LIMIT :n",
        (TOP,),
        "Which {n} companies have the largest share of employees in research, in percent?",
        "Rank companies by research staff over all staff, in percent, and show {n}.",
        "Name the {n} firms where most of the staff, by percentage, works in research.",
    ),
    _ask(
        "close-on", "SELECT q.cls FROM eq_quote AS q JOIN eq_info AS i ON q.stk_code = i.stk_code "
        "WHERE i.stk_abbr = :stk_abbr AND q.trd_dt = :trd_dt", (STOCK, DAY),
        "What was the closing price of {stk_abbr} on {trd_dt}?",
        "At what price did {stk_abbr} close on {trd_dt}?",
        "Give me the close of {stk_abbr} for {trd_dt}.",
    ),
    _ask(
        "gainers", "SELECT i.stk_abbr, q.chg_pct FROM eq_quote AS q JOIN eq_info AS i ON q.stk_code = i.stk_code "
        "WHERE q.trd_dt = :trd_dt AND q.chg_pct > :level",
        (DAY, Choice("level", (1, 2, 3))),
        "Which stocks rose more than {level}% on {trd_dt}, and by how much?",
        "List the stocks that gained over {level} percent on {trd_dt}, with the change.",
        "On {trd_dt}, what went up by more than {level}%? Show the change too.",
    ),
    _ask(
        "turnover-value", "SELECT i.stk_abbr, SUM(q.amt) AS total FROM eq_quote AS q JOIN eq_info AS i "
        "ON q.stk_code = i.stk_code WHERE q.trd_dt BETWEEN :first AND :last GROUP BY i.stk_code, i.stk_abbr "
        "ORDER BY total DESC LIMIT :n",
        (TOP, Choice("first", ("2024-10-07", "2024-11-04")), Choice("last", ("2024-11-29", "2024-12-20"))),
        "Which {n} stocks had the highest traded value from {first} to {last}?",
        "Rank stocks by total value traded between {first} and {last} and give {n}.",
        "In the time {first} to {last}, show the {n} stocks that changed hands for the most money.",
    ),
    _ask(
        "month-mean", "SELECT STRFTIME('%Y-%m', trd_dt) AS month, AVG(cls) FROM eq_quote WHERE stk_code = :stk_code "
        "GROUP BY STRFTIME('%Y-%m', trd_dt)", (STOCK,),
        "What was the average closing price of stock {stk_code} in each month?",
        "Average the close of {stk_code} by month.",
        "Month by month, show the mean closing price of the stock with code {stk_code}.",
    ),
    _ask(
        "high-days", "SELECT COUNT(*) FROM eq_quote WHERE stk_code = :stk_code AND cls > "
        "(SELECT AVG(cls) FROM eq_quote WHERE stk_code = :stk_code)", (STOCK,),
        "On how many days did stock {stk_code} close above its own average?",
        "Count the days when {stk_code} closed higher than its mean closing price.",
        "How often was the close of stock {stk_code} above its average close?",
    ),
    _ask(
        "cheap-value", "SELECT i.stk_abbr, v.pe_ttm FROM eq_val AS v JOIN eq_info AS i ON v.stk_code = i.stk_code "
        "WHERE v.val_dt = :val_dt AND v.pe_ttm < :level ORDER BY v.pe_ttm, i.stk_abbr",
        ("SELECT DISTINCT val_dt FROM eq_val", Choice("level", (10, 20, 30))),
        "Which stocks had a price to earnings ratio under {level} on {val_dt}? Cheapest first, ties by name.",
        "List stocks with a P/E below {level} at {val_dt} in rising order, then by name.",
        "As of {val_dt}, what traded at less than {level} times earnings? Sort from low to high, equal ones by name.",
    ),
    _ask(
        "no-earnings", "SELECT COUNT(DISTINCT stk_code) FROM eq_val WHERE pe_ttm IS NULL", (),
        "For how many stocks is the price to earnings ratio missing?",
        "Count the stocks without a P/E value.",
        "How many different stocks lack a ratio of price to earnings?",
    ),
    _ask(
        "sector-value", "SELECT d.sec_name, SUM(v.tot_mv) AS total FROM eq_val AS v JOIN eq_info AS i "
        "ON v.stk_code = i.stk_code JOIN eq_ind AS d ON i.ind_code = d.ind_code WHERE v.val_dt = :val_dt "
        "GROUP BY d.sec_name ORDER BY total DESC", ("SELECT DISTINCT val_dt FROM eq_val",),
        "What is the total market value of each sector on {val_dt}, the largest first?",
        "Rank sectors by market value as of {val_dt}.",
        "Sum market value by sector at {val_dt} in falling order.",
    ),
    _ask(
        "revenue-rank", "SELECT i.stk_abbr, c.opr_rev FROM eq_inc AS c JOIN eq_info AS i ON c.stk_code = i.stk_code "
        "JOIN eq_ind AS d ON i.ind_code = d.ind_code WHERE d.sec_name = :sec_name AND c.rpt_yr = :rpt_yr "
        "AND c.rpt_qtr = :rpt_qtr ORDER BY c.opr_rev {way} LIMIT :n", (SECTOR, FISCAL, HIGH, TOP),
        "In the sector {sec_name}, which {n} companies had the {way} revenue in quarter {rpt_qtr} of {rpt_yr}?",
        "Show the {n} {sec_name} companies with the {way} operating revenue for Q{rpt_qtr} {rpt_yr}.",
        "Of all {sec_name} companies, give the {n} with the {way} revenue, quarter {rpt_qtr}, fiscal year {rpt_yr}.",
    ),
    _ask(
        "yearly-profit", "SELECT c.rpt_yr, SUM(c.net_prf) FROM eq_inc AS c JOIN eq_info AS i "
        "ON c.stk_code = i.stk_code WHERE i.stk_abbr = :stk_abbr GROUP BY c.rpt_yr", (STOCK,),
        "What was the net profit of {stk_abbr} in each fiscal year?",
        "Sum the quarterly net profit of {stk_abbr} by year.",
        "Year by year, how much net profit did {stk_abbr} make?",
    ),
    _ask(
        "revenue-growth", "SELECT i.stk_abbr, 100 * (b.opr_rev / a.opr_rev - 1) AS growth FROM eq_inc AS a "
        "JOIN eq_inc AS b ON a.stk_code = b.stk_code AND b.rpt_yr = a.rpt_yr + 1 AND b.rpt_qtr = a.rpt_qtr "
        "JOIN eq_info AS i ON a.stk_code = i.stk_code WHERE b.rpt_yr = :rpt_yr AND b.rpt_qtr = :rpt_qtr "
        "ORDER BY growth DESC LIMIT :n", ("SELECT DISTINCT rpt_yr, rpt_qtr FROM eq_inc WHERE rpt_yr = 2024", TOP),
        "Which {n} companies grew revenue most in quarter {rpt_qtr} of {rpt_yr} over the year before, in percent?",
        "Rank companies by yearly growth of revenue in Q{rpt_qtr} {rpt_yr}, in percent; give {n}.",
        "Compare quarter {rpt_qtr} of {rpt_yr} with a year earlier and show the top {n} by revenue growth in percent.",
    ),
    _ask(
        "margin-by-industry", "SELECT d.ind_name, 100 * SUM(c.net_prf) / SUM(c.opr_rev) AS margin FROM eq_inc AS c "
        "JOIN eq_info AS i ON c.stk_code = i.stk_code JOIN eq_ind AS d ON i.ind_code = d.ind_code "
        "WHERE c.rpt_yr = :rpt_yr GROUP BY d.ind_name HAVING COUNT(DISTINCT i.stk_code) >= :n ORDER BY margin DESC",
        ("SELECT DISTINCT rpt_yr FROM eq_inc", Choice("n", (1, 2))),
        "What is the net margin, in percent, of each industry with {n} or more companies in {rpt_yr}, best first?",
        "Rank industries by net profit over revenue in {rpt_yr}, in percent, if they have at least {n} companies.",
        "For {rpt_yr}, give the net margin in percent by industry from high to low; skip those under {n} companies.",
    ),
    _ask(
        "loss-makers", "SELECT stk_abbr FROM eq_info WHERE stk_code IN (SELECT stk_code FROM eq_inc "
        "WHERE rpt_dt = :rpt_dt AND net_prf < 0)", (PERIOD,),
        "Which companies made a loss in the quarter to {rpt_dt}?",
        "List companies with negative net profit for the quarter ending {rpt_dt}.",
        "Name the firms that lost money in the reporting period {rpt_dt}.",
    ),
    _ask(
        "always-profit", "SELECT i.stk_abbr FROM eq_info AS i WHERE NOT EXISTS (SELECT 1 FROM eq_inc AS c "
        "WHERE c.stk_code = i.stk_code AND c.net_prf < 0) AND i.board = :board", (BOARD,),
        "Which companies of the {board} board have never made a quarterly loss?",
        "List stocks on the {board} board without any quarter of negative net profit.",
        "On the {board} board, who was profitable in every quarter?",
    ),
    _ask(
        "debt-ratio", "SELECT i.stk_abbr, 100 * b.tot_liab / b.tot_ast AS ratio FROM eq_bal AS b JOIN eq_info AS i "
        "ON b.stk_code = i.stk_code WHERE b.rpt_dt = :rpt_dt AND 100 * b.tot_liab / b.tot_ast > :level",
        (PERIOD, Choice("level", (50, 60, 70))),
        "Which companies had liabilities above {level}% of assets at {rpt_dt}, and what was the ratio?",
        "List companies whose debt ratio exceeded {level} percent on {rpt_dt}, with the ratio.",
        "As of {rpt_dt}, who owed more than {level}% of total assets? Show the percentage.",
    ),
    _ask(
        "current-ratio", "SELECT AVG(b.cur_ast / b.cur_liab) FROM eq_bal AS b JOIN eq_info AS i "
        "ON b.stk_code = i.stk_code JOIN eq_ind AS d ON i.ind_code = d.ind_code WHERE d.ind_name = :ind_name "
        "AND b.rpt_dt = :rpt_dt", (INDUSTRY, PERIOD),
        "What is the average current ratio in the industry {ind_name} at {rpt_dt}?",
        "Average current assets over current liabilities for {ind_name} as of {rpt_dt}.",
        "For the industry {ind_name}, give the mean current ratio on {rpt_dt}.",
    ),
    _ask(
        "cash-not-profit", "SELECT i.stk_abbr FROM eq_inc AS c JOIN eq_cf AS f ON c.stk_code = f.stk_code "
        "AND c.rpt_dt = f.rpt_dt JOIN eq_info AS i ON c.stk_code = i.stk_code WHERE c.rpt_dt = :rpt_dt "
        "AND c.net_prf > 0 AND f.opr_cf < 0", (PERIOD,),
        "Which companies reported a profit but negative operating cash flow at {rpt_dt}?",
        "List firms with positive net profit and cash burned in operations for the quarter to {rpt_dt}.",
        "In the period {rpt_dt}, who earned a profit while operations used up cash?",
    ),
    _ask(
        "capex-sum", "SELECT d.sec_name, SUM(f.capex) FROM eq_cf AS f JOIN eq_info AS i ON f.stk_code = i.stk_code "
        "JOIN eq_ind AS d ON i.ind_code = d.ind_code WHERE f.rpt_dt >= :first GROUP BY d.sec_name",
        (Choice("first", ("2023-01-01", "2023-07-01", "2024-01-01")),),
        "How much has each sector paid for fixed assets since {first}?",
        "Sum capital expenditure by sector from {first} on.",
        "By sector, show the cash paid for fixed assets in periods that end on {first} or later.",
    ),
    _ask(
        "holder-stake", "SELECT h.hld_name, h.hld_pct FROM eq_holder AS h JOIN eq_info AS i ON h.stk_code = i.stk_code "
        "WHERE i.stk_abbr = :stk_abbr AND h.rpt_dt = :rpt_dt AND h.rnk <= :n",
        ("SELECT DISTINCT stk_abbr, rpt_dt FROM eq_holder JOIN eq_info USING (stk_code)", TOP),
        "Who were the {n} largest shareholders of {stk_abbr} at {rpt_dt}, with their stakes?",
        "List the top {n} holders of {stk_abbr} on {rpt_dt} and their share in percent.",
        "Name the first {n} owners of {stk_abbr} as of {rpt_dt} with the percentage held.",
    ),
    _ask(
        "state-or-foreign", "SELECT DISTINCT i.stk_abbr FROM eq_holder AS h JOIN eq_info AS i "
        "ON h.stk_code = i.stk_code WHERE h.rnk = 1 AND (h.hld_type = :one OR h.hld_type = :two)",
        (Choice("one", ("state", "fund")), Choice("two", ("foreign", "person", "insurer"))),
        "In which companies was the largest holder of type {one} or {two}?",
        "List companies whose first shareholder is a {one} or {two} holder.",
        "Name the stocks with a {one} or {two} shareholder in first place.",
    ),
    _ask(
        "both-ratings", "SELECT stk_code FROM eq_rating WHERE rtg = :one EXCEPT SELECT stk_code FROM eq_rating "
        "WHERE rtg = :two", (Choice("one", ("buy", "add")), Choice("two", ("hold", "sell"))),
        "Which stock codes were rated {one} but never {two}?",
        "Give the codes of stocks with a {one} rating and no {two} rating.",
        "Find stock codes that some analyst rated {one} and none rated {two}.",
    ),
    _ask(
        "upside", "SELECT i.stk_abbr, AVG(r.tgt_prc) AS target FROM eq_rating AS r JOIN eq_info AS i "
        "ON r.stk_code = i.stk_code WHERE r.rtg_dt >= :first AND r.rtg = :rtg GROUP BY i.stk_code, i.stk_abbr "
        "HAVING COUNT(*) >= :n", (Choice("first", ("2024-03-01", "2024-06-01")), Choice("rtg", ("buy", "add", "hold")),
                                  Choice("n", (1, 2))),
        "What is the average target price of stocks with {n} or more {rtg} ratings since {first}?",
        "Average the target price by stock over {rtg} reports from {first} on, with at least {n} of them.",
        "For stocks rated {rtg} at least {n} times since {first}, show the mean target price.",
    ),
    _ask(
        "upgraded", "SELECT org_name, COUNT(*) AS cnt FROM eq_rating WHERE pre_rtg = :old AND rtg = :new "
        "GROUP BY org_name ORDER BY cnt DESC, org_name ASC",
        (Choice("old", ("hold", "add", "sell")), Choice("new", ("buy", "add"))),
        "How often did each research house move a rating from {old} to {new}? Most first, ties by name.",
        "Count changes from {old} to {new} by research house, in falling order, then by name.",
        "Rank research houses by the number of ratings raised from {old} to {new}, equal ones by name.",
    ),
    _ask(
        "best-paid", "SELECT exec_name, pay_k FROM eq_exec WHERE pos = :pos AND end_dt IS NULL ORDER BY pay_k DESC "
        "LIMIT :n", ("SELECT DISTINCT pos FROM eq_exec", TOP),
        "Who are the {n} best paid people now in the position of {pos}, and what do they earn?",
        "Show the {n} highest yearly pays of a {pos} in office, with the names.",
        "Rank everybody who is {pos} today by pay and give the first {n}.",
    ),
    _ask(
        "dividend-years", "SELECT STRFTIME('%Y', ann_dt) AS year, COUNT(*), AVG(csh_10) FROM eq_div "
        "WHERE stat = 'paid' "
        "GROUP BY STRFTIME('%Y', ann_dt)", (),
        "How many dividends were paid by year of announcement, and how much cash for ten shares on average?",
        "By year, count the paid dividends and average their cash for ten shares.",
        "Show for each year of announcement the number of paid dividends and the mean cash for ten shares.",
    ),
    _ask(
        "margin-balance", "SELECT i.stk_abbr, m.fin_bal FROM eq_mgn AS m JOIN eq_info AS i ON m.stk_code = i.stk_code "
        "WHERE m.trd_dt = :trd_dt AND m.fin_bal > (SELECT AVG(fin_bal) FROM eq_mgn WHERE trd_dt = :trd_dt)", (DAY,),
        "Which stocks had a margin balance above the average on {trd_dt}, and how much?",
        "List stocks whose margin loans exceeded the mean on {trd_dt}, with the balance.",
        "On {trd_dt}, where was the balance of margin loans higher than average? Show it.",
    ),
    _ask(
        "top-by-sector", "WITH ranked AS (SELECT d.sec_name, i.stk_abbr, v.tot_mv, RANK() OVER "
        "(PARTITION BY d.sec_name "
        "ORDER BY v.tot_mv DESC) AS place FROM eq_val AS v JOIN eq_info AS i ON v.stk_code = i.stk_code "
        "JOIN eq_ind AS d ON i.ind_code = d.ind_code WHERE v.val_dt = :val_dt) "
        "SELECT sec_name, stk_abbr, tot_mv FROM ranked WHERE place <= :n",
        ("SELECT DISTINCT val_dt FROM eq_val", Choice("n", (1, 2, 3))),
        "Show the {n} largest companies of each sector by market value on {val_dt}.",
        "For every sector, which {n} stocks had the highest market value at {val_dt}?",
        "By sector, list the top {n} by total market value as of {val_dt}.",
    ),
)  # fmt: skip
