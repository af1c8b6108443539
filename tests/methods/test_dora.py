"""DoRA against its equation in float64, and against Hugging Face PEFT."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.pytorch_utils import Conv1D

import deltatune as dt
from deltatune.attachment.delta import Delta
from deltatune.errors import ConfigError
from deltatune.methods.dora import DoRAPart, row_norms, row_squares
from tests.methods.training import answers, assert_close, backward, losses, with_peft
from tests.models.families import FAMILIES, Family
from tests.models.tools import families, stir

IN, OUT, VOCABULARY = 12, 10, 15

KINDS = {
    "linear": lambda: nn.Linear(IN, OUT),
    "linear without bias": lambda: nn.Linear(IN, OUT, bias=False),
    "conv1d": lambda: Conv1D(OUT, IN),
    "embedding": lambda: nn.Embedding(VOCABULARY, OUT),
}


class Model(nn.Module):
    """One layer to adapt, called ``layer``."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer.double()
        for parameter in self.parameters():
            nn.init.normal_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)  # type: ignore[no-any-return]


def layer_and_input(kind: str) -> tuple[Model, Tensor, Tensor]:
    """A layer, an input and that input as vectors: an embedding's ids as one-hot rows."""
    model = Model(KINDS[kind]())
    if kind == "embedding":
        ids = torch.randint(VOCABULARY, (3, 4))
        return model, ids, F.one_hot(ids, VOCABULARY).double()
    x = torch.randn(3, 4, IN, dtype=torch.float64)
    return model, x, x


def attach(model: nn.Module, **settings: Any) -> tuple[Delta, DoRAPart]:
    delta = dt.attach(model, dt.DoRA(**{"targets": ("layer",), "r": 4, "alpha": 6, **settings}))
    part = next(part for _, part in delta.items())
    assert isinstance(part, DoRAPart)
    return delta, part


def weights(model: Model) -> tuple[Tensor, Tensor]:
    """W₀ as ``[out, in]`` and the bias of the layer."""
    layer: Any = model.layer
    W = layer.weight.detach()
    W = W if isinstance(layer, nn.Linear) else W.T
    bias = getattr(layer, "bias", None)
    return W, torch.zeros(len(W), dtype=W.dtype) if bias is None else bias.detach()


def written(W: Tensor, bias: Tensor, part: DoRAPart, x: Tensor, *, detached: bool = True) -> Tensor:
    """The paper's equation."""
    V = W + 1.5 * part.lora_B @ part.lora_A
    norm = V.norm(dim=1)
    return x @ (part.m / (norm.detach() if detached else norm) * V.T) + bias


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_row_norms_are_those_of_the_dense_sum(dtype: torch.dtype) -> None:
    W = torch.randn(30, 50).to(dtype)
    W[3] = 0
    A, B = torch.randn(4, 50), torch.randn(30, 4)
    A, B = (A.double(), B.double()) if dtype == torch.float64 else (A, B)
    B[3] = 0
    found = row_norms(W, row_squares(W), A, B, 0.3)
    expected = (W.double() + 0.3 * B.double() @ A.double()).norm(dim=1)
    accuracy = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 5e-3}[dtype]
    torch.testing.assert_close(found.double(), expected, rtol=accuracy, atol=accuracy)
    assert found.dtype == A.dtype
    assert found[3] > 0  # nothing is divided by zero


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_delta_is_the_identity_with_the_row_norms_as_magnitudes(kind: str) -> None:
    model, x, _ = layer_and_input(kind)
    base = model(x)
    _, part = attach(model)
    W, _ = weights(model)
    torch.testing.assert_close(part.m.detach(), W.norm(dim=1))
    assert torch.equal(model(x), base)


