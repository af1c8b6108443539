"""Rows told by a language model, the paper's table-to-text: a fluent paragraph in place of a template.

The paper found that such texts lose or make up facts, and that templates classify better; this is here to compare.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin

from deltatune.apps.tab.serialize.fitted import FittedSerializer
from deltatune.apps.tab.serialize.serializer import Serializer

if TYPE_CHECKING:
    from deltatune.io.bases import Base

__all__ = ["INSTRUCTION", "Narrator"]

INSTRUCTION = "Tell these facts in full sentences. Keep every name and number, and add nothing."
TEXT = "text"


class Narrator(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A transformer of scikit-learn that makes a table of one column, a text a row, by letting a model tell it.

    Behind it a classifier reads the texts as they are with `Serializer(style="custom", template="{text}")`.

    Args:
        base: the model that writes, and its tokenizer; `dt.load_base` gives both.
        serializer: what the model is shown of a row. Default: the list.
        instruction: what it is told to do. Default: `INSTRUCTION`.
        max_new_tokens: how long a text may get. Default: 128.
        batch_size: texts that are written at once. Default: 8.
        cache: a JSON file that keeps texts between runs. Default: they are kept while the narrator lives.
    """

    def __init__(
        self,
        base: Base,
        serializer: Serializer | None = None,
        *,
        instruction: str = INSTRUCTION,
        max_new_tokens: int = 128,
        batch_size: int = 8,
        cache: str | Path | None = None,
    ) -> None:
        self.base = base
        self.serializer = serializer
        self.instruction = instruction
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self.cache = cache

    def __sklearn_clone__(self) -> Narrator:
        return Narrator(**self.get_params(deep=False))  # which shares the model

    def fit(self, X: pd.DataFrame, y: Sequence[Any] | None = None) -> Narrator:
        """Tell what the columns hold."""
        self.serializer_: FittedSerializer = (self.serializer or Serializer(style="list")).fit(X)
        self._told = self._read()
        return self

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:
        """Let the model tell each row; rows that say the same are written once."""
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(self)
        facts = self.serializer_.texts(X)
        new = [fact for fact in dict.fromkeys(facts) if self._key(fact) not in self._told]
        if new:
            self._told |= {self._key(fact): text for fact, text in zip(new, self._write(new), strict=True)}
            self._keep()
        return pd.DataFrame({TEXT: [self._told[self._key(fact)] for fact in facts]}, index=X.index)

    def get_feature_names_out(self, input_features: object = None) -> list[str]:
        """The one column of the result."""
        return [TEXT]

    def _write(self, facts: Sequence[str]) -> list[str]:
        from deltatune.train.complete import complete
        from deltatune.train.prompting import prompt_tokens

        prompts = [prompt_tokens(self.base, f"{self.instruction}\n\n{fact}\n\nText:") for fact in facts]
        written = complete(self.base, prompts, batch_size=self.batch_size, max_new_tokens=self.max_new_tokens)
        return [" ".join(text.split()) or fact for fact, text in zip(facts, written, strict=True)]

    def _key(self, fact: str) -> str:
        asked = json.dumps([self.base.source, self.instruction, self.max_new_tokens, fact])
        return hashlib.sha256(asked.encode()).hexdigest()

    def _read(self) -> dict[str, str]:
        if self.cache is None or not Path(self.cache).is_file():
            return {}
        return dict(json.loads(Path(self.cache).read_text(encoding="utf-8")))

    def _keep(self) -> None:
        from deltatune.io.atomic import atomic_files

        if self.cache is not None:
            file = Path(self.cache)
            with atomic_files(file.parent) as scratch:
                (scratch / file.name).write_text(json.dumps(self._told, indent=1), encoding="utf-8")
