"""Child-Tuning against plain masked training, and its Fisher information by hand, in float64."""

from __future__ import annotations

import copy
import gc
import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import deltatune as dt
from deltatune.attachment.delta import Delta
from deltatune.errors import AttachError, ConfigError, DataError, FileFormatError, SiteError
from deltatune.io.quantised import weight_bytes
from deltatune.methods.child import ChildTuning
from deltatune.methods.fisher import fisher
from deltatune.methods.topk import top_k
from deltatune.train.distributed import drawing_alike
from tests.methods.training import assert_close, losses
from tests.models.families import DECODER, FAMILIES, Family, bert_config
from tests.models.tools import assert_bit_identical, families, fingerprint, stir, values
from tests.processes import together

LAYERS = {"bert": "bert.encoder.layer.", "llama": "model.layers."}


def batches(count: int = 3, classes: int = 3) -> list[dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(5)
    ids = [torch.randint(3, 99, (4, 6), generator=draw) for _ in range(count)]
    return [{"input_ids": i, "labels": torch.randint(classes, (4,), generator=draw)} for i in ids]


def language_batches(count: int = 3) -> list[dict[str, Tensor]]:
    return [{"input_ids": batch["input_ids"], "labels": batch["input_ids"]} for batch in batches(count)]


def attach(model: nn.Module, name: str = "default", **settings: Any) -> Delta:
    delta = dt.attach(model, ChildTuning(**settings), name=name)
    dt.prepare(model, batches() if hasattr(model, "classifier") else language_batches())
    return delta


def masks(model: nn.Module, delta: Delta) -> dict[str, Tensor]:
    """For every parameter of the base, which of its entries are in the child."""
    found = {n: torch.zeros(p.shape, dtype=torch.bool) for n, p in model.named_parameters() if "deltatune" not in n}
    for site, part in delta.items():
        for name, piece in getattr(part, "pieces", {}).items():
            found[f"{site}.{name}"].view(-1)[piece.index.long()] = True
    return found


# Selection.


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("k", [1, 2, 7, 100, 999, 1000])
def test_the_k_largest_of_many_tensors_are_those_of_a_sort(
    dtype: torch.dtype, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deltatune.methods.topk.CHUNK", 64)
    scores = [torch.randn(shape).square().to(dtype) for shape in ((10, 50), (300,), (20, 10))]
    if k > 900:
        scores[1].zero_()  # ties where the cut is
    found = top_k(scores, k)
    order = torch.cat([score.reshape(-1) for score in scores]).sort(descending=True, stable=True).indices[:k]
    starts = torch.tensor([0, 500, 800])
    assert torch.cat([f + s for f, s in zip(found, starts, strict=True)]).tolist() == order.sort().values.tolist()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -1.0])
def test_scores_that_are_none_are_refused(bad: float) -> None:
    with pytest.raises(DataError, match="expected finite numbers from 0"):
        top_k([torch.ones(3), torch.tensor([1.0, bad])], 2)


