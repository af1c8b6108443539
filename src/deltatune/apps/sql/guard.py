"""Only a single query that reads: decided on the parsed tree, by what is allowed, and run as rendered from that tree.

Text that a model, or a user, has written is never sent to a database. It is parsed; every node of the tree must be of
a kind that `safe` allows; and what runs is SQL written anew from the tree, without comments, which has to pass the same
checks once more. So where this parser and the database's own differ on what somebody wrote, ours decides.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import sqlglot
from sqlglot import exp
from sqlglot.errors import ErrorLevel, SqlglotError, UnsupportedError

from deltatune.apps.sql.safe import FUNCTIONS, NAMED_FUNCTIONS, NODES, SYSTEM_PREFIXES, TYPES
from deltatune.apps.sql.schema import Database
from deltatune.apps.sql.stutter import MOST_JOINS, stutters
from deltatune.errors import ConfigError, DataError

__all__ = ["BARE_FUNCTIONS", "PARSER_ERRORS", "UnsafeSQLError", "is_askable", "read_only_select", "render"]

PARSER_ERRORS = (SqlglotError, RecursionError, ValueError, LookupError, AttributeError, TypeError)
"""Made for SQL, the parser fails in many ways on what is none."""

LONGEST = 20_000  # characters of a query
PADDED, PADDING = ("CHAR", "NCHAR"), 1_000  # types that fill up with spaces, and letters of them
GROWTH = 10  # times that replacements may make a text as long
DEEPEST = 200  # nodes from the root to a leaf: far from where Python's recursion ends
HOME_SCHEMAS = {"sqlite": {"main"}, "duckdb": {"main"}, "postgres": {"public"}}
# Names that PostgreSQL and DuckDB take for a function without parentheses, where no column is meant.
BARE_FUNCTIONS = frozenset({"user", "session_user", "system_user", "current_role", "current_catalog", "current_schema"})
BARE_FUNCTIONS |= {"current_user", "current_database"}


_QUIET = ContextVar("_QUIET", default=False)  # by thread, so that one does not turn off another's warnings
logging.getLogger("sqlglot").addFilter(lambda record: not _QUIET.get())


class UnsafeSQLError(DataError):
    """The SQL is not one query that only reads, or can not be parsed; it was not run."""


def read_only_select(sql: str, dialect: str, schema: Database | None = None) -> exp.Query:
    """Parse SQL and make sure that it is one query that only reads.

    Args:
        sql: what somebody wrote.
        dialect: "sqlite", "duckdb" or "postgres".
        schema: if given, the only tables, and the only names of columns besides the query's own, that may be used.

    Returns:
        The tree. Run `render(tree, dialect)`, never the text.

    Raises:
        UnsafeSQLError: it is anything else, with the reason.
        ConfigError: the dialect is unknown.
    """
    with _silent():
        tree = _parsed(sql, dialect)
        while isinstance(tree, exp.Subquery) and tree.is_wrapper:  # brackets around all, which SQLite does not take
            tree = tree.this.pop()
        _check(tree, dialect, schema)
        # What runs is the rendering, so it is the rendering that has to be safe.
        _check(_parsed(render(tree, dialect), dialect), dialect, schema)
    return tree


def render(tree: exp.Expr, dialect: str) -> str:
    """Write SQL from the tree, without comments.

    Raises:
        UnsafeSQLError: the dialect has no words for a part of it, so that the SQL would mean something else.
    """
    try:
        return tree.sql(dialect=dialect, comments=False, unsupported_level=ErrorLevel.RAISE)
    except UnsupportedError as error:
        raise _refused(f"what {dialect} supports", f"{error}") from None
    except RecursionError:
        raise _refused("less nesting", "more than can be written") from None


def _parsed(sql: str, dialect: str) -> exp.Query:
    if dialect not in NAMED_FUNCTIONS:
        raise ConfigError(f"dialect: expected one of {', '.join(NAMED_FUNCTIONS)}, found {dialect!r}; choose one")
    if len(sql) > LONGEST:
        raise _refused(f"at most {LONGEST:,} characters", f"{len(sql):,}")
    if any(ord(letter) < 32 and letter not in "\t\n\r" for letter in sql) or not _encodable(sql):
        raise _refused("text", "control characters")
    if stutters(sql):
        raise _refused(f"at most {MOST_JOINS} joins without a condition in a row", "more")
    try:
        statements = [s for s in sqlglot.parse(sql, read=dialect) if s and not isinstance(s, exp.Semicolon)]
    except PARSER_ERRORS as error:
        raise _refused(f"what parses as {dialect}", f"{error}") from None
    if len(statements) != 1:
        raise _refused("one statement", f"{len(statements)}")
    tree = statements[0]
    if not isinstance(tree, (exp.Select, exp.SetOperation, exp.Subquery)):
        raise _refused("SELECT", type(tree).__name__.upper())
    return tree


def _check(tree: exp.Query, dialect: str, schema: Database | None) -> None:
    if _depth(tree) > DEEPEST:
        raise _refused(f"at most {DEEPEST} levels of nesting", "more")
    for node in tree.walk():
        _check_node(node, dialect)
    _check_growth(tree)
    tables = [(_folded(table.this, dialect), table) for table in tree.find_all(exp.Table)]
    known = None if schema is None else {table.name: table for table in schema.tables}
    used = [_check_table(name, table, dialect, known) for name, table in tables]
    if schema is not None:
        _check_columns(tree, dialect, schema, [name for name in used if name])


def _check_node(node: exp.Expr, dialect: str) -> None:
    kind = type(node).__name__
    match node:
        case exp.Anonymous():
            if not isinstance(node.this, str) or node.this.upper() not in NAMED_FUNCTIONS[dialect]:
                raise _refused("a known function that only computes", str(node.this))
        case exp.DataType():
            if not isinstance(node.this, exp.DataType.Type) or node.this.value not in TYPES:
                raise _refused("a plain type", node.sql(dialect=dialect))
            if node.this.value in PADDED and any(int(size.name) > PADDING for size in node.find_all(exp.Literal)):
                raise _refused(f"at most {PADDING:,} letters", node.sql(dialect=dialect))
        case exp.Table():
            if not isinstance(node.this, exp.Identifier):
                raise _refused("a table", node.this.sql(dialect=dialect) if node.this else "nothing")
        case exp.Column():
            if node.args.get("db") or node.args.get("catalog"):
                raise _refused("a column as table.column", node.sql(dialect=dialect))
            bare = isinstance(node.this, exp.Identifier) and not node.this.quoted and not node.args.get("table")
            if bare and dialect != "sqlite" and node.name.lower() in BARE_FUNCTIONS:
                raise _refused("a column", node.name)
        case _ if kind not in NODES and kind not in FUNCTIONS:
            name = node.sql_name() if isinstance(node, exp.Func) else kind.upper()
            raise _refused("what only reads and computes", name)


def _check_growth(tree: exp.Query) -> None:
    """Refuse replacements that make much out of little, one inside another."""

    def length(node: exp.Expr | None, unknown: float) -> float:
        inside = None if node is None else node.unnest()
        return len(inside.name) if isinstance(inside, exp.Literal) else 0 if inside is None else unknown

    growth = 1.0
    for node in tree.find_all(exp.Replace):
        new, old = length(node.args.get("replacement"), math.inf), length(node.expression, 1)
        growth *= max(1.0, new / max(1, old))
    if growth > GROWTH:
        raise _refused(f"REPLACE that makes a text at most {GROWTH} times as long", "more")


def is_askable(table: str) -> bool:
    """Whether a query may read a table of this name: neither the database's own, nor one that could be a file."""
    return not table.lower().startswith(SYSTEM_PREFIXES) and not any(letter in table for letter in "./\\:*?")


