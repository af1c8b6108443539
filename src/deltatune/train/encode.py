"""Turning records into token ids and labels.

A causal example is a list of parts, each some tokens that are either learned or only read. Parts are tokenised one by
one, never across their border, so that the tokens of a prompt are exactly those the model sees when it is prompted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, TypedDict, get_args

from deltatune.errors import ConfigError, DataError
from deltatune.train.chat import chat_parts
from deltatune.train.examples import Chat, Completion, Labeled, Message, Text
from deltatune.train.job import ChatUse, Job, Part
from deltatune.train.labels import LabelSet
from deltatune.train.records import Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["IGNORE", "Encoded", "EncodedSet", "Kind", "Overflow", "encode_records"]

IGNORE = -100  # the label that torch's cross entropy leaves out

Kind: TypeAlias = Literal["causal", "seq2seq", "classification"]
Overflow: TypeAlias = Literal["truncate", "error", "drop"]


class _Required(TypedDict):
    input_ids: list[int]
    labels: list[int] | int


class Encoded(_Required, total=False):
    """One example: `labels` is the class id for classification, else one id (or -100) a token."""

    token_type_ids: list[int]


@dataclass(frozen=True, slots=True)
class EncodedSet:
    """Examples ready for the collator, and the counts that a user should see before training."""

    examples: list[Encoded]
    labels: LabelSet | None
    """The classes, for classification; give them when encoding the evaluation data."""
    truncated: int
    dropped: int
    tokens: int
    """Tokens that the model reads or predicts, after truncation."""
    supervised: int
    """Of these, the ones a loss is computed on (classification: the examples)."""
    longest: int
    """Tokens of the longest example, before truncation."""

    def __str__(self) -> str:
        counts = f"{len(self.examples):,} examples, {self.tokens:,} tokens, {self.supervised:,} supervised"
        return f"{counts}; {self.truncated:,} truncated, {self.dropped:,} dropped; longest {self.longest:,} tokens"


@dataclass(frozen=True, slots=True)
class _Draft:
    """An encoded example, already cut to fit; `length` is what it had before."""

    encoded: Encoded
    length: int
    cut: bool
    supervised: int


def encode_records(
    records: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase,
    *,
    kind: Kind = "causal",
    max_length: int | None = None,
    on_overflow: Overflow = "truncate",
    chat: ChatUse = "auto",
    labels: LabelSet | None = None,
) -> EncodedSet:
    """Encode records for training or evaluation.

    Args:
        records: from `read_records`.
        tokenizer: the model's; it is not changed.
        kind: of model. "causal": `labels` go with `input_ids`, -100 where not learned. "seq2seq": prompt and completion
            apart. "classification": `labels` is the id of the class.
        max_length: tokens an example may have (seq2seq: on each side); by default the tokenizer's own limit, if any.
        on_overflow: what to do with a longer one. "truncate" cuts the prompt from its left, and only where the
            completion alone is too long, the completion from its right; "drop" leaves the example out, and also one
            that has no learned token; "error" refuses the data.
        chat: render prompt and completion through the tokenizer's chat template; "auto" does if it has one.
        labels: the classes, for evaluation data; by default those found in `records`.

    Raises:
        DataError: a record does not suit the kind of model, its chat can not be rendered, its label is not in
            `labels`, it is too long, or nothing in it, or in all the data, would be learned.
        ConfigError: an argument is not one of those above, or `max_length` leaves no room.
    """
    _check_choice("kind", kind, get_args(Kind))
    _check_choice("on_overflow", on_overflow, get_args(Overflow))
    _check_choice("chat", chat, ("auto", True, False))
    if kind == "classification":
        labels = labels or LabelSet.of(records)
    job = Job(tokenizer, max_length, chat, labels)
    drafts = [(record, _ENCODERS[kind](record, job)) for record in records]
    _refuse(drafts, job, on_overflow)
    kept = [d for _, d in drafts if on_overflow != "drop" or (d.supervised and not d.cut)]
    if not any(d.supervised for d in kept):
        left = f"{len(kept)} of {len(drafts)} examples left"
        raise DataError(f"data: {left}; expected some to learn from; raise max_length or set on_overflow='truncate'")
    return EncodedSet(
        examples=[d.encoded for d in kept],
        labels=labels,
        truncated=sum(d.cut for d in kept),
        dropped=len(drafts) - len(kept),
        tokens=sum(_size(d.encoded, kind) for d in kept),
        supervised=sum(d.supervised for d in kept),
        longest=max(d.length for _, d in drafts),
    )


def _check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{name}: {value!r} is unknown; expected one of {', '.join(map(repr, choices))}; choose one")


def _refuse(drafts: list[tuple[Record, _Draft]], job: Job, on_overflow: Overflow) -> None:
    """Raise for what the policy does not allow: too long, or nothing to learn."""
    long = [(record, draft) for record, draft in drafts if draft.cut]
    if long and on_overflow == "error":
        record, draft = long[0]
        count = f"{draft.length} tokens ({len(long)} of {len(drafts)} examples are too long)"
        raise DataError(f"{record.origin}: {count}; expected at most {job.limit}; raise max_length or set on_overflow=")
    empty = [record for record, draft in drafts if not draft.supervised]
    if empty and on_overflow != "drop":
        count = f"no token to learn ({len(empty)} of {len(drafts)} examples have none)"
        hint = "correct the data or the chat template, or set on_overflow='drop'"
        raise DataError(f"{empty[0].origin}: {count}; expected an answer after the prompt; {hint}")


def _size(encoded: Encoded, kind: Kind) -> int:
    labels = encoded["labels"]
    return len(encoded["input_ids"]) + (len(labels) if kind == "seq2seq" and isinstance(labels, list) else 0)


# Causal models: prompt and labels in one row of tokens.


def _encode_causal(record: Record, job: Job) -> _Draft:
    match record.example:
        case Chat() as chat:
            parts = chat_parts(chat, record, job)
        case Completion() as pair if job.chat is True or (job.chat and job.tokenizer.chat_template):
            turns = (Message("user", pair.prompt), Message("assistant", pair.completion))
            parts = chat_parts(Chat(turns), record, job)
        case Completion() as pair:
            texts = [(pair.prompt + pair.separator, False), (pair.completion, True)]
            parts = _framed(list(job.parts(texts)), job)
        case Text(text):
            parts = _framed(list(job.parts([(text, True)])), job)
        case Labeled():
            raise DataError(f"{record.origin}: {_unsuited('causal', 'text, a prompt and completion, or messages')}")
    ids = [i for tokens, _ in parts for i in tokens]
    labels = [i if learned else IGNORE for tokens, learned in parts for i in tokens]
    length = len(ids)
    ids, labels = _fit(ids, labels, job)
    # The model predicts each token from those before it, so the label of the first one is never used.
    supervised = sum(label != IGNORE for label in labels[1:])
    return _Draft({"input_ids": ids, "labels": labels}, length, len(ids) < length, supervised)


def _unsuited(kind: Kind, wanted: str) -> str:
    return f"does not suit kind={kind!r}; expected {wanted}; change kind= or format="


def _framed(parts: list[Part], job: Job) -> list[Part]:
    """Put the tokenizer's bos before and eos behind, each unless the text spells it out already."""
    ids = [i for tokens, _ in parts for i in tokens]
    answer = [i for tokens, learned in parts for i in tokens if learned]
    prefix, _ = job.frame
    bos = [] if ids[: len(prefix)] == prefix else prefix
    eos = [] if answer[-1:] == [job.eos] else [job.eos]
    return [(bos, False), *parts, (eos, True)]


