"""Pfeiffer adapters: the equation written into BERT and LLaMA, and what sets them apart from Houlsby's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import deltatune as dt
from deltatune.errors import MergeError
from tests.methods.test_houlsby import adapter, into_bert, into_llama
from tests.methods.training import answers, assert_close, backward, doubled, losses
from tests.models.families import Family
from tests.models.tools import families, stir


@families("bert", "llama")
def test_the_equation(family: Family) -> None:
    model, inputs = doubled(family)
    reference, _ = doubled(family)
    delta = stir(dt.attach(model, dt.Pfeiffer(train_also=())))
    adapters = {site: adapter(part, "relu") for site, part in delta.items()}
    (into_bert if family.name == "bert" else into_llama)(reference, adapters)
    assert_close(answers(family, model, inputs), answers(family, reference, inputs))
    backward(family, model, inputs)
    backward(family, reference, inputs)
    for site, part in delta.items():
        for name, leaf in adapters[site].leaves.items():
            assert_close(part.get_parameter(name).grad, leaf.grad)


@families("bert", "t5", "llama", "gpt2", "unet")
def test_one_a_layer_of_the_papers_size(family: Family) -> None:
    model = family.model()
    base = family.forward(model)
    delta = dt.attach(model, dt.Pfeiffer(train_also=()))
    torch.testing.assert_close(family.forward(model), base, rtol=0, atol=0)
    if family.name != "unet":
        d, m, layers = 32, 2, 4 if family.name == "t5" else 2
        assert len(delta.sites) == layers
        assert delta.size == layers * (2 * m * d + d + m)


def test_reduction_never_leaves_an_adapter_without_a_bottleneck() -> None:
    assert dt.Pfeiffer(reduction=16).size(768) == 48
    assert dt.Pfeiffer(reduction=16).size(4) == 1
    assert dt.Pfeiffer(m=7, reduction=16).size(768) == 7


@families("llama")
def test_saved_loaded_and_not_merged(family: Family, tmp_path: Path) -> None:
    model = family.model()
    delta = stir(dt.attach(model, dt.Pfeiffer(m=3, activation="silu")))
    dt.save(delta, tmp_path)
    fresh = family.model()
    assert dt.load(fresh, tmp_path).method == delta.method
    torch.testing.assert_close(family.forward(fresh), family.forward(model), rtol=1e-5, atol=1e-5)
    with pytest.raises(MergeError, match="keep it attached"):
        dt.merge(fresh)


@families("bert", "llama")
def test_it_learns(family: Family) -> None:
    model = family.model()
    dt.attach(model, dt.Pfeiffer(m=8))
    before, after = losses(family, model, lr=0.02)
    assert after < 0.8 * before