def _check_table(name: str, table: exp.Table, dialect: str, known: Mapping[str, object] | None) -> str | None:
    """Refuse what is no table of the schema; return its name there, or None if the query itself defines it."""
    shown = table.sql(dialect=dialect)
    place = table.args.get("db")
    if table.args.get("catalog") or (place and _folded(place, dialect) not in HOME_SCHEMAS[dialect]):
        raise _refused("a table of this database", shown)
    if not is_askable(name):
        raise _refused("a table of this database", shown)
    if not place and name in _visible(table, dialect):
        return None
    if known is None:
        return name
    match [real for real in known if (real if dialect == "postgres" else _ascii_lower(real)) == name]:
        case [real]:
            return real
    raise _refused(f"one of the tables {', '.join(known)}", shown)


def _visible(table: exp.Table, dialect: str) -> set[str]:
    """The names of WITH that surely mean its queries where this table stands.

    Databases differ on whether a query of WITH sees itself and those after it; where it does not, the name means a
    table. So only what all agree on counts: those before it, and itself in the second half of a recursive UNION.
    """
    found: set[str] = set()
    node: exp.Expr = table
    passed: set[int] = set()
    while (parent := node.parent) is not None:
        passed.add(id(node))
        if isinstance(node, exp.CTE) and isinstance(parent, exp.With):
            known = list(parent.expressions[: node.index])
            if parent.recursive and isinstance(node.this, exp.Union) and id(node.this.expression) in passed:
                known.append(node)
            found |= {_folded(cte.args["alias"].this, dialect) for cte in known}
            # On past the query that has this WITH, for its other names are not seen from here.
            if parent.parent is None:
                break
            node = parent.parent
            continue
        if isinstance(parent, exp.Query) and (with_ := parent.args.get("with_")) and with_ is not node:
            found |= {_folded(cte.args["alias"].this, dialect) for cte in with_.expressions}
        node = parent
    return found