def _fit(ids: list[int], labels: list[int], job: Job) -> tuple[list[int], list[int]]:
    """Cut to the limit: from the prompt's left, then from the right; the tokenizer's own bos stays.

    If what follows the prompt would not fit even alone, the prompt keeps its last half limit of tokens: a long answer
    without any of its question teaches little.
    """
    limit = job.limit
    if limit is None or len(ids) <= limit:
        return ids, labels
    prefix, _ = job.frame
    bos = len(prefix) if ids[: len(prefix)] == prefix else 0
    prompt = next((i for i, label in enumerate(labels) if label != IGNORE), len(ids))
    fits = len(ids) - prompt + max(bos, 1) <= limit  # at least a token to predict the first of the answer from
    least = bos if fits else min(prompt, max(bos, limit // 2))
    left = min(len(ids) - limit, max(prompt - least, 0))
    start, stop = bos + left, left + limit
    return ids[:bos] + ids[start:stop], labels[:bos] + labels[start:stop]


# The other kinds of model.


def _encode_seq2seq(record: Record, job: Job) -> _Draft:
    if not isinstance(record.example, Completion):
        raise DataError(f"{record.origin}: {_unsuited('seq2seq', 'a prompt and completion')}")
    prompt = job.ids(record.example.prompt)
    target = job.tokenizer(text_target=record.example.completion, verbose=False)["input_ids"]
    target = list(target) if target[-1:] == [job.eos] else [*target, job.eos]
    prefix, suffix = job.frame
    frame = len(prefix) + len(suffix)
    length = max(len(prompt) + frame, len(target))
    if job.limit is not None:
        prompt, target = prompt[max(0, len(prompt) + frame - job.limit) :], target[: job.limit]
    encoded: Encoded = {"input_ids": [*prefix, *prompt, *suffix], "labels": target}
    return _Draft(encoded, length, job.limit is not None and length > job.limit, len(target))


def _encode_labeled(record: Record, job: Job) -> _Draft:
    if not isinstance(record.example, Labeled) or job.labels is None:
        raise DataError(f"{record.origin}: {_unsuited('classification', 'a text and label')}")
    example, label = record.example, str(record.example.label)
    if label not in job.labels.ids:
        names = ", ".join(job.labels.names)
        raise DataError(f"{record.origin}: label {label!r} is unknown; expected one of {names}; correct it")
    text, pair = example.text, example.text_pair
    if pair is not None and not job.tokenizer.num_special_tokens_to_add(pair=True):
        text, pair = f"{text}\n{pair}", None  # or this tokenizer would join the two without a seam
    out = job.tokenizer(text, pair, verbose=False)
    length, cut = len(out["input_ids"]), False
    if job.limit is not None and length > job.limit:
        out, cut = job.tokenizer(text, pair, truncation=True, max_length=job.limit, verbose=False), True
    encoded: Encoded = {"input_ids": list(out["input_ids"]), "labels": job.labels.ids[label]}
    if "token_type_ids" in out:
        encoded["token_type_ids"] = list(out["token_type_ids"])
    return _Draft(encoded, length, cut, 1)


_ENCODERS: dict[Kind, Callable[[Record, Job], _Draft]] = {
    "causal": _encode_causal,
    "seq2seq": _encode_seq2seq,
    "classification": _encode_labeled,
}
