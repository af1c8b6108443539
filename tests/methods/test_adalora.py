"""AdaLoRA against its equations in float64, its schedule, and Hugging Face PEFT's allocation step by step."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import deltatune as dt
from deltatune.attachment.delta import Delta
from deltatune.errors import ConfigError, FileFormatError, SiteError
from deltatune.methods.adalora import AdaLoRAPart, Schedule, budget, keep_best, orthogonality_gradient
from tests.methods.training import answers, assert_close, backward, losses, with_peft
from tests.models.families import FAMILIES, Family
from tests.models.tools import families, stir

IN, OUT = 12, 10
LLAMA = FAMILIES["llama"]


def parts(delta: Delta) -> dict[str, AdaLoRAPart]:
    return {site: part for site, part in delta.items() if isinstance(part, AdaLoRAPart)}


def ranks(delta: Delta) -> dict[str, int]:
    return {site: part.rank for site, part in parts(delta).items()}


def train(model: nn.Module, steps: int, total: int, *, start: int = 0, lr: float = 0.05, optimizer: Any = None) -> Any:
    """Some steps of a run; returns the optimiser, to go on with."""
    if optimizer is None:
        optimizer = torch.optim.AdamW(dt.parameter_groups(model, lr))
    hooks = dt.on_step(model, optimizer, total_steps=total)
    for _ in range(start, start + steps):
        optimizer.zero_grad()
        LLAMA.loss(model).backward()
        optimizer.step()
    hooks.remove()
    return optimizer


@pytest.mark.parametrize("layer", [nn.Linear(IN, OUT), nn.Linear(IN, OUT, bias=False), Conv1D(OUT, IN)])
def test_the_output_and_the_gradients_are_the_equation(layer: nn.Module) -> None:
    model = nn.ModuleDict({"layer": layer.double()})
    x = torch.randn(3, 4, IN, dtype=torch.float64)
    base = layer(x).detach()
    delta = dt.attach(model, dt.AdaLoRA(targets=("layer",), init_r=5, target_r=3, alpha=7))
    part = parts(delta)["layer"]
    assert torch.equal(layer(x), base)
    assert not part.lora_E.any()
    assert abs(float(part.lora_A.detach().std()) / 0.02 - 1) < 0.3

    stir(delta)
    trained = [part.lora_A, part.lora_E, part.lora_B]
    A, E, B = trained
    expected = base + 7 / (5 + 1e-5) * x @ (B @ torch.diag(E[:, 0]) @ A).T
    torch.testing.assert_close(layer(x), expected)
    found, wanted = (torch.autograd.grad(y.pow(2).sum(), trained) for y in (layer(x), expected))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
    assert delta.size == 5 * (IN + OUT + 1)


def test_embeddings_are_no_sites() -> None:
    with pytest.raises(SiteError, match="expected Linear, Conv1D"):
        dt.attach(LLAMA.model(), dt.AdaLoRA(targets=("embedding",)))


# The regulariser


def test_the_gradient_of_the_regulariser_is_that_of_autograd() -> None:
    Q = torch.randn(4, 9, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad((Q @ Q.T - torch.eye(4)).norm(), Q)
    torch.testing.assert_close(orthogonality_gradient(Q.detach()), expected)
    assert not orthogonality_gradient(torch.eye(4, 9)).any()  # no division by zero


def test_it_is_added_to_the_gradients_before_the_step() -> None:
    model = LLAMA.model()
    delta = stir(dt.attach(model, dt.AdaLoRA(init_r=4, target_r=2, orth_reg_weight=0.7)))
    optimizer = torch.optim.SGD(delta.parameters(), lr=0.0)
    dt.on_step(model, optimizer, total_steps=9)
    LLAMA.loss(model).backward()
    plain = {name: p.grad.clone() for name, p in delta.named_parameters() if p.grad is not None}
    optimizer.step()

    after = {name: p.grad.clone() for name, p in delta.named_parameters() if p.grad is not None}
    optimizer.zero_grad()
    factors = [(part.lora_A, part.lora_B.T) for part in parts(delta).values()]
    distances = [(Q @ Q.T - torch.eye(4)).norm() for pair in factors for Q in pair]
    (0.7 * torch.stack(distances).mean()).backward()
    for name, parameter in delta.named_parameters():
        expected = plain[name] if parameter.grad is None else plain[name] + parameter.grad
        torch.testing.assert_close(after[name], expected)
    assert sum(p.grad is None for p in delta.parameters()) == len(delta.sites)  # only Λ is free


# The schedule


@pytest.mark.parametrize(
    "settings", [{"tinit": 3, "tfinal": 5, "deltaT": 4}, {"tinit": 0, "tfinal": 0, "deltaT": 1}, {}]
)
def test_the_budget_is_the_cubic_of_the_paper(settings: dict[str, Any]) -> None:
    total, start, end = 30, 120, 40
    schedule = dt.AdaLoRA(**settings).schedule(total)
    first, last, _ = schedule
    if settings.get("tfinal"):
        assert schedule == Schedule(3, 25, 4)
    else:
        assert schedule == (Schedule(0, 29, 1) if settings else Schedule(3, 15, 1))
    for t in range(total):
        share = min(max((t - first) / (last - first), 0), 1)
        assert budget(t, start, end, schedule) == int(end + (start - end) * (1 - share) ** 3 + 1e-9)
    assert budget(first, start, end, schedule) == start
    assert budget(last - 1, start, end, schedule) >= budget(last, start, end, schedule) == end


def test_the_ranks_follow_the_budget_and_are_unequal_at_the_end() -> None:
    model = LLAMA.model()
    method = dt.AdaLoRA(init_r=6, target_r=2, tinit=2, tfinal=4, deltaT=2)
    delta = dt.attach(model, method)
    sites, schedule, optimizer = len(delta.sites), method.schedule(14), None
    for t in range(14):
        optimizer = train(model, 1, 14, start=t, optimizer=optimizer)
        on = sum(int((part.lora_E != 0).sum()) for part in parts(delta).values())
        kept = sum(int(part.kept.sum()) for part in parts(delta).values())
        if t > 2 and (t % 2 == 0 or t >= 10):
            assert on == kept == budget(t, 6 * sites, 2 * sites, schedule)
        elif t > 0:
            assert on == 6 * sites  # what was set to zero has had its gradient and is back
    assert sum(ranks(delta).values()) == 2 * sites
    assert len(set(ranks(delta).values())) > 1


def test_the_best_are_kept_wherever_they_are_and_ties_do_not_cost_any() -> None:
    model = LLAMA.model()
    delta = dt.attach(model, dt.AdaLoRA(init_r=4, target_r=2, targets=("query",)))
    first, second = parts(delta).values()
    keep_best([first, second], 3)  # nothing is known yet
    assert int(first.kept.sum() + second.kept.sum()) == 3
    for part in (first, second):
        for buffer in part.importance.buffers():
            buffer.fill_(1e-3)
    for triplet, score in ((0, 5.0), (2, 7.0), (3, 6.0)):
        second.importance["lora_E"].sensitivity[triplet] = score  # type: ignore[index, union-attr]
    first.importance["lora_A"].sensitivity[1] = 30.0  # type: ignore[index, union-attr]
    keep_best([first, second], 4)
    assert first.kept.tolist() == [False, True, False, False]
    assert second.kept.tolist() == [True, False, True, True]


def test_importance_is_the_smoothed_product_of_sensitivity_and_uncertainty() -> None:
    model = nn.ModuleDict({"layer": nn.Linear(IN, OUT).double()})
    part = parts(stir(dt.attach(model, dt.AdaLoRA(targets=("layer",), init_r=3, target_r=1))))["layer"]
    means: dict[str, Tensor] = {name: torch.zeros_like(p) for name, p in part.named_parameters()}
    spreads = {name: torch.zeros_like(p) for name, p in part.named_parameters()}
    for _ in range(3):
        for name, parameter in part.named_parameters():
            parameter.grad = torch.randn_like(parameter)
            now = (parameter * parameter.grad).abs().detach()
            means[name] = 0.8 * means[name] + 0.2 * now
            spreads[name] = 0.6 * spreads[name] + 0.4 * (now - means[name]).abs()
        part.observe(0.8, 0.6)
    s = {name: means[name] * spreads[name] for name in means}
    expected = s["lora_E"][:, 0] + s["lora_A"].mean(1) + s["lora_B"].mean(0)
    torch.testing.assert_close(part.scores(), expected)


def test_what_is_restored_starts_with_nothing_known() -> None:
    run = LLAMA.model()
    delta = dt.attach(run, dt.AdaLoRA(init_r=4, target_r=2, targets=("query",)))
    train(run, 3, 9)
    for site, part in parts(delta).items():
        assert part.scores().any()
        module = run.get_submodule(site)
        part.restore(module, part.export(module))
        assert not part.scores().any()
        assert int(part.kept.sum()) == part.rank


def test_a_run_without_an_end_is_refused_at_its_first_step() -> None:
    model = LLAMA.model()
    dt.attach(model, dt.AdaLoRA(init_r=4, target_r=2))
    optimizer = torch.optim.SGD(dt.parameter_groups(model, 0.1))
    dt.on_step(model, optimizer)
    LLAMA.loss(model).backward()
    with pytest.raises(ConfigError, match=r"adalora\.total_steps: expected the number of steps.*pass total_steps"):
        optimizer.step()


def test_the_setting_counts_before_what_the_run_says() -> None:
    assert dt.AdaLoRA(total_steps=100).schedule(None) == dt.AdaLoRA(total_steps=100).schedule(7)
    with pytest.raises(ConfigError, match=r"adalora.tinit and tfinal: expected less than 10 together, found \(8, 4\)"):
        dt.AdaLoRA(tinit=8, tfinal=4).schedule(10)
    assert dt.AdaLoRA().schedule(1) == Schedule(0, 0, 1)  # a trial run of one step


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_r": 13}, "adalora.target_r: expected at most init_r, 12, found 13"),
        ({"init_r": 0}, "adalora.init_r: expected a whole number from 1, found 0"),
        ({"tinit": -1}, "adalora.tinit: expected a whole number from 0, found -1"),
        ({"deltaT": 0}, "adalora.deltaT: expected a whole number from 1, found 0"),
        ({"beta1": 1}, "adalora.beta1: expected 0 < β < 1, found 1"),
        ({"orth_reg_weight": -1}, "adalora.orth_reg_weight: expected a number from 0, found -1"),
        ({"alpha": 0}, "adalora.alpha: expected a number above 0, found 0"),
        ({"dropout": 1}, "adalora.dropout: expected 0 <= p < 1, found 1"),
        ({"targets": ()}, "adalora.targets: expected at least one target"),
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        dt.AdaLoRA(**settings)


# Resuming, pruned files, plain LoRA


def test_training_resumes_exactly() -> None:
    method = dt.AdaLoRA(init_r=5, target_r=2, tinit=1, tfinal=4, deltaT=2)
    runs = []
    for _ in range(2):
        torch.manual_seed(7)
        model = LLAMA.model()
        runs.append((model, dt.attach(model, method)))
    (whole, straight), (first, begun) = runs
    train(whole, 12, 12)

    optimizer = train(first, 5, 12)
    second = LLAMA.model()
    resumed = dt.attach(second, method)
    resumed.load_state_dict(begun.state_dict())
    other = torch.optim.AdamW(dt.parameter_groups(second, 0.05))
    other.load_state_dict(optimizer.state_dict())
    train(second, 7, 12, start=5, optimizer=other)
    for name, tensor in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


@pytest.fixture
def pruned() -> tuple[nn.Module, Delta]:
    """A model with a delta after its whole run; one site has nothing left."""
    model = LLAMA.model()
    delta = dt.attach(model, dt.AdaLoRA(init_r=6, target_r=2, alpha=99, tinit=1, tfinal=3, deltaT=1, total_steps=12))
    # A module whose triplets matter to nothing loses all of them.
    first = parts(delta)["model.layers.0.self_attn.k_proj"]
    first.requires_grad_(False)
    train(model, 12, 12)
    first.kept.fill_(False)
    with torch.no_grad():
        first.lora_E.zero_()
    return model, delta


def test_a_file_holds_only_what_is_left(pruned: tuple[nn.Module, Delta], tmp_path: Path) -> None:
    model, delta = pruned
    left = ranks(delta)
    assert left["model.layers.0.self_attn.k_proj"] == 0
    assert len(set(left.values())) > 2
    dt.save(delta, tmp_path)
    file = load_file(tmp_path / "adapter_model.safetensors")
    for site, rank in left.items():
        key = f"base_model.model.{site}."
        assert len(file[key + "lora_A"]) == len(file[key + "lora_E"]) == file[key + "lora_B"].shape[1] == rank
    pattern = json.loads((tmp_path / "adapter_config.json").read_text())["rank_pattern"]
    assert {name.removesuffix(".lora_E"): sum(mask) for name, mask in pattern.items()} == left

    expected = LLAMA.forward(model)
    other = LLAMA.model()
    loaded = dt.load(other, tmp_path, trainable=True)
    assert ranks(loaded) == left
    torch.testing.assert_close(LLAMA.forward(other), expected)
    assert loaded.size == sum(
        part.r * (part.lora_A.shape[1] + part.lora_B.shape[0] + 1) for part in parts(loaded).values()
    )
    assert_close(expected, LLAMA.forward(with_peft(LLAMA, tmp_path)), 2e-5)
    dt.save(loaded, tmp_path / "again")
    assert_close(expected, LLAMA.forward(with_peft(LLAMA, tmp_path / "again")), 2e-5)


def test_what_is_left_is_trained_on(pruned: tuple[nn.Module, Delta], tmp_path: Path) -> None:
    model, delta = pruned
    dt.save(delta, tmp_path)
    before = LLAMA.loss(model).item()
    other = LLAMA.model()
    loaded = dt.load(other, tmp_path, trainable=True)
    train(other, 12, 12, lr=1e-2)
    assert ranks(loaded) == ranks(delta)  # it is within the budget already
    assert LLAMA.loss(other).item() < before
    dt.merge(other)
    dt.unmerge(other)


def test_what_was_set_to_zero_for_now_is_in_a_file_if_it_acts() -> None:
    model = LLAMA.model()
    delta = dt.attach(model, dt.AdaLoRA(init_r=6, target_r=2, tinit=1, tfinal=2, deltaT=5))
    train(model, 6, 20)  # the step of a choice: what is zero has no effect
    zeroed = sum(ranks(delta).values())
    assert zeroed < 6 * len(delta.sites)
    train(model, 1, 20)
    assert sum(ranks(delta).values()) == 6 * len(delta.sites)


def test_it_becomes_a_plain_lora(pruned: tuple[nn.Module, Delta], tmp_path: Path) -> None:
    model, delta = pruned
    expected = LLAMA.forward(model)
    plain = dt.as_lora(delta)
    assert type(plain.method) is dt.LoRA
    assert not plain.is_trainable
    left = {site: rank for site, rank in ranks(delta).items() if rank}
    assert {site: len(part.lora_A) for site, part in plain.items()} == left  # type: ignore[union-attr, arg-type]
    assert [each.name for each in dt.deltas(model).values()] == ["default"]
    dt.save(plain, tmp_path)
    other = LLAMA.model()
    assert type(dt.load(other, tmp_path).method) is dt.LoRA
    assert_close(LLAMA.forward(other), expected, 2e-5)
    assert_close(LLAMA.forward(with_peft(LLAMA, tmp_path)), expected, 2e-5)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert set(config["rank_pattern"].values()) | {config["r"]} == set(left.values())


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (dt.AdaLoRA(init_r=4, target_r=2), "expected a delta that changes something, found 'default' at its start"),
        (dt.DoRA(r=2), "expected a sum of products of two factors, found dora"),
        (dt.IA3(), "expected a sum of products of two factors, found ia3"),
    ],
    ids=lambda value: getattr(value, "key", ""),
)
def test_as_lora_refuses_what_it_can_not_turn(method: Any, message: str) -> None:
    model = LLAMA.model()
    with pytest.raises(ConfigError, match=message):
        dt.as_lora(dt.attach(model, method))


def test_pissa_with_biases_and_a_head_becomes_a_plain_lora(tmp_path: Path) -> None:
    family = FAMILIES["bert"]
    for bias in ("lora_only", "all"):
        model = family.model()
        delta = stir(dt.attach(model, dt.LoRA(r=2, init="pissa", bias=bias)))  # type: ignore[arg-type]
        dt.save(dt.as_lora(delta), tmp_path / bias)
        other = family.model()
        loaded = dt.load(other, tmp_path / bias)
        assert (loaded.method.init, loaded.method.r) == ("default", 4)  # type: ignore[attr-defined]
        assert_close(family.forward(other), family.forward(model), 2e-5)


def test_a_damaged_file_is_refused(pruned: tuple[nn.Module, Delta], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    _, delta = pruned
    dt.save(delta, tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(name for name, tensor in tensors.items() if name.endswith("lora_A") and len(tensor))
    tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, file)  # and with it the header of ours, so that it is read as PEFT's
    model = LLAMA.model()
    with pytest.raises(FileFormatError, match=re.escape(name.removeprefix("base_model.model."))):
        dt.load(model, tmp_path)
    assert not dt.deltas(model)


# With PEFT

PEER = {
    "bert": {"target_modules": ["query", "value", "output.dense"]},
    "llama": {"target_modules": ["q_proj", "v_proj", "down_proj"]},
    "gpt2": {"target_modules": ["c_attn", "mlp.c_proj"], "fan_in_fan_out": True},
}


def peer_config(family: Family, **settings: Any) -> Any:
    import peft

    return peft.AdaLoraConfig(**{"init_r": 4, "target_r": 2, "total_step": 20, **PEER[family.name], **settings})


def method(family: Family, **settings: Any) -> dt.AdaLoRA:
    targets = tuple(PEER[family.name]["target_modules"])
    return dt.AdaLoRA(**{"init_r": 4, "target_r": 2, "targets": targets, "train_also": (), **settings})


def theirs(peer: Any, kind: str) -> dict[str, nn.Parameter]:
    """PEFT's tensors of one kind, by site."""
    found = {name: p for name, p in peer.named_parameters() if f".{kind}." in name}
    return {name.removeprefix("base_model.model.").partition(f".{kind}.")[0]: p for name, p in found.items()}


