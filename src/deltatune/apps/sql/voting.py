"""Self-consistency (Wang 2022, https://arxiv.org/abs/2203.11171): of several queries, one that most agree with.

Queries agree if they return the same, or, after FinSQL (Zhang 2024), if they are made of the same components. A query
that does not run agrees with none.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

from deltatune.apps.sql.guard import UnsafeSQLError
from deltatune.apps.sql.repair import Repair, Values
from deltatune.apps.sql.repair import repair as mend
from deltatune.apps.sql.repair.dialect import query
from deltatune.apps.sql.repair.text import statement
from deltatune.apps.sql.run import QueryError, Reader, Result
from deltatune.apps.sql.scoring.results import plain
from deltatune.apps.sql.tokens import tokens
from deltatune.errors import ConfigError

__all__ = ["Candidate", "Vote", "candidate", "result_key", "vote"]

DIGITS = 9  # to which fractions have to agree: databases add in their own order


@dataclass(frozen=True, slots=True)
class Candidate:
    """One query that a model has written.

    Args:
        sql: the query, mended or not.
        repairs: what was mended.
        result: what it returned, ``None`` if it did not run.
        problem: why it did not run.
        log_probability: the mean over its tokens, as the model gave them, if known.
    """

    sql: str
    repairs: tuple[Repair, ...]
    result: Result | None
    problem: str | None
    log_probability: float | None = None


@dataclass(frozen=True, slots=True)
class Vote:
    """Candidates by agreement.

    Args:
        chosen: the first of the winning cluster.
        clusters: candidates that agree, the winning cluster first.
    """

    chosen: Candidate
    clusters: tuple[tuple[Candidate, ...], ...]

    @property
    def size(self) -> int:
        """How many candidates agree with the chosen one, itself among them."""
        return len(self.clusters[0])


def candidate(
    text: str,
    reader: Reader,
    values: Values | None = None,
    repair: bool = True,
    log_probability: float | None = None,
) -> Candidate:
    """Mend what a model wrote, and run it.

    Args:
        text: of the model.
        reader: the database that is asked.
        values: knows what it holds, to mend texts that are compared with a column; ``None`` for none.
        repair: whether to mend at all; otherwise the query is only taken out of what is said around it.
        log_probability: of the text, kept for the vote.
    """
    mended = mend(text, reader.schema, reader.dialect, values=values) if repair else None
    sql, repairs = (mended.sql, mended.repairs) if mended else (_query_in(text, reader.dialect), ())
    if mended and mended.problem:
        return Candidate(sql, repairs, None, mended.problem, log_probability)
    try:
        return Candidate(sql, repairs, reader.run(sql), None, log_probability)
    except (UnsafeSQLError, QueryError) as error:
        return Candidate(sql, repairs, None, str(error), log_probability)


def _query_in(text: str, dialect: str) -> str:
    return statement(text, lambda sql: query(sql, dialect) is not None)[0]


def vote(
    candidates: Sequence[Candidate],
    by: Literal["result", "components"] = "result",
    key: Callable[[Candidate], Hashable] | None = None,
) -> Vote:
    """Choose the candidate that most others agree with.

    Of clusters of the same size, those that returned rows come before those that returned none; then counts the mean
    log-probability, where it is known, and then what was given first. Candidates that do not run have no vote, unless
    none does.

    Args:
        candidates: at least one.
        by: "result" to compare what the queries return, "components" to compare `key`.
        key: the components of a candidate's query; needed for "components".

    Raises:
        ConfigError: there are no candidates, or no key to compare components by.
    """
    if not candidates:
        raise ConfigError("vote: expected at least one candidate, found none; sample more queries")
    if by not in ("result", "components") or (by == "components") != (key is not None):
        raise ConfigError(
            f"vote: expected by='result', or by='components' with a key, found by={by!r}; pass one of them"
        )
    clusters: dict[Hashable, list[Candidate]] = {}
    for each in [each for each in candidates if each.result is not None] or candidates:
        clusters.setdefault((key or result_key)(each), []).append(each)
    ranked = sorted(clusters.values(), key=_rank)  # stable: of equals the one given first
    return Vote(ranked[0][0], tuple(map(tuple, ranked)))


def result_key(candidate: Candidate) -> Hashable:
    """What two candidates have in common that returned the same: their rows, in order if the query orders them."""
    if candidate.result is None:
        return ("sql", candidate.sql)
    rows = [tuple(map(_value, row)) for row in candidate.result.rows]
    if len(rows) > 1 and _ordered(candidate.sql):
        return ("ordered", tuple(rows))
    return ("rows", frozenset(Counter(rows).items()))


def _rank(cluster: Sequence[Candidate]) -> tuple[int, bool, float]:
    known = [each.log_probability for each in cluster if each.log_probability is not None]
    filled = any(each.result and each.result.rows for each in cluster)
    return -len(cluster), not filled, -sum(known) / len(known) if known else float("inf")


def _ordered(sql: str) -> bool:
    """Whether ORDER BY stands outside of all brackets."""
    depth, before = 0, ""
    for piece in tokens(sql):
        depth += (piece.text == "(") - (piece.text == ")")
        if depth == 0 and (before, piece.upper) == ("ORDER", "BY"):
            return True
        before = piece.upper
    return False


def _value(value: object) -> Hashable:
    """A value such that what is equal to a reader is equal here, whichever type the driver gave it."""
    found = plain(value)
    if not isinstance(found, float) or not math.isfinite(found):
        return found
    return int(found) if found.is_integer() else float(f"{found:.{DIGITS}g}")