@pytest.mark.parametrize("kind", KINDS)
def test_the_output_is_the_equation(kind: str) -> None:
    model, x, vectors = layer_and_input(kind)
    delta, part = attach(model)
    stir(delta)
    torch.testing.assert_close(model(x), written(*weights(model), part, vectors))
    assert torch.equal(model.eval()(x), model.train()(x))


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradients_are_those_of_the_equation_with_the_norm_detached(kind: str) -> None:
    model, x, vectors = layer_and_input(kind)
    delta, part = attach(model)
    stir(delta)
    trained = [part.lora_A, part.lora_B, part.m]
    if kind != "embedding":
        x = vectors = x.requires_grad_(True)
        trained.append(x)
    target = torch.randn(3, 4, OUT, dtype=torch.float64)

    def gradients(answer: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad((answer - target).pow(2).sum(), trained)

    found, W = gradients(model(x)), weights(model)
    for one, other in zip(found, gradients(written(*W, part, vectors)), strict=True):
        torch.testing.assert_close(one, other)
    whole = gradients(written(*W, part, vectors, detached=False))
    assert (found[1] - whole[1]).norm() > 1e-2 * found[1].norm()


@pytest.mark.parametrize("kind", ["linear", "linear without bias", "conv1d"])
def test_dropout_is_that_of_the_paper(kind: str) -> None:
    model, x, _ = layer_and_input(kind)
    delta, part = attach(model, dropout=0.4)
    stir(delta)
    W, bias = weights(model)
    torch.manual_seed(3)
    found = model.train()(x)
    torch.manual_seed(3)
    dropped = F.dropout(x, 0.4)
    g = (part.m / (W + 1.5 * part.lora_B @ part.lora_A).norm(dim=1)).detach()
    change = (g - 1) * (dropped @ W.T) + g * 1.5 * (dropped @ part.lora_A.T @ part.lora_B.T)
    torch.testing.assert_close(found, x @ W.T + bias + change)
    torch.testing.assert_close(model.eval()(x), written(W, bias, part, x))


def test_dropout_drops_nothing_at_an_embedding() -> None:
    model, ids, vectors = layer_and_input("embedding")
    delta, part = attach(model, dropout=0.4)
    stir(delta)
    torch.testing.assert_close(model.train()(ids), written(*weights(model), part, vectors))


@pytest.mark.parametrize("init", ["gaussian", "orthogonal", "pissa"])
def test_other_starts_are_the_identity_too(init: Any) -> None:
    model, x, _ = layer_and_input("linear")
    base, (W, bias) = model(x), weights(model)
    delta, part = attach(model, init=init)
    torch.testing.assert_close(model(x), base)
    A, B = (factor.detach().clone() for factor in (part.lora_A, part.lora_B))
    stir(delta)
    start = B @ A if init == "pissa" else torch.zeros_like(W)
    torch.testing.assert_close(model(x), written(W - 1.5 * start, bias, part, x))


def test_behind_another_delta_it_scales_that_ones_output_too() -> None:
    model, x, _ = layer_and_input("linear")
    W, bias = weights(model)
    stir(dt.attach(model, dt.LoRA(r=2, targets=("layer",), bias="lora_only"), name="first"))
    with_first = model(x)
    delta, part = attach(model)
    stir(delta)
    g = part.m / (W + 1.5 * part.lora_B @ part.lora_A).norm(dim=1)
    expected = bias + g * (with_first - bias + 1.5 * x @ part.lora_A.T @ part.lora_B.T)
    torch.testing.assert_close(model(x), expected)
    # Wherever the first one is: in the weights or not.
    dt.merge(model, "first")
    torch.testing.assert_close(model(x), expected)
    dt.unmerge(model)
    dt.merge(model)
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("bias", ["none", "lora_only"])
def test_a_share_of_it_merges_as_that_share_of_its_effect(bias: Any) -> None:
    model, x, _ = layer_and_input("linear")
    base = model(x)
    stir(attach(model, bias=bias)[0])
    whole = model(x)
    dt.merge(model, {"default": 0.3})
    torch.testing.assert_close(model(x), torch.lerp(base, whole, 0.3))


# What is kept, and when it is made anew


def test_no_matrix_of_the_size_of_the_weight_is_made() -> None:
    model = Model(nn.Linear(64, 48))
    delta, part = attach(model)
    stir(delta)
    x = torch.randn(2, 64, dtype=torch.float64)
    sizes = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            # A view of the weight lies in its memory.
            own = model.layer.weight.untyped_storage().data_ptr()  # type: ignore[union-attr, operator]
            sizes.extend(t.numel() for t in [out] if isinstance(t, Tensor) and t.untyped_storage().data_ptr() != own)
            return out

    with Watch():
        model(x).sum().backward()
        part.norm()
    assert 0 < max(sizes) < 64 * 48


def test_norms_follow_the_bases_weight() -> None:
    model, x, _ = layer_and_input("linear")
    delta, part = attach(model)
    stir(delta)
    for move in ("load", "write", "cast"):
        model(x)
        other = copy.deepcopy(model.state_dict())
        other["layer.weight"] += 1
        if move == "load":
            model.load_state_dict(other)
        elif move == "write":
            with torch.no_grad():
                model.layer.weight.mul_(2)  # type: ignore[union-attr, operator]
        else:
            model.float().double()
        W, bias = weights(model)
        for mode in (True, False):
            with torch.set_grad_enabled(mode):
                torch.testing.assert_close(model.train(mode)(x), written(W, bias, part, x), rtol=1e-5, atol=1e-5)


def test_the_squares_of_the_base_are_summed_once_and_the_norms_once_where_nothing_is_trained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import deltatune.methods.dora as module

    counts = {"row_norms": 0, "row_squares": 0}
    for name in counts:
        own = getattr(module, name)

        def counted(*args: Any, name: str = name, own: Any = own) -> Any:
            counts[name] += 1
            return own(*args)

        monkeypatch.setattr(module, name, counted)
    model, x, _ = layer_and_input("linear")
    delta, part = attach(model)
    for _ in range(3):
        model.train()(x)
    assert counts == {"row_norms": 4, "row_squares": 1}
    with torch.no_grad():
        for _ in range(3):
            model.eval()(x)
        assert counts == {"row_norms": 5, "row_squares": 1}
        part.lora_B.add_(1)
        model(x)
        assert counts == {"row_norms": 6, "row_squares": 1}
    delta.freeze()
    model.train()(x)
    assert counts == {"row_norms": 6, "row_squares": 1}


def test_an_optimiser_that_writes_past_autograd_is_seen() -> None:
    model, x, _ = layer_and_input("linear")
    _, part = attach(model)
    with torch.no_grad():
        model.eval()(x)
    model.train()(x)
    part.lora_B.data.add_(1)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), written(*weights(model), part, x))


