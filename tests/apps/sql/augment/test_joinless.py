"""SQL without its joins: what is left means the same, and what would not is left alone."""

from __future__ import annotations

import pytest

from deltatune.apps.sql.augment.joinless import with_joins, without_joins
from deltatune.apps.sql.finance import SOURCES, database
from deltatune.apps.sql.questions import TEMPLATES, questions
from deltatune.apps.sql.run import Reader
from deltatune.apps.sql.scoring.results import same_result
from deltatune.apps.sql.synthesis import synthesize

FUNDS = database("funds")


@pytest.mark.parametrize(
    ("sql", "left"),
    [
        (
            "SELECT n.unit_nav FROM mf_nav AS n JOIN mf_info AS i ON n.fnd_code = i.fnd_code WHERE i.fnd_abbr = 'A'",
            "SELECT unit_nav FROM mf_nav WHERE fnd_abbr = 'A'",
        ),
        (
            "SELECT c.co_abbr, AVG(p.ret_1y) FROM mf_perf AS p JOIN mf_info AS i ON p.fnd_code = i.fnd_code "
            "JOIN mf_company AS c ON i.co_code = c.co_code GROUP BY c.co_abbr",
            "SELECT co_abbr, AVG(ret_1y) FROM mf_perf GROUP BY co_abbr",
        ),
        # Both tables have a day of foundation, and the fund's is meant.
        (
            "SELECT c.city, i.est_dt FROM mf_company AS c JOIN mf_info AS i ON c.co_code = i.co_code",
            "SELECT mf_company.city, mf_info.est_dt FROM mf_company",
        ),
        ("SELECT COUNT(*) FROM mf_info WHERE fnd_type = 'bond'", None),
        # Nothing but the count tells of the second table.
        (
            "SELECT c.co_abbr, COUNT(*) FROM mf_company AS c JOIN mf_info AS i ON c.co_code = i.co_code "
            "GROUP BY c.co_abbr",
            None,
        ),
        # A table with itself, and a join that is not along the key.
        ("SELECT a.end_shr - b.end_shr FROM mf_scale AS a JOIN mf_scale AS b ON a.fnd_code = b.fnd_code", None),
        ("SELECT n.unit_nav, i.fnd_abbr FROM mf_nav AS n JOIN mf_info AS i ON n.nav_dt = i.est_dt", None),
        ("VALUES (1)", None),
        ("SELECT i.fnd_abbr, n.unit_nav FROM mf_info AS i LEFT JOIN mf_nav AS n ON n.fnd_code = i.fnd_code", None),
    ],
)  # fmt: skip
def test_joins_go_where_the_columns_tell_of_them(sql: str, left: str | None) -> None:
    assert without_joins(sql, "sqlite", FUNDS) == (left or sql)


@pytest.mark.parametrize(
    ("short", "whole"),
    [
        # Managers come into it only by mistake, and would bring a row for each.
        ("SELECT mgt_fee FROM mf_mgr_hist", "SELECT mf_info.mgt_fee FROM mf_info"),
        (
            "SELECT mgt_fee, ret_1y FROM mf_mgr_hist",
            "SELECT mf_info.mgt_fee, mf_perf.ret_1y FROM mf_info JOIN mf_perf ON mf_info.fnd_code = mf_perf.fnd_code",
        ),
        (
            "SELECT COUNT(*) FROM mf_mgr_hist WHERE mgt_fee < 1",
            "SELECT COUNT(*) FROM mf_mgr_hist JOIN mf_info ON mf_mgr_hist.fnd_code = mf_info.fnd_code "
            "WHERE mf_info.mgt_fee < 1",
        ),
    ],
)  # fmt: skip
def test_a_table_of_which_nothing_is_asked_is_not_read(short: str, whole: str) -> None:
    assert with_joins(short, "sqlite", FUNDS) == whole


@pytest.mark.parametrize("name", SOURCES)
def test_the_query_that_comes_back_answers_the_same(name: str, sqlite_readers: dict[str, Reader]) -> None:
    reader = sqlite_readers[name]
    examples = questions(reader, [t for t in TEMPLATES if t.database == name], per_template=1)
    examples += synthesize(reader, count=60, seed=5)
    joined = [example for example in examples if " JOIN " in example.sql]
    shorter = 0
    for example in joined:
        left = without_joins(example.sql, "sqlite", reader.schema)
        shorter += left != example.sql
        found = reader.run(with_joins(left, "sqlite", reader.schema))
        assert same_result(found, reader.run(example.sql), ordered=example.ordered)
    assert shorter > 0.8 * len(joined)


@pytest.mark.parametrize("text", ["", "SELECT", "no SQL at all", "DROP TABLE mf_info", "SELECT fnd_code FROM mf_info"])
def test_what_asks_for_no_join_is_left_as_it_is(text: str) -> None:
    assert with_joins(text, "sqlite", FUNDS) == text
