"""Parallel adapters against FFNs with the equation written into them, in float64, and wherever x could get lost."""

from __future__ import annotations

import copy
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import deltatune as dt
from deltatune.errors import AttachError, MergeError, SiteError
from tests.methods.test_houlsby import adapter
from tests.methods.training import answers, assert_close, backward, doubled, losses
from tests.models.families import DECODER, FAMILIES, Family
from tests.models.tools import families, stir

# Where each family has its FFN: the name of the module to write the equation into, from that of the last projection.
FFN = {
    "bert": (".output.dense", "", "feed_forward_chunk"),
    "t5": (".wo", "", "forward"),
    "t5-gated": (".wo", "", "forward"),
    "llama": (".down_proj", "", "forward"),
    "gpt2": (".c_proj", "", "forward"),
}


def write_into(family: Family, model: nn.Module, site: str, A: Any, scale: float) -> None:
    """Write y = FFN(x) + s A(x) in the module that holds the whole FFN; in BERT the FFN ends before its norm."""
    end, put, method = FFN[family.name]
    whole: Any = model.get_submodule(site.removesuffix(end) + put)
    if family.name == "bert":

        def chunk(self: Any, x: Tensor) -> Tensor:
            return self.output.LayerNorm(self.output.dense(self.intermediate(x)) + scale * A(x) + x)

        whole.feed_forward_chunk = types.MethodType(chunk, whole)
    else:
        former = whole.forward
        setattr(whole, method, lambda x: former(x) + scale * A(x))


@pytest.mark.parametrize("scale", [4.0, 0.5])
@families("bert", "t5", "t5-gated", "llama", "gpt2")
def test_the_equation(family: Family, scale: float) -> None:
    model, inputs = doubled(family)
    reference, _ = doubled(family)
    delta = stir(dt.attach(model, dt.Parallel(m=6, scale=scale, train_also=())))
    parts = {site: part for site, part in delta.items() if list(part.parameters())}
    assert len(parts) == (4 if family.name.startswith("t5") else 2)
    adapters = {site: adapter(part, "relu") for site, part in parts.items()}
    for site, A in adapters.items():
        write_into(family, reference, site, A, scale)
    assert_close(answers(family, model, inputs), answers(family, reference, inputs))
    backward(family, model, inputs)
    backward(family, reference, inputs)
    for site, part in parts.items():
        for name, leaf in adapters[site].leaves.items():
            assert_close(part.get_parameter(name).grad, leaf.grad)


@families("bert", "t5", "llama", "gpt2", "vit", "clip", "unet")
def test_starts_as_the_base(family: Family) -> None:
    model = family.model()
    base = family.forward(model)
    delta = dt.attach(model, dt.Parallel(train_also=()))
    torch.testing.assert_close(family.forward(model), base, rtol=0, atol=0)
    if family.name in ("bert", "llama", "gpt2"):
        d, m, layers = 32, 16, 2
        assert delta.size == layers * (2 * m * d + d + m)


@families("bert", "t5", "llama")
def test_each_row_takes_its_own(family: Family) -> None:
    """The input x is noted for the rows that a delta acts on, and for no other."""
    model = family.model()
    for seed, name in enumerate("ab"):
        stir(dt.attach(model, dt.Parallel(m=4, train_also=()), name=name), seed)
    alone = []
    for route in ("a", None, ("a", "b")):
        with dt.routed(model, [route] * 3):
            alone.append(family.forward(model))
    with dt.routed(model, ["a", None, ("a", "b")]):
        mixed = family.forward(model)
    for row, answer in enumerate(alone):
        torch.testing.assert_close(mixed[row], answer[row], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(alone[0], alone[2], atol=1e-2)


@pytest.mark.parametrize("reentrant", [False, True])
@families("bert", "llama")
def test_recomputed_layers_have_the_same_gradients(family: Family, reentrant: bool) -> None:
    model, inputs = doubled(family)
    delta = stir(dt.attach(model, dt.Parallel(m=4, train_also=())))
    backward(family, model, inputs)
    expected = [parameter.grad.clone() for parameter in delta.parameters()]
    delta.zero_grad()
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    model.train()
    backward(family, model, inputs)
    for parameter, gradient in zip(delta.parameters(), expected, strict=True):
        assert_close(parameter.grad, gradient)


def test_recomputed_layers_keep_their_routes() -> None:
    family = FAMILIES["llama"]
    model, inputs = doubled(family)
    delta = stir(dt.attach(model, dt.Parallel(m=4)))
    routes = ["default", None, "default"]
    with dt.routed(model, routes):
        backward(family, model, inputs)
    expected = [parameter.grad.clone() for parameter in delta.parameters()]
    delta.zero_grad()
    model.activation_checkpointing_enable({"use_reentrant": False})
    model.train()
    with dt.routed(model, routes):
        answer = answers(family, model, inputs)
    weights = torch.linspace(-1, 1, answer.numel(), dtype=answer.dtype).view(answer.shape)
    (answer * weights).sum().backward()
    for parameter, gradient in zip(delta.parameters(), expected, strict=True):
        assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("beams", [1, 2])
@families("t5", "llama", "gpt2")
def test_generates_as_it_reads(family: Family, beams: int) -> None:
    """Token by token with a cache, and all at once without one."""
    model = family.model()
    stir(dt.attach(model, dt.Parallel(m=4)), size=0.5)
    ids = family.inputs()["input_ids"]
    settings = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "num_beams": beams}
    cached = model.generate(input_ids=ids, use_cache=True, **settings)
    assert torch.equal(cached, model.generate(input_ids=ids, use_cache=False, **settings))
    with dt.disabled(model):
        assert not torch.equal(cached, model.generate(input_ids=ids, **settings))


