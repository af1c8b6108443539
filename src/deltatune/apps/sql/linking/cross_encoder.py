"""The trained linker: an encoder that reads a question together with a table, and scores the table and its columns.

After FinSQL (Zhang et al. 2024, https://arxiv.org/abs/2401.10506). One sequence is a question and a table. A head with
one logit a token is put on the encoder: a column's logit is the mean over its own tokens, a table's the mean over the
tokens of its name and comment. So one pass scores a table and all of its columns. The encoder is frozen; what is
trained, and saved, is a delta and the head.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

import deltatune as dt
from deltatune.apps.sql.linking.pieces import Piece, cut
from deltatune.apps.sql.linking.ranking import Ranking
from deltatune.apps.sql.schema import Database
from deltatune.attachment.stacks import evaluating
from deltatune.errors import ConfigError, FileFormatError
from deltatune.io.atomic import atomic_files
from deltatune.io.bases import Base
from deltatune.methods.base import Method

__all__ = ["METHOD", "CrossEncoder", "Scores", "Settings"]

METHOD = dt.LoRA(r=8, alpha=16, targets=("all_linear",))
"""What is attached if nothing else is asked for."""
FILE = "linker.json"
FORMAT = 1
NAME = "linker"


@dataclass(frozen=True, slots=True)
class Settings:
    """How text is put to the encoder.

    Args:
        base: the encoder, as `dt.load_base` takes it.
        table_tokens: of a table in one sequence; a wider one is read in pieces.
        question_tokens: of a question; the rest is cut off.
        batch_tokens: of all sequences that are read at once, padding included.
    """

    base: str = "minilm"
    table_tokens: int = 192
    question_tokens: int = 61
    batch_tokens: int = 4096

    def __post_init__(self) -> None:
        for name in ("table_tokens", "question_tokens", "batch_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected at least 1, found {getattr(self, name)}; allow more")


@dataclass(frozen=True, slots=True)
class Scores:
    """Logits of one batch.

    Args:
        tables: of each sequence, ``[sequences]``.
        columns: of each column, sequence by sequence, ``[columns of all sequences]``.
    """

    tables: Tensor
    columns: Tensor


class CrossEncoder:
    """An encoder with a delta that scores tables and columns. Made by :meth:`create` or :meth:`load`.

    Args:
        base: the encoder, for token classification with one label.
        delta: what is attached to it.
        settings: how text is put to it.
    """

    def __init__(self, base: Base, delta: dt.Delta, settings: Settings) -> None:
        self.base = base
        self.delta = delta
        self.settings = settings

    @classmethod
    def create(cls, method: Method | None = None, *, settings: Settings | None = None, seed: int = 0) -> CrossEncoder:
        """An encoder with a fresh delta and head, to be trained.

        Args:
            method: what to attach. Default: LoRA of rank 8 on all linear layers.
            settings: how text is put to it, and which encoder it is.
            seed: of what starts at random.

        Raises:
            ConfigError: there is no such encoder, or the method does not fit it.
            DeltaError: a package is missing.
        """
        settings = settings or Settings()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            base = _encoder(settings)
            return cls(base, dt.attach(base.model, method or METHOD, name=NAME), settings)

    @classmethod
    def load(cls, folder: str | Path) -> CrossEncoder:
        """The linker that :meth:`save` wrote.

        Raises:
            FileFormatError: there is none, or it is damaged.
            BaseMismatchError: its encoder is another one here.
        """
        settings = _read_settings(Path(folder) / FILE)
        base = _encoder(settings)
        return cls(base, dt.load(base.model, folder, name=NAME), settings)

    def save(self, folder: str | Path) -> Path:
        """Write the delta, with the head, in Hugging Face PEFT's layout, and the settings. All or nothing."""
        with atomic_files(Path(folder)) as scratch:
            dt.save(self.delta, scratch)
            about = {"format": FORMAT, **asdict(self.settings)}
            (scratch / FILE).write_text(json.dumps(about, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        return Path(folder)

    def pieces(self, schema: Database) -> list[Piece]:
        """The tables of a database as this encoder reads them."""
        return cut(schema, self.base.tokenizer, self.settings.table_tokens)

    def rank(self, questions: Sequence[str], schema: Database) -> list[Ranking]:
        """A ranking for each question; all tables of all questions are scored in batches of about equal length."""
        pieces = self.pieces(schema)
        tables = [dict.fromkeys((table.name for table in schema.tables), -torch.inf) for _ in questions]
        columns: list[dict[str, dict[str, float]]] = [{table.name: {} for table in schema.tables} for _ in questions]
        pairs = [(i, piece) for i in range(len(questions)) for piece in pieces]
        with evaluating(self.base.model), torch.no_grad():
            for batch in self.batches([(questions[i], piece) for i, piece in pairs]):
                scores = self.score([(questions[pairs[n][0]], pairs[n][1]) for n in batch])
                said = iter(scores.columns.sigmoid().tolist())
                for n, chance in zip(batch, scores.tables.sigmoid().tolist(), strict=True):
                    i, piece = pairs[n]
                    tables[i][piece.table] = max(tables[i][piece.table], chance)
                    columns[i][piece.table].update((span.column, next(said)) for span in piece.spans)
        return [Ranking(schema, tables[i], columns[i]) for i in range(len(questions))]

    def batches(self, pairs: Sequence[tuple[str, Piece]]) -> Iterator[list[int]]:
        """The positions of the pairs, sorted by length and cut so that no batch has too many tokens."""
        asked = {question for question, _ in pairs}
        sizes = {text: min(len(self._ids(text)), self.settings.question_tokens) for text in asked}
        lengths = [sizes[question] + piece.length for question, piece in pairs]
        batch: list[int] = []
        for n in sorted(range(len(pairs)), key=lambda n: -lengths[n]):
            if batch and (len(batch) + 1) * lengths[batch[0]] > self.settings.batch_tokens:
                yield batch
                batch = []
            batch.append(n)
        if batch:
            yield batch

    def score(self, pairs: Sequence[tuple[str, Piece]]) -> Scores:
        """One pass over questions with pieces of tables."""
        tokenizer = self.base.tokenizer
        questions = [self._short(question) for question, _ in pairs]
        inputs = tokenizer(questions, [piece.text for _, piece in pairs], padding=True, return_tensors="pt")
        logits = self.base.model(**inputs.to(self.base.model.device)).logits.squeeze(-1)
        firsts = [inputs.sequence_ids(row).index(1) + row * logits.shape[1] for row in range(len(pairs))]
        pieces = [piece for _, piece in pairs]
        tables = [range(first, first + piece.head) for first, piece in zip(firsts, pieces, strict=True)]
        columns = [
            range(first + span.start, first + span.stop)
            for first, piece in zip(firsts, pieces, strict=True)
            for span in piece.spans
        ]
        means = _means(logits.flatten(), [*tables, *columns])
        return Scores(means[: len(tables)], means[len(tables) :])

    def _short(self, question: str) -> str:
        ids = self._ids(question)
        longest = self.settings.question_tokens
        return question if len(ids) <= longest else str(self.base.tokenizer.decode(ids[:longest]))

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.base.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def _means(values: Tensor, spans: Sequence[range]) -> Tensor:
    """The mean of each span of a vector."""
    where = [place for span in spans for place in span]
    lengths = torch.tensor([len(span) for span in spans], device=values.device)
    owner = torch.arange(len(spans), device=values.device).repeat_interleave(lengths)
    return values.new_zeros(len(spans)).index_add(0, owner, values[where]) / lengths


def _encoder(settings: Settings) -> Base:
    return dt.load_base(settings.base, task="token-classification", num_labels=1, dtype="float32")


def _read_settings(file: Path) -> Settings:
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        if about.pop("format") != FORMAT:
            raise FileFormatError(f"{file}: expected format {FORMAT}, found another; upgrade deltatune")
        return Settings(**about)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, (FileFormatError, ConfigError)):
            raise
        raise FileFormatError(f"{file}: expected a linker's settings, found {error}; save the linker again") from None
