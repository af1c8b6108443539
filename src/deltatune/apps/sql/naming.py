"""A database called by what its tables and columns mean.

Columns are often abbreviated, `mgt_fee` or `shrp_1y`, and a model then has to look up what a question calls by its
meaning. Schemas named in plain words are written about more surely (Luoma and Kumar 2025, SNAILS), and a small model
copies the words of a question long before it learns to look up. So the model may be told `management_fee` wherever
the database has `mgt_fee`, and what it writes is put back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, TypeAlias

import sqlglot
from sqlglot import exp
from sqlglot.optimizer.scope import traverse_scope
from sqlglot.tokens import Tokenizer

from deltatune.apps.sql.quoting import quoted
from deltatune.apps.sql.resolve import origin
from deltatune.apps.sql.schema import Column, Database, Selection, Table
from deltatune.apps.sql.tokens import Token, joined, tokens

__all__ = ["Names", "Naming"]

Names: TypeAlias = Literal["own", "meaning"]
"""What a prompt calls tables and columns by: the database's own names, or names made from their comments."""

LONGEST = 6
"""Words of a name, as long as they tell it from others."""
ARTICLES = {"a", "an", "the"}
LOOSE = {"and", "at", "by", "for", "from", "if", "in", "of", "on", "or", "to", "with"}
"""Words that no name ends with."""


@dataclass(frozen=True)
class Naming:
    """Two names for everything in a database.

    Args:
        told: the database as a prompt tells of it.
        tables: what each table is called there, by its own name.
        columns: what each column is called there, by the own names of its table and of itself.
    """

    told: Database
    tables: Mapping[str, str]
    columns: Mapping[tuple[str, str], str]

    @classmethod
    def of(cls, schema: Database, names: Names) -> Naming:
        """Name a database. No name in words stands for two that the database calls differently.

        Args:
            schema: the database. What has no comment keeps its name.
            names: "own" leaves everything as it is.
        """
        if names == "own":
            columns = {(table.name, column.name): column.name for table in schema.tables for column in table.columns}
            return cls(schema, {table.name: table.name for table in schema.tables}, columns)
        book = _Book({}, {column.name.casefold() for table in schema.tables for column in table.columns})
        tables = {table.name: book.name(table.name, table.comment) for table in schema.tables}
        columns = {}
        for table in schema.tables:
            used: set[str] = set()
            for column in table.columns:
                columns[table.name, column.name] = name = book.name(column.name, column.comment, used)
                used.add(name)
        told = tuple(_told(table, tables, columns) for table in schema.tables)
        return cls(replace(schema, tables=told), tables, columns)

    def selection(self, selection: Selection) -> Selection:
        """Tables and columns as a prompt calls them."""
        return {
            self.tables[table]: tuple(self.columns[table, column] for column in columns)
            for table, columns in selection.items()
        }

    def worth(self, worth: Mapping[tuple[str, str], float]) -> dict[tuple[str, str], float]:
        """What tables and columns are worth, as a prompt calls them."""
        return {(self.tables[place[0]], self.columns[place]): value for place, value in worth.items()}

    def tell(self, sql: str, dialect: str, schema: Database) -> str:
        """A query of the database, as a model is to write it.

        Args:
            sql: the query, which parses.
            dialect: sqlglot's name of its dialect.
            schema: the database under its own names.
        """
        if not self._own:
            return sql
        tree = sqlglot.parse_one(sql, read=dialect)
        self._rename_columns(tree, schema)
        for table in tree.find_all(exp.Table):
            if name := self._table(table.name):
                table.set("this", exp.to_identifier(name))
        return tree.sql(dialect=dialect)

    def mean(self, text: str) -> str:
        """What a model wrote, SQL or nearly so, in the database's own names."""
        return joined(_own(piece, self._own) for piece in tokens(text)) if self._own else text

    @cached_property
    def _own(self) -> Mapping[str, str]:
        """The database's own names by those that stand in their place."""
        pairs = [*self.tables.items(), *((own, told) for (_, own), told in self.columns.items())]
        return {told.casefold(): own for own, told in pairs if own != told}

    def _rename_columns(self, tree: exp.Expr, schema: Database) -> None:
        """Rename columns where they stand, and where a subquery hands them on."""
        found = [(column, origin(column, scope, schema)) for scope in traverse_scope(tree) for column in scope.columns]
        places = {id(column): (place[0].name, place[1].name) for column, place in found if place is not None}
        handed: dict[str, str] = {}
        for column in list(tree.find_all(exp.Column)):
            place = places.get(id(column)) or _unread(column, schema)
            if place is not None:
                handed[column.name] = self.columns[place]
                column.set("this", exp.to_identifier(self.columns[place]))
                if column.table.casefold() == place[0].casefold():
                    column.set("table", exp.to_identifier(self.tables[place[0]]))
        for column in tree.find_all(exp.Column):
            if column.name in handed:
                column.set("this", exp.to_identifier(handed[column.name]))

    def _table(self, name: str) -> str | None:
        return next((told for own, told in self.tables.items() if own.casefold() == name.casefold()), None)


