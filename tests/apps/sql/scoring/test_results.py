"""Which results are the same."""

from __future__ import annotations

import datetime
import itertools
import random
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltatune.apps.sql.finance import SOURCES
from deltatune.apps.sql.questions import TEMPLATES, questions
from deltatune.apps.sql.run import Reader, Result
from deltatune.apps.sql.scoring.results import same_result

Rows = Sequence[Sequence[Any]]


def result(rows: Rows, *, columns: int | None = None, cut: bool = False) -> Result:
    width = len(rows[0]) if columns is None else columns
    return Result(tuple(f"c{i}" for i in range(width)), tuple(map(tuple, rows)), "", 0.0, cut)


def same(found: Rows, wanted: Rows, *, ordered: bool = False) -> bool:
    forth = same_result(result(found), result(wanted), ordered=ordered)
    assert forth == same_result(result(wanted), result(found), ordered=ordered)
    return forth


DAY = datetime.date(2024, 1, 31)


@pytest.mark.parametrize(
    ("found", "wanted", "unordered", "ordered"),
    [
        ([[1, "a"]], [[1, "a"]], True, True),
        ([[1], [2]], [[2], [1]], True, False),
        ([["a", 1], ["b", 2]], [[1, "a"], [2, "b"]], True, True),
        ([["a", 1], ["b", 2]], [[2, "b"], [1, "a"]], True, False),
        ([["a", 1], ["b", 2]], [[1, "b"], [2, "a"]], False, False),
        ([[1], [1], [2]], [[1], [2], [2]], False, False),
        ([[1], [1]], [[1]], False, False),
        ([[1, 1]], [[1]], False, False),
        ([[1, 2], [2, 1]], [[1, 2], [2, 1]], True, True),
        ([[1, 2], [2, 1]], [[1, 1], [2, 2]], False, False),
        ([[1, 2], [2, 1]], [[2, 1], [1, 2]], True, True),
        ([[1]], [[1.0]], True, True),
        ([[1]], [[Decimal("1.00")]], True, True),
        ([[0.1]], [[Decimal("0.1")]], True, True),
        ([[0.1 + 0.2]], [[0.3]], True, True),
        ([[1.0]], [[1.0000005]], True, True),
        ([[1.0]], [[1.000002]], False, False),
        ([[1e-17]], [[0]], True, True),
        ([[1e-6]], [[2e-6]], False, False),
        ([[20_240_101]], [[20_240_102]], False, False),
        ([[Decimal(20_240_101)]], [[20_240_102]], False, False),
        ([[20_240_101.0]], [[20_240_102.0]], True, True),
        ([[2**62]], [[2**62 + 1]], False, False),
        ([[True], [False]], [[1], [0]], True, True),
        ([[DAY]], [["2024-01-31"]], True, True),
        ([[datetime.datetime(2024, 1, 31)]], [[DAY]], True, True),
        ([[datetime.datetime(2024, 1, 31, 9, 30)]], [["2024-01-31 09:30:00"]], True, True),
        ([[datetime.datetime(2024, 1, 31, 9)]], [[DAY]], False, False),
        ([[None]], [[None]], True, True),
        ([[None]], [[0]], False, False),
        ([[None]], [[""]], False, False),
        ([[None]], [["None"]], False, False),
        ([["1"]], [[1]], False, False),
        ([["a"]], [["A"]], False, False),
        ([["a"]], [["a "]], False, False),
        ([[b"a"]], [["a"]], False, False),
        ([[float("nan")]], [[float("nan")]], True, True),
        ([[float("nan")]], [[Decimal("NaN")]], True, True),
        ([[float("inf")]], [[float("inf")]], True, True),
        ([[float("inf")]], [[1e300]], False, False),
        ([[float("inf")]], [[float("-inf")]], False, False),
        ([[None, 1], [2, None]], [[1, None], [None, 2]], True, True),
        # A run of numbers that are each near the next, from one end to the other too far apart.
        ([[1.0], [1.0000009], [1.0000018]], [[1.0], [1.0000009], [1.0000018]], True, True),
        ([[1.0], [1.0], [1.0000009], [1.0000018]], [[1.0], [1.0000009], [1.0000018], [1.0000018]], True, True),
        ([[1.0], [1.0000009], [1.0], [1.0]], [[1.0], [1.0000009], [1.0000018], [1.0000018]], False, False),
        ([[1_000_000, "a"], [1_000_001, "b"]], [[1_000_001, "a"], [1_000_000, "b"]], False, False),
        ([[1_000_000, 5], [1_000_000.5, 6], [1_000_001, 7]], [[1_000_001, 5], [1_000_000.5, 6], [1_000_000, 7]],
         False, False),
    ],
)  # fmt: skip
def test_results(found: Rows, wanted: Rows, unordered: bool, ordered: bool) -> None:
    assert same(found, wanted) == unordered
    assert same(found, wanted, ordered=True) == ordered


