"""Value linking: exact, misspelt, over several words and columns, and with any text at all."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltatune.apps.sql.linking.lexical import LexicalLinker
from deltatune.apps.sql.linking.values import ValueIndex, ValueLinker
from deltatune.apps.sql.run import QueryError, Reader, open_reader
from deltatune.apps.sql.schema import Column, Database, Table
from deltatune.errors import ConfigError

CITIES = [
    "Oslo", "New York", "New York City", "SÃO Paulo", "O'Fallon", 'The "Big" Town', "Port 12", "Port 13", "IT",
    "北京", "x" * 200, "2024-05-01", "Straße", "  Wide   Bay ", "DROP TABLE shop", "Bridgewater", "NEAR", "Oslo",
]  # fmt: skip
SCHEMA = Database(
    "shops",
    (
        Table("city", (Column("name", "text", key=True),)),
        Table(
            "my shop",  # a name that has to be quoted
            (
                Column("id", "int", key=True),
                Column("select", "text"),
                Column("city", "text", references=("city", "name")),
                Column("opened", "date"),
            ),
        ),
    ),
)


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    path = tmp_path_factory.mktemp("shops") / "shops.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE city (name TEXT)")
        connection.execute('CREATE TABLE "my shop" (id INT, "select" TEXT, city TEXT, opened DATE)')
        connection.executemany("INSERT INTO city VALUES (?)", [(city,) for city in [*CITIES, None]])
        rows = [
            (1, "Oslo", "Oslo", "2024-05-01"),
            (2, "Blue Lagoon", "Nowhere", None),
            (3, "bridgewater", "Oslo", None),
        ]
        connection.executemany('INSERT INTO "my shop" VALUES (?, ?, ?, ?)', rows)
    with open_reader(path, schema=SCHEMA) as reader:
        yield reader


@pytest.fixture(scope="module")
def index(shops: Reader, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValueIndex]:
    with ValueIndex.build(shops, tmp_path_factory.mktemp("index") / "values.sqlite") as found:
        yield found


def found(index: ValueIndex, question: str, **settings: int) -> set[tuple[str, str, str]]:
    return {(match.column, match.value, match.said) for match in index.find(question, **settings)}


@pytest.mark.parametrize(
    ("question", "wanted"),
    [
        ("shops in new YORK?", {("name", "New York", "new YORK")}),
        ("shops in New  York   City", {("name", "New York City", "New  York   City")}),  # the longest, and only that
        ("from New York to Port 12", {("name", "New York", "New York"), ("name", "Port 12", "Port 12")}),
        ("Oslo's shops", {("name", "Oslo", "Oslo"), ("select", "Oslo", "Oslo")}),  # one span, two columns
        ("in bridgewater", {("name", "Bridgewater", "bridgewater"), ("select", "bridgewater", "bridgewater")}),
        ("are there any in são paulo", {("name", "SÃO Paulo", "são paulo")}),
        ("in STRASSE 5", {("name", "Straße", "STRASSE")}),
        ("o'fallon", {("name", "O'Fallon", "o'fallon")}),
        ("the 'big' town", {("name", 'The "Big" Town', "the 'big' town")}),
        ("wide bay", {("name", "  Wide   Bay ", "wide bay")}),
        ("北京有多少商店", {("name", "北京", "北京")}),
        ("shops in IT", {("name", "IT", "IT")}),
        ("is it open?", set()),  # short values are spelled as they are
        ("opened on 2024-05-01", set()),  # dates are not in the index
        ("in Nowhere", set()),  # a column that points to another
        ("x" * 200, set()),  # too long to be said
        ("", set()),
    ],
)
def test_what_is_said_word_for_word(index: ValueIndex, question: str, wanted: set[tuple[str, str, str]]) -> None:
    assert found(index, question) == wanted
    assert all(match.score == 1 for match in index.find(question))


@pytest.mark.parametrize(
    ("question", "value", "said"),
    [
        ("shops in Bridgwater", "Bridgewater", "Bridgwater"),
        ("shops in Brigdewater", "Bridgewater", "Brigdewater"),
        ("how is the blue lagon doing", "Blue Lagoon", "blue lagon"),
        ("Blu Lagoon", None, None),  # three letters are too few to be misspelt
        ("New Yorkk Cityy", "New York City", "New Yorkk Cityy"),
        ("bridge", None, None),
        ("water under the bridges", None, None),
        ("Port 14", None, None),  # another number is another value
        ("Portt 12", "Port 12", "Portt 12"),
    ],
)
def test_what_is_misspelt(index: ValueIndex, question: str, value: str | None, said: str | None) -> None:
    matches = index.find(question)
    if value is None:
        assert not matches
    else:
        assert {(match.value.casefold(), match.said) for match in matches} == {(value.casefold(), said)}
        assert all(0.8 <= match.score < 1 for match in matches)


def test_the_surest_come_first_and_the_rest_is_cut_off(index: ValueIndex) -> None:
    question = "from Brigdewater over New York to Port 12"
    scores = [match.score for match in index.find(question)]
    assert scores == sorted(scores, reverse=True)
    assert [match.value for match in index.find(question, limit=2)] == ["New York", "Port 12"]


@pytest.mark.parametrize(
    "question",
    [
        "'; DROP TABLE value; --", '" OR 1=1 --', "NEAR(a b)", "* OR near MATCH 'x'", "value: NOT",
        "\x00 null", "\ud800", "(((((", "%_%", "a" * 100_000, "word " * 10_000, "-" * 50, "\u202e\u200b", "🦄 🦄",
        "½ ﷺ ㎏ ǅ",
    ],
)  # fmt: skip
def test_any_text_can_be_asked(index: ValueIndex, question: str) -> None:
    index.find(question)
    assert found(index, "Oslo") == {("name", "Oslo", "Oslo"), ("select", "Oslo", "Oslo")}


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60), st.sampled_from([city for city in CITIES if 3 < len(city) < 80 and city[:4] != "2024"]))
def test_a_value_is_found_in_any_text(index: ValueIndex, around: str, value: str) -> None:
    """Set off by a mark of punctuation it can not be part of a longer word."""
    question = f"{around} . {value} . {around}"
    matches = index.find(question, limit=10**6)
    assert any(value.split()[0] in match.said for match in matches)
    assert all(match.said in question for match in matches)


def test_what_is_in_the_index_is_told(index: ValueIndex) -> None:
    told = {(each.table, each.column): (each.values, each.left_out) for each in index.columns}
    assert told == {
        ("city", "name"): (len(set(CITIES)) - 2, "values of more than 80 letters"),
        ("my shop", "select"): (3, ""),
    }


def test_a_column_of_too_many_values_is_left_out(shops: Reader, tmp_path: Path) -> None:
    with ValueIndex.build(shops, tmp_path / "few.sqlite", most_values=3) as index:
        told = {each.column: (each.values, each.left_out) for each in index.columns}
        assert told == {"name": (0, "all: more than 3 values"), "select": (3, "")}
        assert found(index, "Oslo or New York") == {("select", "Oslo", "Oslo")}


def test_a_table_that_no_query_may_read_is_passed_over(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "odd.sqlite")) as connection, connection:
        for name in ("orders.2024", "orders"):
            connection.execute(f'CREATE TABLE "{name}" (item TEXT)')
            connection.execute(f'INSERT INTO "{name}" VALUES (?)', (f"thing of {name[-1]}",))
    with open_reader(tmp_path / "odd.sqlite") as reader, ValueIndex.build(reader, tmp_path / "values") as found:
        assert [match.table for match in found.find("thing of s and thing of 4")] == ["orders"]


def test_it_is_written_anew_only_if_asked(tmp_path: Path) -> None:
    source, path = tmp_path / "shops.sqlite", tmp_path / "index" / "values.sqlite"
    schema = Database("shops", SCHEMA.tables[:1])

    def fill(*cities: str) -> None:
        with closing(sqlite3.connect(source)) as connection, connection:
            connection.execute("DROP TABLE IF EXISTS city")
            connection.execute("CREATE TABLE city (name TEXT)")
            connection.executemany("INSERT INTO city VALUES (?)", [(city,) for city in cities])

    def built(*, rebuild: bool) -> set[str]:
        with open_reader(source, schema=schema) as reader, ValueIndex.build(reader, path, rebuild=rebuild) as index:
            return {match.value for match in index.find("Lima or Cairo")}

    fill("Lima")
    assert built(rebuild=False) == {"Lima"}
    fill("Cairo")
    assert built(rebuild=False) == {"Lima"}
    assert built(rebuild=True) == {"Cairo"}
    with closing(sqlite3.connect(source)) as connection, connection:
        connection.execute("DROP TABLE city")
    with pytest.raises(QueryError):
        built(rebuild=True)
    assert list(path.parent.iterdir()) == [path]  # the old one is there, and nothing else
    assert built(rebuild=False) == {"Cairo"}


def test_what_is_no_index_is_refused(shops: Reader, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"value index: expected a file at .*none\.sqlite, found none; build it"):
        ValueIndex.open(tmp_path / "none.sqlite")
    other = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(other)) as connection, connection:
        connection.execute("CREATE TABLE t (a)")
    with pytest.raises(ConfigError, match="found another database; build it again"):
        ValueIndex.open(other)
    ValueIndex.build(shops, tmp_path / "shops.sqlite").close()
    shops_as_other = Reader(shops._connection, Database("other", SCHEMA.tables), "sqlite", shops.limits)
    with pytest.raises(ConfigError, match=r"expected that of other in .*, found that of shops"):
        ValueIndex.build(shops_as_other, tmp_path / "shops.sqlite")


def test_every_kind_of_database(readers: dict[str, Reader], tmp_path: Path) -> None:
    with ValueIndex.build(readers["funds"], tmp_path / "values.sqlite") as index:
        counts = {(each.table, each.column): each.values for each in index.columns}
        assert ("mf_nav", "fnd_code") not in counts
        for (table, column), count in counts.items():
            distinct = readers["funds"].run(f"SELECT COUNT(DISTINCT {column}) FROM {table}").rows[0][0]
            assert count == distinct, f"{table}.{column}"
        for code, name in readers["funds"].run("SELECT fnd_code, fnd_abbr FROM mf_info").rows:
            said = f"What does {name.upper()} ({code}) charge?"
            assert found(index, said) == {("fnd_code", code, code), ("fnd_abbr", name, name.upper())}


def test_a_linker_with_values_ranks_their_column_first(readers: dict[str, Reader], tmp_path: Path) -> None:
    funds = readers["funds"]
    with ValueIndex.build(funds, tmp_path / "values.sqlite") as index:
        linker = ValueLinker(LexicalLinker(), {"funds": index})
        ((name,),) = funds.run("SELECT mgr_name FROM mf_manager ORDER BY mgr_id LIMIT 1").rows
        (ranking,) = linker.rank([f"Tell me all about {name}"], funds.schema)
        assert ranking.best_tables()[0] == "mf_manager"
        assert ranking.best_columns("mf_manager")[0] == "mgr_name"
        macro = readers["macro"].schema
        assert linker.rank(["public debt"], macro) == LexicalLinker().rank(["public debt"], macro)


def test_the_value_of_a_column_that_a_text_stands_for(sqlite_readers: dict[str, Reader], tmp_path: Path) -> None:
    with ValueIndex.build(sqlite_readers["funds"], tmp_path / "values") as index:
        assert index.closest("mf_info", "fnd_type", "bond") == "bond"
        assert index.closest("mf_info", "fnd_type", "Bond") == "bond"
        assert index.closest("mf_info", "fnd_type", "balanced") is None
        assert index.closest("mf_info", "inv_style", "balancd") == "balanced"
        assert index.closest("mf_info", "fnd_abbr", "highland valu prime") == "Highland Value Prime"
        assert index.closest("mf_info", "fnd_abbr", "Highland Value") is None
        assert index.closest("mf_info", "nothing", "bond") is None
        assert index.closest("mf_info", "fnd_abbr", "") is None
