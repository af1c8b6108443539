"""Writing the parts of a query in one form, so that equal parts are equal texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain

from sqlglot import exp
from sqlglot.errors import OptimizeError
from sqlglot.optimizer.scope import Scope, traverse_scope

from deltatune.apps.sql.schema import Database
from deltatune.apps.sql.scoring.parts import Components
from deltatune.apps.sql.scoring.trees import conjuncts, kind_of, listed, sources_of

__all__ = ["Writer"]

Names = Mapping[str, str]


class Writer:
    """Writes the parts of one query.

    A column is written as `table.column`, with `^` before it for each query that one has to go out of to find it. If a
    query reads a table twice, the two are told apart by what is done with them, not by their aliases or their order.

    Args:
        tree: the query with its names in lower case, and simplified, so that NOT and BETWEEN are written in one way.
        schema: the database's.
        values: whether values that are compared with are written; otherwise each is `value`.
    """

    def __init__(self, tree: exp.Expr, schema: Database, *, values: bool) -> None:
        self._columns = {t.name.casefold(): {c.name.casefold() for c in t.columns} for t in schema.tables}
        self._scopes = {id(scope.expression): scope for scope in traverse_scope(tree)}
        self._values = values
        self._names: dict[int, Names] = {}  # by query: what its tables are called, by alias
        self._same: dict[int, Names] = {}  # by query: the one name of columns that its joins make equal

    def query(self, node: exp.Expr) -> Components:
        """The parts of a query."""
        return self._query(self._scope(node))

    def _scope(self, node: exp.Expr) -> Scope:
        scope = self._scopes.get(id(node.unnest()))
        if scope is None:
            raise OptimizeError(f"{node.sql()} in a place where no query can be")
        return scope

    def _query(self, scope: Scope) -> Components:
        if isinstance(scope.expression, exp.SetOperation):
            return self._operation(scope, scope.expression)
        self._name_tables(scope)
        return self._select(scope)

    def _operation(self, scope: Scope, tree: exp.SetOperation) -> Components:
        kind = type(tree).__name__.upper() + ("" if tree.args.get("distinct", True) else " ALL")
        operands: list[Components] = []
        for side in (tree.left, tree.right):
            part = self.query(side)
            flat = part.operation == kind and not isinstance(tree, exp.Except) and not part.order and not part.limit
            operands += part.operands if flat else (part,)
        if not isinstance(tree, exp.Except):
            operands.sort(key=str)
        order, limit = self._order(scope), self._limit(scope)
        return Components(operation=kind, operands=tuple(operands), order=order, limit=limit)

    def _select(self, scope: Scope) -> Components:
        tree = scope.expression
        sources = list(sources_of(tree))
        tables = sorted(self._table(source, join, scope) for source, join in sources)
        equal: dict[str, list[str]] = {}
        for name, first in self._same[id(scope)].items():
            equal.setdefault(first, []).append(name)
        joins = [" = ".join(sorted(group)) for group in equal.values()]
        for source, join in sources:
            if join is not None and (kind := kind_of(join)):
                name = self._names[id(scope)][source.alias_or_name]
                joins.append(f"{kind} {name}: {' and '.join(self._sorted(self._on(join, scope), scope))}")
        return Components(
            select=self._sorted(tree.expressions, scope),
            distinct=tree.args.get("distinct") is not None,
            tables=tuple(tables),
            joins=tuple(sorted(joins)),
            where=self._sorted((c for c in self._conditions(scope) if not self._joined(c, scope)), scope),
            group=tuple(sorted({self._chosen(each, scope) for each in listed(tree, "group")})),
            having=self._sorted(chain(*(conjuncts(tree.args.get(key)) for key in ("having", "qualify"))), scope),
            order=self._order(scope),
            limit=self._limit(scope),
        )

    def _sorted(self, nodes: Iterable[exp.Expr], scope: Scope) -> tuple[str, ...]:
        return tuple(sorted(self._form(node, scope) for node in nodes))

    def _table(self, node: exp.Expr, join: exp.Join | None, scope: Scope) -> str:
        if node.alias_or_name not in scope.selected_sources:
            raise OptimizeError(f"{node.sql()} in the place of a table")
        source = scope.selected_sources[node.alias_or_name][1]
        text = str(self._query(source)) if isinstance(source, Scope) else source.name
        return f"{kind_of(join)} {text}".strip()

    def _order(self, scope: Scope) -> tuple[str, ...]:
        found = []
        for ordered in listed(scope.expression, "order"):
            words = [self._chosen(ordered.this, scope, aliases_first=True)]
            words += ["DESC"] if ordered.args.get("desc") else []
            words += ["NULLS FIRST"] if ordered.args.get("nulls_first") else []
            found.append(" ".join(words))
        return tuple(found)

    def _limit(self, scope: Scope) -> tuple[str, ...]:
        found = []
        for key in ("limit", "offset"):
            if node := scope.expression.args.get(key):
                count = node.args.get("count") or node.expression  # FETCH has the one, LIMIT the other
                found.append(f"{key} {self._compared(count, scope)}")
        return tuple(found)

    def _chosen(self, node: exp.Expr, scope: Scope, *, aliases_first: bool = False) -> str:
        """What GROUP BY or ORDER BY names, which may be an alias or the place of what is asked for."""
        items = _items(scope)
        if isinstance(node, exp.Literal) and node.is_int and 0 < int(node.name) <= len(items):
            return self._item(items[int(node.name) - 1], scope)
        if aliases_first and isinstance(node, exp.Column) and not node.table:
            for item in items:
                if item.alias_or_name == node.name:
                    return self._item(item, scope)
        return self._form(node, scope)

    def _item(self, item: exp.Expr, scope: Scope) -> str:
        """One of those that a query asks for."""
        while isinstance(scope.expression, exp.SetOperation):
            scope = self._scope(scope.expression.left)
        if id(scope) not in self._names:
            self._name_tables(scope)
        return self._form(item, scope)

    def _form(self, node: exp.Expr, scope: Scope) -> str:
        """An expression in one form."""
        match node:
            case exp.Alias() | exp.Paren():
                return self._form(node.this, scope)
            case exp.Column():
                return self._column(node, scope)
            case exp.Literal():
                return repr(node.name) if node.is_string else repr(float(node.name))
            case exp.Boolean():
                return repr(float(node.this))
            case exp.Identifier():
                return node.name
            case exp.Query():
                return str(self.query(node))
        return self._operator(node, scope)

    def _operator(self, node: exp.Expr, scope: Scope) -> str:
        """An operator or a function with its operands, in one order where theirs means nothing."""
        name = type(node).__name__
        write = self._compared if isinstance(node, exp.Predicate) else self._form
        match node:
            case exp.And() | exp.Or() | exp.Add() | exp.Mul():
                parts = sorted(write(each, scope) for each in node.flatten())
            case exp.EQ() | exp.NEQ() | exp.NullSafeEQ() | exp.NullSafeNEQ():
                parts = sorted(write(each, scope) for each in (node.left, node.right))
            case exp.LT() | exp.LTE():
                parts = [write(each, scope) for each in (node.left, node.right)]
            case exp.GT() | exp.GTE():
                name = name.replace("G", "L")
                parts = [write(each, scope) for each in (node.right, node.left)]
            case _:
                parts = self._arguments(node, write, scope)
        return f"{name}({', '.join(parts)})"

    def _arguments(self, node: exp.Expr, write: Callable[[exp.Expr, Scope], str], scope: Scope) -> list[str]:
        parts = []
        for key, value in sorted(node.args.items()):
            listed = [each for each in (value if isinstance(value, list) else [value]) if each not in (None, False)]
            texts = [write(each, scope) if isinstance(each, exp.Expr) else str(each).casefold() for each in listed]
            parts += [f"{key}={text}" for text in (sorted(texts) if isinstance(node, exp.In) else texts)]
        return parts

    def _compared(self, node: exp.Expr, scope: Scope) -> str:
        """One side of a comparison."""
        if not self._values and node.find(exp.Literal, exp.Boolean) and not node.find(exp.Column, exp.Star, exp.Query):
            return "value"
        return self._form(node, scope)

    def _column(self, column: exp.Column, scope: Scope) -> str:
        around: Scope | None = scope
        up = ""
        while around is not None:
            if (alias := self._holder(column, around)) is not None:
                name = self._local(column, alias, around)
                return up + self._same.get(id(around), {}).get(name, name)
            around, up = around.parent, up + "^"
        if not column.table and not _is_asked_for(column, scope):
            for item in _items(scope):
                if item.alias_or_name == column.name:
                    return self._item(item, scope)
        return f"?.{column.name}"

    def _holder(self, column: exp.Column, scope: Scope) -> str | None:
        """The alias of the table, of those that a query reads itself, that a column belongs to."""
        sources = scope.selected_sources
        for alias, (_, source) in sources.items():
            if column.table in ("", alias) and column.name in self._outputs(source):
                return alias
        return column.table if column.table in sources else None

    def _outputs(self, source: exp.Expr | Scope) -> Mapping[str, exp.Expr | None]:
        """The columns of a table, or of a subquery with what they are."""
        if not isinstance(source, Scope):
            return dict.fromkeys(self._columns.get(source.name, ()))
        items = _items(source)
        names = source.outer_columns or [item.alias_or_name for item in items]
        return dict(zip(names, items, strict=False))

    def _local(self, column: exp.Column, alias: str, scope: Scope) -> str:
        source = scope.selected_sources[alias][1]
        item = self._outputs(source).get(column.name)
        text = self._item(item, source) if item is not None and isinstance(source, Scope) else column.name
        return f"{self._names.get(id(scope), {}).get(alias, alias)}.{text}"

    def _name_tables(self, scope: Scope) -> None:
        """Give each table a name: its own, and a number if there are several of it."""
        plain = {
            alias: source.name if isinstance(source, exp.Table) else "query"
            for alias, (_, source) in scope.selected_sources.items()
        }
        uses: dict[str, str] = {}
        for alias, name in plain.items():
            if list(plain.values()).count(name) > 1:
                self._call(scope, plain | {alias: f"{name}*"})
                uses[alias] = str(self._select(scope))
        numbers: Counter[str] = Counter()
        names = dict(plain)
        for alias in sorted(uses, key=lambda each: uses[each]):
            numbers[plain[alias]] += 1
            names[alias] = f"{plain[alias]}#{numbers[plain[alias]]}"
        self._call(scope, names)

    def _call(self, scope: Scope, names: Names) -> None:
        """Set the names of tables, and with them the one name of all columns that inner joins make equal."""
        self._names[id(scope)] = names
        first: dict[str, str] = {}
        for condition in self._conditions(scope):
            if pair := self._joined(condition, scope):
                one, other = sorted(first.setdefault(name, name) for name in pair)
                first = {name: one if group == other else group for name, group in first.items()}
        self._same[id(scope)] = first

    def _joined(self, condition: exp.Expr, scope: Scope) -> tuple[str, str] | None:
        """The columns of two tables that a condition makes equal, if it is one that does."""
        if not isinstance(condition, exp.EQ):
            return None
        one, other = condition.left, condition.right
        if not (isinstance(one, exp.Column) and isinstance(other, exp.Column)):
            return None
        left, right = self._holder(one, scope), self._holder(other, scope)
        if left is None or right is None or left == right:
            return None
        return self._local(one, left, scope), self._local(other, right, scope)

    def _conditions(self, scope: Scope) -> list[exp.Expr]:
        """What holds for the rows of a SELECT: for inner joins it is all one whether ON or WHERE says it."""
        found = list(conjuncts(scope.expression.args.get("where")))
        for _, join in sources_of(scope.expression):
            if join is not None and not kind_of(join):
                found += self._on(join, scope)
        return found

    def _on(self, join: exp.Join, scope: Scope) -> Iterator[exp.Expr]:
        yield from conjuncts(join.args.get("on"))
        for name in join.args.get("using") or ():
            left = self._holder(exp.column(name.name), scope)
            yield exp.EQ(this=exp.column(name.name, left), expression=exp.column(name.name, join.this.alias_or_name))


def _items(scope: Scope) -> list[exp.Expr]:
    """What a query asks for; a set operation asks for what its first query does."""
    return scope.expression.selects if isinstance(scope.expression, exp.Query) else []


def _is_asked_for(column: exp.Column, scope: Scope) -> bool:
    """Whether a column stands in the list of what is asked for, where that list's aliases are not known yet."""
    node: exp.Expr = column
    while node.parent is not None and node.parent is not scope.expression:
        node = node.parent
    return node.arg_key == "expressions"
