"""Which queries are made of the same parts."""

from __future__ import annotations

import itertools

import pytest
import sqlglot
from sqlglot import exp

from deltatune.apps.sql.examples import Example
from deltatune.apps.sql.finance import SOURCES, database
from deltatune.apps.sql.questions import TEMPLATES, questions
from deltatune.apps.sql.run import Reader
from deltatune.apps.sql.scoring.exact_set import Components, components, exact_set_match
from deltatune.apps.sql.scoring.results import same_result
from deltatune.errors import DataError

FUNDS = database("funds")


def tree(sql: str) -> exp.Expr:
    return sqlglot.parse_one(sql, read="sqlite")


def parts(sql: str, *, values: bool = False) -> Components:
    return components(tree(sql), FUNDS, values=values)


EQUAL = [
    # names
    ("SELECT FND_CODE FROM Mf_Info", "SELECT fnd_code FROM mf_info"),
    ("SELECT i.fnd_code FROM mf_info AS i", "SELECT mf_info.fnd_code FROM mf_info"),
    ("SELECT COUNT(*) AS n FROM mf_info", "SELECT COUNT(*) FROM mf_info"),
    ('SELECT "fnd_code" FROM "mf_info"', "SELECT fnd_code FROM mf_info"),
    # order of what has none
    ("SELECT fnd_code, fnd_abbr FROM mf_info", "SELECT fnd_abbr, fnd_code FROM mf_info"),
    (
        "SELECT fnd_code FROM mf_info WHERE is_etf = 1 AND curr = 'USD'",
        "SELECT fnd_code FROM mf_info WHERE curr = 'USD' AND is_etf = 1",
    ),
    (
        "SELECT fnd_code FROM mf_info WHERE is_etf = 1 OR is_qdii = 1",
        "SELECT fnd_code FROM mf_info WHERE is_qdii = 1 OR is_etf = 1",
    ),
    ("SELECT fnd_type FROM mf_info GROUP BY fnd_type, curr", "SELECT fnd_type FROM mf_info GROUP BY curr, fnd_type"),
    ("SELECT sub_shr + rdm_shr FROM mf_scale", "SELECT rdm_shr + sub_shr FROM mf_scale"),
    (
        "SELECT fnd_code FROM mf_info WHERE fnd_type IN ('bond', 'index')",
        "SELECT fnd_code FROM mf_info WHERE fnd_type IN ('index', 'bond')",
    ),
    # comparisons
    ("SELECT fnd_code FROM mf_info WHERE mgt_fee > 1", "SELECT fnd_code FROM mf_info WHERE 1 < mgt_fee"),
    ("SELECT fnd_code FROM mf_info WHERE mgt_fee > cst_fee", "SELECT fnd_code FROM mf_info WHERE cst_fee < mgt_fee"),
    ("SELECT fnd_code FROM mf_info WHERE mgt_fee >= cst_fee", "SELECT fnd_code FROM mf_info WHERE cst_fee <= mgt_fee"),
    ("SELECT fnd_code FROM mf_info WHERE curr <> 'USD'", "SELECT fnd_code FROM mf_info WHERE NOT curr = 'USD'"),
    ("SELECT fnd_code FROM mf_info WHERE curr != 'USD'", "SELECT fnd_code FROM mf_info WHERE curr <> 'USD'"),
    (
        "SELECT fnd_code FROM mf_info WHERE mgt_fee BETWEEN 1 AND 2",
        "SELECT fnd_code FROM mf_info WHERE mgt_fee <= 2 AND mgt_fee >= 1",
    ),
    (
        "SELECT fnd_code FROM mf_info WHERE NOT (is_etf = 1 OR mgt_fee > 2)",
        "SELECT fnd_code FROM mf_info WHERE is_etf <> 1 AND mgt_fee <= 2",
    ),
    ("SELECT fnd_code FROM mf_info WHERE ((is_etf = 1))", "SELECT fnd_code FROM mf_info WHERE is_etf == 1"),
    (
        "SELECT edu FROM mf_manager GROUP BY edu HAVING COUNT(*) > 2",
        "SELECT edu FROM mf_manager GROUP BY edu HAVING 2 < COUNT(*)",
    ),
    # values
    ("SELECT fnd_code FROM mf_info WHERE curr = 'USD'", "SELECT fnd_code FROM mf_info WHERE curr = 'EUR'"),
    (
        "SELECT fnd_code FROM mf_info WHERE mgt_fee > -1 LIMIT 3",
        "SELECT fnd_code FROM mf_info WHERE mgt_fee > 2 LIMIT 5",
    ),
    ("SELECT fnd_code FROM mf_info WHERE fnd_abbr LIKE 'A%'", "SELECT fnd_code FROM mf_info WHERE fnd_abbr LIKE '%b'"),
    # joins
    (
        "SELECT c.city FROM mf_info AS i JOIN mf_company AS c ON i.co_code = c.co_code",
        "SELECT b.city FROM mf_company AS b JOIN mf_info AS a ON b.co_code = a.co_code",
    ),
    (
        "SELECT c.city FROM mf_info AS i JOIN mf_company AS c ON i.co_code = c.co_code",
        "SELECT city FROM mf_info INNER JOIN mf_company USING (co_code)",
    ),
    (
        "SELECT c.city FROM mf_info AS i JOIN mf_company AS c ON i.co_code = c.co_code",
        "SELECT city FROM mf_info, mf_company WHERE mf_company.co_code = mf_info.co_code",
    ),
    (
        "SELECT c.city FROM mf_info AS i JOIN mf_company AS c ON i.co_code = c.co_code AND i.is_etf = 1",
        "SELECT c.city FROM mf_info AS i JOIN mf_company AS c ON i.co_code = c.co_code WHERE i.is_etf = 1",
    ),
    (
        "SELECT i.co_code FROM mf_info AS i JOIN mf_company AS c ON i.co_code = c.co_code",
        "SELECT c.co_code FROM mf_info AS i JOIN mf_company AS c ON i.co_code = c.co_code",
    ),
    (
        "SELECT i.fnd_abbr FROM mf_scale AS s JOIN mf_info AS i ON s.fnd_code = i.fnd_code "
        "JOIN mf_fin AS f ON f.fnd_code = i.fnd_code",
        "SELECT i.fnd_abbr FROM mf_fin AS f JOIN mf_scale AS s ON s.fnd_code = f.fnd_code "
        "JOIN mf_info AS i ON s.fnd_code = i.fnd_code",
    ),
    (
        "SELECT i.fnd_abbr FROM mf_info AS i LEFT JOIN mf_div AS d ON i.fnd_code = d.fnd_code WHERE d.ex_dt IS NULL",
        "SELECT x.fnd_abbr FROM mf_info AS x LEFT OUTER JOIN mf_div AS y USING (fnd_code) WHERE y.ex_dt IS NULL",
    ),
    (
        "SELECT i.fnd_abbr FROM (mf_info AS i JOIN mf_div AS d ON i.fnd_code = d.fnd_code)",
        "SELECT i.fnd_abbr FROM mf_info AS i JOIN mf_div AS d ON i.fnd_code = d.fnd_code",
    ),
    # a table twice
    (
        "SELECT b.net_ast - a.net_ast FROM mf_scale AS a JOIN mf_scale AS b ON a.fnd_code = b.fnd_code "
        "WHERE a.rpt_dt < b.rpt_dt",
        "SELECT a.net_ast - b.net_ast FROM mf_scale AS a JOIN mf_scale AS b ON a.fnd_code = b.fnd_code "
        "WHERE b.rpt_dt < a.rpt_dt",
    ),
    # order and aliases
    ("SELECT fnd_code FROM mf_info ORDER BY mgt_fee", "SELECT fnd_code FROM mf_info ORDER BY mgt_fee ASC"),
    (
        "SELECT edu, COUNT(*) AS n FROM mf_manager GROUP BY edu ORDER BY n DESC",
        "SELECT edu, COUNT(*) FROM mf_manager GROUP BY 1 ORDER BY 2 DESC",
    ),
    (
        "SELECT edu, COUNT(*) AS n FROM mf_manager GROUP BY edu HAVING n > 1",
        "SELECT edu, COUNT(*) FROM mf_manager GROUP BY edu HAVING COUNT(*) > 1",
    ),
    (
        "SELECT STRFTIME('%Y', ex_dt) AS y, COUNT(*) FROM mf_div GROUP BY y",
        "SELECT STRFTIME('%Y', ex_dt), COUNT(*) FROM mf_div GROUP BY STRFTIME('%Y', ex_dt)",
    ),
    # nesting
    (
        "SELECT fnd_code FROM mf_info WHERE co_code IN (SELECT co_code FROM mf_company "
        "WHERE is_bank_sub = 1 AND city = 'A')",
        "SELECT i.fnd_code FROM mf_info AS i WHERE i.co_code IN (SELECT c.co_code FROM mf_company AS c "
        "WHERE c.city = 'B' AND 1 = c.is_bank_sub)",
    ),
    (
        "WITH r AS (SELECT fnd_type AS t, COUNT(*) AS n FROM mf_info GROUP BY fnd_type) SELECT t FROM r WHERE n > 2",
        "SELECT x.kind FROM (SELECT fnd_type AS kind, COUNT(*) AS many FROM mf_info GROUP BY 1) AS x WHERE x.many > 3",
    ),
    (
        "SELECT mgr_name FROM mf_manager AS m WHERE NOT EXISTS (SELECT 1 FROM mf_mgr_hist AS h "
        "WHERE h.mgr_id = m.mgr_id)",
        "SELECT mgr_name FROM mf_manager WHERE NOT EXISTS (SELECT 1 FROM mf_mgr_hist "
        "WHERE mf_manager.mgr_id = mf_mgr_hist.mgr_id)",
    ),
    (
        "SELECT fnd_code FROM mf_info AS a WHERE mgt_fee > (SELECT AVG(b.mgt_fee) FROM mf_info AS b "
        "WHERE b.fnd_type = a.fnd_type)",
        "SELECT x.fnd_code FROM mf_info AS x WHERE (SELECT AVG(mgt_fee) FROM mf_info "
        "WHERE x.fnd_type = fnd_type) < x.mgt_fee",
    ),
    # set operations
    (
        "SELECT co_code FROM mf_info UNION SELECT co_code FROM mf_manager",
        "SELECT m.co_code FROM mf_manager AS m UNION SELECT co_code FROM mf_info",
    ),
    (
        "SELECT co_code FROM mf_info UNION (SELECT co_code FROM mf_manager UNION SELECT co_code FROM mf_company)",
        "SELECT co_code FROM mf_company UNION SELECT co_code FROM mf_info UNION SELECT co_code FROM mf_manager",
    ),
    (
        "SELECT co_code AS c FROM mf_info UNION SELECT co_code FROM mf_manager ORDER BY c",
        "SELECT co_code FROM mf_info UNION SELECT co_code FROM mf_manager ORDER BY 1",
    ),
]

