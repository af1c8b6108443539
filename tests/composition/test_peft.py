"""Against Hugging Face PEFT's ``add_weighted_adapter``: the changes of the weights are the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor

import deltatune as dt
from deltatune.composition.compose import Recipe
from deltatune.composition.rules import drop
from deltatune.composition.ways import WAYS
from tests.composition.deltas import assert_same_changes, changes
from tests.models.families import Family
from tests.models.tools import families

CASES = [
    (how, sign)
    for how, way in WAYS.items()
    if way.peft is not None
    for sign in ("total", "frequency")
    if sign == "total" or "ties" in how  # others elect none
]
WEIGHTS = {"one": 0.7, "two": 0.4}


def both(family: Family, folder: Path, ranks: tuple[int, int]) -> tuple[Any, torch.nn.Module]:
    """PEFT's model with two adapters, and ours with the same."""
    targets = ["query", "value"] if family.name.startswith("bert") else ["q_proj", "v_proj"]
    model: Any = None
    for name, rank, alpha in zip(WEIGHTS, ranks, (6, 11), strict=True):
        config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets)
        if model is None:
            model = peft.get_peft_model(family.model(), config, adapter_name=name)
        else:
            model.add_adapter(name, config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
    model.save_pretrained(folder)
    ours = family.model()
    for name in WEIGHTS:
        dt.load(ours, folder / name, name=name)
    return model.eval(), ours


def their_changes(model: Any, name: str) -> dict[str, Tensor]:
    layers = model.base_model.model.named_modules()
    found = {n: m for n, m in layers if isinstance(m, peft.tuners.lora.LoraLayer) and name in m.lora_A}
    oriented = {n: m.get_delta_weight(name).detach().double() for n, m in found.items()}
    return {n: change.t() if found[n].fan_in_fan_out else change for n, change in oriented.items()}


@pytest.mark.parametrize(("how", "sign"), CASES)
@families("llama", "bert-mlm")
def test_the_changes_are_the_same(
    family: Family, how: Any, sign: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = WAYS[how]
    model, ours = both(family, tmp_path, (3, 3) if way.on == "factors" else (3, 2))
    density = {"density": 0.6} if way.chooses else {}
    made = dt.compose(WEIGHTS, how, model=ours, sign=sign, seed=5, **density)
    assert made.delta is not None
    found = changes(made.delta)
    monkeypatch.setattr(peft.utils.merge_utils, "random_pruning", draws(how, their_changes(model, "one")))
    model.add_weighted_adapter(
        list(WEIGHTS), list(WEIGHTS.values()), "mix", combination_type=way.peft, majority_sign_method=sign, **density
    )
    assert_same_changes(found, their_changes(model, "mix"), 1e-4)


def draws(how: Any, sites: dict[str, Tensor]) -> Any:
    """PEFT's pruning with our draws, site by site as PEFT walks them."""

    def generators() -> Iterator[torch.Generator]:
        for site in sites:
            generator = Recipe(how, density=0.6, seed=5)._choice(site, torch.device("cpu")).generator
            for _ in range(len(WEIGHTS) * (2 if WAYS[how].on == "factors" else 1)):
                assert generator is not None
                yield generator

    each = generators()
    return lambda tensor, density, rescale: drop(tensor, density, next(each))
