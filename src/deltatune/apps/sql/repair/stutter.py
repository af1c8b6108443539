"""Joins said over and over, which no query needs and no parser can take."""

from __future__ import annotations

import re

from deltatune.apps.sql.repair.report import Repair

__all__ = ["once"]

_SIDE = r"(?:(?:LEFT|RIGHT|FULL|INNER|OUTER|CROSS|NATURAL)\s{1,9}){0,3}"
_AGAIN = re.compile(rf"(\b{_SIDE}JOIN\s{{1,9}}\w+(?:\s{{1,9}}AS\s{{1,9}}\w+)?)(?:\s{{1,9}}\1\b)+", re.IGNORECASE)


def once(text: str) -> tuple[str, list[Repair]]:
    """Of a join that is said several times in a row, leave one."""
    repairs: list[Repair] = []

    def first(found: re.Match[str]) -> str:
        repairs.append(Repair("repeat", found[0][len(found[1]) :].strip(), ""))
        return found[1]

    return _AGAIN.sub(first, text), repairs