def test_x_is_what_the_ffn_sees() -> None:
    """What another delta does to the input of the first projection, x shows too, in whatever order they came."""
    family = FAMILIES["llama"]
    found = []
    for order in ("first", "last"):
        model = family.model()
        scale = dt.IA3(targets=("mlp_up", "mlp_gate"), feedforward=("mlp_up", "mlp_gate"))
        if order == "first":
            stir(dt.attach(model, scale, name="scale"))
        torch.manual_seed(0)
        stir(dt.attach(model, dt.Parallel(m=4), name="parallel"))
        if order == "last":
            stir(dt.attach(model, scale, name="scale"))
        found.append(family.forward(model))
    torch.testing.assert_close(*found)


def test_nothing_is_kept_after_a_call() -> None:
    family = FAMILIES["llama"]
    model = family.model()
    delta = stir(dt.attach(model, dt.Parallel(m=4)))
    expected = family.forward(model)
    notes = [part.seen for part in delta.parts]
    assert len(set(map(id, notes))) == 2
    assert all(note.x is None for note in notes)
    twin = copy.deepcopy(model)
    torch.testing.assert_close(family.forward(twin), expected)
    assert not {id(part.seen) for part in dt.deltas(twin)["default"].parts} & set(map(id, notes))


def test_a_call_that_fails_halfway_does_no_harm() -> None:
    family = FAMILIES["llama"]
    model = family.model()
    stir(dt.attach(model, dt.Parallel(m=4)))
    expected = family.forward(model)
    act = model.model.layers[0].mlp.act_fn
    handle = act.register_forward_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory")))
    with pytest.raises(RuntimeError, match="out of memory"):
        family.forward(model)
    handle.remove()
    copy.deepcopy(model)
    torch.testing.assert_close(family.forward(model), expected)


def test_layers_pair_each_last_projection_with_its_first() -> None:
    delta = dt.attach(FAMILIES["t5"].model(), dt.Parallel(layers="last:1"))
    assert delta.sites == tuple(
        f"{stack}.block.1.layer.{layer}.DenseReluDense.{end}"
        for stack, layer in (("encoder", 1), ("decoder", 2))
        for end in ("wi", "wo")
    )


def test_a_projection_that_holds_gate_and_up_will_do() -> None:
    """Only its input is read, so that it can not be taken apart does not matter."""
    torch.manual_seed(0)
    model = transformers.Phi3ForCausalLM(transformers.Phi3Config(**DECODER)).eval()
    delta = stir(dt.attach(model, dt.Parallel(m=4)))
    assert delta.sites[0] == "model.layers.0.mlp.gate_up_proj"
    noted: list[Tensor] = []
    handle = model.model.layers[0].mlp.register_forward_hook(lambda m, args, out: noted.extend((args[0], out)))
    ids = FAMILIES["llama"].inputs()["input_ids"]
    model(ids)
    changed = noted[-1]
    with dt.disabled(model):
        model(ids)
    handle.remove()
    x, base = noted[2:]
    expected = base + 4 * adapter(delta.parts[1], "relu")(x)
    torch.testing.assert_close(changed, expected, rtol=1e-5, atol=1e-5)


def test_refuses_what_it_can_not_pair_or_merge() -> None:
    model = FAMILIES["llama"].model()
    with pytest.raises(SiteError, match="expected one for each target"):
        dt.attach(model, dt.Parallel(inputs=("layers.0.mlp.up_proj",)))
    with pytest.raises(SiteError, match="expected one for each target"):
        dt.attach(model, dt.Parallel(inputs=("mlp_down",)))
    dt.attach(model, dt.Parallel())
    with pytest.raises(MergeError, match="activation"):
        dt.merge(model)
    dt.detach(model)
    dt.attach(model, dt.Parallel(targets=("query",), inputs=("mlp_up",)))
    with pytest.raises(AttachError, match="to run before its last"):
        FAMILIES["llama"].forward(model)


@families("bert", "llama")
def test_saved_and_loaded(family: Family, tmp_path: Path) -> None:
    model = family.model()
    delta = stir(dt.attach(model, dt.Parallel(m=3, scale=2.0)))
    dt.save(delta, tmp_path)
    fresh = family.model()
    assert dt.load(fresh, tmp_path).method == delta.method
    torch.testing.assert_close(family.forward(fresh), family.forward(model), rtol=1e-5, atol=1e-5)


@families("bert", "llama")
def test_it_learns(family: Family) -> None:
    model = family.model()
    dt.attach(model, dt.Parallel(m=8))
    before, after = losses(family, model, lr=0.01)
    assert after < 0.7 * before
