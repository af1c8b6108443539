"""What is said twice: a model that is not sure how to end says the same condition again and again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from sqlglot import exp

from deltatune.apps.sql.repair.report import Repair, shown

__all__ = ["drop_repeats"]

LOOP = 3  # times that a column is selected in a loop; twice may be meant


def drop_repeats(tree: exp.Query, dialect: str) -> list[Repair]:
    """Drop equal conditions, members of lists, joins, and columns selected over and over, in place."""
    dropped = [*_conditions(tree), *_members(tree), *_selected(tree), *_joins(tree)]
    return [Repair("repeat", shown(node, dialect), "") for node in dropped]


def _conditions(tree: exp.Expr) -> Iterator[exp.Expr]:
    """`x AND y AND x` is `x AND y`, and the same with OR."""
    for kind in (exp.And, exp.Or):
        for top in [node for node in tree.find_all(kind) if not isinstance(node.parent, kind)]:
            parts = list(top.flatten(unnest=False))
            first = list(dict.fromkeys(parts))
            if len(first) < len(parts):
                yield from _rest(parts, first)
                whole = first[0].copy()
                for part in first[1:]:
                    whole = kind(this=whole, expression=part.copy())
                top.replace(whole)


def _members(tree: exp.Expr) -> Iterator[exp.Expr]:
    for node in tree.find_all(exp.In, exp.Group):
        parts = node.expressions
        if len(first := list(dict.fromkeys(parts))) < len(parts):
            yield from _rest(parts, first)
            node.set("expressions", first)


def _selected(tree: exp.Expr) -> Iterator[exp.Expr]:
    for node in tree.find_all(exp.Select):
        parts = node.expressions
        if not any(count >= LOOP for count in Counter(parts).values()):
            continue
        first = list(dict.fromkeys(parts))
        yield from _rest(parts, first)
        node.set("expressions", first)


def _joins(tree: exp.Expr) -> Iterator[exp.Expr]:
    """A table joined a second time under the same name is the first."""
    for node in tree.find_all(exp.Select):
        source = node.args.get("from_")
        seen = {_named(source)} if source else set()
        for join in list(node.args.get("joins") or ()):
            if isinstance(join.this, exp.Table) and _named(join) in seen:
                yield join.pop()
            seen.add(_named(join))


def _named(node: exp.Expr) -> tuple[str, str]:
    return node.this.name.casefold(), node.this.alias_or_name.casefold()


def _rest(parts: list[exp.Expr], first: list[exp.Expr]) -> Iterator[exp.Expr]:
    kept = {id(part) for part in first}
    return (part for part in parts if id(part) not in kept)
