"""What speaks for a method and what against it: rules that can be read and cited.

A rule holds in some situations and gives points to some methods. Its source is a paper that found it, or what this
library finds by trying. Points add up to a ranking; they are weights of reasons, not a measure of quality.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["FAMILIES", "RULES", "Candidate", "Rule", "Situation", "route_of"]

FAMILIES: dict[str, frozenset[str]] = {
    "input": frozenset({"prompt", "ptuning"}),
    "inside": frozenset({"prefix", "houlsby", "pfeiffer", "parallel", "fusion", "ia3"}),
    "selection": frozenset({"bitfit", "norm", "child"}),
    "low rank": frozenset({"lora", "dora", "adalora", "relora"}),
    "whole": frozenset({"full"}),
}
"""Where a method acts, and the methods that do; one that is not here is ranked by what holds for every method."""


def route_of(key: str) -> str:
    """Where a method acts, such as ``low rank``."""
    return next((name for name, keys in FAMILIES.items() if key in keys), "other")


FEW, MANY = 1_000, 50_000
"""Examples that are few, and many."""
SMALL, LARGE = 10**9, 10**10
"""Parameters of a base that is small, and large."""


@dataclass(frozen=True)
class Situation:
    """What is to be done, and with what."""

    parameters: int
    """Of the base."""
    task: str
    """A key of ``TASKS``."""
    examples: int | None = None
    """How many there are to learn from. ``None``: not told."""
    tasks: int = 1
    """How many share the base where it is used."""
    merged: bool = False
    """Whether what is used has to be a plain model."""
    reachable: bool = True
    """Whether the base's weights are; if not, only what it answers."""
    quant: str | None = None
    is_tight: bool = False
    """Whether LoRA does not fit into the memory there is, or just so."""

    @property
    def few(self) -> bool:
        """Whether there are few examples."""
        return self.examples is not None and self.examples < FEW

    @property
    def many(self) -> bool:
        """Whether there are many examples."""
        return self.examples is not None and self.examples >= MANY


@dataclass(frozen=True)
class Candidate:
    """A method that could be taken."""

    key: str
    settings: Mapping[str, object]
    merges: bool
    """Whether it has a form as weights."""
    routes: bool
    """Whether each row of a batch can have a delta of its own."""

    @property
    def is_everywhere(self) -> bool:
        """Whether it acts on all linear layers."""
        return self.settings.get("targets") == ("all_linear",)


@dataclass(frozen=True)
class Rule:
    """What speaks for some methods, or against them, in some situations."""

    name: str
    holds: str
    """When, in words."""
    says: str
    source: str
    when: Callable[[Situation], bool]
    points: Callable[[Candidate], int]
    """0 for methods that it says nothing about."""
    excludes: Callable[[Candidate], bool] = lambda _: False
    """Whether a method can not be taken at all."""


def always(_: Situation) -> bool:
    """Whatever the situation."""
    return True


def gives(**points: int) -> Callable[[Candidate], int]:
    """Points by a method's key."""
    return lambda candidate: points.get(candidate.key, 0)


def nothing(_: Candidate) -> int:
    """No points, for rules that only exclude."""
    return 0


