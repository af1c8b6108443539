r"""What a language model is asked about a row, and the answers that stand for the classes.

A prompt is that of TabLLM (Hegselmann et al. 2023, https://arxiv.org/abs/2210.10723): the row's text, the question,
and "Answer:". With the row first, what the prompts of several rows share is little; but a row's prompt is by far the
longest part of what is read, and it runs once for all answers. With the question first, all rows share the question
too, which pays if it is long next to a row. The default is the paper's order.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, Literal, get_args

from deltatune.errors import ConfigError
from deltatune.train.job import Job
from deltatune.train.prompting import prompt_tokens

if TYPE_CHECKING:
    from deltatune.io.bases import Base

__all__ = ["Order", "Task"]

Order = Literal["row-first", "question-first"]


@dataclass(frozen=True, slots=True)
class Task:
    """A question about a row, and an answer for each class.

    Args:
        question: such as "Does this person earn more than 50,000 dollars a year? Yes or no?".
        answers: what is said for each class, in the order of the classes.
        order: what comes first in a prompt, "row-first" as in the paper or "question-first".

    Raises:
        ConfigError: the question is empty, or there are not at least two different answers.
    """

    question: str
    answers: Mapping[Hashable, str]
    order: Order = "row-first"

    def __post_init__(self) -> None:
        said = [answer.strip() for answer in self.answers.values()]
        if not self.question.strip():
            raise ConfigError("question: expected text, found none; ask for the class")
        if self.order not in get_args(Order):
            raise ConfigError(f"order: expected {' or '.join(get_args(Order))}, found {self.order!r}; choose one")
        if len(said) < 2:
            raise ConfigError(f"answers: expected one for each of 2 classes or more, found {len(said)}; add the others")
        if not all(said) or len(set(said)) < len(said):
            raise ConfigError(f"answers: expected different texts, found {said}; say each class in its own words")

    def prompt_of(self, text: str) -> str:
        """The prompt for a row, given its text."""
        if self.order == "row-first":
            return f"{text}\n\n{self.question}\nAnswer:"
        return f"{self.question}\n\n{text}\nAnswer:"

    def prompts(self, base: Base, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each row's prompt; a user's turn, if the base's tokenizer has a chat template."""
        return [prompt_tokens(base, self.prompt_of(text)) for text in texts]

    def answer_tokens(self, base: Base) -> list[list[int]]:
        """The tokens of each answer as it goes on from a prompt.

        Behind plain text an answer starts with a space, which most tokenizers take into its first token. If an answer
        begins another one, all end with the end token: otherwise the shorter would be part of the longer.

        Raises:
            ConfigError: two answers have the same tokens.
        """
        answers = [_tokens(base, answer.strip()) for answer in self.answers.values()]
        if len({*map(tuple, answers)}) < len(answers):
            raise ConfigError("answers: expected different tokens, found some alike; choose other words")
        if any(longer[: len(shorter)] == shorter for shorter, longer in permutations(answers, 2)):
            answers = [[*answer, Job(base.tokenizer, None, False, None).eos] for answer in answers]
        return answers


def _tokens(base: Base, answer: str) -> list[int]:
    if base.task == "seq2seq-lm":
        return list(base.tokenizer(text_target=answer, add_special_tokens=False)["input_ids"])
    behind = "" if base.tokenizer.chat_template else " "
    return Job(base.tokenizer, None, False, None).continued(behind + answer)