def test_the_fisher_information_is_the_mean_squared_gradient_of_batches() -> None:
    """A regression by hand: the loss (w·x − y)² has dL/dw = 2 (w·x − y) x, averaged in a batch, squared, averaged."""

    class Line(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64))
            self.drop = nn.Dropout(0.9)

        def forward(self, x: Tensor, labels: Tensor) -> Any:
            loss = ((self.drop(x) @ self.weight) - labels).square().mean()
            return transformers.utils.ModelOutput(loss=loss)

    model = Line().train()
    x, y = torch.randn(4, 5, 3, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    (found,) = fisher(model, [model.weight], [{"x": a, "labels": b} for a, b in zip(x, y, strict=True)])
    by_hand = torch.stack([(2 * (a @ model.weight - b)[:, None] * a).mean(0) for a, b in zip(x, y, strict=True)])
    assert_close(found, by_hand.square().mean(0).detach())
    assert model.weight.grad is None
    assert model.weight.requires_grad
    assert model.drop.training
    with pytest.raises(DataError, match="found no batch"):
        fisher(model, [model.weight], [])


def test_d_takes_the_largest_fisher_information_over_all_layers() -> None:
    model = FAMILIES["bert"].model().double()
    plain = copy.deepcopy(model)
    delta = attach(model, mode="D", p=0.1)
    assert model.get_parameter("bert.encoder.layer.0.attention.self.query.weight").grad is None

    inside = {n: p for n, p in plain.named_parameters() if n.startswith(LAYERS["bert"])}
    total = {n: torch.zeros_like(p) for n, p in inside.items()}
    for batch in batches():
        plain.zero_grad()
        plain(**batch).loss.backward()
        for n, p in inside.items():
            total[n] += p.grad.square() / 3
    k = round(0.1 * sum(p.numel() for p in inside.values()))
    cut = torch.cat([t.reshape(-1) for t in total.values()]).topk(k).values[-1]
    found = masks(model, delta)
    assert sum(int(mask.sum()) for mask in found.values()) == k
    for name, mask in found.items():
        assert torch.equal(mask, total[name] >= cut if name in total else torch.zeros_like(mask)), name


def test_magnitude_takes_the_largest_weights_and_random_a_share_of_each_parameter() -> None:
    model = FAMILIES["llama"].model()
    inside = {n: p for n, p in model.named_parameters() if n.startswith(LAYERS["llama"])}
    sizes = {n: p.numel() for n, p in inside.items()}
    k = round(0.2 * sum(sizes.values()))
    cut = torch.cat([p.detach().abs().reshape(-1) for p in inside.values()]).topk(k).values[-1]
    largest = masks(model, dt.attach(model, ChildTuning(mode="magnitude", p=0.2), name="a"))
    random = masks(model, dt.attach(model, ChildTuning(mode="random", p=0.2), name="b"))
    again = masks(model, dt.attach(model, ChildTuning(mode="random", p=0.2), name="c"))
    for name, p in inside.items():
        assert torch.equal(largest[name], p.detach().abs() >= cut)
        assert abs(int(random[name].sum()) - 0.2 * sizes[name]) <= 1
    assert sum(int(m.sum()) for m in random.values()) == k
    assert any(not torch.equal(random[name], again[name]) for name in inside)


def test_embeddings_head_and_pooler_are_left_out_unless_asked_for() -> None:
    model = FAMILIES["bert"].model()
    delta = dt.attach(model, ChildTuning(mode="random"))
    assert {site.split(".")[1] for site in delta.sites if site != "classifier"} == {"encoder"}
    assert "classifier" in delta.sites
    everything = dt.attach(model, ChildTuning(mode="random", targets="all", train_also=()), name="all")
    own = sum(p.numel() for n, p in model.named_parameters() if n.startswith("bert."))
    assert everything.size == round(0.3 * own)


@pytest.mark.parametrize("mode", ["D", "F", "magnitude", "random"])
def test_sizes_on_the_meta_device(mode: str) -> None:
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**DECODER))
    inside = sum(p.numel() for n, p in model.named_parameters() if n.startswith(LAYERS["llama"]))
    assert dt.attach(model, ChildTuning(mode=mode, p=0.1)).size == (inside if mode == "F" else round(0.1 * inside))


# Training.


