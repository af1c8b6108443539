"""What a model is told: the part of the schema that matters, values that the question names, and the question."""

from __future__ import annotations

from deltatune.apps.sql.prompts.prompt import PromptStyle, write_prompt
from deltatune.apps.sql.prompts.selection import with_fillers

__all__ = ["PromptStyle", "with_fillers", "write_prompt"]
