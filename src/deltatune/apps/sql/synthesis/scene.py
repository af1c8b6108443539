"""One query while it grows: the tables it joins, its conditions, and whom it is about, in SQL and in English."""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from deltatune.apps.sql.quoting import quoted
from deltatune.apps.sql.schema import Column, Table
from deltatune.apps.sql.synthesis.lexicon import Lexicon, Link, Role, literal
from deltatune.apps.sql.synthesis.words import Meaning, about_one, meaning, owner, plural

__all__ = ["Attribute", "Condition", "Impossible", "Path", "Scene", "choose"]

Path: TypeAlias = tuple[Link, ...]
_Item = TypeVar("_Item")


class Impossible(Exception):
    """This database, or what has been drawn of it, has nothing for the construct."""


def choose(rng: random.Random, options: Sequence[_Item]) -> _Item:
    """One of the options.

    Raises:
        Impossible: there are none.
    """
    if not options:
        raise Impossible
    return rng.choice(options)


@dataclass(frozen=True, slots=True)
class Attribute:
    """A column of a table that is reached from the first table of a query over links."""

    path: Path
    table: Table
    column: Column


@dataclass(frozen=True, slots=True)
class Condition:
    """A part of WHERE with its English.

    Args:
        sql: the condition.
        before: words in front of the noun: "equity".
        after: words behind it: "with a fee above 1%".
        tail: words about the whole question: "in 2024".
    """

    sql: str
    before: str = ""
    after: str = ""
    tail: str = ""


