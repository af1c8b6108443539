"""Columns with more before them than a table: `f.v.shrp_1y`, `main.mf_perf.shrp_1y`."""

from __future__ import annotations

from sqlglot import exp

from deltatune.apps.sql.repair.report import Repair, shown

__all__ = ["short_paths"]


def short_paths(tree: exp.Query) -> list[Repair]:
    """Leave a column its name and the one word before it."""
    repairs = []
    nodes: list[exp.Column | exp.Dot] = [*tree.find_all(exp.Column), *tree.find_all(exp.Dot)]
    for node in nodes:
        parts = [] if isinstance(node.parent, exp.Dot) else node.parts
        if len(parts) > 2 and all(isinstance(part, exp.Identifier) for part in parts):
            *_, table, name = parts
            short = exp.Column(this=name.copy(), table=table.copy())
            repairs.append(Repair("alias", shown(node), shown(short)))
            node.replace(short)
    return repairs
