"""A database that can be asked: read-only, with its schema, samples, and an index of its values."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deltatune.apps.sql.about import NOTHING_SAID, About, described
from deltatune.apps.sql.linking.match import ValueMatch
from deltatune.apps.sql.linking.values import ValueIndex
from deltatune.apps.sql.reflect import read_database
from deltatune.apps.sql.run import Limits, Reader, open_reader
from deltatune.apps.sql.schema import Database
from deltatune.apps.sql.urls import parse_url
from deltatune.io.cache import cache_folder

__all__ = ["Source", "open_source"]


@dataclass(frozen=True, slots=True)
class Source:
    """A database that can be asked.

    Args:
        reader: runs queries, and only those that read.
        schema: its tables, with a few values of each column.
        values: the index of its values, if there is one.
        identity: what tells it from others, and from itself once its file has changed. Default: nothing does.
    """

    reader: Reader
    schema: Database
    values: ValueIndex | None = None
    identity: str = ""

    def matches(self, question: str, limit: int) -> Sequence[ValueMatch]:
        """The values of the database that a question names, the surest first."""
        return self.values.find(question, limit=limit) if self.values else []

    def close(self) -> None:
        """Close the database and the index."""
        self.reader.close()
        if self.values:
            self.values.close()

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_source(
    address: str | Path,
    *,
    name: str | None = None,
    values: bool = True,
    reindex: bool = False,
    limits: Limits | None = None,
    about: About = NOTHING_SAID,
) -> Source:
    """Open a database for questions.

    Args:
        address: a path to a .sqlite, .db or .duckdb file, or an address of SQLAlchemy's.
        name: what to call it. Default: as its file is called.
        values: index its values, or use the index that was made before. It lies in the user's cache and holds as long
            as the file does not change; of a server nobody tells whether something changed. Default: true.
        reindex: make the index anew. Default: false.
        limits: of each query.
        about: what is said of it elsewhere. Default: nothing.

    Raises:
        ConfigError: there is no such database, or of a kind on which queries can not be run safely.
    """
    schema = described(read_database(address, only=about.tables), about)
    if name is not None:
        schema = replace(schema, name=name)
    reader = open_reader(address, schema=schema, limits=limits)
    try:
        identity = _identity(address)
        index = _index(identity, reader, reindex) if values else None
    except BaseException:
        reader.close()
        raise
    return Source(reader, schema, index, identity)


def _index(identity: str, reader: Reader, reindex: bool) -> ValueIndex:
    own = hashlib.sha256(f"{identity}\n{reader.schema.name}".encode()).hexdigest()[:32]  # an index tells whose it is
    path = cache_folder() / "values" / f"{own}.sqlite"
    path.parent.mkdir(parents=True, exist_ok=True)
    return ValueIndex.build(reader, path, rebuild=reindex)


def _identity(address: str | Path) -> str:
    """A name for a database as it is now."""
    url = parse_url(address)
    path = Path(url.database or "")
    known = [url.render_as_string(hide_password=True)]
    if url.get_backend_name() != "postgresql":
        about = path.stat()
        known = [str(path.resolve()), str(about.st_size), str(about.st_mtime_ns)]
    return hashlib.sha256("\n".join(known).encode()).hexdigest()[:32]