DIFFERENT = [
    ("SELECT fnd_code FROM mf_info", "SELECT fnd_abbr FROM mf_info", "select"),
    ("SELECT fnd_code FROM mf_info", "SELECT fnd_code, fnd_abbr FROM mf_info", "select"),
    ("SELECT fnd_code FROM mf_info", "SELECT DISTINCT fnd_code FROM mf_info", "distinct"),
    ("SELECT COUNT(co_code) FROM mf_info", "SELECT COUNT(DISTINCT co_code) FROM mf_info", "select"),
    ("SELECT SUM(mgt_fee) FROM mf_info", "SELECT AVG(mgt_fee) FROM mf_info", "select"),
    ("SELECT sub_shr - rdm_shr FROM mf_scale", "SELECT rdm_shr - sub_shr FROM mf_scale", "select"),
    ("SELECT 100 * sub_shr / rdm_shr FROM mf_scale", "SELECT sub_shr / rdm_shr FROM mf_scale", "select"),
    ("SELECT STRFTIME('%Y', ex_dt) FROM mf_div", "SELECT STRFTIME('%m', ex_dt) FROM mf_div", "select"),
    (
        "SELECT CASE WHEN is_etf = 1 THEN 1 ELSE 0 END FROM mf_info",
        "SELECT CASE WHEN is_etf = 1 THEN 0 ELSE 1 END FROM mf_info",
        "select",
    ),
    ("SELECT COUNT(*) FROM mf_scale", "SELECT COUNT(*) FROM mf_fin", "tables"),
    ("SELECT fnd_code FROM mf_info WHERE mgt_fee > 1", "SELECT fnd_code FROM mf_info WHERE mgt_fee < 1", "where"),
    ("SELECT fnd_code FROM mf_info WHERE mgt_fee > 1", "SELECT fnd_code FROM mf_info WHERE mgt_fee >= 1", "where"),
    (
        "SELECT fnd_code FROM mf_info WHERE mgt_fee > cst_fee",
        "SELECT fnd_code FROM mf_info WHERE mgt_fee < cst_fee",
        "where",
    ),
    ("SELECT fnd_code FROM mf_info WHERE mgt_fee > 1", "SELECT fnd_code FROM mf_info WHERE cst_fee > 1", "where"),
    ("SELECT fnd_code FROM mf_info WHERE curr = 'USD'", "SELECT fnd_code FROM mf_info WHERE curr LIKE 'USD'", "where"),
    (
        "SELECT fnd_code FROM mf_info WHERE is_etf = 1 AND is_qdii = 1",
        "SELECT fnd_code FROM mf_info WHERE is_etf = 1 OR is_qdii = 1",
        "where",
    ),
    (
        "SELECT fnd_code FROM mf_info WHERE is_etf = 1 AND (is_qdii = 1 OR curr = 'USD')",
        "SELECT fnd_code FROM mf_info WHERE is_etf = 1 AND is_qdii = 1 OR curr = 'USD'",
        "where",
    ),
    (
        "SELECT fnd_code FROM mf_info WHERE fnd_type = 'bond' OR fnd_type = 'index'",
        "SELECT fnd_code FROM mf_info WHERE fnd_type = 'bond'",
        "where",
    ),
    (
        "SELECT mgr_id FROM mf_mgr_hist WHERE end_dt IS NULL",
        "SELECT mgr_id FROM mf_mgr_hist WHERE NOT end_dt IS NULL",
        "where",
    ),
    ("SELECT fnd_code FROM mf_info WHERE mgt_fee > 1", "SELECT fnd_code FROM mf_info", "where"),
    ("SELECT COUNT(*) FROM mf_info GROUP BY fnd_type", "SELECT COUNT(*) FROM mf_info GROUP BY curr", "group"),
    (
        "SELECT edu FROM mf_manager GROUP BY edu HAVING COUNT(*) > 2",
        "SELECT edu FROM mf_manager GROUP BY edu HAVING COUNT(*) >= 2",
        "having",
    ),
    ("SELECT fnd_code FROM mf_info ORDER BY mgt_fee", "SELECT fnd_code FROM mf_info ORDER BY mgt_fee DESC", "order"),
    (
        "SELECT fnd_code FROM mf_info ORDER BY mgt_fee, cst_fee",
        "SELECT fnd_code FROM mf_info ORDER BY cst_fee, mgt_fee",
        "order",
    ),
    ("SELECT fnd_code FROM mf_info ORDER BY mgt_fee LIMIT 1", "SELECT fnd_code FROM mf_info ORDER BY mgt_fee", "limit"),
    ("SELECT fnd_code FROM mf_info LIMIT 1", "SELECT fnd_code FROM mf_info LIMIT 1 OFFSET 2", "limit"),
    (
        "SELECT COUNT(*) FROM mf_info AS i JOIN mf_div AS d ON i.fnd_code = d.fnd_code",
        "SELECT COUNT(*) FROM mf_info AS i LEFT JOIN mf_div AS d ON i.fnd_code = d.fnd_code",
        "tables",
    ),
    (
        "SELECT COUNT(*) FROM mf_info AS i LEFT JOIN mf_div AS d ON i.fnd_code = d.fnd_code",
        "SELECT COUNT(*) FROM mf_div AS d LEFT JOIN mf_info AS i ON i.fnd_code = d.fnd_code",
        "tables",
    ),
    (
        "SELECT COUNT(*) FROM mf_info AS i LEFT JOIN mf_div AS d ON i.fnd_code = d.fnd_code AND d.div_10 > 1",
        "SELECT COUNT(*) FROM mf_info AS i LEFT JOIN mf_div AS d ON i.fnd_code = d.fnd_code WHERE d.div_10 > 1",
        "where",
    ),
    (
        "SELECT COUNT(*) FROM mf_info AS i, mf_company AS c",
        "SELECT COUNT(*) FROM mf_info AS i JOIN mf_company AS c ON i.co_code = c.co_code",
        "joins",
    ),
    (
        "SELECT COUNT(*) FROM mf_fin AS f JOIN mf_scale AS s ON f.fnd_code = s.fnd_code AND f.rpt_dt = s.rpt_dt",
        "SELECT COUNT(*) FROM mf_fin AS f JOIN mf_scale AS s ON f.fnd_code = s.fnd_code",
        "joins",
    ),
    (
        "SELECT b.net_ast - a.net_ast FROM mf_scale AS a JOIN mf_scale AS b ON a.fnd_code = b.fnd_code "
        "WHERE a.rpt_dt < b.rpt_dt",
        "SELECT b.net_ast - a.net_ast FROM mf_scale AS a JOIN mf_scale AS b ON a.fnd_code = b.fnd_code "
        "WHERE a.rpt_dt > b.rpt_dt",
        "where",
    ),
    (
        "SELECT i.est_dt FROM mf_info AS i JOIN mf_company AS c ON i.co_code = c.co_code",
        "SELECT c.est_dt FROM mf_info AS i JOIN mf_company AS c ON i.co_code = c.co_code",
        "select",
    ),
    (
        "SELECT fnd_code FROM mf_info WHERE co_code IN (SELECT co_code FROM mf_company WHERE is_bank_sub = 1)",
        "SELECT fnd_code FROM mf_info WHERE co_code IN (SELECT co_code FROM mf_company)",
        "where",
    ),
    (
        "SELECT fnd_code FROM mf_info WHERE co_code IN (SELECT co_code FROM mf_company)",
        "SELECT fnd_code FROM mf_info WHERE co_code NOT IN (SELECT co_code FROM mf_company)",
        "where",
    ),
    (
        "SELECT fnd_code FROM mf_info AS a WHERE mgt_fee > (SELECT AVG(b.mgt_fee) FROM mf_info AS b "
        "WHERE b.fnd_type = a.fnd_type)",
        "SELECT fnd_code FROM mf_info AS a WHERE mgt_fee > (SELECT AVG(b.mgt_fee) FROM mf_info AS b "
        "WHERE b.fnd_type = b.fnd_type)",
        "where",
    ),
    (
        "WITH r AS (SELECT fnd_type AS t FROM mf_info) SELECT t FROM r",
        "WITH r AS (SELECT curr AS t FROM mf_info) SELECT t FROM r",
        "select",
    ),
    (
        "SELECT co_code FROM mf_info UNION SELECT co_code FROM mf_manager",
        "SELECT co_code FROM mf_info UNION ALL SELECT co_code FROM mf_manager",
        "operation",
    ),
    (
        "SELECT co_code FROM mf_info EXCEPT SELECT co_code FROM mf_manager",
        "SELECT co_code FROM mf_manager EXCEPT SELECT co_code FROM mf_info",
        "operands",
    ),
    (
        "SELECT co_code FROM mf_info INTERSECT SELECT co_code FROM mf_manager",
        "SELECT co_code FROM mf_info EXCEPT SELECT co_code FROM mf_manager",
        "operation",
    ),
    (
        "SELECT AVG(mgt_fee) OVER (PARTITION BY curr) FROM mf_info",
        "SELECT AVG(mgt_fee) OVER (PARTITION BY fnd_type) FROM mf_info",
        "select",
    ),
]


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_equal(one: str, other: str) -> None:
    assert parts(one).differences(parts(other)) == ()
    assert exact_set_match(tree(one), tree(other), FUNDS)
    assert hash(parts(one)) == hash(parts(other))


