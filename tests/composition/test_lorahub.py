"""The search of weights on a few examples."""

from __future__ import annotations

import builtins
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deltatune as dt
from deltatune.composition.lorahub import _optimizer
from deltatune.errors import ConfigError, DeltaError
from tests.composition.deltas import LLAMA, attached, changes
from tests.models.families import FAMILIES, Family
from tests.models.tools import families

METHODS = {name: dt.LoRA(r=2, targets=("all_linear",), train_also=()) for name in "abc"}
PLANTED = {"a": 1.0, "b": -0.5, "c": 0.0}


def answers_of(model: nn.Module, family: Family) -> dict[str, Tensor]:
    """The examples with the model's own likeliest answers as labels."""
    inputs = family.inputs()
    answers = family.forward(model).argmax(-1)
    if answers.dim() == 1:
        return {**inputs, "labels": answers}
    mask = inputs["attention_mask"]
    ids = inputs["input_ids"]
    return {**inputs, "labels": ids.masked_fill(mask == 0, -100)}


def planted(how: Any) -> tuple[nn.Module, list[dict[str, Tensor]]]:
    """A classifier, and examples labelled by it with deltas of known weights."""
    family = FAMILIES["bert"]
    model = attached(METHODS, family, torch.float32)
    dt.compose(PLANTED, how, model=model, name="planted")
    with torch.no_grad():
        ids = torch.randint(3, 99, (256, 5))
        logits = model(input_ids=ids).logits
    dt.detach(model, "planted")
    spread = logits.std(0)
    return model, [{"input_ids": ids, "labels": ((logits - logits.mean(0)) / spread).argmax(-1)}]


@pytest.mark.parametrize("how", ["factors", "cat", "linear"])
def test_it_finds_what_makes_the_loss_small(how: Any) -> None:
    model, examples = planted(how)
    found = dt.lorahub(model, METHODS, examples, how=how, evaluations=60, seed=0)
    (start, first), *_ = found.history
    assert start == (0.0, 0.0, 0.0)
    assert min(value for _, value in found.history) < first
    assert found.weights.keys() == METHODS.keys()
    assert len(found.history) <= 61
    assert all(abs(weight) <= 1.5 for weights, _ in found.history for weight in weights)
    assert [delta.enabled for delta in dt.deltas(model).values()] == [False, False, False, True]
    again = dt.compose(found.weights, how, model=model, name="again")
    assert again.delta is not None
    for site, change in changes(again.delta).items():
        torch.testing.assert_close(changes(found.delta)[site], change, rtol=1e-4, atol=1e-6)


def test_it_recovers_planted_weights() -> None:
    """With the squared distance from a planted answer as the loss, its weights come out."""
    from deltatune.composition import lorahub as module

    model = attached(METHODS, LLAMA, torch.float32)
    dt.compose(PLANTED, "cat", model=model, name="planted")
    wanted = LLAMA.forward(model)
    dt.detach(model, "planted")

    def distance(model: nn.Module, *_: Any) -> dict[str, float]:
        return {"loss": float((LLAMA.forward(model) - wanted).pow(2).mean())}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deltatune.train.evaluate.score", distance)
        found = module.lorahub(
            model, METHODS, [{"labels": torch.zeros(1, 1)}], how="cat", evaluations=300, penalty=0.0, seed=1
        )
    for name, weight in PLANTED.items():
        assert found.weights[name] == pytest.approx(weight, abs=0.05)
    assert found.loss < 1e-2


@families("llama", "t5", "bert")
def test_every_kind_of_model(family: Family) -> None:
    model = attached({name: dt.LoRA(r=2, train_also=()) for name in "ab"}, family, torch.float32)
    examples = [answers_of(model, family)]
    found = dt.lorahub(model, "ab", examples, evaluations=5)
    with torch.no_grad():
        expected = float(model.eval()(**examples[0]).loss)
    assert found.loss == pytest.approx(expected, rel=1e-4)


def test_it_is_seeded() -> None:
    histories = []
    for _ in range(2):
        model, examples = planted("factors")
        histories.append(dt.lorahub(model, METHODS, examples, evaluations=12, seed=1).history)
    assert histories[0] == histories[1]


@pytest.mark.parametrize("count", [1, 3, 20])
@pytest.mark.parametrize("evaluations", [5, 40, 150, 300])
def test_any_number_of_weights_and_evaluations(count: int, evaluations: int) -> None:
    tried: list[Any] = []

    def squares(weights: Any) -> float:
        tried.append(weights)
        return float(((weights - 0.5) ** 2).sum())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _optimizer(count, evaluations, 1.5, 0).minimize(squares)
    assert len(tried) == evaluations
    assert min(float(((weights - 0.5) ** 2).sum()) for weights in tried) < 0.25 * count + 1e-9


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "how": ({"how": "svd"}, "how: expected one of"),
    "names": ({"names": []}, "names: expected some deltas"),
    "examples": ({"examples": []}, "examples: expected at least one batch"),
    "labels": ({"examples": [{"input_ids": torch.ones(1, 3, dtype=torch.long)}]}, "expected labels, found input_ids"),
    "evaluations": ({"evaluations": 0}, "evaluations: expected a whole number"),
    "bound": ({"bound": 0}, "bound: expected a number above 0"),
    "penalty": ({"penalty": -1}, "penalty: expected a number from 0"),
    "kind": ({"kind": "other"}, "kind: expected one of"),
    "method": ({"names": ["d"]}, "d: expected a LoRA of matrices alone, found matrices of any rank"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_the_model_alone(case: str) -> None:
    given, message = BAD[case]
    model = attached({**METHODS, "d": dt.DoRA(r=2)}, LLAMA, torch.float32)
    examples = [answers_of(model, LLAMA)]
    with pytest.raises(ConfigError, match=message) as error:
        dt.lorahub(model, **{"names": ["a", "b"], "examples": examples, **given})
    assert "\n" not in str(error.value)
    assert list(dt.deltas(model)) == ["a", "b", "c", "d"]
    assert all(delta.enabled for delta in dt.deltas(model).values())


def test_without_nevergrad(monkeypatch: pytest.MonkeyPatch) -> None:
    true_import = builtins.__import__

    def lacking(name: str, *rest: Any) -> Any:
        if name == "nevergrad":
            raise ImportError(name)
        return true_import(name, *rest)

    monkeypatch.setattr(builtins, "__import__", lacking)
    model = attached(METHODS, LLAMA, torch.float32)
    with pytest.raises(DeltaError, match=r"pip install 'deltatune\[compose\]'"):
        dt.lorahub(model, METHODS, [answers_of(model, LLAMA)])