@families("bert", "llama", "gpt2", "t5")
@pytest.mark.parametrize("mode", ["D", "magnitude"])
def test_equals_masked_training_with_decay_and_momentum(family: Family, mode: str) -> None:
    model = family.model().double()
    delta = dt.attach(model, ChildTuning(mode=mode, p=0.2))
    dt.prepare(model, batches() if family.name == "bert" else language_batches())
    reference = family.model().double()
    mask, start = masks(model, delta), values(reference)
    heads = [name for name in mask if name.startswith("classifier.")]
    for name in heads:
        mask[name].fill_(True)

    groups = dt.parameter_groups(model, 1e-2, weight_decay=0.1)
    optimizer = torch.optim.AdamW(groups)
    dt.on_step(model, optimizer)
    for _ in range(4):
        for _ in range(2):  # gradients accumulate
            family.loss(model).backward()
        assert not any(p.grad is not None for n, p in model.named_parameters() if "deltatune" not in n)
        optimizer.step()
        optimizer.zero_grad()

    # Masked by hand: the gradient, and the decay that AdamW takes off every entry.
    decaying = [p for n, p in reference.named_parameters() if p.dim() > 1]
    others = [p for n, p in reference.named_parameters() if p.dim() <= 1]
    plain = torch.optim.AdamW([{"params": decaying, "weight_decay": 0.1}, {"params": others, "weight_decay": 0}], 1e-2)
    for _ in range(4):
        plain.zero_grad()
        for _ in range(2):
            family.loss(reference).backward()
        for name, p in reference.named_parameters():
            p.grad = None if p.grad is None else p.grad * mask[name]
        plain.step()
        with torch.no_grad():
            for name, p in reference.named_parameters():
                p.copy_(torch.where(mask[name], p, start[name]))

    found = values(model)
    for site, part in delta.items():
        found |= {f"{site}.{name}": p for name, p in getattr(part, "copy", nn.Module()).named_parameters()}
    for name, p in reference.named_parameters():
        assert_close(found[name], p.detach())
    torch.testing.assert_close(family.forward(model), family.forward(reference))


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW", "Adafactor"])
def test_nothing_changes_outside_the_child(optimizer: str) -> None:
    family = FAMILIES["bert"]
    model = family.model()
    before = values(model)
    delta = attach(model, p=0.1)
    mask = masks(model, delta)
    settings: dict[str, Any] = {"momentum": 0.9} if optimizer == "SGD" else {}
    trained = getattr(torch.optim, optimizer)(dt.parameter_groups(model, 1e-2, weight_decay=0.3), **settings)
    dt.on_step(model, trained)
    for _ in range(3):
        family.loss(model).backward()
        trained.step()
        trained.zero_grad()
    changed = 0
    for name, value in values(model).items():
        if name in mask:
            assert torch.equal(value[~mask[name]], before[name][~mask[name]]), name
            changed += int((value != before[name]).sum())
    chosen = sum(int(m.sum()) for m in mask.values())
    assert 0.95 * chosen < changed <= chosen


def test_the_optimiser_holds_state_for_the_child_alone() -> None:
    model = FAMILIES["llama"].model()
    delta = attach(model, p=0.05)
    optimizer = torch.optim.AdamW(dt.parameter_groups(model, 1e-2))
    FAMILIES["llama"].loss(model).backward()
    optimizer.step()
    state = sum(t.numel() for s in optimizer.state.values() for t in s.values() if t.dim())
    inside = sum(p.numel() for n, p in model.named_parameters() if n.startswith(LAYERS["llama"]))
    assert delta.size == round(0.05 * inside)
    assert state == 2 * delta.size
    assert [n for n, p in model.named_parameters() if p.requires_grad and "deltatune" not in n] == []


def test_entries_of_matrices_decay_and_those_of_vectors_do_not() -> None:
    model = FAMILIES["bert"].model()
    delta = attach(model)
    decays = {id(p): g["weight_decay"] for g in dt.parameter_groups(model, 1.0, 0.1) for p in g["params"]}
    for site, part in delta.items():
        for name, piece in getattr(part, "pieces", {}).items():
            if not len(piece.values):
                assert id(piece.values) not in decays
                continue
            matrix = model.get_submodule(site).get_parameter(name).dim() > 1
            assert decays[id(piece.values)] == (0.1 if matrix else 0.0)


def test_one_dense_gradient_is_there_at_a_time() -> None:
    """The linear layers' gradients are freed before the next one is made."""
    width = 256
    model = nn.Sequential(*[nn.Linear(width, width, bias=False) for _ in range(6)])
    dt.attach(model, ChildTuning(mode="random", targets=r"\d", p=0.01))
    alive: list[int] = []

    def count(*_: Any) -> None:
        gc.collect()
        dense = [t for t in gc.get_objects() if issubclass(type(t), Tensor) and t.shape == (width, width)]
        alive.append(len({t.data_ptr() for t in dense}))

    x = torch.randn(2, width)
    for layer in model[:6]:
        layer.register_full_backward_hook(count)
    model(x.requires_grad_()).sum().backward()
    assert len(alive) == 6
    assert max(alive) <= 6 + 1  # the weights, and one gradient


