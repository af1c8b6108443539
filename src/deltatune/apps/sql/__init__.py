"""Financial questions to SQL: databases, questions and answers, and running queries so that they can only read.

Needs the extra: pip install "deltatune[sql]".
"""

from __future__ import annotations

from deltatune.errors import DeltaError

try:
    import sqlalchemy
    import sqlglot
except ImportError as error:
    raise DeltaError(
        f'deltatune.apps.sql: needs the package {error.name}, found none; run pip install "deltatune[sql]"'
    ) from None

del sqlalchemy, sqlglot