def _check_columns(tree: exp.Query, dialect: str, schema: Database, used: list[str]) -> None:
    tables = {_folded(name, dialect) for name in used}
    columns = {_plain(column.name, dialect) for name in used for column in schema.table(name).columns}
    for node in tree.find_all(exp.TableAlias, exp.Alias):
        if isinstance(node, exp.TableAlias):
            tables |= {_folded(node.this, dialect)} if node.this else set()
            columns |= {_folded(column, dialect) for column in node.columns}
        elif isinstance(alias := node.args.get("alias"), exp.Identifier):
            columns.add(_folded(alias, dialect))
    for column in tree.find_all(exp.Column):
        qualifier = column.args.get("table")
        if qualifier and _folded(qualifier, dialect) not in tables:
            raise _refused("a table or alias of this query", qualifier.name)
        if isinstance(column.this, exp.Identifier) and _folded(column.this, dialect) not in columns:
            raise _refused("a column of the tables in this query", column.sql(dialect=dialect))


def _folded(name: exp.Expr | str, dialect: str) -> str:
    """A name as the database compares it: PostgreSQL minds the case of what is quoted, the others of nothing."""
    if isinstance(name, exp.Identifier):
        return name.name if dialect == "postgres" and name.quoted else _ascii_lower(name.name)
    return _plain(name if isinstance(name, str) else name.name, dialect)


def _plain(name: str, dialect: str) -> str:
    """A name of the schema, which is spelled as the database keeps it."""
    return name if dialect == "postgres" else _ascii_lower(name)


def _ascii_lower(name: str) -> str:
    """Only A to Z have a lower case in the databases' eyes, where Python would also fold the Kelvin sign to k."""
    return "".join(letter.lower() if letter.isascii() else letter for letter in name)


def _depth(tree: exp.Expr) -> int:
    deepest, level = 0, [tree]
    while level:
        deepest, level = deepest + 1, [child for node in level for child in node.iter_expressions()]
    return deepest


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refused(expected: str, found: str) -> UnsafeSQLError:
    return UnsafeSQLError(f"SQL: expected {expected}, found {_line(found)}; write one query that only reads")


def _line(text: object) -> str:
    plain = " ".join("".join(c for c in str(text) if c.isprintable() or c.isspace()).replace("\x1b", "").split())
    return plain.replace("[4m", "").replace("[0m", "")[:160]


@contextmanager
def _silent() -> Iterator[None]:
    """Sqlglot warns of statements that it does not know; they are refused, with a reason of our own."""
    before = _QUIET.set(True)
    try:
        yield
    finally:
        _QUIET.reset(before)
