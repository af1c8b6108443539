"""From questions to rows: write SQL, mend it, run it read-only, and of several tries take what most agree on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deltatune.apps.sql.repair import Repair
from deltatune.apps.sql.run import Result
from deltatune.apps.sql.source import Source
from deltatune.apps.sql.voting import Candidate, Vote, candidate, vote
from deltatune.apps.sql.writer import Writer

__all__ = ["Answer", "ask"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found for a question.

    Args:
        question: as it was asked.
        vote: the tries that agree, and the one that was chosen.
        tries: how many there were, those that do not run among them.
    """

    question: str
    vote: Vote
    tries: int = 1

    @property
    def chosen(self) -> Candidate:
        """The query that answers, with what was mended in it and what it returned."""
        return self.vote.chosen

    @property
    def sql(self) -> str:
        """The query; what the model wrote where nothing could be made of it."""
        return self.chosen.sql

    @property
    def repairs(self) -> tuple[Repair, ...]:
        """What was mended."""
        return self.chosen.repairs

    @property
    def result(self) -> Result | None:
        """The rows, if the query ran."""
        return self.chosen.result


def ask(
    writer: Writer,
    source: Source,
    questions: Sequence[str],
    *,
    evidence: Sequence[str] = (),
    calibrate: bool = True,
    constrained: bool = True,
    samples: int = 1,
    temperature: float = 0.7,
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
) -> list[Answer]:
    """Answer questions about one database.

    Args:
        writer: the model that writes SQL.
        source: the database.
        questions: in plain language.
        evidence: for each question what else one has to know. Default: nothing.
        calibrate: mend what can be mended before it runs. Default: true.
        constrained: write no word that is neither of SQL nor a name that the prompt shows. Default: true.
        samples: tries at each question; of several, the result that most of them agree on counts. Default: 1.
        temperature: that all but the first try are drawn with. Default: 0.7.
        seed: of what is drawn. Default: 0.
        progress: called with the number of questions whose SQL is written. Default: nothing.

    Raises:
        DataError: a question does not fit into the prompt's budget.
    """
    written = writer.write(
        questions,
        source,
        evidence=evidence,
        samples=samples,
        temperature=temperature,
        seed=seed,
        constrained=constrained,
        progress=progress,
    )
    return [
        Answer(question, settle(texts, source, calibrate=calibrate), len(texts))
        for question, texts in zip(questions, written, strict=True)
    ]


def settle(texts: Sequence[str], source: Source, *, calibrate: bool = True) -> Vote:
    """Run what was written for one question, mended if asked for, and choose."""
    seen: dict[str, Candidate] = {}
    for text in texts:
        if text not in seen:
            seen[text] = candidate(text, source.reader, values=source.values, repair=calibrate)
    return vote([seen[text] for text in texts])