@pytest.mark.parametrize("ordered", [True, False])
def test_no_rows_are_the_same_only_with_as_many_columns(ordered: bool) -> None:
    assert same_result(result([], columns=2), result([], columns=2), ordered=ordered)
    assert not same_result(result([], columns=2), result([], columns=1), ordered=ordered)


@pytest.mark.parametrize("ordered", [True, False])
def test_what_was_cut_off_agrees_with_nothing(ordered: bool) -> None:
    whole, part = result([[1]]), result([[1]], cut=True)
    assert not any(same_result(*pair, ordered=ordered) for pair in ((part, part), (part, whole), (whole, part)))


CELLS = st.sampled_from([0, 1, 2, None, "a", 1.5])
TABLES = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(CELLS, min_size=width, max_size=width), min_size=1, max_size=5)
)


@given(TABLES, st.randoms())
def test_rows_and_columns_may_be_permuted(rows: list[list[Any]], rng: random.Random) -> None:
    order = rng.sample(range(len(rows[0])), len(rows[0]))
    turned = [[row[i] for i in order] for row in rows]
    assert same(turned, rows, ordered=True)
    assert same(rng.sample(turned, len(turned)), rows)


@given(TABLES, st.randoms(), st.booleans())
def test_one_other_cell_makes_it_another_result(rows: list[list[Any]], rng: random.Random, ordered: bool) -> None:
    changed = [list(row) for row in rows]
    changed[rng.randrange(len(rows))][rng.randrange(len(rows[0]))] = "other"
    assert not same(changed, rows, ordered=ordered)


def by_force(found: Rows, wanted: Rows, ordered: bool) -> bool:
    """Try every order of the columns."""
    if len(found) != len(wanted) or len(found[0]) != len(wanted[0]):
        return False
    for order in itertools.permutations(range(len(found[0]))):
        turned = [[row[i] for i in order] for row in found]
        if turned == wanted or (not ordered and sorted(map(repr, turned)) == sorted(map(repr, wanted))):
            return True
    return False


@settings(max_examples=400)
@given(
    st.integers(1, 4).flatmap(
        lambda width: st.lists(
            st.lists(st.integers(0, 1), min_size=width, max_size=width), min_size=2, max_size=4
        ).flatmap(lambda rows: st.tuples(st.just(rows), st.permutations([cell for row in rows for cell in row])))
    ),
    st.booleans(),
)
def test_the_same_as_trying_every_order_of_columns(pair: tuple[list[list[int]], list[int]], ordered: bool) -> None:
    rows, cells = pair
    width = len(rows[0])
    other = [cells[i : i + width] for i in range(0, len(cells), width)]
    assert same(other, rows, ordered=ordered) == by_force(other, rows, ordered)


