"""How good a model is on data: its loss over the supervised tokens, its exact answers, or how well it classifies.

Sums are kept for each example and divided once, so the result does not depend on how the data fall into batches. A
causal model that takes packed batches gets them: no padding, what examples share run once, logits only where there is a
label. The result is the same within rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltatune.attachment.bank import unwrap
from deltatune.attachment.shards import is_sharded
from deltatune.attachment.stacks import evaluating
from deltatune.packing.known import ask, is_routed
from deltatune.packing.packed import pack
from deltatune.packing.path import PackedModel, why_not
from deltatune.train.collate import Collator
from deltatune.train.complete import Prediction, answers, chunks, complete, decode, device_of
from deltatune.train.encode import IGNORE, Encoded, EncodedSet, Kind

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from deltatune.io.bases import Base

__all__ = ["Confusion", "Evaluation", "Prediction", "complete", "evaluate", "score"]

Gather = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Confusion:
    """How often each class was taken for each: `counts[true][predicted]`."""

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, true: Sequence[int], predicted: Sequence[int], labels: tuple[str, ...]) -> Confusion:
        """Count pairs of class ids."""
        counts = [[0] * len(labels) for _ in labels]
        for t, p in zip(true, predicted, strict=True):
            counts[t][p] += 1
        return cls(labels, tuple(map(tuple, counts)))

    @property
    def accuracy(self) -> float:
        """The share of examples whose class was found."""
        return sum(self.counts[i][i] for i in range(len(self.labels))) / sum(map(sum, self.counts))

    @property
    def macro_f1(self) -> float:
        """The mean F1 of the classes that occur, in the data or in the predictions."""
        size = range(len(self.labels))
        hits = [self.counts[i][i] for i in size]
        seen = [sum(self.counts[i]) + sum(row[i] for row in self.counts) for i in size]
        scores = [2 * hit / both for hit, both in zip(hits, seen, strict=True) if both]
        return sum(scores) / len(scores)


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found."""

    metrics: dict[str, float]
    """loss, and perplexity and token_accuracy, or accuracy and macro_f1; exact_match if completions were written."""
    examples: int
    supervised: int
    """Tokens the loss is over (classification: the examples)."""
    confusion: Confusion | None = None
    scores: Tensor | None = field(default=None, repr=False)
    """Of a classifier, the logits of each class, ``[examples, classes]``, in the order of the data."""
    predictions: tuple[Prediction, ...] = field(default=(), repr=False)


