"""A new database with few examples: composing what was learned on others, against learning from scratch.

The question of FinSQL (Zhang 2024, https://arxiv.org/abs/2401.10506): each database has a delta of its own
on one base. For a database that comes later, with no, ten or fifty examples, is it better to compose the deltas that
there are, to go on training from the composition, or to train a fresh delta on the few examples alone?
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import random
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers
from torch import nn

import deltatune as dt
from deltatune.apps.sql.config import PromptSpec
from deltatune.apps.sql.examples import Example
from deltatune.apps.sql.scoring.growing import GrowingReport
from deltatune.apps.sql.scoring.report import Report
from deltatune.apps.sql.scoring.scores import right_result
from deltatune.apps.sql.source import Source
from deltatune.apps.sql.study import judge
from deltatune.apps.sql.teaching import lessons
from deltatune.apps.sql.writer import Writer
from deltatune.composition.lorahub import SEARCHED
from deltatune.composition.ways import How
from deltatune.errors import ConfigError
from deltatune.train.collate import Collator
from deltatune.train.complete import chunks
from deltatune.train.encode import EncodedSet, encode_records
from deltatune.train.records import read_records
from deltatune.train.run import quiet

if TYPE_CHECKING:
    from deltatune.attachment.delta import Delta
    from deltatune.methods.base import Method

__all__ = ["SHOTS", "FewShots", "draw_shots", "transfer"]

SHOTS = (0, 10, 50)
GROUP = "new database"
SEARCHED_AT_ONCE = 16
"""Examples in a batch of the search, which learns nothing: what prompts of a batch share runs once."""
MADE = "made"
"""What the delta of a way is called, unless a system is called so."""


@dataclass(frozen=True, slots=True)
class FewShots:
    """How to learn from few examples.

    Args:
        epochs: passes over them.
        batch_size: examples a step.
        learning_rate: the highest; it falls to zero.
        evaluations: weights that LoRAHub tries.
        how: the way of composing: ``"cat"`` adds what the deltas do, ``"factors"`` averages A and B as FinSQL does.
        seed: of a fresh delta, the order of examples and the search.

    Raises:
        ConfigError: `how` is no way whose weights LoRAHub can search for, or the learning rate is not above 0.
    """

    epochs: int = 8
    batch_size: int = 4
    learning_rate: float = 5e-4
    evaluations: int = 20
    how: How = "cat"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.how not in SEARCHED:
            raise ConfigError(f"how: expected one of {', '.join(SEARCHED)}, found {self.how!r}; choose one of them")
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"learning_rate: expected a number above 0, found {self.learning_rate}; raise it")


def draw_shots(examples: Sequence[Example], count: int, seed: int = 0) -> list[Example]:
    """Some examples, from as many templates as there are; more of them begin with the fewer.

    Raises:
        ConfigError: there are not so many.
    """
    if count > len(examples):
        raise ConfigError(f"shots: expected at most {len(examples)}, found {count}; make more examples")
    rng = random.Random(seed)
    by_template: dict[str, list[Example]] = defaultdict(list)
    for example in rng.sample(list(examples), len(examples)):
        by_template[example.template].append(example)
    rounds = [own[turn] for turn in range(len(examples)) for own in by_template.values() if turn < len(own)]
    return rounds[:count]


def transfer(
    writer: Writer,
    names: Sequence[str],
    method: Method,
    source: Source,
    support: Sequence[Example],
    target: Sequence[Example],
    spec: PromptSpec,
    *,
    shots: Sequence[int] = SHOTS,
    few: FewShots = FewShots(),
    about: Mapping[str, str | int | float | bool] | None = None,
    file: Path | None = None,
    progress: Callable[[str], object] | None = None,
) -> Report:
    """Measure every way to a new database.

    Args:
        writer: the model with the deltas of other databases on it, and how it is prompted.
        names: these deltas.
        method: what is trained from scratch.
        source: the new database.
        support: what the few examples are drawn from.
        target: what is asked then; of other templates than the support.
        spec: the prompts of what is learned.
        shots: how many examples. Default: 0, 10 and 50.
        few: how to learn from them.
        about: what else the report should say of the setting.
        file: where the report is kept after each way, and from where ways of the same questions and setting are taken.
            Default: nowhere.
        progress: called with the name of what is measured next. Default: nothing.

    Returns:
        A report whose stages are the ways, each with the number of its examples.

    Raises:
        ConfigError: there are not so many examples.
        DataError: the right SQL of a question does not run, or the file holds something else.
    """
    drawn = {count: draw_shots(support, count, few.seed) for count in shots if count}
    made = MADE
    while made in names:
        made += "_"
    learning = _Learning(writer, tuple(names), method, source, spec, few, made)
    ways = dict(_ways(learning, drawn, alone=0 in shots))
    for example in target:  # what is wrong with the questions is told before they cost anything
        right_result(example, source.reader)
    setting = {
        "deltas": ", ".join(names),
        **dataclasses.asdict(few),
        "examples": hashlib.sha256(repr(list(support)).encode()).hexdigest()[:8],
        "database": source.identity[:8],
        **(about or {}),
    }
    growing = GrowingReport(file, {GROUP: target}, setting, ways)
    for label, make in ((label, make) for label, make in ways.items() if label not in growing):
        if progress is not None:
            progress(label)
        with learning.only():
            make()
            evidence = [example.evidence for example in target]
            texts = writer.write([example.question for example in target], source, evidence=evidence)
        outcomes = (judge(example, written, source) for example, written in zip(target, texts, strict=True))
        growing.add(label, {GROUP: tuple(outcomes)})
    return growing.report(ways)


def _ways(
    learning: _Learning, drawn: Mapping[int, Sequence[Example]], *, alone: bool
) -> Iterator[tuple[str, Callable[[], object]]]:
    """What each way is called, and what makes its delta."""
    if alone:
        for name in learning.names:
            yield f"{name} alone, 0 examples", partial(learning.enable, name)
        yield "composed, 0 examples", learning.compose
    for count, examples in drawn.items():
        yield f"from scratch, {count} examples", partial(learning.scratch, examples)
        yield f"composed by LoRAHub, {count} examples", partial(learning.search, examples)
        yield f"composed, then trained, {count} examples", partial(learning.go_on, examples)


@dataclass(frozen=True)
class _Learning:
    """The ways, on one model; each leaves one delta on."""

    writer: Writer
    names: tuple[str, ...]
    method: Method
    source: Source
    spec: PromptSpec
    few: FewShots
    made: str
    """What the delta of a way is called."""

    @property
    def model(self) -> nn.Module:
        return self.writer.base.model

    @contextmanager
    def only(self) -> Iterator[None]:
        """No delta is on before the block, and none that it made is left behind."""
        for name in self.names:
            dt.disable(self.model, name)
        try:
            yield
        finally:
            if self.made in dt.deltas(self.model):
                dt.detach(self.model, self.made)

    def enable(self, name: str) -> None:
        dt.enable(self.model, name)

    def compose(self) -> Delta:
        shares = dict.fromkeys(self.names, 1 / len(self.names))
        delta = dt.compose(shares, self.few.how, model=self.model, name=self.made).delta
        assert delta is not None  # it was attached
        return delta

    def search(self, examples: Sequence[Example]) -> None:
        collate = Collator.of(self.writer.base.tokenizer)
        batches = [dict(collate(batch)) for batch in chunks(self.encoded(examples).examples, SEARCHED_AT_ONCE)]
        few = self.few
        dt.lorahub(
            self.model, self.names, batches, how=few.how, name=self.made, evaluations=few.evaluations, seed=few.seed
        )

    def go_on(self, examples: Sequence[Example]) -> None:
        self.train(self.compose().unfreeze(), examples)

    def scratch(self, examples: Sequence[Example]) -> None:
        transformers.set_seed(self.few.seed)
        self.train(dt.attach(self.model, self.method, name=self.made), examples)

    def train(self, delta: Delta, examples: Sequence[Example]) -> None:
        with tempfile.TemporaryDirectory() as folder, quiet():
            arguments = transformers.TrainingArguments(
                folder,
                num_train_epochs=self.few.epochs,
                per_device_train_batch_size=self.few.batch_size,
                learning_rate=self.few.learning_rate,
                lr_scheduler_type="cosine",
                warmup_steps=0.1,
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
                seed=self.few.seed,
                use_cpu=next(self.model.parameters()).device.type == "cpu",
                remove_unused_columns=False,
            )
            collate = Collator.of(self.writer.base.tokenizer)
            dataset: Any = self.encoded(examples).examples
            packing = dt.Packing(group=1.0)  # a few examples are seen so often that their order matters little
            trainer = dt.Trainer(self.model, arguments, train_dataset=dataset, data_collator=collate, packing=packing)
            trainer.remove_callback(transformers.PrinterCallback)
            trainer.train()
        delta.freeze()

    def encoded(self, examples: Sequence[Example]) -> EncodedSet:
        count, seed = self.writer.prompter.count, self.few.seed
        made = lessons(examples, {examples[0].database: self.source}, self.spec, count=count, seed=seed)
        return encode_records(read_records(list(made)), self.writer.base.tokenizer, on_overflow="error")