def _unread(column: exp.Column, schema: Database) -> tuple[str, str] | None:
    """Where a column is from that the query does not read the table of, as where joins are left out.

    A bare name is from the first table that has it: queries that mean another one say so.
    """
    return next(
        (
            (table.name, own.name)
            for table in schema.tables
            if column.table.casefold() in ("", table.name.casefold())
            for own in table.columns
            if own.name.casefold() == column.name.casefold()
        ),
        None,
    )


@dataclass(frozen=True)
class _Book:
    """Names in words that are given already, with what they stand for, and names that the database has itself."""

    given: dict[str, str]
    own: set[str]

    def name(self, own: str, comment: str, used: Iterable[str] = ()) -> str:
        """A name in words: the first that stands for nothing else."""
        chosen = next((name for name in _names(own, comment) if self._free(name, own, used)), own)
        self.given[chosen] = own
        return chosen

    def _free(self, name: str, own: str, used: Iterable[str]) -> bool:
        known = name.upper() in Tokenizer.KEYWORDS or name.upper() in exp.FUNCTION_BY_NAME
        elsewhere = name in self.own and name != own.casefold()
        return self.given.get(name, own) == own and name not in used and not known and not elsewhere


def _names(own: str, comment: str) -> Iterator[str]:
    """Names that a comment suggests, the best first."""
    words = _words(comment)
    if words:
        yield "_".join(_cut(words))
        yield "_".join(words)
        yield "_".join([*_cut(words), own.casefold()])


def _words(comment: str) -> list[str]:
    """The words of what a comment says first: of `1 if it is open, else 0` those about being open."""
    words = [word for word in re.findall(r"[a-z0-9]+", _head(comment).lower()) if word not in ARTICLES]
    while words and (words[0].isdigit() or words[0] in LOOSE):
        words = words[1:]
    return words if words and words[0][0].isalpha() else []


def _head(comment: str) -> str:
    return re.split(r"[,:;(]", comment)[0]


def _cut(words: Sequence[str]) -> Sequence[str]:
    words = words[:LONGEST]
    while len(words) > 1 and words[-1] in LOOSE:
        words = words[:-1]
    return words


def _told(table: Table, tables: Mapping[str, str], columns: Mapping[tuple[str, str], str]) -> Table:
    def column(one: Column) -> Column:
        name = columns[table.name, one.name]
        points = one.references
        if points is not None and points in columns:
            points = tables[points[0]], columns[points]
        return replace(one, name=name, comment=_rest(one.comment, name), references=points)

    name = tables[table.name]
    return Table(name, tuple(map(column, table.columns)), _rest(table.comment, name))


def _rest(comment: str, name: str) -> str:
    """What a comment says beyond the name that was made of it."""
    if name != "_".join(_words(comment)) or re.match(r"\s*\d", comment):
        return comment
    return comment[len(_head(comment)) :].lstrip(",:; ")


def _own(piece: Token, own: Mapping[str, str]) -> Token:
    if piece.kind not in ("word", "quoted"):
        return piece
    name = own.get(piece.text.strip('"`[]').casefold())
    return piece if name is None else replace(piece, text=quoted(name))
