"""Whether two queries are made of the same parts, whatever the order in which they are written."""

from __future__ import annotations

from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.normalize_identifiers import normalize_identifiers
from sqlglot.optimizer.simplify import simplify

from deltatune.apps.sql.schema import Database
from deltatune.apps.sql.scoring.forms import Writer
from deltatune.apps.sql.scoring.parts import Components
from deltatune.errors import DataError

__all__ = ["Components", "components", "exact_set_match"]


def components(tree: exp.Expr, schema: Database, *, values: bool = False) -> Components:
    """Take a query apart.

    Aliases are looked through, and WITH is the same as a subquery in its place. A column is called by its table; what
    a join makes equal has one name. AND, OR, +, * and = may be turned around, > is <, and BETWEEN is two comparisons.

    Args:
        tree: one query.
        schema: of its database. Names that it does not hold stay as they are.
        values: whether the values that are compared with, and those of LIMIT, count. Spider leaves them out.

    Raises:
        DataError: it is no query, or two of its tables have the same name.

    Source: Yu et al. 2018, "Spider: A Large-Scale Human-Labeled Dataset for Complex and Cross-Domain Semantic Parsing
    and Text-to-SQL Task", https://arxiv.org/abs/1809.08887
    """
    query = tree.unnest()
    if not isinstance(query, (exp.Select, exp.SetOperation)):
        raise DataError(f"SQL: expected a query, found {type(query).__name__.upper()}; write SELECT")
    try:
        simple = simplify(normalize_identifiers(query.copy(), dialect="sqlite"))
        return Writer(simple, schema, values=values).query(simple)
    except SqlglotError as error:
        raise DataError(f"SQL: expected a query that holds together, found: {error}; correct it") from None


def exact_set_match(found: exp.Expr, wanted: exp.Expr, schema: Database, *, values: bool = False) -> bool:
    """Whether two queries have the same components; see :func:`components`.

    Raises:
        DataError: one of them can not be taken apart.
    """
    return components(found, schema, values=values) == components(wanted, schema, values=values)
