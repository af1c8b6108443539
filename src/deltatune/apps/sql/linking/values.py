"""Value linking: which values of the database a question speaks of, and in which columns they stand.

What the question says is looked up in the B-tree of an index, word after word. For a word that it misspells, trigrams
(SQLite's FTS5) bring the words of the database that share most of them, and their distance tells which may be meant.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rapidfuzz.distance import OSA

from deltatune.apps.sql.embedded import open_sqlite
from deltatune.apps.sql.linking.index import FORMAT, MOST_VALUES, IndexedColumn, write_index
from deltatune.apps.sql.linking.match import ValueMatch
from deltatune.apps.sql.linking.ranking import Linker, Ranking
from deltatune.apps.sql.linking.words import Word, can_be_misspelt, fold, words
from deltatune.apps.sql.run import Reader
from deltatune.apps.sql.schema import Database
from deltatune.errors import ConfigError
from deltatune.io.atomic import atomic_files

__all__ = ["ValueIndex", "ValueLinker"]

QUESTION_WORDS = 200  # that are looked at
EXACT_CASE = 3  # letters up to which a value has to be spelled as it is: "IT" is no "it"
MISSPELT = 5  # letters from which a value may be misspelt
NEAR = 0.8  # how alike what is said and the value are, at least
NEAR_WORD = 0.7  # the same of each word
CANDIDATES = 40  # words with the most trigrams of a misspelt one that are compared with it
SPELLINGS = 5  # of them that are tried
# Words of questions, not of values. They are found as they are, but not taken for misspellings.
COMMON = frozenset({
    "about", "above", "after", "average", "before", "below", "between", "count", "during", "every", "exceed",
    "first", "funds", "given", "highest", "largest", "least", "lowest", "lists", "mean", "month", "number", "other",
    "quarter", "share", "shares", "shows", "since", "smallest", "their", "there", "these", "those", "total",
    "under", "value", "values", "where", "which", "whose", "worth", "would", "years",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Found:
    """A match of the words from `start` to before `stop`."""

    start: int
    stop: int
    match: ValueMatch


class ValueIndex:
    """The distinct values of a database's text columns, to be looked up by what a question says.

    Dates, numbers, columns that point to others (whose values are found there), values of more than 80 letters and
    columns with more distinct values than allowed are not in it; `columns` tells.

    Made by :meth:`build` or :meth:`open`.

    Args:
        connection: to the file.
        database: the name of the database that it is of.
        columns: all text columns, with how many values of each are in it.
    """

    def __init__(self, connection: sqlite3.Connection, database: str, columns: Sequence[IndexedColumn]) -> None:
        self.database = database
        self.columns = tuple(columns)
        self._connection = connection

    @classmethod
    def open(cls, path: str | Path) -> ValueIndex:
        """Open an index for reading.

        Args:
            path: a file that :meth:`build` wrote.

        Raises:
            ConfigError: there is no such file, or it is no such index.
        """
        if not Path(path).is_file():
            raise ConfigError(f"value index: expected a file at {path}, found none; build it")
        connection = open_sqlite(Path(path), any_text=False)
        try:
            ((found, database),) = connection.execute("SELECT format, database FROM about")
            places = connection.execute('SELECT "table", "column", number, left_out FROM place ORDER BY id').fetchall()
        except (sqlite3.Error, ValueError):
            connection.close()
            raise ConfigError(f"value index: expected one in {path}, found another database; build it again") from None
        if found != FORMAT:
            connection.close()
            raise ConfigError(f"value index: expected format {FORMAT} in {path}, found {found}; build it again")
        return cls(connection, database, [IndexedColumn(*place) for place in places])

    @classmethod
    def build(
        cls, reader: Reader, path: str | Path, *, rebuild: bool = False, most_values: int = MOST_VALUES
    ) -> ValueIndex:
        """Write the index of a database, if it is not there, and open it.

        The database is read once, as a stream; memory does not grow with it. The file appears whole or not at all.

        Args:
            reader: the database.
            path: of the index. One that is there is kept, even if the database has changed since.
            rebuild: write it anew. Default: false.
            most_values: distinct values of a column; one with more is left out. Default: 200,000.

        Raises:
            ConfigError: what is there is no index, or that of another database.
            QueryError: the database could not be read.
        """
        path = Path(path)
        if rebuild or not path.exists():
            with atomic_files(path.parent) as scratch:
                write_index(reader, scratch / path.name, most_values)
        index = cls.open(path)
        if index.database != reader.schema.name:
            index.close()
            raise ConfigError(
                f"value index: expected that of {reader.schema.name} in {path}, found that of {index.database}; "
                "build it again, or elsewhere"
            )
        return index

    def find(self, question: str, *, limit: int = 10) -> list[ValueMatch]:
        """The values that a question speaks of, the surest first, and of equally sure ones the longest.

        The longest spans of words count first, and spans do not overlap; one span may be a value of several columns. A
        value of up to three letters has to be spelled as it is. A misspelt value has as many words, its numbers are
        right, and it is at least 80 % the same by the distance of optimal string alignment.

        Args:
            question: any text.
            limit: how many at most. Default: 10.
        """
        asked = words(question)[:QUESTION_WORDS]
        best: dict[tuple[int, int], list[_Found]] = defaultdict(list)
        for each in self._runs(question, asked):
            same = best[each.start, each.stop]
            if same and each.match.score > same[0].match.score:
                same.clear()
            if not same or each.match.score == same[0].match.score:
                same.append(each)
        spans = sorted(best, key=lambda span: (span[0] - span[1], -best[span][0].match.score, span))
        kept: list[_Found] = []
        for start, stop in spans:
            if all(stop <= other.start or other.stop <= start for other in kept):
                kept += best[start, stop]
        kept.sort(key=lambda each: (-each.match.score, -len(each.match.said), each.start))
        return [each.match for each in kept[:limit]]

    def closest(self, table: str, column: str, value: str) -> str | None:
        """The value of a column that a text stands for, misspelt or not; ``None`` if the column has none like it.

        Args:
            table: as the database spells it.
            column: of that table.
            value: any text.
        """
        whole = fold(value)
        for match in self.find(value, limit=QUESTION_WORDS):
            if (match.table, match.column) == (table, column) and fold(match.said) == whole:
                return match.value
        return None

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> ValueIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _runs(self, question: str, asked: Sequence[Word]) -> Iterator[_Found]:
        """Every run of words that is a value, or nearly one.

        From each word on, in each spelling of the words, as long as any value begins like that.
        """
        spellings = [self._spellings(word.folded) for word in asked]
        for start in range(len(asked)):
            begun = spellings[start]
            for stop in range(start + 1, len(asked) + 1):
                begun = [text for text in begun if self._is_begun(text)]
                said = question[asked[start].start : asked[stop - 1].stop]
                folded = " ".join(word.folded for word in asked[start:stop])
                for text in begun:
                    score = _likeness(folded, text)
                    for table, column, value in self._values(text) if score >= NEAR else ():
                        if len(folded) > EXACT_CASE or value.strip() == said:
                            yield _Found(start, stop, ValueMatch(table, column, value, said, score))
                if not begun or stop == len(asked):
                    break
                begun = [f"{text} {word}" for text in begun for word in spellings[stop]]

    def _spellings(self, word: str) -> list[str]:
        """A word, and those of the database that it may be meant for."""
        if word in COMMON or not can_be_misspelt(word):
            return [word]
        trigrams = " OR ".join(f'"{word[i : i + 3]}"' for i in range(len(word) - 2))  # letters only: no quotes in them
        found = self._connection.execute(
            "SELECT word FROM near WHERE near MATCH ? ORDER BY rank LIMIT ?", (trigrams, CANDIDATES)
        )
        scored = [(OSA.normalized_similarity(word, other), other) for (other,) in found]
        near = sorted((-score, other) for score, other in scored if NEAR_WORD <= score < 1)
        return [word, *(other for _, other in near[:SPELLINGS])]

    def _is_begun(self, text: str) -> bool:
        """Whether a value begins like that."""
        row = self._connection.execute("SELECT folded FROM value WHERE folded >= ? ORDER BY folded LIMIT 1", (text,))
        return any(folded.startswith(text) for (folded,) in row)

    def _values(self, folded: str) -> list[tuple[str, str, str]]:
        chosen = 'SELECT p."table", p."column", v.value FROM value AS v JOIN place AS p ON p.id = v.place'
        return self._connection.execute(f"{chosen} WHERE v.folded = ? ORDER BY p.id, v.id", (folded,)).fetchall()


class ValueLinker:
    """A linker whose rankings are lifted by the values that an index finds.

    Args:
        linker: any other one.
        indexes: by the name of the database; a database without one is ranked by the linker alone.
    """

    def __init__(self, linker: Linker, indexes: Mapping[str, ValueIndex]) -> None:
        self.linker = linker
        self.indexes = indexes

    def rank(self, questions: Sequence[str], schema: Database) -> list[Ranking]:
        """A ranking for each question."""
        rankings = self.linker.rank(questions, schema)
        if schema.name not in self.indexes:
            return rankings
        index = self.indexes[schema.name]
        return [ranking.lifted(index.find(said)) for said, ranking in zip(questions, rankings, strict=True)]


def _likeness(said: str, value: str) -> float:
    if said == value:
        return 1.0
    return OSA.normalized_similarity(said, value) if len(said) >= MISSPELT else 0.0
