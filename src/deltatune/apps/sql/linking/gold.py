"""What a linker should have found: the tables and columns that the true query uses."""

from __future__ import annotations

from collections.abc import Mapping

import sqlglot
from sqlglot.errors import SqlglotError

from deltatune.apps.sql.examples import Example
from deltatune.apps.sql.resolve import columns_used
from deltatune.apps.sql.schema import Database, Selection
from deltatune.errors import DataError

__all__ = ["gold", "schema_of"]


def gold(example: Example, schema: Database) -> Selection:
    """The tables and columns that the example's query uses.

    Raises:
        DataError: the query does not parse.
    """
    try:
        return columns_used(sqlglot.parse_one(example.sql, read=example.dialect), schema)
    except SqlglotError:
        raise DataError(
            f"{example.database}: expected SQL that parses as {example.dialect}, found {example.sql[:80]!r}; correct it"
        ) from None


def schema_of(example: Example, schemas: Mapping[str, Database]) -> Database:
    """The schema that an example is about.

    Raises:
        DataError: it is not among those given.
    """
    if example.database not in schemas:
        raise DataError(
            f"schemas: expected one of {example.database}, found {', '.join(schemas) or 'none'}; give its schema too"
        )
    return schemas[example.database]