def test_queries_that_are_equal_with_their_values_return_the_same(sqlite_readers: dict[str, Reader]) -> None:
    reader = sqlite_readers["funds"]
    ran = 0
    for one, other in EQUAL:
        if parts(one, values=True) == parts(other, values=True):
            found, wanted = reader.run(other), reader.run(one)
            assert same_result(found, wanted, ordered=Example("", one, "funds").ordered), (one, other)
            ran += bool(wanted.rows)
    assert ran > 30


@pytest.mark.parametrize(("one", "other", "part"), DIFFERENT)
def test_different(one: str, other: str, part: str) -> None:
    assert part in parts(one).differences(parts(other))
    assert not exact_set_match(tree(one), tree(other), FUNDS)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("curr = 'USD'", "curr = 'EUR'", False),
        ("curr = 'USD'", "curr = 'usd'", False),
        ("mgt_fee > 1", "mgt_fee > 1.0", True),
        ("mgt_fee > 1", "1 < mgt_fee", True),
        ("mgt_fee > 1", "mgt_fee > -1", False),
        ("mgt_fee BETWEEN 1 AND 2", "mgt_fee >= 1 AND mgt_fee <= 2", True),
        ("mgt_fee BETWEEN 1 AND 2", "mgt_fee BETWEEN 1 AND 3", False),
        ("fnd_type IN ('bond', 'index')", "fnd_type IN ('index', 'bond')", True),
        ("fnd_type IN ('bond', 'index')", "fnd_type IN ('index', 'mixed')", False),
        ("is_etf = 1 LIMIT 3", "is_etf = 1 LIMIT 4", False),
        ("is_etf = TRUE", "is_etf = 1", True),
        ("min_sub > 20240101", "min_sub > 20240102", False),
    ],
)
def test_values_count_when_asked(one: str, other: str, same: bool) -> None:
    pair = [tree(f"SELECT fnd_code FROM mf_info WHERE {condition}") for condition in (one, other)]
    assert exact_set_match(*pair, FUNDS, values=True) == same
    assert exact_set_match(*pair, FUNDS)