@families("bert", "llama", "gpt2")
def test_equals_peft(family: Family, tmp_path: Path) -> None:
    model = family.model()
    delta = stir(dt.attach(model, method(family)))
    dt.save(delta, tmp_path)
    peer = with_peft(family, tmp_path)
    inputs = family.inputs()
    assert_close(answers(family, model, inputs), answers(family, peer, inputs), 2e-5)
    backward(family, model, inputs)
    backward(family, peer, inputs)
    for kind in ("lora_A", "lora_B", "lora_E"):
        peers = theirs(peer, kind)
        assert peers.keys() == set(delta.sites)
        for site, part in delta.items():
            torch.testing.assert_close(getattr(part, kind).grad, peers[site].grad, rtol=1e-3, atol=1e-4)


@families("bert", "llama", "gpt2")
def test_reads_files_of_peft(family: Family, tmp_path: Path) -> None:
    peer = with_peft(family, peer_config(family))
    with torch.no_grad():
        for name, parameter in peer.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn_like(parameter) / 5)
    peer.save_pretrained(tmp_path)
    model = family.model()
    delta = dt.load(model, tmp_path, trainable=True)
    assert type(delta.method) is dt.AdaLoRA
    inputs = family.inputs()
    assert_close(answers(family, model, inputs), answers(family, peer, inputs), 2e-5)


