"""Rows as text, as in TabLLM (Hegselmann et al. 2023, https://arxiv.org/abs/2210.10723, section 3 and appendix)."""

from deltatune.apps.tab.columns import MISSING, ColumnInfo, Kind
from deltatune.apps.tab.serialize.fitted import FittedSerializer
from deltatune.apps.tab.serialize.narrate import Narrator
from deltatune.apps.tab.serialize.serializer import Serializer
from deltatune.apps.tab.serialize.styles import STYLES, Style

__all__ = ["MISSING", "STYLES", "ColumnInfo", "FittedSerializer", "Kind", "Narrator", "Serializer", "Style"]
