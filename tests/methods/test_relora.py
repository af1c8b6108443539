"""ReLoRA: rounds that change nothing when they start, add up to a high rank, and leave the base as it was."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deltatune as dt
from deltatune.attachment.delta import Delta
from deltatune.errors import ConfigError
from deltatune.methods.relora import ReLoRAPart, prune
from tests.methods.training import assert_close, losses, with_peft
from tests.models.families import FAMILIES, Family
from tests.models.tools import assert_bit_identical, families, fingerprint, stir, values

LLAMA = FAMILIES["llama"]
SETTINGS: dict[str, Any] = {"r": 2, "alpha": 8, "restart_every": 3, "restart_warmup": 0}


def parts(delta: Delta) -> dict[str, ReLoRAPart]:
    return {site: part for site, part in delta.items() if isinstance(part, ReLoRAPart)}


class Run:
    """A model with a delta in training."""

    def __init__(self, *, total: int | None = 100, lr: float = 0.02, double: bool = False, **settings: Any) -> None:
        torch.manual_seed(7)
        self.model = LLAMA.model().double() if double else LLAMA.model()
        self.delta = dt.attach(self.model, dt.ReLoRA(**{**SETTINGS, **settings}))
        self.optimizer = torch.optim.AdamW(dt.parameter_groups(self.model, lr), betas=(0.9, 0.9))
        dt.on_step(self.model, self.optimizer, total_steps=total)
        self.model.train()

    def steps(self, number: int) -> Run:
        for _ in range(number):
            self.optimizer.zero_grad()
            LLAMA.loss(self.model).backward()
            self.optimizer.step()
        return self


# Rounds


def test_the_output_is_the_sum_of_all_rounds() -> None:
    model = nn.ModuleDict({"layer": nn.Linear(12, 10).double(), "table": nn.Embedding(15, 10).double()})
    delta = dt.attach(model, dt.ReLoRA(**{**SETTINGS, "targets": ("layer", "table")}))
    x, ids = torch.randn(3, 12, dtype=torch.float64), torch.randint(15, (3, 4))
    with dt.disabled(model):
        base = model["layer"](x), model["table"](ids)
    layer, table = parts(delta).values()
    sums = [torch.zeros(10, 12, dtype=torch.float64), torch.zeros(10, 15, dtype=torch.float64)]
    for number in range(3):
        if number:
            before = model["layer"](x), model["table"](ids)
            layer.restart(model["layer"])
            table.restart(model["table"])
            torch.testing.assert_close((model["layer"](x), model["table"](ids)), before)
        stir(delta, seed=number)
        for index, part in enumerate((layer, table)):
            sums[index] = sums[index] + 8 / 2 * (part.lora_B @ part.lora_A).detach()
        torch.testing.assert_close(model["layer"](x), base[0] + x @ sums[0].T)
        torch.testing.assert_close(model["table"](ids), base[1] + sums[1].T[ids])
    dt.merge(model)
    torch.testing.assert_close(model["layer"](x), base[0] + x @ sums[0].T)


def test_dropout_is_for_the_present_round() -> None:
    model = nn.ModuleDict({"layer": nn.Linear(12, 10).double()})
    delta = dt.attach(model, dt.ReLoRA(**{**SETTINGS, "targets": ("layer",), "dropout": 0.5}))
    stir(delta)
    parts(delta)["layer"].restart(model["layer"])  # what acts now is the closed round
    x = torch.randn(3, 12, dtype=torch.float64)
    assert torch.equal(model.train()["layer"](x), model.eval()["layer"](x))
    stir(delta)
    assert not torch.equal(model.train()["layer"](x), model.eval()["layer"](x))


def test_the_rank_of_the_sum_grows_beyond_that_of_a_round() -> None:
    run = Run(total=9, lr=0.05).steps(9)
    for part in parts(run.delta).values():
        A, B = part.factors()
        assert (len(A), part.rounds) == (6, 3)
        assert 2 < int(torch.linalg.matrix_rank(B @ A, rtol=1e-5)) <= 6
        assert int(torch.linalg.matrix_rank(part.lora_B @ part.lora_A)) <= 2


def test_a_restart_changes_nothing_but_starts_afresh() -> None:
    run = Run().steps(2)
    first = {site: part.lora_A.detach().clone() for site, part in parts(run.delta).items()}
    run.optimizer.zero_grad()
    LLAMA.loss(run.model).backward()
    run.optimizer.step()  # the third: at its end the round is closed
    restarted = LLAMA.forward(run.model)
    for site, part in parts(run.delta).items():
        assert len(part.past_A) == 2
        assert not part.lora_B.any()
        assert not torch.equal(part.lora_A, first[site])
        bound = part.lora_A.shape[1] ** -0.5
        assert 0.5 * bound < part.lora_A.detach().abs().max() <= bound  # Kaiming-uniform
    with torch.no_grad():
        for part in parts(run.delta).values():
            part.lora_A.zero_()
    assert torch.equal(LLAMA.forward(run.model), restarted)


def test_training_takes_the_steps_of_the_equation() -> None:
    """Against rounds that are added to the weights of a copy of the base by hand."""
    run = Run(double=True, prune_ratio=0.0, total=8)
    by_hand = LLAMA.model().double()
    plain = dt.attach(by_hand, dt.LoRA(r=2, alpha=8, targets=("all_linear",)))
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.02, betas=(0.9, 0.9), weight_decay=0)
    mine = parts(run.delta)

    def follow() -> None:
        with torch.no_grad():
            for site, part in plain.items():
                part.lora_A.copy_(mine[site].lora_A)  # type: ignore[union-attr, operator]
                part.lora_B.copy_(mine[site].lora_B)  # type: ignore[union-attr, operator]

    follow()
    for step in range(8):
        optimizer.zero_grad()
        LLAMA.loss(by_hand).backward()
        optimizer.step()
        if step in (2, 5):
            with torch.no_grad():
                for site, part in plain.items():
                    by_hand.get_submodule(site).weight.add_(4 * part.lora_B @ part.lora_A)  # type: ignore[union-attr, operator]
        run.steps(1)
        if step in (2, 5):
            follow()
        assert_close(LLAMA.forward(run.model), LLAMA.forward(by_hand))


def test_the_learning_rate_climbs_again_after_each_restart() -> None:
    run = Run(restart_every=5, restart_warmup=3, lr=0.9)
    rates: list[float] = []
    run.optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    run.steps(12)
    assert rates == pytest.approx([0.9] * 5 + [0, 0.3, 0.6, 0.9, 0.9] + [0, 0.3])
    assert [group["lr"] for group in run.optimizer.param_groups] == [0.9] * len(run.optimizer.param_groups)


def test_no_round_is_started_at_the_end_of_a_run() -> None:
    known = Run(total=6).steps(6)
    assert {len(part.past_A) // 2 for part in parts(known.delta).values()} == {1}
    assert {part.rounds for part in parts(known.delta).values()} == {2}
    unknown = Run(total=None).steps(6)
    assert {len(part.past_A) // 2 for part in parts(unknown.delta).values()} == {2}
    assert {part.rounds for part in parts(unknown.delta).values()} == {2}  # the third has not happened
    assert {part.rounds for part in parts(unknown.steps(1).delta).values()} == {3}


# The optimiser's state


def test_pruning_by_magnitude_leaves_the_largest() -> None:
    moments = torch.randn(20, 50)
    before = moments.clone()
    prune([moments], "magnitude", 0.9)
    assert int((moments != 0).sum()) == 100
    assert torch.equal(moments[moments != 0], before[moments != 0])
    assert before[moments == 0].abs().max() < moments[moments != 0].abs().min()


def test_random_pruning_leaves_the_share_that_is_said() -> None:
    moments = torch.ones(400, 500)
    prune([moments], "random", 0.999)
    assert abs(float(moments.mean()) - 0.001) < 4 * (0.001 / 200_000) ** 0.5
    assert set(moments.unique().tolist()) == {0, 1}


@pytest.mark.parametrize("how", ["magnitude", "random"])
def test_an_entry_keeps_all_its_moments_or_none(how: Any) -> None:
    first, second = torch.randn(30, 40), torch.rand(30, 40)
    prune([first, second], how, 0.7)
    assert torch.equal(first != 0, second != 0)


@pytest.mark.parametrize("how", ["magnitude", "random"])
def test_a_restart_prunes_its_own_moments_and_no_others(how: Any) -> None:
    torch.manual_seed(7)
    model = LLAMA.model()
    mine = dt.attach(model, dt.ReLoRA(**{**SETTINGS, "prune": how}))
    other = dt.attach(model, dt.Norm(), name="other")
    optimizer = torch.optim.AdamW(dt.parameter_groups(model, 0.02))
    dt.on_step(model, optimizer, total_steps=100)

    def share(delta: Delta) -> float:
        """Of Adam's moments that are there."""
        names = ("exp_avg", "exp_avg_sq")
        moments = [optimizer.state[p][name].flatten() for p in delta.parameters() for name in names]
        return float((torch.cat(moments) != 0).float().mean())

    for step in range(3):
        optimizer.zero_grad()
        LLAMA.loss(model).backward()
        optimizer.step()
        if step == 1:
            assert share(mine) > 0.95 < share(other)
    if how == "magnitude":
        assert share(mine) == pytest.approx(0.1, abs=0.01)
    else:
        assert share(mine) < 0.005
    assert share(other) > 0.95