@families("bert", "llama")
@pytest.mark.parametrize("mode", ["D", "F", "magnitude", "random"])
def test_it_learns(family: Family, mode: str) -> None:
    model = family.model()
    attach(model, mode=mode, p=0.3)
    before, after = losses(family, model, lr=5e-3)
    assert after < 0.8 * before


@families("llama", "t5")
def test_a_tied_parameter_learns_through_every_module_that_has_it(family: Family) -> None:
    config = {"tie_word_embeddings": True}
    model: nn.Module = (
        transformers.LlamaForCausalLM(transformers.LlamaConfig(**DECODER, **config)).eval().double()
        if family.name == "llama"
        else family.model().double()
    )
    plain = copy.deepcopy(model)
    delta = dt.attach(model, ChildTuning(mode="random", p=1.0, targets=("all",)))
    family.loss(model).backward()
    family.loss(plain).backward()
    table = plain.get_input_embeddings().weight
    pieces = {id(model.get_submodule(s).get_parameter(n)): x for s, p in delta.items() for n, x in p.pieces.items()}
    assert_close(pieces[id(model.get_input_embeddings().weight)].values.grad, table.grad.reshape(-1))
    assert delta.size == sum(p.numel() for p in plain.parameters())


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_layers_give_the_same_gradients(reentrant: bool) -> None:
    family = FAMILIES["llama"]
    model = family.model().double()
    delta = attach(model, p=0.2)
    model.train()
    family.loss(model).backward()
    trained = [p for p in delta.parameters() if p.requires_grad]
    expected = [p.grad.clone() for p in trained]
    delta.zero_grad()
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    family.loss(model).backward()
    for p, g in zip(trained, expected, strict=True):
        assert_close(p.grad, g)


def test_the_fisher_information_is_the_same_with_checkpointed_layers() -> None:
    model, plain = FAMILIES["llama"].model(), FAMILIES["llama"].model()
    model.activation_checkpointing_enable({"use_reentrant": False})
    found, expected = attach(model, p=0.1), attach(plain, p=0.1)
    for one, other in zip(masks(model, found).values(), masks(plain, expected).values(), strict=True):
        assert torch.equal(one, other)


# Mode F.


def test_a_free_mask_has_the_gradient_as_its_mean_and_the_variance_of_the_paper() -> None:
    model = nn.Sequential(nn.Linear(3, 4, dtype=torch.float64))
    delta = dt.attach(model, ChildTuning(mode="F", p=0.3, targets=r"0"))
    method = delta.method
    gradients = {name: torch.randn(p.shape, dtype=p.dtype) for name, p in delta.named_parameters()}
    draws = 20_000
    sums = {name: torch.zeros_like(g) for name, g in gradients.items()}
    squares = copy.deepcopy(sums)
    for _ in range(draws):
        for name, p in delta.named_parameters():
            p.grad = gradients[name].clone()
        method.before_step(delta, None)  # type: ignore[arg-type]
        for name, p in delta.named_parameters():
            sums[name] += p.grad
            squares[name] += p.grad**2
    for name, g in gradients.items():
        mean = sums[name] / draws
        variance = squares[name] / draws - mean**2
        expected = (1 - 0.3) / 0.3 * g**2
        assert ((mean - g).abs() < 5 * (expected / draws).sqrt()).all()
        torch.testing.assert_close(variance, expected, rtol=0.06, atol=0)


@families("bert", "llama")
def test_free_equals_training_the_layers_on_masked_gradients(family: Family) -> None:
    model, reference = family.model().double(), family.model().double()
    delta = dt.attach(model, ChildTuning(mode="F", p=0.4))
    names = [f"{site}.{name}" for site, part in delta.items() if hasattr(part, "pieces") for name in part.changes]
    names += [name for name, _ in reference.named_parameters() if name.startswith("classifier.")]
    trained = [reference.get_parameter(name) for name in names]
    optimizer = torch.optim.AdamW(dt.parameter_groups(model, 1e-2, weight_decay=0.1))
    plain = torch.optim.AdamW(
        [{"params": [p for p in trained if (p.dim() > 1) is m], "weight_decay": 0.1 * m} for m in (True, False)], 1e-2
    )
    dt.on_step(model, optimizer)
    for step in range(4):
        for each, o in ((model, optimizer), (reference, plain)):
            family.loss(each).backward()
            torch.manual_seed(step)
            if each is reference:
                with drawing_alike(torch.device("cpu")):
                    for p in trained:
                        p.grad *= torch.empty_like(p).bernoulli_(0.4) / 0.4
            o.step()
            o.zero_grad()
    torch.testing.assert_close(family.forward(model), family.forward(reference))
    for name, p in zip(names, trained, strict=True):
        if not name.startswith("classifier."):
            assert_close(model.get_parameter(name).detach(), p.detach())


