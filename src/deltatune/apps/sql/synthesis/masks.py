"""Queries without their values and aliases, to tell whether two ask the same of a database."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable

import sqlglot
from sqlglot import exp
from sqlglot.optimizer.scope import Scope, traverse_scope

from deltatune.apps.sql.questions.template import Choice, Template

__all__ = ["held_out", "masked"]

_CASTS = (exp.Cast, exp.TsOrDsToTimestamp, exp.TsOrDsToDate)


def masked(sql: str, dialect: str = "sqlite") -> str:
    """A query in one form for all that differ only in values, in aliases, or in the order of joins and conditions.

    Values become ``?``. Tables stand for their aliases, and inner joins become one sorted list of tables with their
    conditions in WHERE. Names of output columns are dropped; ORDER BY names what they stood for. The same query in
    different dialects has one form.

    Args:
        sql: one query.
        dialect: sqlglot's name of its dialect.
    """
    tree = sqlglot.parse_one(sql, read=dialect)
    for scope in traverse_scope(tree):
        _name_tables(scope)
    for select in list(tree.find_all(exp.Select)):
        _drop_names(select)
    _level(tree)
    for value in list(tree.find_all(exp.Literal)):
        (value.parent if isinstance(value.parent, exp.Neg) else value).replace(exp.Placeholder())
    for among in tree.find_all(exp.In):
        if among.expressions:
            among.set("expressions", [exp.Placeholder()])
    for select in list(tree.find_all(exp.Select)):
        _sort(select)
    return tree.sql(dialect="sqlite", normalize=True, comments=False)


def held_out(templates: Iterable[Template]) -> frozenset[str]:
    """The masked SQL of templates, for each choice of their words: what training data must not hold."""
    found = set()
    for template in templates:
        choices = [
            [(slot.name, str(value[1])) for value in slot.values if isinstance(value, tuple)]
            for slot in template.slots
            if isinstance(slot, Choice)
        ]
        for words in itertools.product(*filter(None, choices)):
            tree = sqlglot.parse_one(template.sql.format_map(dict(words)), read="sqlite")
            for slot in list(tree.find_all(exp.Placeholder)):
                slot.replace(exp.Literal.number(0))
            found.add(masked(tree.sql(dialect="sqlite")))
    return frozenset(found)


def _level(tree: exp.Expr) -> None:
    """Take out what sqlglot adds so that a query means the same in another dialect."""
    for division in tree.find_all(exp.Div):
        division.set("typed", True)
        division.set("safe", True)
        if isinstance(division.expression, exp.Nullif):
            division.set("expression", division.expression.this)
    for ordered in tree.find_all(exp.Ordered):
        ordered.set("nulls_first", None)
    for cast in list(tree.find_all(*_CASTS)):
        cast.replace(cast.this)


def _name_tables(scope: Scope) -> None:
    """Write the names of tables in place of aliases, numbered where a table is there twice."""
    seen: Counter[str] = Counter()
    names = {}
    for alias, (node, source) in scope.selected_sources.items():
        name = source.name.lower() if isinstance(source, exp.Table) else "query"
        seen[name] += 1
        names[alias] = name if seen[name] == 1 else f"{name}_{seen[name]}"
        if isinstance(source, exp.Table):
            node.set("alias", None if names[alias] == name else exp.TableAlias(this=exp.to_identifier(names[alias])))
    for column in [*scope.columns, *scope.external_columns]:
        if column.table in names:
            column.set("table", exp.to_identifier(names[column.table]))
        elif not column.table and len(names) == 1 and column in scope.columns:
            (only,) = names.values()
            column.set("table", exp.to_identifier(only))


def _drop_names(select: exp.Select) -> None:
    named = {item.alias.lower(): item.this for item in select.expressions if isinstance(item, exp.Alias)}
    inside = isinstance(select.parent, (exp.Subquery, exp.CTE))
    for column in list(select.args["order"].find_all(exp.Column)) if select.args.get("order") else ():
        if column.name.lower() in named:
            column.replace(named[column.name.lower()].copy())
    if not inside:  # what is around it may use the names
        select.set("expressions", [item.unalias() for item in select.expressions])


def _sort(select: exp.Select) -> None:
    conditions = [select.args["where"].this] if select.args.get("where") else []
    joins = select.args.get("joins") or []
    tables = [select.args["from_"].this] if select.args.get("from_") else []
    if all(not join.side and join.kind in ("", "INNER") and not join.args.get("using") for join in joins):
        conditions += [join.args["on"] for join in joins if join.args.get("on")]
        tables += [join.this for join in joins]
        tables.sort(key=lambda table: table.sql())
        select.set("joins", [exp.Join(this=table) for table in tables[1:]])
        if tables:
            select.set("from_", exp.From(this=tables[0]))
    flat = [part for all_ in conditions for part in (all_.flatten() if isinstance(all_, exp.And) else [all_])]
    for part in flat:
        if isinstance(part, exp.EQ) and part.this.sql() > part.expression.sql():
            left, right = part.this, part.expression
            part.set("this", right)
            part.set("expression", left)
    if flat:
        unique = {part.sql(): part for part in flat}
        select.set("where", exp.Where(this=exp.and_(*(unique[text] for text in sorted(unique)))))
