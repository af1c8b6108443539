"""Merging: the same answers within rounding, the exact bytes back, and nothing changed when it is refused."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

import deltatune as dt
from deltatune.errors import AttachError, MergeError
from deltatune.methods.lora import LoRA
from tests.models.families import FAMILIES, Family
from tests.models.methods import ROWS, Row
from tests.models.tools import (
    assert_bit_identical,
    assert_close,
    attach,
    every_family,
    every_method,
    families,
    fingerprint,
    stir,
    values,
)


@every_family
@every_method
@pytest.mark.filterwarnings("ignore:merge:UserWarning")  # what is untied or new is said, and tested below
def test_merged_is_unmerged_and_unmerging_gives_the_bytes_back(family: Family, row: Row) -> None:
    model = family.model()
    base, before = family.forward(model), values(model)
    attach(model, row, family, "a", seed=1)
    changed, state = family.forward(model), fingerprint(model)
    if not row.merges:
        with pytest.raises(MergeError):
            dt.merge(model)
        assert fingerprint(model) == state
        assert torch.equal(family.forward(model), changed)
        return

    done = dt.merge(model)
    assert done.largest_difference < 1e-4
    assert_close(family.forward(model), changed, 2e-4)
    assert (family.forward(model) - base).abs().max() > 1e-3
    assert dt.summary(model).deltas[0].state == "merged"

    dt.unmerge(model)
    with dt.disabled(model) if row.in_place else nullcontext():
        assert_bit_identical(values(model), before)
    assert fingerprint(model) == state
    assert torch.equal(family.forward(model), changed)
    with dt.disabled(model):
        assert torch.equal(family.forward(model), base)


@families("llama", "gpt2")
def test_several_deltas_merge_with_weights(family: Family) -> None:
    model = family.model()
    before = values(model)
    a = attach(model, ROWS["lora"], family, "a", seed=1)
    b = attach(model, ROWS["lora"], family, "b", seed=2)
    changed = family.forward(model)
    done = dt.merge(model, {"b": -0.5, "a": 0.25})
    assert done.weights == {"a": 0.25, "b": -0.5}
    found = family.forward(model)
    dt.unmerge(model)
    assert_bit_identical(values(model), before)
    assert torch.equal(family.forward(model), changed)

    with torch.no_grad():
        for delta, weight in ((a, 0.25), (b, -0.5)):
            for name, parameter in delta.named_parameters():
                if name.endswith("lora_B"):
                    parameter.mul_(weight)
    assert_close(found, family.forward(model), 2e-4)


@families("llama")
def test_what_is_left_out_acts_on_top(family: Family) -> None:
    model = family.model()
    attach(model, ROWS["lora"], family, "a", seed=1)
    attach(model, ROWS["lora"], family, "b", seed=2)
    both = family.forward(model)
    dt.disable(model, "b")
    only_a = family.forward(model)

    dt.merge(model)  # what is on: a alone
    assert_close(family.forward(model), only_a, 2e-4)
    dt.enable(model, "b")
    assert_close(family.forward(model), both, 2e-4)
    dt.unmerge(model)
    assert torch.equal(family.forward(model), both)


@pytest.mark.parametrize(
    ("first", "second", "merged"),
    [
        (dt.Pfeiffer(), dt.LoRA(targets=("all_linear",)), "second"),
        (dt.IA3(), dt.LoRA(targets=("mlp_down",)), "first"),
        (dt.LoRA(targets=("key",)), dt.IA3(), "second"),
    ],
    ids=["under an adapter", "before what reads the input", "behind what it scales"],
)
@families("llama")
def test_what_would_act_otherwise_on_top_keeps_a_merge_from_happening(
    family: Family, first: dt.Method, second: dt.Method, merged: str
) -> None:
    model = family.model()
    for number, (name, method) in enumerate({"first": first, "second": second}.items()):
        stir(dt.attach(model, method, name=name), seed=number)
    before, weights = family.forward(model), values(model)
    with pytest.raises(MergeError, match="would act otherwise on top of the merged weights"):
        dt.merge(model, merged)
    assert torch.equal(family.forward(model), before)
    assert_bit_identical(values(model), weights)


@families("llama")
def test_merging_twice_in_a_row_is_exact_every_time(family: Family) -> None:
    model = family.model()
    before = values(model)
    attach(model, ROWS["lora"], family, seed=1)
    changed = family.forward(model)
    for _ in range(3):
        dt.merge(model)
        dt.unmerge(model)
    assert_bit_identical(values(model), before)
    assert torch.equal(family.forward(model), changed)


@families("llama", "bert")
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_delta_that_diverged_leaves_the_model_as_it_was(family: Family, bad: float) -> None:
    model = family.model()
    before = values(model)
    attach(model, ROWS["lora"], family, "a", seed=1)
    b = attach(model, ROWS["lora"], family, "b", seed=2)
    changed, state = family.forward(model), fingerprint(model)
    last = next(p for name, p in reversed(list(b.named_parameters())) if p.dim() == 2)
    kept = last.detach().clone()
    last.data[0, 0] = bad
    with pytest.raises(MergeError, match="expected finite numbers after the merge, found NaN or infinity"):
        dt.merge(model)
    last.data.copy_(kept)
    assert_bit_identical(values(model), before)
    assert fingerprint(model) == state
    assert torch.equal(family.forward(model), changed)


@families("llama")
def test_a_site_that_answers_otherwise_after_the_merge_is_put_back(family: Family) -> None:
    # A linear layer that does not use its weight as a linear layer does: only the probe can tell.
    model = family.model()
    projection = model.get_submodule("model.layers.1.self_attn.v_proj")
    projection.forward = lambda x: torch.nn.functional.linear(x, projection.weight) * 3
    before = values(model)
    attach(model, ROWS["lora"], family, seed=1)
    changed = family.forward(model)
    with pytest.raises(MergeError, match=r"layers\.1\.self_attn\.v_proj: expected the merged output within"):
        dt.merge(model)
    assert_bit_identical(values(model), before)
    assert torch.equal(family.forward(model), changed)


@families("llama")
def test_the_states_in_which_a_merge_makes_no_sense_are_named(family: Family) -> None:
    model = family.model()
    attach(model, ROWS["lora"], family, "a", seed=1)
    with pytest.raises(MergeError, match="expected merged deltas, found none"):
        dt.unmerge(model)
    dt.disable(model)
    with pytest.raises(MergeError, match="expected a delta that is on, found none"):
        dt.merge(model)
    with pytest.raises(AttachError, match="'c'"):
        dt.merge(model, "c")
    for context in (dt.disabled(model), dt.routed(model, ["a"])):
        with context, pytest.raises(MergeError, match="expected to be outside of"):
            dt.merge(model, "a")
    dt.merge(model, "a")
    with pytest.raises(MergeError, match="a merged already"):
        dt.merge(model, "a")


@families("llama")
def test_a_merged_delta_can_not_be_switched_routed_or_taken_off(family: Family, tmp_path: Path) -> None:
    model = family.model()
    delta = attach(model, ROWS["lora"], family, "a", seed=1)
    attach(model, ROWS["lora"], family, "b").disable()
    dt.merge(model, "a")
    merged = family.forward(model)
    with pytest.raises(AttachError, match="merged"), dt.disabled(model):
        pass
    with pytest.raises(AttachError, match="merged"), dt.routed(model, ["a"]):
        pass
    for refused in (
        lambda: dt.detach(model),
        lambda: dt.attach(model, LoRA(), name="c"),
        lambda: dt.disable(model),
        lambda: dt.disable(model, "a"),
        delta.disable,
        lambda: dt.save(delta, tmp_path / "a"),
    ):
        with pytest.raises(AttachError, match="merged"):
            refused()
    assert delta.enabled
    assert not list(tmp_path.iterdir())
    assert torch.equal(family.forward(model), merged)


@families("llama")
def test_the_model_is_compared_on_a_probe_of_ones_own(family: Family) -> None:
    model = family.model().train()
    attach(model, ROWS["lora"], family, seed=1)
    done = dt.merge(model, probe=family.inputs())
    assert 0 < done.largest_difference < 1e-4
    assert model.training
    dt.unmerge(model)
    with pytest.raises(MergeError, match="probe: expected weights of 1"):
        dt.merge(model, {"default": 0.5}, probe=family.inputs())
    assert dt.deltas(model)["default"].acts


@families("llama")
def test_merging_does_not_move_the_random_stream(family: Family) -> None:
    model = family.model()
    attach(model, ROWS["lora"], family, seed=1)
    state = torch.get_rng_state()
    dt.merge(model)
    assert torch.equal(torch.get_rng_state(), state)


@families("llama")
def test_a_copy_of_a_merged_model_unmerges_itself_and_nothing_else(family: Family) -> None:
    model = family.model()
    base = family.forward(model)
    attach(model, ROWS["lora"], family, seed=1)
    changed = family.forward(model)
    dt.merge(model)
    merged = family.forward(model)
    copied = copy.deepcopy(model)
    dt.unmerge(copied)
    assert torch.equal(family.forward(model), merged)
    assert torch.equal(family.forward(copied), changed)
    with dt.disabled(copied):
        assert torch.equal(family.forward(copied), base)
    dt.unmerge(model)
    assert torch.equal(family.forward(model), changed)


@pytest.mark.parametrize("name", ["t5", "qwen2", "gpt2", "bert-mlm"])
def test_tied_weights_part_and_the_saved_model_keeps_them_apart(name: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    model = family.model()
    before, tied = values(model), model.config.tie_word_embeddings
    stir(dt.attach(model, LoRA(r=2, targets=("embedding",))), seed=1)
    changed = family.forward(model)
    with pytest.warns(UserWarning, match="shared memory with other parameters and now has its own"):
        done = dt.merge(model)
    assert done.untied
    assert_close(family.forward(model), changed, 2e-4)

    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert_close(family.forward(again), changed, 2e-4)

    dt.unmerge(model)
    assert_bit_identical(values(model), before)
    assert model.config.tie_word_embeddings == tied
    assert torch.equal(family.forward(model), changed)


@families("llama", "bert", "gpt2")
def test_a_merged_model_is_saved_with_the_deltas_in_it(family: Family, tmp_path: Path) -> None:
    model = family.model()
    attach(model, ROWS["lora"], family, seed=1)
    changed = family.forward(model)
    dt.merge(model)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert_close(family.forward(again), changed, 2e-4)
    assert not hasattr(again, "deltatune")


@families("bert", "bert-mlm", "vit", "clip", "unet", "gpt2")
@pytest.mark.filterwarnings("ignore:merge. cls.predictions.decoder.bias shared memory:UserWarning")  # BERT ties it
def test_trained_biases_merge(family: Family) -> None:
    model = family.model()
    before = values(model)
    stir(dt.attach(model, LoRA(r=2, targets=family.targets, bias="all")), seed=1)
    changed = family.forward(model)
    dt.merge(model)
    assert_close(family.forward(model), changed, 2e-4)
    dt.unmerge(model)
    assert_bit_identical(values(model), before)
