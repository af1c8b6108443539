"""P-tuning: the network over E₀ as its equation has it, gone from the file, and trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import deltatune as dt
from deltatune.attachment.delta import Delta
from deltatune.errors import ConfigError
from deltatune.io.files import restore
from tests.methods.training import assert_close, doubled, losses
from tests.models.families import FAMILIES, Family
from tests.models.tools import assert_close as near
from tests.models.tools import families, gradients, stir

P, WIDTH, HIDDEN = 4, 32, 6
ENCODERS = ("mlp", "lstm")


def attached(model: nn.Module, encoder: Any = "mlp", **settings: Any) -> Delta:
    method = dt.PTuning(**{"tokens": P, "hidden": HIDDEN, "encoder": encoder, "train_also": (), **settings})
    return stir(dt.attach(model, method))


def prompt(delta: Delta) -> Any:
    return next(part.prompt for _, part in delta.items() if hasattr(part, "prompt"))


def linear(x: Tensor, layer: Any) -> Tensor:
    return x @ layer.weight.T + layer.bias


def one_way(x: Tensor, lstm: nn.LSTM, layer: int, back: bool) -> Tensor:
    """An LSTM step by step, from the equations."""
    end = f"_l{layer}" + "_reverse" * back
    w_in, w, b_in, b = (getattr(lstm, kind + end) for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    hidden = cell = torch.zeros(HIDDEN, dtype=x.dtype)
    out = []
    for step in x.flip(0) if back else x:
        i, f, g, o = (w_in @ step + b_in + w @ hidden + b).chunk(4)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * cell.tanh()
        out.append(hidden)
    return torch.stack(out[::-1] if back else out)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_p_is_the_equation(encoder: str) -> None:
    model, _ = doubled(FAMILIES["llama"])
    made = prompt(attached(model, encoder))
    x = made.vectors
    if encoder == "lstm":
        for layer in (0, 1):
            x = torch.cat([one_way(x, made.lstm, layer, back) for back in (False, True)], dim=1)
    for step in made.mlp:
        x = linear(x, step) if isinstance(step, nn.Linear) else x.clamp_min(0)
    assert_close(made(), x)
    assert x.shape == (P, WIDTH)


def test_counts() -> None:
    vectors = P * WIDTH
    mlp = (WIDTH + 1) * HIDDEN + (HIDDEN + 1) * HIDDEN + (HIDDEN + 1) * WIDTH
    one = 4 * HIDDEN * (HIDDEN + 2)  # the weights of a direction over its own state, and two biases
    lstm = 2 * (one + 4 * HIDDEN * WIDTH) + 2 * (one + 4 * HIDDEN * 2 * HIDDEN)
    head = (2 * HIDDEN + 1) * 2 * HIDDEN + (2 * HIDDEN + 1) * WIDTH
    assert attached(FAMILIES["llama"].model()).size == vectors + mlp
    assert attached(FAMILIES["llama"].model(), "lstm").size == vectors + lstm + head


@families("llama", "gpt2", "bert", "t5")
@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_network_folds_away_on_save(family: Family, encoder: str, tmp_path: Path) -> None:
    model = family.model()
    delta = attached(model, encoder)
    expected, made = family.forward(model), prompt(delta)().detach()
    dt.save(delta, tmp_path)
    dt.detach(model)
    again = dt.load(model, tmp_path, trainable=True)
    near(family.forward(model), expected)
    assert again.size == P * WIDTH
    assert torch.equal(prompt(again).vectors, made)
    family.loss(model).backward()
    assert [p.grad is not None for p in again.parameters()] == [True]


def test_a_frozen_delta_stays_frozen_when_it_folds(tmp_path: Path) -> None:
    model = FAMILIES["llama"].model()
    delta = attached(model).freeze()
    dt.save(delta, tmp_path)
    expected = FAMILIES["llama"].forward(model)
    stir(delta, seed=1)
    restore(delta, tmp_path)
    near(FAMILIES["llama"].forward(model), expected)
    assert not delta.is_trainable
    assert delta.size == P * WIDTH


@families("llama", "bert", "t5")
@pytest.mark.parametrize("encoder", ENCODERS)
def test_everything_gets_a_gradient_and_learns(family: Family, encoder: str) -> None:
    model = family.model()
    delta = attached(model, encoder)
    family.loss(model).backward()
    assert len(gradients(model)) == len(list(delta.parameters()))
    assert all(bool(gradient.any()) for gradient in gradients(model).values())
    before, after = losses(family, model, lr=0.1)
    assert after < 0.95 * before


def test_starts_from_text_too() -> None:
    model: Any = FAMILIES["llama"].model()
    delta = dt.attach(model, dt.PTuning(tokens=2, hidden=HIDDEN, init_ids=(5, 6)))
    assert torch.equal(prompt(delta).vectors, model.get_input_embeddings().weight[[5, 6]])


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_resumed_run_is_the_uninterrupted_one(encoder: str, tmp_path: Path) -> None:
    family = FAMILIES["llama"]
    ids = family.inputs()["input_ids"]
    found = {}
    for name, steps in (("whole", [4]), ("resumed", [2, 4])):
        for number in steps:
            torch.manual_seed(0)
            model = family.model()
            delta = dt.attach(model, dt.PTuning(tokens=P, hidden=HIDDEN, encoder=encoder))  # type: ignore[arg-type]
            args = transformers.TrainingArguments(
                output_dir=str(tmp_path / name),
                max_steps=number,
                lr_scheduler_type="constant",
                per_device_train_batch_size=2,
                learning_rate=0.1,
                save_steps=2,
                report_to=[],
                use_cpu=True,
                disable_tqdm=True,
                logging_strategy="no",
            )
            rows = [{"input_ids": ids[i % 3], "labels": ids[i % 3]} for i in range(8)]
            trainer = dt.Trainer(model=model, args=args, train_dataset=rows)
            trainer.train(resume_from_checkpoint=len(steps) == 2 and number == 4)
        found[name] = {key: tensor.clone() for key, tensor in delta.state_dict().items()}
    assert found["whole"].keys() == found["resumed"].keys()
    for key, tensor in found["whole"].items():
        assert torch.equal(found["resumed"][key], tensor), key


def test_settings_are_checked() -> None:
    for settings, message in (
        ({"encoder": "gru"}, "ptuning.encoder: expected one of ('mlp', 'lstm'), found 'gru'"),
        ({"hidden": 0}, "ptuning.hidden: expected a width from 1, found 0"),
        ({"tokens": 0}, "ptuning.tokens: expected a number from 1, found 0"),
    ):
        with pytest.raises(ConfigError) as refused:
            dt.PTuning(**settings)  # type: ignore[arg-type]
        assert str(refused.value).startswith(message)