def test_free_shares_the_memory_of_a_float32_base_and_swaps_it() -> None:
    model = FAMILIES["llama"].model()
    weight = model.get_parameter("model.layers.0.self_attn.q_proj.weight")
    own = weight.data_ptr()
    delta = dt.attach(model, ChildTuning(mode="F"))
    piece = dict(delta.items())["model.layers.0.self_attn.q_proj"].pieces["weight"]
    assert weight.data_ptr() == piece.values.data_ptr() != own
    delta.disable()
    assert weight.data_ptr() == own
    delta.enable()
    dt.detach(model)
    assert weight.data_ptr() == own


# On, off, in stacks.


@families("bert", "llama")
@pytest.mark.parametrize("mode", ["D", "F"])
def test_the_exact_base_comes_back(family: Family, mode: str) -> None:
    model = family.model()
    before, state = values(model), fingerprint(model)
    delta = attach(model, mode=mode, p=0.2)
    losses(family, model, lr=1e-2, steps=3)
    trained = family.forward(model)
    with dt.disabled(model):
        assert_bit_identical(values(model), before)
    assert torch.equal(family.forward(model), trained)
    delta.disable()
    assert_bit_identical(values(model), before)
    delta.enable()
    assert torch.equal(family.forward(model), trained)
    dt.detach(model)
    assert_bit_identical(values(model), before)
    assert fingerprint(model) | {"config": None} == state | {
        "config": None
    }  # labels make BERT note its kind of problem


def test_two_children_take_turns() -> None:
    family = FAMILIES["llama"]
    model = family.model()
    base = family.forward(model)
    a = stir(attach(model, "a", p=0.2), seed=1)
    only_a = family.forward(model)
    a.disable()
    b = stir(attach(model, "b", mode="F"), seed=2)
    only_b = family.forward(model)
    for _ in range(2):
        b.disable()
        assert torch.equal(family.forward(model), base)
        a.enable()
        assert torch.equal(family.forward(model), only_a)
        a.disable()
        b.enable()
        assert torch.equal(family.forward(model), only_b)


@pytest.mark.parametrize("modes", [("D", "D"), ("D", "F"), ("F", "D"), ("F", "F"), ("magnitude", "random")])
def test_stacked_each_adds_its_change_and_both_train(modes: tuple[str, str]) -> None:
    family = FAMILIES["llama"]
    model = family.model().double()
    before = values(model)
    deltas = [stir(attach(model, name, mode=mode, p=0.5), size=0.05) for name, mode in zip("ab", modes, strict=True)]
    family.forward(model)  # what was changed by hand is put in
    both = values(model)
    changes = []
    for one, other in (deltas, deltas[::-1]):
        other.disable()
        changes.append({n: v - before[n] for n, v in values(model).items()})
        other.enable()
        assert one.acts
    for name, value in both.items():
        assert_close(value, before[name] + changes[0][name] + changes[1][name])

    family.loss(model).backward()
    plain = family.model().double()
    plain.load_state_dict(both, strict=False)
    family.loss(plain).backward()
    for delta in deltas:
        for site, part in delta.items():
            for name, piece in part.pieces.items():
                whole = plain.get_parameter(f"{site}.{name}").grad.reshape(-1)
                found = piece.values.grad.reshape(-1)
                assert_close(found, whole[piece.index.long()] if hasattr(piece, "index") else whole)

    optimizer = torch.optim.SGD(dt.parameter_groups(model, 0.1))
    dt.on_step(model, optimizer)
    optimizer.step()
    dt.detach(model, "a")
    dt.detach(model, "b")
    assert_bit_identical(values(model), before)