def test_what_a_restart_leaves_does_not_throw_the_new_round_out() -> None:
    """A has no gradient until B has moved: where Adam kept only one of its moments, it would divide by zero."""
    run = Run().steps(3)
    before = {site: part.lora_A.detach().clone() for site, part in parts(run.delta).items()}
    run.steps(1)
    for site, part in parts(run.delta).items():
        assert (part.lora_A - before[site]).abs().max() < 0.1


def test_moments_that_are_no_numbers_are_refused_at_the_first_step() -> None:
    model = LLAMA.model()
    delta = dt.attach(model, dt.ReLoRA(**SETTINGS))

    class EightBit(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            for group in self.param_groups:
                for parameter in group["params"]:
                    self.state[parameter] = {"state1": torch.zeros_like(parameter, dtype=torch.uint8)}

    optimizer = EightBit(delta.parameters(), lr=0.1)
    dt.on_step(model, optimizer, total_steps=9)
    LLAMA.loss(model).backward()
    with pytest.raises(ConfigError, match=r"expected an optimiser with moments in floating point, found torch\.uint8"):
        optimizer.step()


# Files


def test_the_file_is_a_plain_lora_of_all_rounds(tmp_path: Path) -> None:
    run = Run(lr=0.05).steps(8)
    expected = LLAMA.forward(run.model)
    dt.save(run.delta, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"], config["rank_pattern"]) == ("LORA", 6, 24, {})
    assert_close(LLAMA.forward(with_peft(LLAMA, tmp_path)), expected, 2e-5)

    other = LLAMA.model()
    loaded = dt.load(other, tmp_path, trainable=True)
    assert type(loaded.method) is dt.ReLoRA
    assert {part.rounds for part in parts(loaded).values()} == {3}
    assert loaded.size == run.delta.size  # the closed ones are not trained
    assert_close(LLAMA.forward(other), expected, 2e-5)
    plain = dt.as_lora(run.delta)
    dt.save(plain, tmp_path / "plain")
    third = LLAMA.model()
    dt.load(third, tmp_path / "plain")
    assert_close(LLAMA.forward(third), expected, 2e-5)


@pytest.mark.parametrize("rslora", [False, True])
def test_ranks_and_scales_of_sites_differ_as_asked(rslora: bool, tmp_path: Path) -> None:
    patterns: dict[str, Any] = {"rank_pattern": {"q_proj": 3}, "alpha_pattern": {"v_proj": 5}, "rslora": rslora}
    run = Run(lr=0.05, bias="lora_only", **patterns).steps(4)
    dt.save(run.delta, tmp_path)
    expected = LLAMA.forward(run.model)
    assert_close(LLAMA.forward(with_peft(LLAMA, tmp_path)), expected, 2e-5)
    other = LLAMA.model()
    dt.load(other, tmp_path)
    assert_close(LLAMA.forward(other), expected, 2e-5)


def test_only_rounds_that_happened_are_saved(tmp_path: Path) -> None:
    run = Run(lr=0.05)
    for steps, rounds in ((3, 1), (1, 2), (2, 2)):
        run.steps(steps)
        dt.save(run.delta, tmp_path)
        assert json.loads((tmp_path / "adapter_config.json").read_text())["r"] == 2 * rounds
        other = LLAMA.model()
        dt.load(other, tmp_path)
        assert_close(LLAMA.forward(other), LLAMA.forward(run.model), 2e-5)


# Resuming


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("at", [2, 3, 7])
def test_training_resumes_exactly_though_the_state_grew(fold: bool, at: int) -> None:
    straight = Run(fold=fold, prune="random", prune_ratio=0.5).steps(at)
    begun = copy.deepcopy(straight.delta.state_dict()), copy.deepcopy(straight.optimizer.state_dict())
    random = torch.get_rng_state()
    straight.steps(10 - at)

    resumed = Run(fold=fold, prune="random", prune_ratio=0.5)
    with dt.disabled(resumed.model):
        resumed.delta.load_state_dict(begun[0])
    resumed.optimizer.load_state_dict(begun[1])
    torch.set_rng_state(random)
    resumed.steps(10 - at)
    found, expected = resumed.delta.state_dict(), straight.delta.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    assert torch.equal(LLAMA.forward(resumed.model), LLAMA.forward(straight.model))
    assert {part.rounds for part in parts(resumed.delta).values()} == ({1} if fold else {4})


def test_a_state_that_does_not_fit_is_refused() -> None:
    state = Run(r=4).steps(4).delta.state_dict()
    with pytest.raises(RuntimeError, match="past_A"):
        Run(r=3).delta.load_state_dict({n: t for n, t in state.items() if "past" in n}, strict=False)


@pytest.mark.parametrize("fold", [False, True])
def test_the_trainer_resumes_a_run(fold: bool, tmp_path: Path) -> None:
    from transformers import TrainingArguments

    data = [{"input_ids": ids, "labels": ids} for ids in torch.randint(3, 99, (8, 6)).tolist()]

    def trainer(folder: Path, model: nn.Module) -> dt.Trainer:
        arguments = TrainingArguments(
            output_dir=str(folder),
            max_steps=8,
            save_steps=4,
            per_device_train_batch_size=2,
            learning_rate=0.01,
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        return dt.Trainer(model=model, args=arguments, train_dataset=data)

    def attached() -> tuple[nn.Module, Delta]:
        torch.manual_seed(3)
        model = LLAMA.model()
        return model, dt.attach(model, dt.ReLoRA(**{**SETTINGS, "restart_warmup": 2, "fold": fold}))

    model, straight = attached()
    trainer(tmp_path, model).train()
    expected = LLAMA.forward(model)
    again, resumed = attached()
    trainer(tmp_path, again).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert int(resumed.steps) == int(straight.steps) == 8
    assert torch.equal(LLAMA.forward(again), expected)
    other = LLAMA.model()
    dt.load(other, tmp_path / "checkpoint-8")
    assert_close(LLAMA.forward(other), expected, 2e-5)


# Folding


def test_folding_is_the_same_training() -> None:
    stacked, folded = Run(double=True, lr=0.05).steps(10), Run(double=True, lr=0.05, fold=True).steps(10)
    assert_close(LLAMA.forward(folded.model), LLAMA.forward(stacked.model))
    for site, part in parts(folded.delta).items():
        assert not len(part.past_A)
        weight = folded.model.get_parameter(f"{site}.weight")
        assert weight.data_ptr() == part.folded.data_ptr()  # one copy, not two
        assert not weight.requires_grad


def test_folding_leaves_no_trace() -> None:
    model = LLAMA.model()
    before, state, base = values(model), fingerprint(model), LLAMA.forward(model)
    delta = dt.attach(model, dt.ReLoRA(**{**SETTINGS, "fold": True}))
    optimizer = torch.optim.AdamW(dt.parameter_groups(model, 0.05))
    dt.on_step(model, optimizer, total_steps=100)
    for _ in range(7):
        optimizer.zero_grad()
        LLAMA.loss(model).backward()
        optimizer.step()
    trained = LLAMA.forward(model)
    assert not torch.allclose(trained, base, atol=1e-2)
    assert_bit_identical({n: t for n, t in model.state_dict().items() if n in before}, model_state(before, model))
    with dt.disabled(model):
        assert torch.equal(LLAMA.forward(model), base)
    assert torch.equal(LLAMA.forward(model), trained)
    delta.disable()
    assert torch.equal(LLAMA.forward(model), base)
    delta.enable()
    dt.detach(model)
    assert_bit_identical(values(model), before)
    assert fingerprint(model) == state


def model_state(before: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    return {name: before[name] for name in model.state_dict() if name in before}


def test_folded_rounds_are_saved_merged_and_moved(tmp_path: Path) -> None:
    run = Run(lr=0.05, fold=True).steps(8)
    expected = LLAMA.forward(run.model.eval())
    dt.save(run.delta, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["peft_type"] == "DELTATUNE_RELORA"
    other = LLAMA.model()
    base = values(other)
    loaded = dt.load(other, tmp_path)
    assert torch.equal(LLAMA.forward(other), expected)
    for model in (other, run.model):
        dt.merge(model)
        assert_close(LLAMA.forward(model), expected, 2e-5)
        dt.unmerge(model)
        assert torch.equal(LLAMA.forward(model), expected)
    other.double()  # which takes the memory from under the weights
    assert_close(LLAMA.forward(other), expected.double(), 2e-5)
    dt.detach(other, loaded)
    assert_bit_identical(values(other), {n: t.double() if t.is_floating_point() else t for n, t in base.items()})
    with pytest.raises(ConfigError, match="expected a sum of products of two factors, found relora"):
        dt.as_lora(run.delta)


def test_a_folded_file_without_a_round_is_pefts(tmp_path: Path) -> None:
    run = Run(lr=0.05, fold=True).steps(2)
    dt.save(run.delta, tmp_path)
    assert_close(LLAMA.forward(with_peft(LLAMA, tmp_path)), LLAMA.forward(run.model), 2e-5)


def test_folding_beside_deltas_of_the_same_weights() -> None:
    torch.manual_seed(7)
    model = LLAMA.model()
    before, base = values(model), LLAMA.forward(model)
    dt.attach(model, dt.ChildTuning(mode="random", p=0.3), name="child")
    dt.attach(model, dt.ReLoRA(**{**SETTINGS, "fold": True}), name="relora")
    dt.attach(model, dt.DoRA(r=2, targets=("all_linear",)), name="dora")
    optimizer = torch.optim.AdamW(dt.parameter_groups(model, 0.02))
    dt.on_step(model, optimizer, total_steps=100)
    first = LLAMA.loss(model).item()
    for _ in range(7):
        optimizer.zero_grad()
        LLAMA.loss(model).backward()
        optimizer.step()
    assert LLAMA.loss(model).item() < first
    dt.detach(model, "relora")
    dt.detach(model)
    assert_bit_identical(values(model), before)
    assert torch.equal(LLAMA.forward(model), base)


def test_folding_is_refused_where_it_would_do_harm() -> None:
    import bitsandbytes

    packed = nn.ModuleDict({"layer": bitsandbytes.nn.Linear4bit(16, 16)})
    with pytest.raises(ConfigError, match=r"relora\.fold at layer: expected a dense linear module, found 'Linear4bit'"):
        dt.attach(packed, dt.ReLoRA(**{**SETTINGS, "fold": True, "targets": ("layer",)}))
    tied = nn.ModuleDict({"one": nn.Linear(4, 4), "other": nn.Linear(4, 4)})
    tied["other"].weight = tied["one"].weight
    with pytest.raises(ConfigError, match=re.escape("expected a weight of its own, found 'one.weight = other.weight'")):
        dt.attach(tied, dt.ReLoRA(**{**SETTINGS, "fold": True, "targets": ("one",)}))
    with pytest.raises(ConfigError, match="expected a dense linear module, found 'Embedding'"):
        dt.attach(LLAMA.model(), dt.ReLoRA(**{**SETTINGS, "fold": True, "targets": ("embedding",)}))


def test_a_packed_base_stays_as_it_is() -> None:
    import bitsandbytes

    packed = bitsandbytes.nn.Linear4bit(32, 16, compute_dtype=torch.float32).to("cpu")
    model = nn.ModuleDict({"layer": packed})
    x, stored = torch.randn(4, 32), packed.weight.data.clone()
    base = packed(x)
    delta = dt.attach(model, dt.ReLoRA(**{**SETTINGS, "targets": ("layer",)}))
    for seed in range(3):
        stir(delta, seed)
        parts(delta)["layer"].restart(packed)
    A, B = parts(delta)["layer"].factors()
    torch.testing.assert_close(packed(x), base + 4 * x @ A.T @ B.T, rtol=1e-4, atol=1e-4)
    dt.detach(model)
    assert torch.equal(packed.weight.data, stored)
    assert torch.equal(packed(x), base)


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"init": "pissa"}, "relora.init: expected one of ('default', 'gaussian'), with B at zero, found 'pissa'"),
        ({"restart_every": 0}, "relora.restart_every: expected a whole number from 1, found 0"),
        (
            {"restart_every": 9, "restart_warmup": 9},
            "relora.restart_warmup: expected less than restart_every, 9, found 9",
        ),
        ({"prune": "all"}, "relora.prune: expected one of ('magnitude', 'random'), found 'all'"),
        ({"prune_ratio": 1.5}, "relora.prune_ratio: expected a share from 0 to 1, found 1.5"),
        ({"r": 0}, "relora rank of r: expected a whole number from 1, found 0"),
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        dt.ReLoRA(**settings)


def test_the_shares_that_are_pruned_are_those_of_the_paper() -> None:
    assert (dt.ReLoRA().ratio, dt.ReLoRA(prune="random").ratio) == (0.9, 0.999)


@families("bert", "t5", "llama")
@pytest.mark.parametrize("fold", [False, True])
def test_learns_over_rounds(family: Family, fold: bool) -> None:
    model = family.model()
    settings: dict[str, Any] = {**SETTINGS, "restart_every": 6, "restart_warmup": 2, "train_also": ()}
    delta = dt.attach(model, dt.ReLoRA(**settings, fold=fold))
    sizes = [(part.lora_A.shape[1], part.lora_B.shape[0]) for part in parts(delta).values()]
    before, after = losses(family, model, lr=1e-2, steps=24)
    assert after < 0.9 * before
    assert delta.size == sum(2 * (width + height) for width, height in sizes)


def test_a_state_from_before_the_first_restart_is_taken_after_it() -> None:
    run = Run(fold=True)
    before = copy.deepcopy(run.delta.state_dict())
    base = LLAMA.forward(run.model)
    run.steps(5)
    assert any(part.folded.numel() for part in parts(run.delta).values())
    with dt.disabled(run.model):
        run.delta.load_state_dict(before)
    torch.testing.assert_close(LLAMA.forward(run.model), base)


def test_deltas_of_one_group_take_their_smallest_rate_and_leave_the_schedule_alone() -> None:
    model = LLAMA.model()
    for name in ("a", "b"):
        dt.attach(model, dt.ReLoRA(**SETTINGS), name=name)
    optimizer = torch.optim.SGD(dt.parameter_groups(model, 0.5))
    dt.on_step(model, optimizer, total_steps=100)
    for _ in range(6):
        LLAMA.loss(model).backward()
        optimizer.step()
        assert [group["lr"] for group in optimizer.param_groups] == [0.5] * len(optimizer.param_groups)