def evaluate(
    base: Base,
    data: EncodedSet,
    *,
    batch_size: int = 8,
    generate: bool = False,
    max_new_tokens: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> Evaluation:
    """Evaluate a model, with the deltas that are on it, on encoded data.

    Args:
        base: the model and its tokenizer.
        data: from `encode_records`, of the base's kind.
        batch_size: examples in a batch. Default: 8.
        generate: let the model answer each prompt greedily, and compare with the references. Default: false.
        max_new_tokens: how long an answer may get. Default: as long as the longest reference.
        progress: called with the number of examples of each finished batch. Default: nothing.

    Raises:
        DataError: answers were asked for and an example has no prompt.
    """
    collate, tokenizer = Collator.of(base.tokenizer), base.tokenizer
    kind: Kind = "classification" if data.labels else "seq2seq" if base.task == "seq2seq-lm" else "causal"
    if kind == "causal" and _packed_model(base.model) is not None:  # alike beginnings together
        order = sorted(range(len(data.examples)), key=lambda i: data.examples[i]["input_ids"])
    else:  # alike lengths
        order = sorted(range(len(data.examples)), key=lambda i: -len(data.examples[i]["input_ids"]))
    batches = (collate([data.examples[i] for i in batch]) for batch in chunks(order, batch_size))
    names = data.labels.names if data.labels else ()
    with evaluating(base.model):
        metrics, confusion, found = _score(base.model, batches, kind, names, progress=progress)
    shown: tuple[Prediction, ...] = ()
    scores = None
    if found is not None:
        scores = found[torch.tensor(order).argsort()]
        classes = scores.argmax(dim=-1).tolist()
        pairs = zip(data.examples, classes, strict=True)
        shown = tuple(_chosen(example, names[number], names, tokenizer) for example, number in pairs)
    elif generate:
        shown = tuple(answers(base, data.examples, kind, batch_size, max_new_tokens, progress))
        metrics["exact_match"] = sum(p.exact for p in shown) / len(shown)
    return Evaluation(metrics, len(data.examples), data.supervised, confusion, scores, shown)


def score(
    model: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    kind: Kind,
    labels: Sequence[str] = (),
    *,
    gather: Gather = lambda values: values,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    packed: bool = True,
) -> dict[str, float]:
    """The loss of a model over batches and what goes with it; for a training loop.

    Args:
        model: the model; it is put back into the mode it was in.
        batches: keyword arguments of its forward pass, with labels.
        kind: of model, as for `encode_records`.
        labels: the names of the classes, for classification.
        gather: brings the values of one batch together from all processes. Default: there is only one.
        context: around each forward pass, such as autocast. Default: nothing.
        packed: run a causal model past its own ``forward``, without padding, if it allows. Default: true.
    """
    with evaluating(model):
        return _score(model, batches, kind, tuple(labels), gather=gather, context=context, packed=packed)[0]


def _score(
    model: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    kind: Kind,
    labels: tuple[str, ...],
    *,
    gather: Gather = lambda values: values,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    packed: bool = True,
    progress: Callable[[int], object] | None = None,
) -> tuple[dict[str, float], Confusion | None, Tensor | None]:
    """Metrics, and of a classifier what it took for what and the logits of each example, in the order of batches."""
    rows: list[Tensor] = []
    packed_model = _packed_model(model) if packed and kind == "causal" else None
    with nullcontext() if packed_model is None else packed_model.listening():
        for batch in batches:
            if packed_model is not None and _is_text(batch):
                with torch.no_grad(), context():
                    found = _packed_rows(packed_model, batch)
            else:
                inputs = {name: value.to(device_of(model)) for name, value in batch.items()}
                with torch.no_grad(), context():
                    logits = model(**inputs).logits
                found = _ROWS[kind](logits, inputs["labels"])
            rows.append(gather(found).cpu())
            if progress is not None:
                progress(len(batch["labels"]))
    table = torch.cat(rows).double()
    loss = float(table[:, 0].sum() / table[:, 1].sum())
    if kind == "classification":
        scores = table[:, 3:]
        confusion = Confusion.of(table[:, 2].long().tolist(), scores.argmax(dim=-1).tolist(), labels)
        return (
            {"loss": loss, "accuracy": confusion.accuracy, "macro_f1": confusion.macro_f1},
            confusion,
            scores,
        )
    right = float(table[:, 2].sum() / table[:, 1].sum())
    return {"loss": loss, "perplexity": _exp(loss), "token_accuracy": right}, None, None


def _packed_model(model: nn.Module) -> PackedModel | None:
    """The model as packed batches see it, if it takes them as it is now."""
    model = unwrap(model)
    if is_sharded(model) or is_routed(model) or ask(why_not, model) is not None:
        return None
    return PackedModel(model)


def _is_text(batch: Mapping[str, Tensor]) -> bool:
    """Whether a batch has a label for each token, and nothing else that a model would read."""
    return batch.keys() <= _TEXT and batch["input_ids"].shape == batch["labels"].shape


_TEXT = {"input_ids", "labels", "attention_mask"}


def _packed_rows(packed_model: PackedModel, batch: Mapping[str, Tensor]) -> Tensor:
    """As :func:`_token_rows`, of a padded batch; in its dtype too, for a process whose model takes none of these."""
    examples = [dict(zip(batch, columns, strict=True)) for columns in zip(*batch.values(), strict=True)]
    packed = pack(examples).to(device_of(packed_model.model))
    losses, hits = packed_model.scores(packed)
    each = torch.stack([losses.float(), torch.ones_like(hits, dtype=torch.float32), hits.float()], dim=1)
    return torch.zeros(len(examples), 3, device=losses.device).index_add_(0, packed.texts, each)


def _token_rows(logits: Tensor, labels: Tensor) -> Tensor:
    """For each example: the sum of its losses, its supervised tokens, and how many of these came first. `[B, 3]`."""
    supervised = labels != IGNORE
    targets = labels[supervised]
    chosen = logits[supervised].float()  # of the supervised tokens alone: a vocabulary is wide
    losses, hits = F.cross_entropy(chosen, targets, reduction="none"), (chosen.argmax(-1) == targets).float()
    rows = torch.zeros(len(labels), 3, device=logits.device)
    return rows.index_add_(0, supervised.nonzero()[:, 0], torch.stack([losses, torch.ones_like(losses), hits], dim=1))


def _causal_rows(logits: Tensor, labels: Tensor) -> Tensor:
    logits = logits[:, -labels.shape[1] :]  # of what the labels are for, should a delta have put rows before
    return _token_rows(logits[:, :-1], labels[:, 1:])


def _class_rows(logits: Tensor, labels: Tensor) -> Tensor:
    losses = F.cross_entropy(logits.float(), labels, reduction="none")
    return torch.cat([torch.stack([losses, torch.ones_like(losses), labels.float()], dim=1), logits.float()], dim=1)


_ROWS: dict[Kind, Callable[[Tensor, Tensor], Tensor]] = {
    "causal": _causal_rows,
    "seq2seq": _token_rows,
    "classification": _class_rows,
}


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf


def _chosen(example: Encoded, prediction: str, names: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Prediction:
    label = example["labels"]
    assert isinstance(label, int)
    return Prediction(decode(example["input_ids"], tokenizer), names[label], prediction)