def test_parts_are_named_by_table_and_joined_columns_are_one() -> None:
    found = parts(
        "SELECT c.city, COUNT(*) AS n FROM mf_info AS i JOIN mf_company AS c ON i.co_code = c.co_code "
        "WHERE i.is_etf = 1 GROUP BY c.city ORDER BY n DESC LIMIT 3"
    )
    assert found.tables == ("mf_company", "mf_info")
    assert found.joins == ("mf_company.co_code = mf_info.co_code",)
    assert found.where == ("EQ(mf_info.is_etf, value)",)
    assert found.group == ("mf_company.city",)
    assert found.limit == ("limit value",)
    assert not found.having


def test_unknown_names_stay_as_they_are() -> None:
    assert parts("SELECT nothing FROM nowhere") == parts("SELECT NOTHING FROM NOWHERE")
    assert parts("SELECT nothing FROM nowhere") != parts("SELECT nothing FROM elsewhere")
    assert parts("SELECT y AS x, x AS y FROM nowhere") != parts("SELECT y AS x, y AS y FROM nowhere")


def test_a_query_that_reads_itself() -> None:
    text = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + {} FROM n WHERE i < 5) SELECT i FROM n"
    assert parts(text.format(1)) == parts(
        text.format(1)
        .replace("n(i)", "n(j)")
        .replace("i +", "j +")
        .replace("i <", "j <")
        .replace("SELECT i F", "SELECT j F")
    )
    assert parts(text.format(1)) != parts(text.format(2))


