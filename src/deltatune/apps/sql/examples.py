"""One question with the SQL that answers it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import sqlglot
from sqlglot import exp
from sqlglot.errors import ErrorLevel, SqlglotError, UnsupportedError

from deltatune.errors import DataError

__all__ = ["Example"]


@dataclass(frozen=True, slots=True)
class Example:
    """A question, its SQL, and where both belong.

    Args:
        question: in plain language.
        sql: the query that answers it.
        database: the name of the database.
        path: the database's file, where it is known.
        dialect: sqlglot's name of the SQL's dialect.
        difficulty: "easy", "medium", "hard" or "extra"; as the data set names it, empty where it does not.
        template: the name of the template it was made from, empty if from none.
        evidence: what else one has to know, as BIRD tells it.
    """

    question: str
    sql: str
    database: str
    path: Path | None = None
    dialect: str = "sqlite"
    difficulty: str = ""
    template: str = ""
    evidence: str = ""

    @property
    def ordered(self) -> bool:
        """Whether the order of the rows is part of the answer."""
        tree = self.tree()
        return isinstance(tree, exp.Query) and tree.args.get("order") is not None

    def sql_for(self, dialect: str) -> str:
        """The SQL in another dialect: "sqlite", "duckdb" or "postgres".

        Raises:
            DataError: it does not parse, or the other dialect has no words for a part of it.
        """
        try:
            return self.tree().sql(dialect=dialect, unsupported_level=ErrorLevel.RAISE)
        except UnsupportedError as error:
            raise DataError(
                f"{self.database}: expected SQL that {dialect} supports, found: {error}; leave it"
            ) from None

    def tree(self) -> exp.Expr:
        """The parsed SQL.

        Raises:
            DataError: it does not parse.
        """
        try:
            return sqlglot.parse_one(self.sql, read=self.dialect)
        except SqlglotError:
            raise DataError(
                f"{self.database}: expected SQL that parses as {self.dialect}, found {self.sql[:80]!r}; correct it"
            ) from None
