"""Scores are the mean log-likelihoods of the answers, whatever runs once."""

from __future__ import annotations

import pytest
import torch

from deltatune.apps.tab.scoring import AnswerScorer, class_scores
from deltatune.apps.tab.task import Task
from deltatune.io.bases import Base

from . import bases
from .bases import TEXTS, likelihoods

COLOURS = Task("Which colour?", {"r": "red", "g": "grey or so", "b": "black, I think"})


@pytest.fixture(scope="module", params=["llama", "chat", "t5"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    folder = tmp_path_factory.mktemp(request.param)
    return bases.double(
        bases.t5(folder) if request.param == "t5" else bases.llama(folder, chat=request.param == "chat")
    )


def test_scores_are_the_means_of_a_plain_loop(base: Base) -> None:
    prompts, answers = COLOURS.prompts(base, TEXTS), COLOURS.answer_tokens(base)
    assert {len(answer) for answer in answers} != {1}
    wanted = [[likelihoods(base.model, prompt, answer).mean() for answer in answers] for prompt in prompts]
    found = class_scores(base, prompts, answers)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.double))


def test_the_batch_changes_nothing(base: Base) -> None:
    prompts, answers = COLOURS.prompts(base, TEXTS), COLOURS.answer_tokens(base)
    together = class_scores(base, prompts, answers)
    torch.testing.assert_close(class_scores(base, prompts, answers, max_tokens=1), together)


@pytest.mark.parametrize("order", ["row-first", "question-first"])
def test_a_scorer_asks_its_task(base: Base, order: str) -> None:
    task = Task(COLOURS.question, COLOURS.answers, order)  # type: ignore[arg-type]
    wanted = class_scores(base, task.prompts(base, TEXTS), task.answer_tokens(base))
    torch.testing.assert_close(AnswerScorer(base, task).scores(TEXTS), wanted)


def test_the_frame_is_what_is_read_beside_the_row(base: Base) -> None:
    """Text that begins and ends a prompt may take other tokens beside it, but not many."""
    scorer = AnswerScorer(base, COLOURS)
    longest = max(map(len, COLOURS.answer_tokens(base)))
    for text in TEXTS:
        row = len(base.tokenizer(text, add_special_tokens=False)["input_ids"])
        whole = len(COLOURS.prompts(base, [text])[0]) + longest
        assert abs(scorer.frame + row - whole) <= 1
