"""What may come next in a query that is being written, judged by its words.

PICARD (Scholak 2021, https://arxiv.org/abs/2109.05093) keeps a model, while it decodes, from writing what can no longer
become a query of the schema. This does as much of it as words can tell: each is a word of SQL, a name of the schema or
one that the query itself gives; a table stands where a table is read, behind a table's name stands one of its columns;
brackets and quotes that are opened are closed. What stands in quotes as a value is free.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache

from sqlglot.dialects.dialect import Dialect

from deltatune.apps.sql.safe import NAMED_FUNCTIONS, TYPES
from deltatune.apps.sql.schema import Database

__all__ = ["Place", "QueryWords"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


KEYWORDS = _words(
    """
    ALL AND ANY AS ASC BETWEEN BY CASE CAST COLLATE CROSS CURRENT DESC DISTINCT ELSE END ESCAPE EXCEPT EXISTS EXTRACT
    FALSE FETCH FILTER FIRST FOLLOWING FROM FULL GLOB GROUP HAVING ILIKE IN INNER INTEGER INTERSECT INTERVAL IS JOIN
    LAST LEFT LIKE LIMIT NATURAL NEXT NOT NULL NULLS NUMERIC OFFSET ON ONLY OR ORDER OUTER OVER PARTITION PRECEDING
    PRECISION QUALIFY RANGE REAL RECURSIVE RIGHT ROW ROWS SELECT SEPARATOR THEN TRUE UNBOUNDED UNION USING VALUES WHEN
    WHERE WITH WITHIN YEAR MONTH DAY QUARTER WEEK
    """
)
"""The words of a query that only reads, without those of functions and types."""
UNFINISHED = _words(
    """
    SELECT DISTINCT FROM JOIN LEFT RIGHT FULL INNER OUTER CROSS NATURAL ON USING WHERE AND OR NOT IN IS BETWEEN LIKE
    GROUP ORDER BY HAVING LIMIT OFFSET AS CASE WHEN THEN ELSE WITH UNION ALL EXCEPT INTERSECT ( , . = < > + - / |
    """
) | {""}
"""After these something has to follow."""
SIGNS = frozenset("+-*/%|&~<>=!,:")
"""What else a query has, besides words, quotes, brackets, dots and the semicolon at its end."""
DEEPEST = 12
"""Brackets within brackets: more of them are what a small model falls into without end."""
SHORT = re.compile(r"[A-Za-z]\d?\d?")
"""Names that a query gives to tables may be used before they are given, if they look like it: a.x, T1.x."""

_PIECE = re.compile(r"\w+|.", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a query its writer is.

    Args:
        word: as far as it is written that is not over.
        quote: what ends the quotes that are open, empty outside of quotes.
        before: the last whole word or sign: a keyword in capitals, a name as it is written, a number as "0".
        owner: the word before a dot, whose column comes next.
        brackets: for each that is open whether a query stands in it.
        given: names that the query has given so far, to compare.
        listed: those of them that WITH gave to queries, which are read as tables are.
        capitals: whether keywords are written in capitals, as the first one was; `None` before it.
        listing: how many brackets are open where WITH lists its queries; `None` elsewhere.
    """

    word: str = ""
    quote: str = ""
    before: str = ""
    owner: str = ""
    brackets: tuple[bool, ...] = ()
    given: frozenset[str] = frozenset()
    listed: frozenset[str] = frozenset()
    capitals: bool | None = None
    listing: int | None = None


class _Words:
    """Words that are found whole or by how they begin, whatever their case."""

    def __init__(self, words: Iterable[str]) -> None:
        self.sorted = sorted({word.casefold() for word in words})
        self.set = frozenset(self.sorted)

    def __contains__(self, word: str) -> bool:
        return word.casefold() in self.set

    def begins(self, word: str) -> bool:
        """Whether one of the words begins like this."""
        begun = word.casefold()
        place = bisect_left(self.sorted, begun)
        return place < len(self.sorted) and self.sorted[place].startswith(begun)


_FIRST = _Words(("SELECT", "WITH"))


@dataclass
class QueryWords:
    """The words that queries of one database are made of.

    A query that uses a longer name before it gives it, as `SELECT s.total FROM (SELECT SUM(x) AS total ...) AS s` does,
    is taken for a wrong one.

    Args:
        schema: the database, as its queries call it.
        dialect: sqlglot's name of their dialect.
    """

    schema: Database
    dialect: str
    tables: _Words = field(init=False)
    names: _Words = field(init=False)
    columns: dict[str, _Words] = field(init=False)
    sql: _Words = field(init=False)
    letters: frozenset[str] = field(init=False)
    """Of names, those outside of ASCII, which tokens may hold in parts."""

    def __post_init__(self) -> None:
        owned = {table.name: [column.name for column in table.columns] for table in self.schema.tables}
        self.tables = _Words(owned)
        self.names = _Words([*owned, *(column for columns in owned.values() for column in columns)])
        self.columns = {table.casefold(): _Words(columns) for table, columns in owned.items()}
        self.sql = _words_of_sql(self.dialect)
        self.letters = frozenset(letter for name in self.names.sorted for letter in name if not letter.isascii())

    def read(self, place: Place, text: str) -> Place | None:
        """The place behind more text, or `None` if no query goes on so.

        Args:
            place: where the text begins; `Place()` is the beginning of a query.
            text: of any length, which may begin and end within a word.
        """
        for piece in _PIECE.findall(text):
            after = self._read(place, piece)
            if after is None:
                return None
            place = after
        return place

    def may_go_on(self, place: Place, text: str) -> bool:
        """Whether behind more text some letter outside of ASCII may come that names have."""
        return any(self.read(place, text + letter) is not None for letter in self.letters)

    def may_end(self, place: Place) -> bool:
        """Whether a query may be over at a place."""
        end = None if place.quote else self._closed(place, "")
        return end is not None and not end.brackets and end.before not in UNFINISHED

    def _read(self, place: Place, piece: str) -> Place | None:
        if place.quote:
            return self._quoted(place, piece)
        if place.before == ";":
            return place if piece.isspace() else None
        if piece == ";":
            return Place(before=";") if self.may_end(place) else None
        if piece[0].isalnum() or piece[0] == "_":
            begun = replace(place, word=place.word + piece)
            return begun if self._begins(begun) else None
        closed = self._closed(place, piece)
        return None if closed is None else _sign(closed, piece)

    def _quoted(self, place: Place, piece: str) -> Place | None:
        if self._is_value(place):
            return replace(place, quote="", before="'") if piece == place.quote else place
        if piece == place.quote:
            return self._closed(replace(place, quote=""), piece, sql=False)
        begun = replace(place, word=place.word + piece)
        return begun if self._begins(begun, sql=False) else None

    def _is_value(self, place: Place) -> bool:
        """Whether what is in quotes may be anything; SQLite takes for a value what is in double ones and no name."""
        name = place.owner or self._reads_table(place) or self._gives_name(place)
        return place.quote == "'" or (place.quote == '"' and self.dialect == "sqlite" and not name)

    def _begins(self, place: Place, *, sql: bool = True) -> bool:
        """Whether the word that is not over can become one that may stand here."""
        word = place.word
        if place.capitals is None:
            return sql and _FIRST.begins(word)
        if self._gives_name(place) or self._may_give_name(place) or (sql and word[0].isdigit()):
            return True
        if self._reads_table(place):
            return self.tables.begins(word) or _any_begins(place.listed, word)
        if place.owner:
            return self._owned(place).begins(word) or _any_begins(place.given, word)
        known = self.names.begins(word) or _any_begins(place.given, word)
        plain = SHORT.fullmatch(word) is not None or (self._in_case(place) and self.sql.begins(word))
        return known or (sql and plain)

    def _may_give_name(self, place: Place) -> bool:
        """Whether the query may give a name here without saying AS: behind a table or a bracket."""
        return not place.owner and (place.before == ")" or place.before in self.tables)

    def _closed(self, place: Place, follows: str, *, sql: bool = True) -> Place | None:
        """The place behind the word that was not over, or `None` if it is none."""
        word = place.word
        if not word:
            return place
        if place.capitals is None:
            return _keyword(place, word) if word in _FIRST else None
        if self._lists_query(place):
            return replace(_given(place), listed=place.listed | {word.casefold()})
        if self._gives_name(place):
            return _given(place)
        if sql and word[0].isdigit():
            return replace(place, word="", before="0", owner="")
        keyword = sql and not place.owner and not self._reads_table(place)
        if keyword and self._in_case(place) and word in self.sql:
            return _keyword(place, word)
        if self._is_name(place, follows):
            return replace(place, word="", before=word, owner="")
        return _given(place) if self._may_give_name(place) and word.upper() not in KEYWORDS else None

    def _is_name(self, place: Place, follows: str) -> bool:
        word, compared = place.word, place.word.casefold()
        if self._reads_table(place):
            return word in self.tables or compared in place.listed
        if place.owner:
            return word in self._owned(place) or compared in place.given
        if follows == ".":
            return word in self.tables or compared in place.given or SHORT.fullmatch(word) is not None
        return word in self.names or compared in place.given

    def _owned(self, place: Place) -> _Words:
        return self.columns.get(place.owner.casefold(), self.names)

    def _lists_query(self, place: Place) -> bool:
        """Whether WITH gives a name to a query here."""
        return place.listing == len(place.brackets) and place.before.upper() in ("WITH", "RECURSIVE", ",")

    def _gives_name(self, place: Place) -> bool:
        """Whether the query gives a name here, which may be any word."""
        return place.before == "AS" or self._lists_query(place)

    def _reads_table(self, place: Place) -> bool:
        """Whether a table comes next; EXTRACT and others have a FROM of their own, in brackets without a query."""
        return place.before in ("FROM", "JOIN") and (not place.brackets or place.brackets[-1])

    def _in_case(self, place: Place) -> bool:
        return not place.capitals or place.word.isupper() or place.before == ":"  # a type, as in x::numeric


@cache
def _words_of_sql(dialect: str) -> _Words:
    parser = Dialect.get_or_raise(dialect).parser_class
    functions = {*parser.FUNCTIONS, *parser.FUNCTION_PARSERS, *NAMED_FUNCTIONS.get(dialect, ())}
    return _Words({*KEYWORDS, *TYPES, *functions})


def _given(place: Place) -> Place:
    return replace(place, word="", before=place.word, owner="", given=place.given | {place.word.casefold()})


def _keyword(place: Place, word: str) -> Place:
    upper = word.upper()
    capitals = word.isupper() if place.capitals is None else place.capitals
    before = "=" if (place.before, upper) == ("DISTINCT", "FROM") else upper  # IS DISTINCT FROM compares
    after = replace(place, word="", before=before, owner="", capitals=capitals)
    if upper == "WITH":
        return replace(after, listing=len(place.brackets))
    if upper == "SELECT":
        listing = None if place.listing == len(place.brackets) else place.listing
        brackets = (*place.brackets[:-1], True) if place.before == "(" else place.brackets
        return replace(after, listing=listing, brackets=brackets)
    return after


def _sign(place: Place, sign: str) -> Place | None:
    """The place behind a sign that is no letter."""
    if sign.isspace():
        return place
    if place.capitals is None and sign != "(":
        return None
    if sign in "'\"`":
        return replace(place, quote=sign)
    if sign == "(":
        return replace(place, before="(", brackets=(*place.brackets, False)) if len(place.brackets) < DEEPEST else None
    if sign == ")":
        return replace(place, before=")", brackets=place.brackets[:-1]) if place.brackets else None
    if sign == ".":
        return replace(place, before=".", owner="" if place.before == "0" else place.before)
    return replace(place, before=sign, owner="") if sign in SIGNS else None


def _any_begins(words: Iterable[str], begun: str) -> bool:
    return any(word.startswith(begun.casefold()) for word in words)