class Scene:
    """The FROM and WHERE of a query, and the noun phrase for those that it is about.

    Args:
        lexicon: of the database.
        base: the first table.
        subject: the links from there to those that the question is about; none if the first table's rows are meant.
        taken: aliases of the queries around this one.
        letters: aliases to take first; else letters of the tables' names.
    """

    def __init__(
        self, lexicon: Lexicon, base: Table, subject: Path = (), taken: Sequence[str] = (), letters: str = ""
    ) -> None:
        self.lexicon = lexicon
        self.base = base
        self.subject = subject
        self.conditions: list[Condition] = []
        self.named = ""
        self._taken = tuple(taken)
        self._letters = letters
        self._aliases: dict[Path, str] = {}
        self.alias(())

    def twin(self) -> Scene:
        """The same tables, joined alike, and the same subject, without conditions."""
        made = Scene(self.lexicon, self.base, self.subject, self._taken)
        made._aliases = dict(self._aliases)
        return made

    def alias(self, path: Path) -> str:
        """The name of a table in the query, which joins it if it is not there yet."""
        for size in range(len(path) + 1):
            part = path[:size]
            if part not in self._aliases:
                taken = {*self._aliases.values(), *self._taken}
                letters = self.at(part).name.lower().rpartition("_")[2] + string.ascii_lowercase
                free = [x for x in self._letters + letters if x in string.ascii_lowercase and x not in taken]
                self._aliases[part] = free[0]
        return self._aliases[path]

    def paths(self) -> tuple[Path, ...]:
        """The tables that are joined so far, in their order."""
        return tuple(self._aliases)

    def aliases(self) -> tuple[str, ...]:
        """Their names in the query."""
        return tuple(self._aliases.values())

    def at(self, path: Path) -> Table:
        """The table at the end of a path."""
        return self.lexicon.table(path[-1].target) if path else self.base

    def around(self) -> list[Path]:
        """The tables that the subject points to, and other ones that the first table points to."""
        found: list[Path] = [(*self.subject, link) for link in self.lexicon.links(self.at(self.subject))]
        found += [(link,) for link in self.lexicon.links(self.base)]
        return [path for path in dict.fromkeys(found) if path != self.subject]

    def attributes(self, paths: Sequence[Path], *roles: Role) -> list[Attribute]:
        """The columns of these roles in the tables at the ends of the paths."""
        return [
            Attribute(path, table, column)
            for path in dict.fromkeys(paths)
            for table in (self.at(path),)
            for column in table.columns
            if self.lexicon.role(table, column) in roles
        ]

    def own(self, *roles: Role) -> list[Attribute]:
        """The columns of these roles of the first table and of the subject."""
        return self.attributes([(), self.subject], *roles)

    def sql(self, attribute: Attribute) -> str:
        """A column in SQL."""
        return f"{self.alias(attribute.path)}.{quoted(attribute.column.name)}"

    def meaning(self, attribute: Attribute) -> Meaning:
        """What a column means."""
        return self.lexicon.meaning(attribute.table, attribute.column)

    def name(self) -> Attribute | None:
        """By which column the subject is called."""
        table = self.at(self.subject)
        column = self.lexicon.name(table)
        return Attribute(self.subject, table, column) if column else None

    def key(self, *, near: bool = False) -> tuple[str, ...]:
        """The columns that tell subjects apart: the first table's own if `near` or nothing is joined."""
        if self.subject and len(self.subject) == 1 and (near or self.subject not in self._aliases):
            return tuple(f"{self.alias(())}.{quoted(own)}" for own, _ in self.subject[0].pairs)
        table = self.at(self.subject)
        return tuple(f"{self.alias(self.subject)}.{quoted(column.name)}" for column in self.lexicon.keys(table))

    def key_noun(self) -> str:
        """What the key of the subject is called: "code", "stock code", "manager number"."""
        keys = self.lexicon.keys(self.at(self.subject))
        noun = meaning(keys[0].comment, keys[0].name).noun if keys else "key"
        short = noun.split(" of the ")[0] if owner(noun) else noun
        return f"{self.noun(self.subject)} number" if short == "number" else short  # "number of ..." would be a count

    def noun(self, path: Path) -> str:
        """What one row at the end of a path is called from here."""
        if path:
            own = self.at(path[:-1]).column(path[-1].pairs[0][0])
            known = owner(meaning(own.comment, own.name).noun)
            return known or self.lexicon.noun(self.at(path))
        return self.lexicon.noun(self.base)

    def many(self, path: Path) -> str:
        """What several rows at the end of a path are called from here."""
        return plural(self.noun(path)) if path else self.lexicon.rows(self.base)

    def one_each(self, date: Attribute | None) -> bool:
        """Whether there is at most one row for each subject, given that the date, if any, is fixed."""
        held = {own for own, _ in self.subject[0].pairs} if self.subject else set()
        keys = {column.name for column in self.lexicon.keys(self.base)}
        return not self.subject or (bool(keys) and keys <= held | ({date.column.name} if date else set()))

    @property
    def past(self) -> bool:
        """Whether the question is about a time."""
        return any(condition.tail for condition in self.conditions)

    def people(self) -> str:
        """Those that the question is about: "equity funds with a fee above 1%"."""
        return self.named or self.phrase(self.many(self.subject))

    def person(self) -> str:
        """One of those that the question is about."""
        return self.named or self.one(self.noun(self.subject))

    def one(self, noun: str) -> str:
        """A noun for one, or for each, with what the conditions say of it."""
        before = [c.before for c in self.conditions if c.before]
        after = [x if x.startswith(("of ", "and of ")) else about_one(x) for x in self.after()]
        return " ".join([*before, noun, *after])

    def phrase(self, noun: str) -> str:
        """A noun with what the conditions say of it."""
        before = [c.before for c in self.conditions if c.before]
        return " ".join([*before, noun, *self.after()])

    def after(self) -> list[str]:
        """What the conditions say behind the noun, joined by "and" where it has to be."""
        said = sorted((c.after for c in self.conditions if c.after), key=_place)
        return [f"and {x}" if i and _place(said[i - 1]) else x for i, x in enumerate(said)]

    def tail(self) -> str:
        """When it was, and other circumstances."""
        return " ".join(c.tail for c in self.conditions if c.tail)

    def where(self) -> str:
        """The conditions, with AND."""
        return " AND ".join(condition.sql for condition in self.conditions)

    def query(self, select: str, *, rest: str = "", where: str = "") -> str:
        """The query.

        Args:
            select: what comes after SELECT.
            rest: what comes after WHERE.
            where: one more condition.
        """
        conditions = " AND ".join(filter(None, (self.where(), where)))
        joins = [self._join(path) for path in self._aliases if path]
        start = f"{quoted(self.base.name)} AS {self._aliases[()]}"
        parts = [f"SELECT {select} FROM {start}", *joins, f"WHERE {conditions}" if conditions else "", rest]
        return " ".join(filter(None, parts))

    def _join(self, path: Path) -> str:
        left, right = self._aliases[path[:-1]], self._aliases[path]
        on = " AND ".join(f"{left}.{quoted(own)} = {right}.{quoted(other)}" for own, other in path[-1].pairs)
        return f"JOIN {quoted(self.at(path).name)} AS {right} ON {on}"

    def pin(self, rng: random.Random) -> str:
        """Speak of one subject alone, by its name or its code; returns how it is called."""
        name = self.name()
        keys = self.key()
        if name and (len(keys) != 1 or rng.random() < 0.8):
            value = choose(rng, self.lexicon.values(name.table, name.column))
            sql = f"{self.sql(name)} = {literal(value)}"
            self.named = rng.choice((f"{value}", f"{value}", f"the {self.noun(self.subject)} {value}"))
        elif len(keys) == 1:
            table = self.at(self.subject)
            value = choose(rng, self.lexicon.values(table, self.lexicon.keys(table)[0]))
            sql = f"{keys[0]} = {literal(value)}"
            said = (
                f"the {self.noun(self.subject)} with {self.key_noun()} {value}",
                f"{self.noun(self.subject)} {value}",
            )
            self.named = rng.choice(said)
        else:
            raise Impossible
        self.conditions.append(Condition(sql))
        return self.named


def _place(text: str) -> int:
    """Where words behind a noun stand: owners first, but last those of whom more is said."""
    return 1 if not text.startswith("of ") else 2 if " that " in text or " where " in text else 0