def test_a_copy_of_the_model_is_on_its_own() -> None:
    model, x, _ = layer_and_input("linear")
    stir(attach(model)[0])
    before = model(x)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        model.layer.weight.zero_()  # type: ignore[union-attr, operator]
    assert torch.equal(twin(x), before)


def test_small_steps_of_the_magnitude_are_not_lost_in_half_precision() -> None:
    layer = nn.Linear(IN, OUT, bias=False).to(torch.bfloat16)
    model = nn.ModuleDict({"layer": layer})
    dt.attach(model, dt.DoRA(r=2, targets=("layer",)))
    part: Any = model.get_submodule("deltatune.deltas.default.parts.0")
    x = torch.randn(2000, IN, dtype=torch.bfloat16)
    base = layer(x).double()
    with torch.no_grad():
        part.m.mul_(1 + 5 * 2**-10)  # bfloat16 knows 1 and 1 + 8 * 2**-10
        ratio = (layer(x).double() * base).sum() / (base * base).sum()
    assert abs(ratio - 1 - 5 * 2**-10) < 2**-10


def test_a_packed_base_is_read_dense_and_stays_as_it_is() -> None:
    import bitsandbytes

    packed = bitsandbytes.nn.Linear4bit(64, 32, compute_dtype=torch.float32, quant_type="nf4").to("cpu")
    model = nn.ModuleDict({"layer": packed})
    before, x = packed.weight.data.clone(), torch.randn(5, 64)
    W = bitsandbytes.functional.dequantize_4bit(packed.weight.data, packed.weight.quant_state).float()
    bias = packed.bias.detach()
    base = packed(x)
    delta, part = attach(model, dropout=0.3)
    torch.testing.assert_close(packed(x), base)
    stir(delta)
    torch.manual_seed(3)
    found = model.train()["layer"](x)
    torch.manual_seed(3)
    dropped = F.dropout(x, 0.3)
    g = (part.m / (W + 1.5 * part.lora_B @ part.lora_A).norm(dim=1)).detach()
    change = (g - 1) * (dropped @ W.T) + g * 1.5 * (dropped @ part.lora_A.T @ part.lora_B.T)
    torch.testing.assert_close(found, x @ W.T + bias + change, rtol=1e-4, atol=1e-4)
    for _ in range(2):  # an evaluation may take bfloat16, and packs the weight in its own way
        with torch.no_grad():
            found = model.eval()["layer"](x)
        torch.testing.assert_close(found, written(W, bias, part, x), rtol=0.05, atol=0.05)
    dt.merge(model, dequantize=True)
    torch.testing.assert_close(model["layer"](x), written(W, bias, part, x), rtol=0.05, atol=0.05)
    dt.unmerge(model)
    dt.detach(model)
    assert model["layer"] is packed
    assert torch.equal(packed.state_dict()["weight"], before)


# With PEFT

