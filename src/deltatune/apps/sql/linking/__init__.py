"""Which tables, columns and values of a database a question is about.

Names are imported when first used: only the trained linker needs torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES: dict[str, str] = {
    "CrossEncoder": "cross_encoder",
    "EitherLinker": "either",
    "LexicalLinker": "lexical",
    "Linker": "ranking",
    "Ranking": "ranking",
    "Recall": "recall",
    "Settings": "cross_encoder",
    "Training": "training",
    "ValueIndex": "values",
    "ValueLinker": "values",
    "ValueMatch": "match",
}
"""Each public name and the module that it comes from."""

__all__ = [
    "CrossEncoder",
    "EitherLinker",
    "LexicalLinker",
    "Linker",
    "Ranking",
    "Recall",
    "Settings",
    "Training",
    "ValueIndex",
    "ValueLinker",
    "ValueMatch",
]

if TYPE_CHECKING:
    from deltatune.apps.sql.linking.cross_encoder import CrossEncoder, Settings
    from deltatune.apps.sql.linking.either import EitherLinker
    from deltatune.apps.sql.linking.lexical import LexicalLinker
    from deltatune.apps.sql.linking.match import ValueMatch
    from deltatune.apps.sql.linking.ranking import Linker, Ranking
    from deltatune.apps.sql.linking.recall import Recall
    from deltatune.apps.sql.linking.training import Training
    from deltatune.apps.sql.linking.values import ValueIndex, ValueLinker


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value
