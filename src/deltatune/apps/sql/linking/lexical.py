"""A linker without a model: the words that a question shares with names and comments."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rapidfuzz.distance import JaroWinkler

from deltatune.apps.sql.linking.ranking import Ranking
from deltatune.apps.sql.schema import Database, Table

__all__ = ["LexicalLinker"]

_WORD = re.compile(r"[^\W\d_]+|\d+")


@dataclass(frozen=True, slots=True)
class LexicalLinker:
    """Scores by shared words, the rarer in the schema the better; words that are nearly alike count in part.

    A column's score is the cosine between its words and those of the question. A table's score adds those of its
    own words and of its best columns.

    Args:
        alike: from which similarity of Jaro and Winkler on two words are nearly alike. Default: 0.88.
        best: how many of a table's columns speak for it. Default: 3.
    """

    alike: float = 0.88
    best: int = 3

    def rank(self, questions: Sequence[str], schema: Database) -> list[Ranking]:
        """A ranking for each question."""
        columns = {table.name: {c.name: _words(c.name, c.comment) for c in table.columns} for table in schema.tables}
        texts = [text for table in columns.values() for text in table.values()]
        counts = Counter(word for text in texts for word in text)
        weights = {word: math.log(1 + len(texts) / count) for word, count in counts.items()}
        tables = {table.name: _table_words(table) for table in schema.tables}
        return [self._rank(_words(question), schema, tables, columns, weights) for question in questions]

    def _rank(
        self,
        asked: frozenset[str],
        schema: Database,
        tables: Mapping[str, frozenset[str]],
        columns: Mapping[str, Mapping[str, frozenset[str]]],
        weights: Mapping[str, float],
    ) -> Ranking:
        known = {word for table in columns.values() for text in table.values() for word in text}
        known |= {word for text in tables.values() for word in text}
        said = {word: self._said(word, asked) for word in known}
        rarest = max(weights.values(), default=1.0)

        def cosine(text: frozenset[str]) -> float:
            squares = {word: weights.get(word, rarest) ** 2 for word in text}
            shared = sum(said[word] * square for word, square in squares.items())
            return shared / math.sqrt(sum(squares.values()) * rarest**2 * max(len(asked), 1)) if shared else 0.0

        scores = {table: {name: min(cosine(text), 1.0) for name, text in own.items()} for table, own in columns.items()}
        return Ranking(
            schema,
            {
                name: min(1.0, cosine(tables[name]) + sum(sorted(own.values())[-self.best :]) / self.best)
                for name, own in scores.items()
            },
            scores,
        )

    def _said(self, word: str, asked: frozenset[str]) -> float:
        """How nearly the question says a word of the schema."""
        if word in asked:
            return 1.0
        likeness = max((JaroWinkler.similarity(word, other) for other in asked), default=0.0)
        return likeness**2 if likeness >= self.alike else 0.0


def _table_words(table: Table) -> frozenset[str]:
    return _words(table.name, table.comment)


def _words(*texts: str) -> frozenset[str]:
    """The different words of names and sentences, without the s of a plural."""
    found = _WORD.findall(" ".join(texts).casefold())
    return frozenset(word[:-1] if len(word) > 3 and word.endswith("s") else word for word in found)