PEER = {
    "bert": {"target_modules": ["query", "value", "output.dense"]},
    "llama": {"target_modules": ["q_proj", "down_proj"]},
    "gpt2": {"target_modules": ["c_attn", "mlp.c_proj"], "fan_in_fan_out": True},
}


def method(family: Family, **settings: Any) -> dt.DoRA:
    targets = tuple(PEER[family.name]["target_modules"])
    return dt.DoRA(**{"r": 4, "alpha": 6, "targets": targets, "train_also": (), **settings})


def theirs(peer: Any, kind: str) -> dict[str, nn.Parameter]:
    """PEFT's tensors of one kind, by site."""
    found = {name: p for name, p in peer.named_parameters() if f".{kind}." in name}
    return {name.removeprefix("base_model.model.").partition(f".{kind}.")[0]: p for name, p in found.items()}


@families("bert", "llama", "gpt2")
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_equals_peft(family: Family, dropout: float, tmp_path: Path) -> None:
    model = family.model()
    delta = stir(dt.attach(model, method(family, dropout=dropout)))
    dt.save(delta, tmp_path)
    peer = with_peft(family, tmp_path)
    inputs = family.inputs()
    assert_close(answers(family, model.eval(), inputs), answers(family, peer, inputs), 2e-5)

    for each in (model.train(), peer.train()):  # with the same entries dropped
        torch.manual_seed(5)
        backward(family, each, inputs)
    for kind, ours in {"lora_A": "lora_A", "lora_B": "lora_B", "lora_magnitude_vector": "m"}.items():
        peers = theirs(peer, kind)
        assert peers.keys() == set(delta.sites)
        for site, part in delta.items():
            gradient = getattr(part, ours).grad
            torch.testing.assert_close(gradient, peers[site].grad, rtol=1e-3, atol=1e-4)


@families("bert", "llama", "gpt2")
def test_reads_files_of_peft(family: Family, tmp_path: Path) -> None:
    import peft

    rslora = family.name == "bert"
    config = peft.LoraConfig(r=4, lora_alpha=6, use_dora=True, use_rslora=rslora, **PEER[family.name])
    peer = with_peft(family, config)
    with torch.no_grad():
        for name, parameter in peer.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn_like(parameter) / 5)
    peer.save_pretrained(tmp_path)

    model = family.model()
    delta = dt.load(model, tmp_path, trainable=True)
    assert type(delta.method) is dt.DoRA
    inputs = family.inputs()
    assert_close(answers(family, model, inputs), answers(family, peer, inputs), 2e-5)
    dt.save(delta, tmp_path / "again")
    assert_close(answers(family, with_peft(family, tmp_path / "again"), inputs), answers(family, peer, inputs), 2e-5)


def test_an_embedding_equals_pefts(tmp_path: Path) -> None:
    family = FAMILIES["llama"]
    model = family.model()
    dt.save(stir(dt.attach(model, dt.DoRA(r=4, targets=("embedding",)))), tmp_path)
    assert_close(family.forward(model), family.forward(with_peft(family, tmp_path)), 2e-5)


def test_trains_what_the_formula_says_and_decays_all_but_the_magnitudes() -> None:
    model = FAMILIES["llama"].model()
    delta = dt.attach(model, dt.DoRA(r=3, targets=("all_linear",)))
    sizes = [(part.lora_A.shape[1], part.lora_B.shape[0]) for _, part in delta.items()]  # type: ignore[union-attr]
    assert delta.size == sum(3 * (width + height) + height for width, height in sizes)
    groups = dt.parameter_groups(model, lr=1e-3, weight_decay=0.1)
    free = {id(p) for group in groups if not group["weight_decay"] for p in group["params"]}
    assert free == {id(part.m) for _, part in delta.items()}  # type: ignore[union-attr]


@families("bert", "t5", "llama")
def test_learns(family: Family) -> None:
    model = family.model()
    dt.attach(model, dt.DoRA(r=4, train_also=()))
    before, after = losses(family, model, lr=3e-2)
    assert after < 0.9 * before


def test_a_bad_setting_is_named_by_the_methods_key() -> None:
    with pytest.raises(ConfigError, match="dora rank of r: expected a whole number from 1, found 0"):
        dt.DoRA(r=0)


def test_a_norm_of_an_evaluation_does_not_come_into_training() -> None:
    family = FAMILIES["llama"]
    model = family.model()
    dt.attach(model, dt.DoRA(r=2), name="style").freeze()
    with torch.inference_mode():
        family.forward(model)
    dt.attach(model, dt.LoRA(r=2, targets=("embedding",)), name="task")
    family.loss(model).backward()