RULES: tuple[Rule, ...] = (
    Rule(
        "no weights",
        "the weights are out of reach",
        "where only answers can be had, tune at decoding: proxy-tuning adds the difference that tuning made to a small "
        "model of the same vocabulary; it closed 88 % of the gap to a tuned LLaMA-2 70B",
        "Liu et al. 2024, https://arxiv.org/abs/2401.08565, section 3",
        when=lambda situation: not situation.reachable,
        points=gives(proxy=1),
        excludes=lambda candidate: candidate.key != "proxy",
    ),
    Rule(
        "weights",
        "they are not",
        "whoever has the weights tunes them at less cost than three models at each token",
        "Liu et al. 2024, https://arxiv.org/abs/2401.08565, section 2",
        when=lambda situation: situation.reachable,
        points=nothing,
        excludes=lambda candidate: candidate.key == "proxy",
    ),
    Rule(
        "best balance",
        "always",
        "low rank comes near full fine-tuning with a fraction of its memory, and costs nothing once merged",
        "Hu et al. 2021, https://arxiv.org/abs/2106.09685, sections 4 and 5",
        when=always,
        points=gives(lora=4, dora=3, adalora=2, relora=1),
    ),
    Rule(
        "a copy for each task",
        "always",
        "full fine-tuning keeps gradients and moments of every weight, and saves all of them for each task",
        "Houlsby et al. 2019, https://arxiv.org/abs/1902.00751, section 1",
        when=always,
        points=gives(full=-3),
    ),
    Rule(
        "all linear layers",
        "generation, and not few examples",
        "for generation LoRA has to act on all linear layers to match full fine-tuning; the rank matters less",
        "Dettmers et al. 2023, https://arxiv.org/abs/2305.14314, section 4",
        when=lambda situation: situation.task != "sequence-classification" and not situation.few,
        points=lambda candidate: int(candidate.is_everywhere),
    ),
    Rule(
        "magnitude apart",
        "bases from a billion parameters",
        "DoRA of half the rank did better than LoRA on LLaMA",
        "Liu et al. 2024, https://arxiv.org/abs/2402.09353, table 1",
        when=lambda situation: situation.parameters >= SMALL,
        points=gives(dora=1),
    ),
    Rule(
        "memory very tight",
        "LoRA does not fit, or just so",
        "prompt tuning and BitFit train and keep the least: vectors before the input, biases",
        "Lester et al. 2021, https://arxiv.org/abs/2104.08691, section 2; "
        "Ben Zaken et al. 2021, https://arxiv.org/abs/2106.10199, section 3",
        when=lambda situation: situation.is_tight,
        points=gives(prompt=3, bitfit=3, norm=2, ia3=1, full=-3),
    ),
    Rule(
        "steadier with few data",
        "fewer than 1,000 examples",
        "adapters overfit less and depend less on the learning rate, prefixes do better on few data and unseen topics",
        "He et al. 2021, https://arxiv.org/abs/2106.03164, section 3; "
        "Li and Liang 2021, https://arxiv.org/abs/2101.00190, sections 6.3 and 6.4",
        when=lambda situation: situation.few,
        points=gives(houlsby=6, pfeiffer=6, parallel=5, prefix=5),
    ),
    Rule(
        "little to overfit",
        "fewer than 1,000 examples",
        "biases or scales alone are enough where data are few",
        "Ben Zaken et al. 2021, https://arxiv.org/abs/2106.10199, section 4; "
        "Liu et al. 2022, https://arxiv.org/abs/2205.05638, section 3",
        when=lambda situation: situation.few,
        points=gives(bitfit=2, ia3=2, norm=1, full=-2),
    ),
    Rule(
        "full fine-tuning overfits",
        "classification, fewer than 1,000 examples",
        "training a chosen part of the weights generalises better than all of them on few data",
        "Xu et al. 2021, https://arxiv.org/abs/2109.05687, section 4",
        when=lambda situation: situation.few and situation.task == "sequence-classification",
        points=gives(child=2),
    ),
    Rule(
        "much to learn",
        "from 50,000 examples",
        "on much data a low rank learns less than full fine-tuning, and what trains still less falls behind",
        "Biderman et al. 2024, https://arxiv.org/abs/2405.09673, section 4",
        when=lambda situation: situation.many,
        points=gives(full=4, relora=2, prompt=-2, ptuning=-2, bitfit=-2, norm=-2, ia3=-2),
    ),
    Rule(
        "prompts want a large base",
        "bases below ten billion parameters",
        "below about ten billion parameters prompt tuning stays behind",
        "Lester et al. 2021, https://arxiv.org/abs/2104.08691, section 3.1",
        when=lambda situation: situation.parameters < LARGE,
        points=gives(prompt=-2, ptuning=-2),
    ),
    Rule(
        "prompts on a large base",
        "bases from ten billion parameters",
        "from about ten billion parameters on prompt tuning matches full fine-tuning",
        "Lester et al. 2021, https://arxiv.org/abs/2104.08691, section 3.1",
        when=lambda situation: situation.parameters >= LARGE,
        points=gives(prompt=1, ptuning=1),
    ),
    Rule(
        "many tasks, one base",
        "more than one task",
        "rows of one batch can belong to different tasks, each with its small delta",
        "found by trying: `deltatune methods` shows what can be routed",
        when=lambda situation: situation.tasks > 1,
        points=lambda candidate: int(candidate.routes),
        excludes=lambda candidate: not candidate.routes,
    ),
    Rule(
        "a plain model",
        "the result has to be merged",
        "what is used as a plain model has to be merged into its weights",
        "found by trying: `deltatune methods` shows what merges",
        when=lambda situation: situation.merged,
        points=nothing,
        excludes=lambda candidate: not candidate.merges,
    ),
    Rule(
        "slower in use",
        "the result need not be merged",
        "adapters in sequence make each answer slower, by up to 30 % for one short text",
        "Hu et al. 2021, https://arxiv.org/abs/2106.09685, table 1",
        when=lambda situation: not situation.merged,
        points=gives(houlsby=-1, pfeiffer=-1),
    ),
    Rule(
        "a packed base",
        "the base is in 4 or 8 bits",
        "on a base in 4 bits LoRA on all linear layers reached what 16 bits reach",
        "Dettmers et al. 2023, https://arxiv.org/abs/2305.14314, section 4",
        when=lambda situation: situation.quant is not None,
        points=lambda candidate: 2 if candidate.is_everywhere else 1 if candidate.key in FAMILIES["low rank"] else 0,
    ),
)
"""All of them. A rule that holds in no situation, or says nothing of any method, fails a test."""
