"""Columns that are in no table in sight, or in another one than the query says, or in several."""

from __future__ import annotations

from collections.abc import Iterator

from sqlglot import exp

from deltatune.apps.sql.repair.keys import key_path
from deltatune.apps.sql.repair.nearest import nearest, nearest_meaning
from deltatune.apps.sql.repair.report import Repair, shown
from deltatune.apps.sql.repair.scopes import Sight, Source, sights
from deltatune.apps.sql.schema import Database, Table

__all__ = ["known_columns", "led_elsewhere"]

AFAR = 0.8  # how alike a name has to be to one of a table that the query does not read


def known_columns(tree: exp.Query, schema: Database) -> list[Repair]:
    """Lead every column to where it is: under its true owner, in a table yet to be joined, or by its nearest name."""
    repairs = [*_ordering(tree)]
    for sight in sights(tree, schema):
        for column in sight.columns():
            before = shown(column)
            if not sight.knows(column):
                ways = (_owned, led_elsewhere, _meant, _renamed)
                kind = next((kind for way in ways if (kind := way(column, sight, schema))), None)
            else:
                kind = _told_apart(column, sight)
            if kind and shown(column) != before:
                repairs.append(Repair(kind, before, shown(column)))
    return repairs


def _owned(column: exp.Column, sight: Sight, schema: Database) -> str | None:
    """Name the source in sight that has the column, the first of several, and none that is compared with it."""
    around: Sight | None = sight
    while around is not None:
        if owners := [source.alias for source in around.owners(column.name)]:
            free = [alias for alias in owners if alias not in _opposite(column)]
            if free:
                _name(column, column.name, free[0])
                return "owner"
        around = around.around
    return None


def _opposite(column: exp.Column) -> set[str]:
    """The sources of the same column on the other side of a sign: nobody compares a thing with itself."""
    node: exp.Expr = column
    while isinstance(node.parent, (exp.Binary, exp.Paren)) and not isinstance(node.parent, exp.Connector):
        node = node.parent
    return {each.table for each in node.find_all(exp.Column) if each is not column and each.name == column.name}


def led_elsewhere(column: exp.Column, sight: Sight, schema: Database) -> str | None:
    """Name the table of the schema that has the column: the one that is the fewest joins away.

    Returns:
        the kind of repair; `None` if no table has it that can be joined, and the column is as it was.
    """
    return "owner" if _from_afar(column, column.name, sight, schema) else None


def _meant(column: exp.Column, sight: Sight, schema: Database) -> str | None:
    """Take the column whose meaning the name says word for word, wherever it is."""
    name = nearest_meaning(column.name, _comments(schema), bound=100)
    if name is None:
        return None
    asked = sight.named(column.table) if column.table else None
    if asked and asked.has(name):
        _name(column, name, asked.alias)
        return "column"
    if owners := sight.owners(name):
        _name(column, name, owners[0].alias if column.table or len(owners) > 1 else None)
        return "column"
    return "column" if _from_afar(column, name, sight, schema) else None


def _renamed(column: exp.Column, sight: Sight, schema: Database) -> str | None:
    """Take the nearest name: of the source that is named, of all in sight, of all tables."""
    asked = sight.named(column.table) if column.table else None
    for sources in ([asked] if asked else [], sight.sources):
        if found := _nearest(column.name, sources):
            near, alias = found
            _name(column, near, alias if column.table or len(sight.owners(near)) > 1 else None)
            return "column"
    made = nearest(column.name, sight.made)
    if made and not column.table:
        _name(column, made, None)
        return "column"
    comments = _comments(schema)
    name = nearest(column.name, comments, AFAR) or nearest_meaning(column.name, comments)
    return "column" if name and _from_afar(column, name, sight, schema) else None


def _from_afar(column: exp.Column, name: str, sight: Sight, schema: Database) -> bool:
    """Take the column of that name from a table that is not read yet, if there is one that can be joined."""
    table = _table_with(name, sight, schema)
    if table is not None:
        _name(column, table.column(name).name, table.name)
    return table is not None


def _comments(schema: Database) -> dict[str, str]:
    """What the columns of all tables mean."""
    return {column.name: column.comment for table in schema.tables for column in table.columns}


def _told_apart(column: exp.Column, sight: Sight) -> str | None:
    """Name the owner of a bare column that several sources have: the one it is selected from, else the first."""
    if column.table or column.name.casefold() in sight.made:
        return None
    owners = [source.alias for source in sight.owners(column.name) if source.columns is not None]
    if len(owners) < 2 or column.name.casefold() in _merged(sight.select):
        return None
    selected = [e.table for e in sight.select.selects if isinstance(e, exp.Column) and e.name == column.name]
    _name(column, column.name, next((alias for alias in selected if alias in owners), owners[0]))
    return "owner"


def _ordering(tree: exp.Query) -> Iterator[Repair]:
    """What orders a UNION can only be what it selects, by its bare name."""
    for union in tree.find_all(exp.SetOperation):
        order = union.args.get("order")
        for column in list(order.find_all(exp.Column)) if order else ():
            before = shown(column)
            name = nearest(column.name, union.named_selects)
            if name and (column.table or name.casefold() != column.name.casefold()):
                _name(column, name, None)
                yield Repair("column", before, shown(column))


def _nearest(name: str, sources: list[Source] | tuple[Source, ...]) -> tuple[str, str] | None:
    """The nearest column of some sources, with its source."""
    owners = {column: source.alias for source in reversed(sources) for column in source.columns or ()}
    comments = {c.name: c.comment for source in sources if source.table for c in source.table.columns}
    found = nearest(name, owners) or nearest_meaning(name, comments)
    return (found, owners[found]) if found else None


def _table_with(name: str, sight: Sight, schema: Database) -> Table | None:
    """The table that has a column and can be joined to what a query reads."""
    here = [source.table.name for source in sight.sources if source.table]
    owners = [table for table in schema.tables if any(c.name.casefold() == name.casefold() for c in table.columns)]
    paths = [(len(path), i) for i, table in enumerate(owners) if (path := key_path(schema, here, table.name))]
    return owners[min(paths)[1]] if paths else None


def _merged(select: exp.Select) -> set[str]:
    """Columns that a join makes one: those of USING, and with NATURAL any."""
    joins = select.args.get("joins") or []
    if any(join.method == "NATURAL" for join in joins):
        return {column.name.casefold() for column in select.find_all(exp.Column)}
    return {name.name.casefold() for join in joins for name in join.args.get("using") or ()}


def _name(column: exp.Column, name: str, alias: str | None) -> None:
    if column.name != name:
        column.set("this", exp.to_identifier(name))
    column.set("table", exp.to_identifier(alias) if alias else None)