@pytest.mark.parametrize("values", [1, 2, 5])
def test_twenty_columns_do_not_take_every_order(values: int) -> None:
    """20! orders would never end: equal columns, columns of equal values, and one pair of cells changed."""
    rng = random.Random(values)
    columns = [rng.sample([i % values for i in range(10)], 10) for _ in range(20)]
    rows = [list(row) for row in zip(*columns, strict=True)]
    turned = [list(row) for row in zip(*rng.sample(columns, 20), strict=True)]
    assert same(rng.sample(turned, 10), rows)
    one, other = next(((i, j) for i, j in itertools.combinations(range(10), 2) if rows[i][3] != rows[j][3]), (0, 1))
    turned[one], turned[other] = list(rows[one]), list(rows[other])
    swapped = [list(row) for row in rows]
    swapped[one][3], swapped[other][3] = rows[other][3], rows[one][3]
    assert same(rng.sample(swapped, 10), rows) == (values == 1)


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=20), st.randoms())
def test_rounding_does_not_count(numbers: list[float], rng: random.Random) -> None:
    noisy = [[number * (1 + rng.uniform(-1e-9, 1e-9)), i] for i, number in enumerate(numbers)]
    assert same(rng.sample(noisy, len(noisy)), [[number, i] for i, number in enumerate(numbers)])


@pytest.mark.parametrize("name", SOURCES)
def test_right_queries_agree_with_themselves_and_hardly_with_each_other(
    name: str, readers: dict[str, Reader], sqlite_readers: dict[str, Reader]
) -> None:
    templates = [template for template in TEMPLATES if template.database == name]
    found = [
        (example, reader.run(example.sql))
        for reader in (readers[name], sqlite_readers[name])
        for example in questions(reader, templates, per_template=1)
    ]
    ours, theirs = found[: len(found) // 2], found[len(found) // 2 :]
    agreed = 0
    for (example, one), (_, other) in itertools.product(ours, theirs):
        agreed += same_result(one, other, ordered=example.ordered)
    for (example, one), (_, other) in zip(ours, theirs, strict=True):
        assert same_result(one, other, ordered=example.ordered), example.sql
    assert agreed <= 1.2 * len(templates)


@pytest.mark.parametrize(
    ("sql", "rewritten"),
    [
        (
            "SELECT fnd_type, COUNT(*) FROM mf_info GROUP BY fnd_type",
            "SELECT COUNT(fnd_code), fnd_type FROM mf_info GROUP BY 2",
        ),
        (
            "SELECT fnd_code FROM mf_info WHERE mgt_fee BETWEEN 1 AND 2",
            "SELECT fnd_code FROM mf_info WHERE mgt_fee >= 1 AND NOT mgt_fee > 2",
        ),
        (
            "SELECT fnd_abbr FROM mf_info WHERE fnd_code NOT IN (SELECT fnd_code FROM mf_div)",
            "SELECT i.fnd_abbr FROM mf_info AS i LEFT JOIN mf_div AS d ON i.fnd_code = d.fnd_code "
            "WHERE d.fnd_code IS NULL",
        ),
        (
            "SELECT fnd_abbr FROM mf_info ORDER BY mgt_fee DESC, fnd_code LIMIT 3",
            "WITH r AS (SELECT fnd_abbr, ROW_NUMBER() OVER (ORDER BY mgt_fee DESC, fnd_code) AS n FROM mf_info) "
            "SELECT fnd_abbr FROM r WHERE n <= 3 ORDER BY n",
        ),
        ("SELECT AVG(mgt_fee) FROM mf_info", "SELECT SUM(mgt_fee) / COUNT(mgt_fee) FROM mf_info"),
    ],
)
def test_other_words_for_the_same(sql: str, rewritten: str, readers: dict[str, Reader]) -> None:
    reader = readers["funds"]
    found, wanted = reader.run(rewritten), reader.run(sql)
    assert wanted.rows
    assert same_result(found, wanted, ordered="ORDER BY mgt_fee DESC" in sql)
