"""Joins whose condition does not join: there is none, or it names columns that are not there, or not this table's."""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from deltatune.apps.sql.repair.keys import Key, fans, key_between, key_path
from deltatune.apps.sql.repair.nearest import nearest
from deltatune.apps.sql.repair.report import Repair, shown
from deltatune.apps.sql.repair.scopes import Sight, Source, sights
from deltatune.apps.sql.schema import Database

__all__ = ["equal", "linked_joins"]

SLIP = 0.75  # how alike a column has to be to one that exists to be taken for a slip of the pen


def linked_joins(tree: exp.Query, schema: Database) -> list[Repair]:
    """Give each join a condition that ties its table to those before it, along the keys of the schema."""
    repairs: list[Repair] = []
    for sight in sights(tree, schema):
        repairs += _tied_to_outer(sight)
        by_alias = {source.alias: source for source in sight.sources}
        first = sight.select.args.get("from_")
        earlier = [by_alias[name] for name in ([first.this.alias_or_name] if first else []) if name in by_alias]
        for join in list(sight.select.args.get("joins") or ()):
            source = by_alias.get(join.this.alias_or_name)
            if source is None:
                continue
            if source.table and not _merges(join):
                before = shown(join)
                changed = [_paired(pair, source, earlier, sight, schema) for pair in _pairs(join)]
                if _tied(join, source, earlier, sight, schema) or any(changed):
                    repairs.append(Repair("join", before.strip(" ,"), shown(join).strip(" ,")))
            earlier.append(source)
    return repairs


def equal(key: Key, one: str, other: str) -> exp.Expr:
    """The key as a condition between two sources."""
    return exp.and_(*(exp.EQ(this=exp.column(a, one), expression=exp.column(b, other)) for a, b in key.pairs))


def _merges(join: exp.Join) -> bool:
    return bool(join.args.get("using")) or join.method == "NATURAL"


def _pairs(join: exp.Join) -> list[exp.EQ]:
    """The equalities of two columns in a join's condition."""
    return [part for part in _parts(join.args.get("on")) if isinstance(part, exp.EQ) and _is_pair(part)]


def _is_pair(part: exp.EQ) -> bool:
    return isinstance(part.left, exp.Column) and isinstance(part.right, exp.Column)


def _parts(condition: exp.Expr | None) -> list[exp.Expr]:
    if condition is None:
        return []
    return list(condition.flatten()) if isinstance(condition, exp.And) else [condition]


def _paired(pair: exp.EQ, source: Source, earlier: Sequence[Source], sight: Sight, schema: Database) -> bool:
    """Mend an equality that names a column which is not there, or the same one twice."""
    left, right = _owner(pair.left, sight), _owner(pair.right, sight)
    if pair.left == pair.right:
        return left is not None and _untwinned(pair, left, source, earlier)
    for column, owner, other in ((pair.left, left, right), (pair.right, right, left)):
        if owner is None or owner.has(column.name) or nearest(column.name, owner.columns or (), SLIP):
            continue
        for each in (source, *earlier):
            if each.has(column.name) and (other is None or each.alias != other.alias):
                column.set("table", exp.to_identifier(each.alias))
                return True
        if other and other.alias != owner.alias and owner.table and other.table:
            chain = key_path(schema, [owner.table.name], other.table.name)
            if len(chain) == 1:
                pair.replace(equal(chain[0], owner.alias, other.alias))
            elif chain and pair.parent is not None and pair.arg_key == "on":
                pair.replace(exp.true())  # other tables have to come between
            return bool(chain)
    return False


def _untwinned(pair: exp.EQ, owner: Source, source: Source, earlier: Sequence[Source]) -> bool:
    """`a.x = a.x` ties nothing: one side is of the joined table, the other of one before it."""
    name = pair.left.name
    if owner.alias != source.alias and source.has(name):
        pair.right.set("table", exp.to_identifier(source.alias))
        return True
    other = next((each for each in earlier if each.has(name)), None) if owner.alias == source.alias else None
    if other:
        pair.left.set("table", exp.to_identifier(other.alias))
    return other is not None


def _tied(join: exp.Join, source: Source, earlier: Sequence[Source], sight: Sight, schema: Database) -> bool:
    """Tie the joined table to those before it, if no chain of conditions does."""
    names = {each.alias for each in earlier}
    if not earlier or not source.table or _reached(source.alias, sight) & names:
        return False
    tables = {each.table.name: each.alias for each in reversed(earlier) if each.table}
    chain = key_path(schema, list(tables), source.table.name)
    if len(chain) > 1 and fans(chain):
        shared = (key_between(schema, table, source.table.name) for table in tables)
        chain = next(((key,) for key in shared if key), chain)
    if not chain or (join.kind == "CROSS" and len(chain) > 1):
        return False
    before = tables[chain[0].table]
    for key in chain[:-1]:
        link = exp.Join(this=exp.to_table(key.other), on=equal(key, before, key.other))
        sight.select.args["joins"].insert(join.index, link)
        sight.select.set("joins", sight.select.args["joins"])
        before = key.other
    _condition(join, equal(chain[-1], before, source.alias), sight)
    return True


def _reached(alias: str, sight: Sight) -> set[str]:
    """The sources that conditions tie to this one, directly or through others."""
    select = sight.select
    joins = select.args.get("joins") or []
    where = select.args.get("where")
    parts = [part for join in joins for part in _parts(join.args.get("on"))] + _parts(where.this if where else None)
    ties = [_mentioned(part, sight) for part in parts]
    ties += [{source.alias for source in sight.sources} for join in joins if _merges(join)]
    reached = {alias}
    while grown := [tie for tie in ties if tie & reached and not tie <= reached]:
        reached = reached.union(*grown)
    return reached - {alias}


def _mentioned(part: exp.Expr, sight: Sight) -> set[str]:
    """The sources whose columns a condition has."""
    return {owner.alias for column in part.find_all(exp.Column) if (owner := _owner(column, sight))}


def _owner(column: exp.Expr, sight: Sight) -> Source | None:
    """The source here that a column is said to be of, or that a bare one can only be of."""
    if not isinstance(column, exp.Column):
        return None
    if column.table:
        return next((s for s in sight.sources if s.alias.casefold() == column.table.casefold()), None)
    owners = sight.owners(column.name)
    return owners[0] if len(owners) == 1 else None


def _tied_to_outer(sight: Sight) -> list[Repair]:
    """`a.x = a.x` in a subquery was meant to compare with the query around it."""
    where = sight.select.args.get("where")
    repairs = []
    for pair in _parts(where.this if where and sight.around else None):
        if not isinstance(pair, exp.EQ) or not isinstance(pair.left, exp.Column) or pair.left != pair.right:
            continue
        outer = sight.around.owners(pair.left.name) if sight.around else []
        if outer and pair.left.table and all(source.alias != pair.left.table for source in outer):
            before = shown(pair)
            pair.right.set("table", exp.to_identifier(outer[0].alias))
            repairs.append(Repair("owner", before, shown(pair)))
    return repairs


def _condition(join: exp.Join, new: exp.Expr, sight: Sight) -> None:
    """Give a join its condition, in place of one that is true of everything or that does not tie its table."""
    on = join.args.get("on")
    join.set("kind", None)
    if on is None or isinstance(on, exp.Boolean):
        join.set("on", new)
        return
    idle = [
        pair
        for pair in _pairs(join)
        if join.this.alias_or_name not in _mentioned(pair, sight) or pair.left == pair.right
    ]
    if idle:
        idle[0].replace(new)
    else:
        join.set("on", exp.and_(new, on))
