"""The model that writes SQL for questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import LogitsProcessorList, StoppingCriteriaList

from deltatune.apps.sql.augment import Style, sql_of
from deltatune.apps.sql.augment.joinless import with_joins
from deltatune.apps.sql.constrained import LoopsEnd, OnlyKnownWords, QueryWords
from deltatune.apps.sql.naming import Naming
from deltatune.apps.sql.prompts.prompting import Prompter
from deltatune.apps.sql.schema import Database, with_first
from deltatune.apps.sql.source import Source
from deltatune.train.complete import chunks, complete, ends
from deltatune.train.prompting import prompt_tokens

if TYPE_CHECKING:
    from deltatune.io.bases import Base

__all__ = ["Writer"]


class Writer:
    """Writes SQL for questions, several times each if asked to.

    Args:
        base: the model with its deltas on, and its tokenizer.
        prompter: what writes the prompts.
        answer: what the model was taught to write. Default: "sql".
        joins: whether it writes joins itself; otherwise they are put in where columns ask for them. Default: true.
        max_new_tokens: how long an answer may get. Default: 192.
    """

    def __init__(
        self,
        base: Base,
        prompter: Prompter,
        *,
        answer: Style = "sql",
        joins: bool = True,
        max_new_tokens: int = 192,
    ) -> None:
        self.base = base
        self.prompter = prompter
        self.answer: Style = answer
        self.joins = joins
        self.max_new_tokens = max_new_tokens

    def write(
        self,
        questions: Sequence[str],
        source: Source,
        *,
        evidence: Sequence[str] = (),
        samples: int = 1,
        temperature: float = 0.7,
        seed: int = 0,
        batch_size: int = 16,
        constrained: bool = True,
        progress: Callable[[int], object] | None = None,
    ) -> list[list[str]]:
        """Write answers to questions about one database.

        Args:
            questions: in plain language.
            source: the database.
            evidence: for each question what else one has to know. Default: nothing.
            samples: answers to each question. The first is greedy, so that one alone is the likeliest. Default: 1.
            temperature: that the others are drawn with. Default: 0.7.
            seed: of what is drawn. Default: 0.
            batch_size: answers that are written at once. Default: 16.
            constrained: write no word that is neither of SQL nor a name that the prompt shows. Default: true; answers
                with a skeleton or reasons before the SQL are free in any case.
            progress: called with the number of questions that are done. Default: nothing.

        Returns:
            For each question as many texts as were asked for, in which the SQL was found if there is any.

        Raises:
            DataError: a question does not fit into the prompt's budget.
        """
        prompts = self.prompter.prompts(questions, source, evidence)
        naming = self.prompter.naming(source.schema)
        ids = [prompt_tokens(self.base, prompt.text) for prompt in prompts]
        order = sorted(range(len(prompts)), key=lambda number: ids[number])  # alike beginnings together
        written: list[list[str]] = [[] for _ in prompts]
        for batch in chunks(order, max(1, batch_size // samples)):
            words = None
            if constrained and self.answer == "sql":
                words = [QueryWords(prompts[number].shown, source.reader.dialect) for number in batch]
            answers = self._batch([ids[number] for number in batch], samples, temperature, seed, words)
            for number, texts in zip(batch, answers, strict=True):
                written[number] = [self._sql(text, source, naming, prompts[number].shown) for text in texts]
            if progress is not None:
                progress(len(batch))
        return written

    def _sql(self, text: str, source: Source, naming: Naming, shown: Database) -> str:
        sql = naming.mean(sql_of(text, self.answer))
        if self.joins:
            return sql
        told = {table.name for table in shown.tables}
        # A column is of a table that the prompt shows rather than of one that it does not.
        near = with_first(source.schema, [own for own, name in naming.tables.items() if name in told])
        return with_joins(sql, source.reader.dialect, near)

    def _batch(
        self,
        prompts: Sequence[Sequence[int]],
        samples: int,
        temperature: float,
        seed: int,
        words: Sequence[QueryWords] | None,
    ) -> Iterator[list[str]]:
        greedy = self._complete(prompts, words)
        drawn: list[str] = []
        if samples > 1:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                drawn = self._complete(
                    prompts, words, do_sample=True, temperature=temperature, num_return_sequences=samples - 1
                )
        for first, others in zip(greedy, chunks(drawn, samples - 1) if drawn else [[]] * len(greedy), strict=True):
            yield [first, *others]

    def _complete(
        self, prompts: Sequence[Sequence[int]], words: Sequence[QueryWords] | None, **sampling: Any
    ) -> list[str]:
        if words is not None:
            constraint = OnlyKnownWords(words, self.base.tokenizer, ends(self.base))
            sampling["logits_processor"] = LogitsProcessorList([constraint])
        sampling["stopping_criteria"] = StoppingCriteriaList([LoopsEnd()])
        settings = {"batch_size": len(prompts), "max_new_tokens": self.max_new_tokens, **sampling}
        return list(complete(self.base, prompts, **settings))
