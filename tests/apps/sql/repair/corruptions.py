"""Ways to spoil a query, as weak models do."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import sqlglot
from sqlglot import exp

from deltatune.apps.sql.schema import Database

__all__ = ["CORRUPTIONS"]

LETTERS = "abcdefghijklmnopqrstuvwxyz"
KEYWORDS = re.compile(r"\b(SELECT|FROM|WHERE|GROUP|ORDER|HAVING|LIMIT|JOIN|DESC|BETWEEN|UNION|DISTINCT)\b")
CHATTER = (
    "Sure! Here's the SQL query you asked for:\n\n```sql\n{}\n```\n\nThis query selects the rows that match.",
    "SQL: {};",
    "{}\n\nQuestion: How many?\nSQL: SELECT COUNT(*) FROM x",
    "We need the table.\nFirst, select the rows.\nAnswer: {}\nExplanation: it does.",
)


def _tree(sql: str) -> exp.Expr:
    return sqlglot.parse_one(sql, read="sqlite")


def _misspelt(word: str, rng: random.Random) -> str:
    """One letter dropped, doubled, replaced, or swapped with the next."""
    at = rng.randrange(len(word))
    slips = [
        word[:at] + word[at + 1 :],
        word[:at] + word[at] + word[at:],
        word[:at] + rng.choice(LETTERS) + word[at + 1 :],
    ]
    return rng.choice([*slips, word[:at] + word[at + 1 : at + 2] + word[at] + word[at + 2 :]])


def qualifier(sql: str, rng: random.Random, schema: Database) -> str | None:
    """A column under another alias of its query."""
    tree = _tree(sql)
    columns = [column for column in tree.find_all(exp.Column) if column.table]
    rng.shuffle(columns)
    for column in columns:
        select = column.find_ancestor(exp.Select)
        assert select is not None
        sources = [select.args["from_"], *(select.args.get("joins") or [])]
        others = sorted({source.this.alias_or_name for source in sources} - {column.table})
        if others:
            column.set("table", exp.to_identifier(rng.choice(others)))
            return tree.sql("sqlite")
    return None


def no_aliases(sql: str, rng: random.Random, schema: Database) -> str | None:
    """Aliases that are used and were never given."""
    tree = _tree(sql)
    tables = [table for table in tree.find_all(exp.Table) if table.alias]
    if len({table.name for table in tables}) < len(tables):
        return None
    for table in tables:
        table.set("alias", None)
    return tree.sql("sqlite")


def column(sql: str, rng: random.Random, schema: Database) -> str | None:
    """A column's name with one letter wrong."""
    names = {each.name for table in schema.tables for each in table.columns}
    return _rename(sql, rng, exp.Column, names)


def table(sql: str, rng: random.Random, schema: Database) -> str | None:
    """A table's name with one letter wrong."""
    return _rename(sql, rng, exp.Table, {each.name for each in schema.tables})


def _rename(sql: str, rng: random.Random, kind: type[exp.Expr], names: set[str]) -> str | None:
    tree = _tree(sql)
    node = rng.choice([each for each in tree.find_all(kind) if each.name in names])
    new = _misspelt(node.name, rng)
    if new in names or not new.isidentifier():
        return None
    node.set("this", exp.to_identifier(new))
    return tree.sql("sqlite")


def join(sql: str, rng: random.Random, schema: Database) -> str | None:
    """A table that is used and not joined."""
    tree = _tree(sql)
    aliases = {table.alias: table.name for table in tree.find_all(exp.Table) if table.alias}
    joins = list(tree.find_all(exp.Join))
    if not joins or len(set(aliases.values())) < len(aliases):
        return None
    for each in tree.find_all(exp.Column):
        if each.table in aliases:
            each.set("table", exp.to_identifier(aliases[each.table]))
    for each in tree.find_all(exp.Table):
        each.set("alias", None)
    rng.choice(joins).pop()
    return tree.sql("sqlite")


def condition(sql: str, rng: random.Random, schema: Database) -> str | None:
    """A join without its condition."""
    tree = _tree(sql)
    joins = [join for join in tree.find_all(exp.Join) if join.args.get("on")]
    if not joins:
        return None
    rng.choice(joins).set("on", None)
    return tree.sql("sqlite")


def equals(sql: str, rng: random.Random, schema: Database) -> str | None:
    """`= =`, which nothing parses."""
    return sql.replace(" = ", " = = ") if " = " in sql else None


def keyword(sql: str, rng: random.Random, schema: Database) -> str | None:
    """A keyword with one letter wrong."""
    found = rng.choice(list(KEYWORDS.finditer(sql)))
    new = _misspelt(found[0], rng).upper()
    return sql[: found.start()] + new + sql[found.end() :] if new != found[0] else None


def grouping(sql: str, rng: random.Random, schema: Database) -> str | None:
    """No GROUP BY."""
    tree = _tree(sql)
    group = tree.find(exp.Group)
    if group is None:
        return None
    group.pop()
    return tree.sql("sqlite")


def quote(sql: str, rng: random.Random, schema: Database) -> str | None:
    """A text that is not closed."""
    ends = [match.start() for match in re.finditer("'(?= |$)", sql)]
    if not ends:
        return None
    end = rng.choice(ends)
    return sql[:end] + sql[end + 1 :]


def bracket(sql: str, rng: random.Random, schema: Database) -> str | None:
    """A bracket that is not closed."""
    end = sql.rfind(")")
    return None if end < 0 else sql[:end] + sql[end + 1 :]


def chatter(sql: str, rng: random.Random, schema: Database) -> str | None:
    """Talk around the query."""
    return rng.choice(CHATTER).format(sql)


def loop(sql: str, rng: random.Random, schema: Database) -> str | None:
    """The last condition again and again, until the tokens run out."""
    last = re.search(r"(?:WHERE|AND) (\S+ = '[^']*')$", sql)
    if not last or " INTERSECT " in sql or " EXCEPT " in sql or " UNION " in sql:
        return None
    whole = sql + f" AND {last[1]}" * 6
    return whole[: len(sql) + rng.randrange(20, len(whole) - len(sql))]


def double_quotes(sql: str, rng: random.Random, schema: Database) -> str | None:
    """Texts written as names."""
    return sql.replace("'", '"') if "'" in sql and "STRFTIME" not in sql else None


CORRUPTIONS: tuple[Callable[[str, random.Random, Database], str | None], ...] = (
    qualifier, no_aliases, column, table, join, condition, equals, keyword, grouping, quote, bracket, chatter, loop,
    double_quotes,
)  # fmt: skip
