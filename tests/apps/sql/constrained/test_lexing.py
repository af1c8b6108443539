"""Every right query can be written in whatever pieces, and what can not become one is stopped where it goes wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltatune.apps.sql.augment.joinless import without_joins
from deltatune.apps.sql.constrained.lexing import DEEPEST, Place, QueryWords
from deltatune.apps.sql.finance import SOURCES, database
from deltatune.apps.sql.naming import Naming
from deltatune.apps.sql.questions import TEMPLATES, questions
from deltatune.apps.sql.run import Reader
from deltatune.apps.sql.synthesis import synthesize

FUNDS = QueryWords(database("funds"), "sqlite")


def stopped(words: QueryWords, text: str, size: int = 1) -> str | None:
    """The text up to where it is stopped, piece by piece; `None` if it never is."""
    place = Place()
    for start in range(0, len(text), size):
        after = words.read(place, text[start : start + size])
        if after is None:
            return text[:start]
        place = after
    return None


def whole(words: QueryWords, text: str) -> bool:
    place = words.read(Place(), text)
    return place is not None and words.may_end(place)


@pytest.mark.parametrize("name", SOURCES)
def test_right_queries_can_be_written(name: str, readers: dict[str, Reader]) -> None:
    reader = readers[name]
    naming = Naming.of(reader.schema, "meaning")
    own, told = QueryWords(reader.schema, reader.dialect), QueryWords(naming.told, reader.dialect)
    asked = questions(reader, [each for each in TEMPLATES if each.database == name], per_template=1)
    for example in [*asked, *synthesize(reader, count=60, seed=3)]:
        sql = example.sql_for(reader.dialect)
        in_words = naming.tell(sql, reader.dialect, reader.schema)
        short = naming.tell(without_joins(sql, reader.dialect, reader.schema), reader.dialect, reader.schema)
        for words, text in ((own, sql), (told, in_words), (told, short)):
            assert stopped(words, text, 3) is None
            assert whole(words, text), text
            assert whole(words, f"{text};\n"), text


@pytest.mark.parametrize(
    "sql",
    [
        "select count(*) from mf_info",
        "SELECT T1.fnd_abbr FROM mf_info AS T1 JOIN mf_nav AS T2 ON T1.fnd_code = T2.fnd_code",
        "SELECT i.fnd_abbr FROM mf_info i WHERE i.mgt_fee > 1.5 ORDER BY i.mgt_fee DESC LIMIT 3",
        "SELECT \"fnd_abbr\" FROM `mf_info` WHERE fnd_type = 'what ever; (it''s'",
        "SELECT s.fnd_type FROM (SELECT fnd_type, COUNT(*) AS n FROM mf_info GROUP BY fnd_type) s WHERE s.n > 1",
        "WITH a1 AS (SELECT fnd_code FROM mf_nav), best AS (SELECT fnd_code FROM a1) SELECT COUNT(*) FROM best",
        "SELECT SUM(unit_nav) total FROM mf_nav GROUP BY fnd_code HAVING total > 2 UNION ALL SELECT 1",
        "SELECT CAST(mgt_fee AS INTEGER) FROM mf_info",
        "SELECT MF_INFO.FND_ABBR FROM MF_INFO",
        "SELECT *, a.* FROM mf_info AS a",
        'SELECT COUNT(*) FROM mf_info WHERE fnd_type = "Bonds, (all"',
        'SELECT SUM(mgt_fee) AS "total fee" FROM mf_info ORDER BY "total fee"',
        "SELECT COUNT(*) FROM mf_info WHERE fnd_type IS NOT DISTINCT FROM fnd_abbr",
        "with recursive tree as (select 1) select count(*) from tree",
        "SELECT mgt_fee::numeric FROM mf_info",
    ],
)
def test_what_people_write_can_be_written(sql: str) -> None:
    assert stopped(FUNDS, sql) is None
    assert whole(FUNDS, sql)


def test_a_function_may_have_a_from_of_its_own() -> None:
    words = QueryWords(database("funds"), "postgres")
    assert whole(words, "SELECT EXTRACT(YEAR FROM nav_dt) FROM mf_nav")
    assert not whole(words, "SELECT nav_dt FROM nav_dt")


def test_only_sqlite_has_values_in_double_quotes() -> None:
    sql = 'SELECT COUNT(*) FROM mf_info WHERE fnd_type = "Bonds"'
    assert not whole(QueryWords(database("funds"), "postgres"), sql)
    assert whole(QueryWords(database("funds"), "postgres"), sql.replace("Bonds", "fnd_abbr"))


@pytest.mark.parametrize(
    ("sql", "upto"),
    [
        ("SELECT fund_name FROM mf_info", "SELECT f"),
        ("SELECT fnd_codes FROM mf_info", "SELECT fnd_code"),
        ("SELECT fnd FROM mf_info", "SELECT fnd"),
        ("SELECT fnd_abbr FROM fnd_abbr", "SELECT fnd_abbr FROM "),
        ("SELECT mf_nav.fnd_abbr FROM mf_nav", "SELECT mf_nav.fnd_"),
        ("SELECT COUNT(*) from mf_info", "SELECT COUNT(*) from"),
        ("SELECT COUNT(*)) FROM mf_info", "SELECT COUNT(*)"),
        ("SELECT mgt_fee.fnd_code FROM mf_info", "SELECT mgt_fee"),
        ("SELECT SUM(mgt_fee) AS total FROM total", "SELECT SUM(mgt_fee) AS total FROM "),
        ('SELECT fnd_abbr FROM "name"', 'SELECT fnd_abbr FROM "'),
        ('SELECT mf_info."name" FROM mf_info', 'SELECT mf_info."'),
        ("SELECT c FROM mf_info", "SELECT c"),
        ("SELECT 1; DROP TABLE mf_info", "SELECT 1; "),
        ("SELECT 1 # no", "SELECT 1 "),
        ("Sure! SELECT 1", "S"),
        ("s.fnd_code", "s"),
        ("SELECT `A3` FROM mf_info", "SELECT `A"),
        ("- SELECT 1", ""),
        ("'SELECT 1'", ""),
        ("SELECT " + "(" * 20, "SELECT " + "(" * DEEPEST),
    ],
)
def test_what_is_no_query_is_stopped(sql: str, upto: str) -> None:
    assert stopped(FUNDS, sql) == upto


@pytest.mark.parametrize(
    "sql",
    [
        "",
        "SELECT",
        "SELECT fnd_abbr FROM",
        "SELECT fnd_abbr FROM mf_",
        "SELECT fnd_abbr FROM mf_info WHERE fnd_type = ",
        "SELECT fnd_abbr FROM mf_info WHERE fnd_type = 'bond",
        "SELECT COUNT(*",
        "SELECT fnd_abbr FROM mf_info ORDER BY",
        "SELECT fnd_abbr,",
        "SELECT fnd_abbr FROM mf_info GROUP",
        "SELECT fnd_abbr FROM mf_info WHERE fnd_abbr IS",
        "SELECT fnd_abbr FROM mf_info UNION ALL",
        "SELECT fnd_abbr FROM mf_info LEFT",
        "SELECT fnd_abbr FROM mf_info LIMIT 5 OFFSET",
    ],
)
def test_what_is_not_over_does_not_end(sql: str) -> None:
    assert stopped(FUNDS, sql) is None
    assert not whole(FUNDS, sql)


@given(st.lists(st.sampled_from([*"SELECT, FROM mf_info.fnd_code AS a '\"();1x WITH", "SELECT ", " FROM "])), st.data())
def test_where_a_text_is_cut_does_not_count(letters: list[str], data: st.DataObject) -> None:
    text = "".join(letters)
    cut = data.draw(st.integers(0, len(text)))
    first = FUNDS.read(Place(), text[:cut])
    assert FUNDS.read(Place(), text) == (None if first is None else FUNDS.read(first, text[cut:]))
