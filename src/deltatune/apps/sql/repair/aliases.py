"""Names before a column's dot that the query does not have."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from sqlglot import exp

from deltatune.apps.sql.repair.keys import key_path
from deltatune.apps.sql.repair.nearest import close
from deltatune.apps.sql.repair.report import Repair
from deltatune.apps.sql.repair.scopes import Sight, Source, sights
from deltatune.apps.sql.schema import Database

__all__ = ["known_aliases"]

SLIP = 0.65  # how alike an alias has to be to be a misspelling of another


def known_aliases(tree: exp.Query, schema: Database) -> list[Repair]:
    """Put in place of an alias that nobody gave the source that has the columns asked of it.

    A table of the schema that is just not joined keeps its name, or is named if only it has them all; the join comes
    later. What an alias stands for in a query, it does in those inside.
    """
    repairs = []
    given: dict[int, dict[str, str]] = {}
    for sight in sights(tree, schema):
        meant = dict(given.get(id(sight.around), {}))
        asked: dict[str, list[exp.Column]] = defaultdict(list)
        for column in sight.scope.find_all(exp.Column):
            if column.table and not sight.named(column.table):
                asked[column.table].append(column)
        taken = {column.table.casefold() for column in sight.columns() if column.table}
        for alias, columns in asked.items():
            if _is_table(alias, schema) and not _of_table(alias, sight):
                continue
            name = _of_table(alias, sight) or meant.get(alias) or _meant(alias, columns, sight, taken, schema)
            for column in columns:
                column.set("table", exp.to_identifier(name) if name else None)
            if name:
                taken.add(name.casefold())
                meant[alias] = name
            repairs.append(Repair("alias", alias, name or ""))
        given[id(sight)] = meant
    return repairs


def _is_table(name: str, schema: Database) -> bool:
    return any(table.name.casefold() == name.casefold() for table in schema.tables)


def _of_table(name: str, sight: Sight) -> str | None:
    return next((s.alias for s in sight.sources if s.table and s.table.name.casefold() == name.casefold()), None)


def _meant(alias: str, columns: Sequence[exp.Column], sight: Sight, taken: set[str], schema: Database) -> str | None:
    """The source with most of the columns, a similar alias or not, those first that nothing else names."""
    names = [column.name for column in columns if not isinstance(column.this, exp.Star)]

    def fits(source: Source) -> tuple[float, bool]:
        slip = close(alias, source.alias) if len(alias) > 2 else 0.0
        return _share(names, source.columns) + (slip if slip >= SLIP else 0.0), source.alias.casefold() not in taken

    best = max(sight.sources, key=fits, default=None)
    if best is None or (0 < fits(best)[0] < 1) or (fits(best)[0] == 0 and len(sight.sources) > 1):
        here = [source.table.name for source in sight.sources if source.table]
        tables = [t for t in schema.tables if names and _share(names, [column.name for column in t.columns]) == 1]
        paths = [(len(path), i) for i, table in enumerate(tables) if (path := key_path(schema, here, table.name))]
        if paths:
            return tables[min(paths)[1]].name
    return best.alias if best is not None and (fits(best)[0] > 0 or len(sight.sources) == 1) else None


def _share(names: Sequence[str], columns: Sequence[str] | None) -> float:
    """How many of the names are among the columns; all, if nobody knows them."""
    if columns is None:
        return 1.0
    known = {column.casefold() for column in columns}
    return sum(name.casefold() in known for name in names) / len(names) if names else 0.0
