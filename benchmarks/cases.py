"""What the training benchmark trains: each case's texts, method and sides. Nothing here needs torch.

Texts are tokens drawn at random from a seed; what is measured depends on their lengths and on what they share, not on
what they say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, TypeAlias

IGNORE = -100
"""The label of a token that is not learned."""

Example: TypeAlias = dict[str, Any]
Batch: TypeAlias = list[Example]


@dataclass(frozen=True)
class Run:
    """One process of a case."""

    side: str
    """A key of ``trainers.SIDES``."""
    method: str
    """A key of ``starts.METHODS``."""


@dataclass(frozen=True)
class Case:
    """The same batches for several sides."""

    batch: Callable[[Random], Batch]
    """Draws the examples of one step."""
    method: str
    sides: tuple[str, ...]
    besides: tuple[Run, ...] = ()
    """Runs of another method, to compare methods."""
    base: str = "smollm2"

    @property
    def runs(self) -> dict[str, Run]:
        """Each process, by the name it has in the results."""
        own = {side: Run(side, self.method) for side in self.sides}
        return own | {f"{run.side} ({run.method})": run for run in self.besides}

    def batches(self, steps: int) -> list[Batch]:
        """The examples of each step, the same at every call."""
        random = Random(0)
        return [self.batch(random) for _ in range(steps)]


def mixed(random: Random) -> Batch:
    """8 texts of 75 to 290 tokens with answers of 15 to 50."""
    return [
        _answered(_tokens(random, random.randint(75, 290) - answer), _tokens(random, answer))
        for answer in (random.randint(15, 50) for _ in range(8))
    ]


def shared_prefix(random: Random) -> Batch:
    """8 questions of 20 to 40 tokens under one schema of 200, with answers of 15 to 40."""
    schema = _tokens(random, 200)
    return [
        _answered(schema + _tokens(random, random.randint(20, 40)), _tokens(random, random.randint(15, 40)))
        for _ in range(8)
    ]


def sentences(random: Random) -> Batch:
    """32 texts of 10 to 120 tokens, each in one of six classes."""
    return [{"input_ids": _tokens(random, random.randint(10, 120)), "labels": random.randrange(6)} for _ in range(32)]


def supervised(batch: Batch) -> int:
    """How many tokens of a batch are learned; a class counts as one."""
    return sum(1 if isinstance(e["labels"], int) else sum(y != IGNORE for y in e["labels"]) for e in batch)


def distinct(batch: Batch) -> int:
    """How many tokens of a batch have to be run through a causal model, a prefix that texts share counting once."""
    texts = sorted(example["input_ids"] for example in batch)
    return sum(map(len, texts)) - sum(map(_common, texts[1:], texts[:-1]))


def _common(a: list[int], b: list[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _tokens(random: Random, count: int) -> list[int]:
    return [random.randrange(1000, 30_000) for _ in range(count)]


def _answered(prompt: list[int], answer: list[int]) -> Example:
    return {"input_ids": prompt + answer, "labels": [IGNORE] * len(prompt) + answer}


TRAINERS = ("deltatune", "peft + Trainer", "peft + TRL")

CASES = {
    "mixed lengths, LoRA q,v": Case(mixed, "lora q,v", (*TRAINERS, "peft + loop")),
    "mixed lengths, LoRA all linear": Case(mixed, "lora all linear", TRAINERS),
    "mixed lengths, DoRA all linear": Case(
        mixed, "dora all linear", TRAINERS, besides=(Run("deltatune", "lora all linear"),)
    ),
    "mixed lengths, prompt tuning": Case(mixed, "prompt", (*TRAINERS[:2], "peft + TRL padded")),
    "shared prefix, LoRA q,v": Case(shared_prefix, "lora q,v", (*TRAINERS, "peft + TRL padded")),
    "shared prefix, LoRA all linear": Case(shared_prefix, "lora all linear", (*TRAINERS[:2], "peft + TRL padded")),
    "classification, LoRA q,v": Case(
        sentences, "classifier", ("deltatune", "peft + Trainer", "peft + loop"), base="minilm"
    ),
}