def test_a_table_read_many_times_takes_no_long_time() -> None:
    joins = " ".join(f"JOIN mf_nav AS t{i} ON t{i}.fnd_code = t0.fnd_code" for i in range(1, 30))
    assert len(parts(f"SELECT t0.unit_nav FROM mf_nav AS t0 {joins} WHERE t3.unit_nav > t7.unit_nav").tables) == 30


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("DROP TABLE mf_info", "SQL: expected a query, found DROP"),
        ("SELECT fnd_code FROM FROM mf_info", "found: SELECT \\* FROM mf_info in the place of a table"),
        ("SELECT 1 FROM mf_info JOIN mf_info ON 1 = 1", "SQL: expected a query that holds together, found: Alias"),
    ],
)
def test_what_can_not_be_taken_apart_is_named(sql: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parts(sql)


@pytest.mark.parametrize("name", SOURCES)
def test_our_own_queries_match_themselves_and_no_others(name: str, sqlite_readers: dict[str, Reader]) -> None:
    schema = database(name)
    templates = [template for template in TEMPLATES if template.database == name]
    found = [
        (example, components(tree(example.sql), schema), components(tree(example.sql), schema, values=True))
        for example in questions(sqlite_readers[name], templates, per_template=4)
    ]
    assert not any("?" in str(parts) for _, parts, _ in found)  # every name is found in the schema
    for example, masked, exact in found:
        again = tree(tree(example.sql).sql("sqlite", pretty=True))
        assert components(again, schema) == masked
        assert components(again, schema, values=True) == exact
    for (example, masked, exact), (other, also, there) in itertools.combinations(found, 2):
        if masked == also:
            assert example.template == other.template, (example.sql, other.sql)
        assert (exact == there) <= (masked == also)
        assert (exact == there) == (example.sql == other.sql), (example.sql, other.sql)