def test_a_whole_run_allocates_as_peft_does(tmp_path: Path) -> None:
    """The same start, data and optimiser: the same ranks and the same logits, and PEFT's pruned file reads back."""
    steps = {"tinit": 3, "tfinal": 6, "deltaT": 2, "orth_reg_weight": 0.3, "beta1": 0.8, "beta2": 0.9}
    model = LLAMA.model()
    delta = dt.attach(model, method(LLAMA, alpha=64, **steps))
    peer = with_peft(LLAMA, peer_config(LLAMA, lora_alpha=64, **steps)).train()
    with torch.no_grad():
        for kind in ("lora_A", "lora_B", "lora_E"):
            for site, parameter in theirs(peer, kind).items():
                parameter.copy_(getattr(parts(delta)[site], kind))
    ours = torch.optim.AdamW([{"params": list(delta.parameters())}], lr=0.02, weight_decay=0.0)
    dt.on_step(model, ours, total_steps=20)
    other = torch.optim.AdamW([p for p in peer.parameters() if p.requires_grad], lr=0.02, weight_decay=0.0)
    labels = LLAMA.inputs()["input_ids"]
    for t in range(20):
        model(**LLAMA.inputs(), labels=labels).loss.backward()
        ours.step()
        ours.zero_grad()
        peer.base_model(**LLAMA.inputs(), labels=labels).loss.backward()  # which adds the regulariser
        other.step()
        peer.base_model.update_and_allocate(t)
        other.zero_grad()
        for site, parameter in theirs(peer, "lora_E").items():
            assert torch.equal(parts(delta)[site].lora_E != 0, parameter != 0), (t, site)
    assert sum(ranks(delta).values()) == 2 * len(delta.sites)
    assert_close(LLAMA.forward(model), LLAMA.forward(peer), 1e-3)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # its writer takes a site without any rank for a damaged one
        peer.save_pretrained(tmp_path)
    third = LLAMA.model()
    loaded = dt.load(third, tmp_path)
    assert ranks(loaded) == ranks(delta)
    assert_close(LLAMA.forward(third), LLAMA.forward(peer.eval()), 2e-5)


@families("bert", "t5", "llama")
def test_learns(family: Family) -> None:
    model = family.model()
    dt.attach(model, dt.AdaLoRA(init_r=6, target_r=4, train_also=()))
    before, after = losses(family, model, lr=3e-2, steps=25)
    assert after < 0.9 * before
