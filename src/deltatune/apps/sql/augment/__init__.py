"""More out of each example: other wordings of the question, and other forms of the completion (FinSQL, Zhang 2024)."""

from __future__ import annotations

from deltatune.apps.sql.augment.paraphrase import paraphrase
from deltatune.apps.sql.augment.reasoning import agrees
from deltatune.apps.sql.augment.skeleton import skeleton
from deltatune.apps.sql.augment.styles import STYLES, Style, completion, sql_of

__all__ = ["STYLES", "Style", "agrees", "completion", "paraphrase", "skeleton", "sql_of"]
