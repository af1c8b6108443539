"""Reading the clauses of a parsed query."""

from __future__ import annotations

from collections.abc import Iterator

from sqlglot import exp

__all__ = ["conjuncts", "kind_of", "listed", "sources_of"]


def conjuncts(node: exp.Expr | None) -> Iterator[exp.Expr]:
    """The conditions that AND connects, without the word before them and the brackets around them."""
    match node:
        case None:
            return
        case exp.Where() | exp.Having() | exp.Qualify() | exp.Paren():
            yield from conjuncts(node.this)
        case exp.And():
            yield from conjuncts(node.left)
            yield from conjuncts(node.right)
        case _:
            yield node


def sources_of(select: exp.Expr) -> Iterator[tuple[exp.Expr, exp.Join | None]]:
    """What a SELECT reads, with the join that adds it; brackets around joins are opened."""

    def opened(node: exp.Expr, join: exp.Join | None) -> Iterator[tuple[exp.Expr, exp.Join | None]]:
        inner = node.this if isinstance(node, exp.Subquery) and isinstance(node.this, exp.Table) else node
        yield inner, join
        for each in inner.args.get("joins") or ():
            yield from opened(each.this, each)

    if from_ := select.args.get("from_"):
        yield from opened(from_.this, None)
    for join in select.args.get("joins") or ():
        yield from opened(join.this, join)


def kind_of(join: exp.Join | None) -> str:
    """What kind of join it is, empty for an inner one."""
    if join is None:
        return ""
    words = (join.method, join.side, join.kind)
    return " ".join(word for word in words if word not in ("", "INNER", "CROSS", "OUTER"))


def listed(tree: exp.Expr, key: str) -> list[exp.Expr]:
    """What a clause such as GROUP BY lists."""
    node = tree.args.get(key)
    return node.expressions if node is not None else []
