"""Judging the SQL that was written for a question, and counting over many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from sqlglot import exp

from deltatune.apps.sql.examples import Example
from deltatune.apps.sql.guard import UnsafeSQLError, read_only_select
from deltatune.apps.sql.questions.difficulty import DIFFICULTIES
from deltatune.apps.sql.run import QueryError, Reader, Result
from deltatune.apps.sql.scoring.exact_set import components
from deltatune.apps.sql.scoring.results import same_result
from deltatune.apps.sql.scoring.share import Share, share
from deltatune.errors import DataError

__all__ = ["Outcome", "Scores", "outcome", "scores", "scores_by"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one question.

    Args:
        example: the question with the right SQL.
        sql: what was written, after all repairs.
        repairs: what was repaired, a line each.
        valid: whether it parses, only reads, and ran.
        executed_right: whether it returned what the right SQL returns.
        exact_set: whether it is made of the same parts as the right SQL.
        problem: why it is not valid.
        seconds: that the answer took, as told by who asked.
    """

    example: Example
    sql: str
    repairs: tuple[str, ...] = ()
    valid: bool = False
    executed_right: bool = False
    exact_set: bool = False
    problem: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Scores:
    """How many questions were answered.

    Args:
        execution: whose SQL returned what the right SQL returns: execution accuracy.
        exact_set: whose SQL is made of the same parts as the right SQL: exact-set match.
        valid: whose SQL ran at all.
    """

    execution: Share
    exact_set: Share
    valid: Share


def outcome(
    example: Example,
    sql: str,
    reader: Reader,
    problem: str | None = None,
    *,
    repairs: Sequence[str] = (),
    seconds: float = 0.0,
    others: Sequence[Reader] = (),
) -> Outcome:
    """Run what was written and what is right, and compare.

    An empty result, or a number that two queries share by chance, makes wrong SQL look right. Databases of the same
    schema with other values tell them apart: SQL is right if it is right on all of them.

    Args:
        example: the question with the right SQL.
        sql: what was written, in the reader's dialect.
        reader: the database of the question. What the right SQL returns there is kept as long as the reader lives.
        problem: why there is no SQL to run, if there is none; then it is not valid.
        repairs: what was repaired in it, a line each.
        seconds: that the answer took.
        others: more databases of the same schema.

    Raises:
        DataError: the right SQL does not run, or returns more than the limits of a reader allow.
    """

    def judged(problem: str | None, *, right: bool = False, exact: bool = False) -> Outcome:
        return Outcome(example, sql, tuple(repairs), problem is None, right, exact, problem, seconds)

    readers = (reader, *others)
    wanted = [right_result(example, each) for each in readers]
    if problem is not None:
        return judged(problem)
    try:
        tree = read_only_select(sql, reader.dialect, reader.schema)
    except UnsafeSQLError as error:
        return judged(str(error))
    exact = _exact(tree, read_only_select(wanted[0].sql, reader.dialect, reader.schema), reader)
    try:
        found = [each.run(sql) for each in readers]
    except (UnsafeSQLError, QueryError) as error:
        return judged(str(error), exact=exact)
    ordered = example.ordered
    right = all(same_result(one, other, ordered=ordered) for one, other in zip(found, wanted, strict=True))
    return judged(None, right=right, exact=exact)


def scores(outcomes: Sequence[Outcome]) -> Scores:
    """Count over all questions."""
    return Scores(
        execution=share(each.executed_right for each in outcomes),
        exact_set=share(each.exact_set for each in outcomes),
        valid=share(each.valid for each in outcomes),
    )


def scores_by(outcomes: Sequence[Outcome], key: Callable[[Outcome], str]) -> dict[str, Scores]:
    """Count by groups, such as `lambda outcome: outcome.example.database`; difficulties come from easy to extra."""
    groups: dict[str, list[Outcome]] = {}
    for each in outcomes:
        groups.setdefault(key(each), []).append(each)
    names = sorted(groups, key=lambda name: _PLACES.get(name, -1))
    return {name: scores(groups[name]) for name in names}


def _exact(found: exp.Query, wanted: exp.Query, reader: Reader) -> bool:
    try:
        return components(found, reader.schema) == components(wanted, reader.schema)
    except DataError:  # such as two tables of one name, which no database runs, or a query of WITH that reads itself
        return found == wanted


def right_result(example: Example, reader: Reader) -> Result:
    """What the right SQL of a question returns; kept as long as the reader lives.

    Raises:
        DataError: it does not run, or returns more than the limits of the reader allow.
    """
    results = _RESULTS.setdefault(reader, {})
    sql = example.sql_for(reader.dialect)
    if sql not in results:
        try:
            results[sql] = reader.run(sql)
        except (UnsafeSQLError, QueryError) as error:
            raise DataError(f"{example.database}: expected right SQL that runs, found {sql!r}: {error}") from None
        if results[sql].cut:
            raise DataError(
                f"{example.database}: expected at most {reader.limits.rows:,} rows and {reader.limits.bytes:,} bytes, "
                f"found more for {sql!r}; raise the limits of the reader"
            )
    return results[sql]


_RESULTS: WeakKeyDictionary[Reader, dict[str, Result]] = WeakKeyDictionary()
_PLACES: dict[str, int] = {name: place for place, name in enumerate(DIFFICULTIES)}
