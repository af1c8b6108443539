"""Questions with their SQL for any database, put together from its schema, its comments and its values.

A grammar of constructs draws what is asked, of whom, and under which conditions, and says it in English made from the
comments. Every query is run before it is given out, so that it has an answer.
"""

from __future__ import annotations

import random
from collections.abc import Container
from itertools import pairwise

import sqlglot
from sqlglot import exp
from sqlglot.optimizer.scope import traverse_scope

from deltatune.apps.sql.examples import Example
from deltatune.apps.sql.guard import UnsafeSQLError
from deltatune.apps.sql.questions.difficulty import Difficulty, difficulty, no_harder
from deltatune.apps.sql.run import QueryError, Reader
from deltatune.apps.sql.synthesis.grammar import CONSTRUCTS
from deltatune.apps.sql.synthesis.lexicon import Lexicon
from deltatune.apps.sql.synthesis.masks import held_out, masked
from deltatune.apps.sql.synthesis.scene import Impossible
from deltatune.errors import ConfigError, DataError

__all__ = ["CONSTRUCTS", "held_out", "masked", "synthesize"]

TRIES = 40  # draws for each example, before the database is given up
EMPTY = 0.02  # share of queries without an answer that is kept


def synthesize(
    reader: Reader,
    *,
    count: int,
    seed: int = 0,
    exclude: Container[str] = frozenset(),
    hardest: Difficulty = "extra",
) -> list[Example]:
    """Make examples for a database.

    The same seed and the same values give the same questions, whichever kind of database holds them: only the SQL is
    written in its dialect.

    Args:
        reader: the database.
        count: how many examples to make; no two have the same question or the same SQL.
        seed: of everything that is drawn.
        exclude: SQL that must not be made, as `masked` has it; `held_out` gives it for templates.
        hardest: the most difficult that are made. Default: "extra", any.

    Raises:
        ConfigError: the count is below 1.
        DataError: the database is empty or too small for so many.
    """
    if count < 1:
        raise ConfigError(f"count: expected 1 or more, found {count}; ask for some")
    lexicon = Lexicon(reader)
    names = list(CONSTRUCTS)
    weights = [weight for _, weight in CONSTRUCTS.values()]
    found: dict[str, Example] = {}
    written: set[str] = set()
    for attempt in range(TRIES * count):
        rng = random.Random(f"{seed}:{attempt}")  # each its own, so that what is left out does not change the rest
        (name,) = rng.choices(names, weights)
        try:
            question, sql = CONSTRUCTS[name][0](lexicon, rng)
        except Impossible:
            continue
        tree = _tidy(sqlglot.parse_one(sql, read="sqlite"))
        text = tree.sql(dialect=reader.dialect)
        hard = difficulty(tree)
        if not no_harder(hard, hardest):
            continue
        if question in found or text in written or masked(text, reader.dialect) in exclude:
            continue
        try:
            if not _answered(reader, text, keep_empty=rng.random() < EMPTY) or not _settled(reader, tree):
                continue
        except (QueryError, UnsafeSQLError):  # it takes too long, or this database is not asked so
            continue
        written.add(text)
        found[question] = Example(
            question=question,
            sql=text,
            database=reader.schema.name,
            dialect=reader.dialect,
            difficulty=hard,
            template=name,
        )
        if len(found) == count:
            return list(found.values())
    raise DataError(f"{reader.schema.name}: expected enough for {count} questions, found {len(found)}; ask for fewer")


def _tidy(tree: exp.Expr) -> exp.Expr:
    """Leave out the alias of a table that is alone in its query, and has none of its columns named elsewhere."""
    for scope in traverse_scope(tree):
        inside = any(below.external_columns for below in scope.subquery_scopes)
        if len(scope.selected_sources) != 1 or scope.external_columns or inside:
            continue
        ((alias, (node, source)),) = scope.selected_sources.items()
        if isinstance(source, exp.Table) and alias != source.name:
            node.set("alias", None)
            for column in scope.columns:
                column.set("table", None)
    return tree


def _answered(reader: Reader, sql: str, *, keep_empty: bool) -> bool:
    """Whether the answer is whole and says something."""
    result = reader.run(sql)
    some = any(value is not None and value != 0 for row in result.rows for value in row)
    return not result.cut and (some or keep_empty)


def _settled(reader: Reader, tree: exp.Expr) -> bool:
    """Whether the order of the rows is decided by the query, and with it where a LIMIT cuts: no ties are left."""
    order = tree.args.get("order")
    if order is None or not isinstance(tree, exp.Select):
        return True
    probe = tree.copy()
    named = {item.alias: item.this for item in tree.expressions if isinstance(item, exp.Alias)}
    keys = [
        named.get(key.this.name, key.this) if isinstance(key.this, exp.Column) else key.this
        for key in order.expressions
    ]
    probe.set("expressions", [*probe.expressions, *(exp.alias_(key.copy(), f"key_{i}") for i, key in enumerate(keys))])
    limit = tree.args.get("limit")
    if limit is not None:
        probe.set("limit", exp.Limit(expression=exp.Literal.number(int(limit.expression.name) + 1)))
    rows = [row[-len(keys) :] for row in reader.run(probe.sql(dialect=reader.dialect)).rows]
    return all(a != b for a, b in pairwise(rows))