def test_a_change_by_hand_counts_at_once_even_below_the_root() -> None:
    family = FAMILIES["t5"]
    model = family.model()
    delta = dt.attach(model, ChildTuning(mode="random"))
    inputs = {name: value for name, value in family.inputs().items() if "decoder" not in name}

    def encode() -> Tensor:
        return model.get_encoder()(**inputs)[0]  # type: ignore[no-any-return]

    before = encode()
    stir(delta)
    changed = encode()
    assert (changed - before).abs().max() > 1e-2
    model(**family.inputs())
    assert torch.equal(encode(), changed)


def test_rows_can_not_have_weights_of_their_own() -> None:
    family = FAMILIES["llama"]
    model = family.model()
    delta = attach(model, "a")
    with pytest.raises(AttachError, match="'a' changes the base's own weights"), dt.routed(model, ["a", None, None]):
        pass
    delta.disable()
    with dt.routed(model, [None] * 3):
        family.forward(model)
        with pytest.raises(AttachError, match="'b' changes the base's own weights"):
            dt.attach(model, ChildTuning(mode="random"), name="b")
    assert list(dt.deltas(model)) == ["a"]


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # of torch, about its own tracing
@pytest.mark.usefixtures("fresh_compiler")
def test_a_compiled_model_trains_the_same() -> None:
    family = FAMILIES["llama"]
    model = family.model()
    delta = attach(model, p=0.2)
    family.loss(model).backward()
    trained = [p for p in delta.parameters() if p.requires_grad]
    expected = [p.grad.clone() for p in trained]
    delta.zero_grad()
    compiled = torch.compile(model, backend="eager")
    family.loss(compiled).backward()
    for p, g in zip(trained, expected, strict=True):
        torch.testing.assert_close(p.grad, g)


# Files and runs.


