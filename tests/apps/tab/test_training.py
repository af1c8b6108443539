"""Training on shots: the loss and gradients of a plain loop, any method, the same bytes again, the base as it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

import deltatune as dt
from deltatune.apps.tab import training
from deltatune.apps.tab.likelihood import likelihood, packed, padded
from deltatune.apps.tab.loss import tfew_loss
from deltatune.apps.tab.scoring import AnswerScorer
from deltatune.apps.tab.shared import SharedBase
from deltatune.apps.tab.training import Training, train
from deltatune.errors import ConfigError
from deltatune.io.bases import Base
from deltatune.packing.padded import Pair
from deltatune.packing.path import PackedModel
from deltatune.train.trunk_cache import TrunkCache, cached_trunk
from tests.models.families import FAMILIES, VOCABULARY, Family
from tests.models.methods import ROWS, Row
from tests.models.tools import (
    assert_bit_identical,
    assert_close,
    attach,
    every_method,
    families,
    fingerprint,
    gradients,
    values,
)

from . import bases
from .bases import WARMTH, with_gradients

CODES = [1, 0, 1, 0]


@pytest.fixture(scope="module", params=["llama", "t5"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    made = getattr(bases, request.param)(tmp_path_factory.mktemp(request.param))
    return dt.load_base(made)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return dt.load_base(bases.llama(tmp_path_factory.mktemp("llama")))


def trained(base: Base, method: Any = None, **settings: Any) -> tuple[Any, list[float]]:
    method = method or dt.LoRA(r=4)
    how = Training(**{"steps": 3, "batch": 2, "learning_rate": 1e-2, **settings})
    return train(AnswerScorer(base, WARMTH), bases.TEXTS, CODES, method, how)


def tensors(delta: Any) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in delta.named_parameters()}


# The loss and its gradients.


def drawn_pairs(rows: int = 3) -> tuple[list[Pair], Tensor, int]:
    """Rows with a long prompt, and three answers of one to three tokens, two of which begin alike."""
    generator = torch.Generator().manual_seed(2)

    def draw(length: int) -> list[int]:
        return torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()  # type: ignore[no-any-return]

    start, answers = draw(5), [[7, 8], [7, 9, 4], [5]]
    pairs = [
        Pair(row, prompt, answer)
        for row, prompt in enumerate(start + draw(6 + r) for r in range(rows))
        for answer in answers
    ]
    return pairs, torch.tensor([2, 0, 1])[:rows], len(answers)


def loop(model: Any, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """Each answer alone."""
    each = [with_gradients(model, pair.prompt, pair.answer) for pair in pairs]
    return torch.cat(each), torch.tensor([number for number, one in enumerate(each) for _ in one])


@families("llama", "qwen2", "qwen3", "gpt2", "t5")
def test_loss_and_gradients_are_those_of_a_plain_loop(family: Family) -> None:
    model = family.model()
    attach(model, ROWS["lora"], family, seed=1)
    pairs, right, classes = drawn_pairs()
    plain = tfew_loss(*loop(model, pairs), right, classes)
    plain.backward()
    wanted = gradients(model)
    model.zero_grad()
    with likelihood(model) as likely:
        loss = tfew_loss(*likely(pairs), right, classes)
        loss.backward()
    torch.testing.assert_close(loss, plain, rtol=1e-5, atol=0)
    found = gradients(model)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert_close(found[name], gradient)


def test_padded_and_packed_batches_are_alike() -> None:
    model = FAMILIES["llama"].model().double()
    attach(model, ROWS["lora"], FAMILIES["llama"], seed=1)
    pairs, right, classes = drawn_pairs()
    packed_model = PackedModel(model)
    with packed_model.listening():
        tokens, of = packed(packed_model, pairs)
    others, its = padded(model, pairs)
    torch.testing.assert_close(tfew_loss(tokens, of, right, classes), tfew_loss(others, its, right, classes))


def test_a_prompt_runs_once_for_all_its_answers() -> None:
    model, ran = FAMILIES["llama"].model(), []
    pairs, _, _ = drawn_pairs(1)
    with likelihood(model) as likely:
        model.model.register_forward_pre_hook(
            lambda module, args, kwargs: ran.append(kwargs["input_ids"].numel()), with_kwargs=True
        )
        likely(pairs)
    assert ran == [len(pairs[0].prompt) + 2]  # a first token that two answers share, and the second of one of them


# The run.


def test_the_loss_falls(base: Base) -> None:
    _, losses = trained(base, steps=40, batch=4)
    assert len(losses) == 40
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])


def test_the_same_seed_gives_the_same_bytes(base: Base) -> None:
    one, other, third = trained(base), trained(base), trained(base, seed=1)
    assert one[1] == other[1] != third[1]
    assert_bit_identical(tensors(one[0]), tensors(other[0]))


def test_dropout_follows_the_seed(llama: Base) -> None:
    method = dt.LoRA(r=4, dropout=0.5)
    assert trained(llama, method)[1] == trained(llama, method)[1]


def test_layers_below_the_delta_run_once_for_each_shot(llama: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    method, caches = dt.LoRA(r=4, layers="last:1"), []

    @contextmanager
    def spied(model: Any, folder: str) -> Iterator[TrunkCache]:
        with cached_trunk(model, folder) as cache:
            caches.append(cache)
            yield cache

    monkeypatch.setattr(training, "cached_trunk", spied)
    delta, losses = trained(llama, method, steps=6, batch=4)
    assert [cache.reused for cache in caches] == [5]  # the first step has run them
    monkeypatch.setattr(training, "_trunk_kept", lambda model: nullcontext())
    plain, its = trained(llama, method, steps=6, batch=4)
    assert losses == pytest.approx(its, rel=1e-5)
    for name, tensor in tensors(plain).items():
        assert_close(tensors(delta)[name], tensor)


def test_the_random_stream_of_others_goes_on(llama: Base) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    trained(llama)
    assert torch.equal(torch.rand(3), wanted)


def test_the_base_is_left_as_it_was(base: Base) -> None:
    before, numbers = fingerprint(base.model), values(base.model)
    delta, _ = trained(base)
    assert fingerprint(base.model) == before
    assert_bit_identical(values(base.model), numbers)
    assert not delta.is_trainable


def test_a_failed_run_leaves_the_base_as_it_was(llama: Base) -> None:
    before = fingerprint(llama.model)
    with pytest.raises(IndexError):
        train(AnswerScorer(llama, WARMTH), bases.TEXTS, [0, 1, 2, 3], dt.LoRA(r=2), Training(steps=9))
    assert fingerprint(llama.model) == before


@every_method
def test_any_method_trains_and_acts_again_later(row: Row, llama: Base) -> None:
    """What it learned is off the base and comes back; in between the base is itself."""
    scorer, shared = AnswerScorer(llama, WARMTH), SharedBase(llama)
    plain = scorer.scores(bases.TEXTS)
    delta, losses = trained(llama, row.make(FAMILIES["llama"]), steps=6)
    assert all(torch.isfinite(torch.tensor(losses)))
    assert torch.equal(scorer.scores(bases.TEXTS), plain)
    with shared.using(delta):
        once = scorer.scores(bases.TEXTS)
    assert not torch.allclose(once, plain)
    with shared.using(delta):
        assert torch.equal(scorer.scores(bases.TEXTS), once)
    assert torch.equal(scorer.scores(bases.TEXTS), plain)


# How long, and in which order.


@pytest.mark.parametrize(
    ("shots", "batch", "steps"), [(4, 4, 30), (64, 4, 480), (5, 4, 38), (8, 2, 120), (1, 4, 30), (4, 32, 30)]
)
def test_each_shot_is_learned_from_thirty_times(shots: int, batch: int, steps: int) -> None:
    assert Training(batch=batch).steps_for(shots) == steps
    assert Training(7, batch).steps_for(shots) == 7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": -1}, "steps: expected 0 or more, found -1"),
        ({"batch": 0}, "batch_size: expected at least 1, found 0"),
        ({"learning_rate": 0.0}, "learning_rate: expected a number above 0"),
        ({"learning_rate": float("nan")}, "learning_rate: expected a number above 0"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Training(**settings)