@families("bert", "llama")
@pytest.mark.parametrize("mode", ["D", "F", "magnitude"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_file_holds_indices_and_values_and_gives_the_same_weights(
    family: Family, mode: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    model = family.model().to(dtype)
    delta = stir(attach(model, mode=mode, p=0.1), size=0.05)
    expected = family.forward(model)
    weights = values(model)
    dt.save(delta, tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    child = {name: t for name, t in tensors.items() if ".classifier." not in name}
    kinds = {name.rpartition(".")[2] for name in child}
    own = {"weight"} if family.name == "llama" else {"weight", "bias"}
    assert kinds == (own if mode == "F" else {"index", "values"})
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "DELTATUNE_CHILD"

    other = family.model().to(dtype)
    before = values(other)
    loaded = dt.load(other, tmp_path)
    assert torch.equal(family.forward(other), expected)
    assert_bit_identical(values(other), weights)
    assert not loaded.is_trainable
    dt.detach(other)
    assert_bit_identical(values(other), before)


def test_a_file_in_half_precision_keeps_its_indices(tmp_path: Path) -> None:
    model = FAMILIES["llama"].model()
    delta = attach(model)
    dt.save(delta, tmp_path, dtype=torch.bfloat16)
    for name, tensor in load_file(tmp_path / "adapter_model.safetensors").items():
        assert tensor.dtype == (torch.int32 if name.endswith("index") else torch.bfloat16)


@pytest.mark.parametrize("fault", ["beyond", "twice", "uneven"])
def test_a_file_with_bad_indices_is_refused_and_the_model_left_alone(fault: str, tmp_path: Path) -> None:
    family = FAMILIES["llama"]
    model = family.model()
    dt.save(attach(model, p=0.1), tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(name for name, t in tensors.items() if name.endswith("index") and len(t) > 3)
    if fault == "uneven":
        tensors[name] = tensors[name][:-1].clone()
    else:
        tensors[name][-1] = 10**6 if fault == "beyond" else tensors[name][-2]
    from safetensors import safe_open

    with safe_open(file, "pt") as old:
        header = old.metadata()
    save_file(tensors, file, metadata=header)
    other = family.model()
    state, before = fingerprint(other), values(other)
    with pytest.raises(FileFormatError, match=r"index is \[|expected ascending indices"):
        dt.load(other, tmp_path)
    assert fingerprint(other) == state
    assert_bit_identical(values(other), before)


def test_a_child_that_is_loaded_keeps_its_entries_when_trained_on(tmp_path: Path) -> None:
    model = FAMILIES["llama"].model()
    dt.save(stir(attach(model, p=0.1), size=0.05), tmp_path)
    expected = FAMILIES["llama"].forward(model)
    other = FAMILIES["llama"].model()
    delta = dt.load(other, tmp_path, trainable=True)
    dt.prepare(other, language_batches())
    assert torch.equal(FAMILIES["llama"].forward(other), expected)
    assert delta.is_trainable
    losses(FAMILIES["llama"], other, lr=1e-2, steps=1)


@families("llama")
def test_saving_another_delta_while_a_child_is_on_writes_of_the_base_alone(family: Family, tmp_path: Path) -> None:
    model = family.model()
    stir(attach(model, "child", targets="all"))
    lora = stir(dt.attach(model, dt.LoRA(), name="lora"))
    dt.save(lora, tmp_path)
    dt.load(family.model(), tmp_path)  # would refuse another base


@pytest.mark.parametrize("weight", [1.0, 0.3])
@pytest.mark.parametrize("mode", ["D", "F"])
def test_merged_the_values_are_in_the_weights(mode: str, weight: float) -> None:
    family = FAMILIES["llama"]
    model = family.model()
    before = values(model)
    delta = stir(attach(model, "a", mode=mode))
    found = family.forward(model)
    installed = values(model)
    dt.merge(model, {"a": weight})
    for name, value in values(model).items():
        expected = installed[name] if weight == 1 else before[name] + weight * (installed[name] - before[name])
        torch.testing.assert_close(value, expected, rtol=0 if weight == 1 else 1e-5, atol=0 if weight == 1 else 1e-6)
    if weight == 1:
        assert torch.equal(family.forward(model), found)
    dt.unmerge(model)
    assert torch.equal(family.forward(model), found)
    delta.disable()
    assert_bit_identical(values(model), before)


class Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        draw = torch.Generator().manual_seed(index)
        return {"input_ids": torch.randint(3, 99, (6,), generator=draw), "labels": torch.tensor(index % 3)}


def trainer(folder: Path, mode: str, **settings: Any) -> dt.Trainer:
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(bert_config(hidden_dropout_prob=0.1))
    dt.attach(model, ChildTuning(mode=mode, p=0.2))
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=5e-3,
        weight_decay=0.01,
        save_steps=2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        **settings,
    )
    return dt.Trainer(model=model, args=arguments, train_dataset=Rows())


@pytest.mark.parametrize("mode", ["D", "F"])
def test_the_trainer_chooses_the_child_and_a_resumed_run_is_the_same(mode: str, tmp_path: Path) -> None:
    whole = trainer(tmp_path / "a", mode, max_steps=5)
    whole.train()
    delta = dt.deltas(whole.model)["default"]
    if mode == "D":
        inside = sum(p.numel() for n, p in whole.model.named_parameters() if n.startswith("bert.encoder"))
        head = sum(p.numel() for p in whole.model.classifier.parameters())
        assert delta.size == round(0.2 * inside) + head
        state = sum(t.numel() for s in whole.optimizer.state.values() for t in s.values() if t.dim())
        assert state == 2 * delta.size

    resumed = trainer(tmp_path / "a", mode, max_steps=5)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    assert_bit_identical(values(resumed.model), values(whole.model))
    one, other = (dt.deltas(t.model)["default"].state_dict() for t in (whole, resumed))
    assert_bit_identical(other, one)


# Refusals.


def test_training_before_the_child_is_chosen_says_what_to_do() -> None:
    family = FAMILIES["llama"]
    model = family.model()
    delta = dt.attach(model, ChildTuning())
    family.forward(model)  # it may be looked at
    with pytest.raises(AttachError, match=r"call dt\.prepare\(model, batches\)"):
        family.loss(model.train())
    family.forward(model)
    optimizer = torch.optim.SGD(delta.parameters(), 0.1)
    dt.on_step(model, optimizer)
    with pytest.raises(AttachError, match=r"call dt\.prepare\(model, batches\)"):
        optimizer.step()
    dt.prepare(model, language_batches())  # the optimiser may have been made before
    family.loss(model).backward()
    optimizer.step()


def test_batches_without_labels_are_refused() -> None:
    model = FAMILIES["llama"].model()
    delta = dt.attach(model, ChildTuning())
    with pytest.raises(DataError, match="one that gives no loss"):
        dt.prepare(model, [{"input_ids": torch.ones(1, 3, dtype=torch.long)}])
    assert not any(p.requires_grad for n, p in model.named_parameters() if "deltatune" not in n)
    assert delta.is_trainable


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "E"}, "child.mode"),
        ({"p": 0}, "child.p"),
        ({"p": 1.5}, "child.p"),
        ({"p": True}, "child.p"),
        ({"targets": ()}, "child.targets"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ChildTuning(**settings)


def test_targets_without_parameters_are_refused() -> None:
    with pytest.raises(SiteError, match="a module with parameters of its own"):
        dt.attach(FAMILIES["bert"].model(), ChildTuning(targets="dropout"))


def test_packed_weights_are_refused() -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    model = nn.Sequential(bitsandbytes.nn.Linear4bit(16, 16), nn.Linear(16, 16))
    with pytest.raises(SiteError, match="found packed ones"):
        dt.attach(model, ChildTuning(mode="random", targets=r"\d"))


def _train(file: str) -> None:
    """Two steps on four batches, of which each process has its share."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world > 1:
        torch.distributed.init_process_group("gloo", timeout=timedelta(minutes=1))
    model: nn.Module = FAMILIES["llama"].model().double()
    dt.attach(model, ChildTuning(p=0.1))
    rows = language_batches(4)
    dt.prepare(model, rows[rank::world])
    optimizer = torch.optim.AdamW(dt.parameter_groups(model, 1e-2))
    dt.on_step(model, optimizer)
    run = torch.nn.parallel.DistributedDataParallel(model) if world > 1 else model
    for step in (rows[:2], rows[2:]):
        (sum(run(**batch).loss for batch in step[rank::world]) * world / 2).backward()
        optimizer.step()
        optimizer.zero_grad()
    if rank == 0:
        save_file({name: tensor.clone() for name, tensor in values(model).items()}, file)


@pytest.mark.slow
def test_two_processes_choose_and_train_what_one_would(tmp_path: Path) -> None:
    _train(str(tmp_path / "one"))
    together(_train, str(tmp_path / "two"))
    found, expected = load_file(tmp_path / "two"), load_file(tmp_path / "one")
    for name, value in expected.items():
        assert_close(found[name], value)


@pytest.mark.parametrize("kind", ["fused", "foreach", "plain"])
@pytest.mark.parametrize("mode", ["random", "F"])
def test_the_base_follows_whichever_way_the_optimiser_writes(mode: str, kind: str) -> None:
    """A fused optimiser does not raise the version of what it writes."""
    model = FAMILIES["bert"].model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    delta = attach(model, mode=mode)
    options = {"fused": {"fused": True}, "foreach": {"foreach": True}, "plain": {"foreach": False}}[kind]
    optimizer = torch.optim.AdamW(delta.parameters(), lr=1e-2, **options)
    dt.on_step(model, optimizer)
    model(**batches()[0]).loss.backward()
    optimizer.step()
    changed = [name for name, p in model.named_parameters() if name in before and not torch.equal(p, before[name])]
    assert any("query" in name for name in changed)


def test_what_is_one_memory_stays_so_when_the_model_is_moved() -> None:
    model = FAMILIES["llama"].model()
    delta = dt.attach(model, ChildTuning(mode="F"))
    before = weight_bytes(model)
    model.to("cpu", torch.float64)
    piece = dict(delta.items())["model.layers.0.self_attn.q_proj"].pieces["weight"]
    assert piece.start.data_ptr() == piece.below.data_ptr()
    assert weight_bytes(model) <= 3 * before  # twice as wide, and once more until the first step
