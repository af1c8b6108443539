"""The table of optimisers beside the optimisers."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
import transformers
from torch import Tensor, nn

from deltatune.errors import ConfigError
from deltatune.planning.optimizers import OPTIMIZERS, optimizer
from deltatune.train.config import Optimizer


def test_it_has_those_that_a_run_can_be_set_to() -> None:
    assert set(OPTIMIZERS) == set(get_args(Optimizer))


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU:UserWarning")
@pytest.mark.parametrize("name", list(OPTIMIZERS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_state_is_what_the_optimiser_keeps(name: str, dtype: torch.dtype, tmp_path: Any) -> None:
    model = nn.Linear(128, 96, dtype=dtype)
    parameters = list(model.parameters())
    args = transformers.TrainingArguments(str(tmp_path), optim=name, use_cpu=True, report_to="none")
    kind, settings = transformers.Trainer.get_optimizer_cls_and_kwargs(args)
    if name == "adafactor":
        settings |= {"lr": 1e-3}
    made = kind(parameters, **settings)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    made.step()
    kept = [each for state in made.state.values() for each in _tensors(state) if each.numel() > 1]
    small = {"qmap1": 1024, "qmap2": 1024}  # of bitsandbytes, the same tables for all tensors
    found = sum(each.nbytes for each in kept)
    tables = sum(small.get(key, 0) for state in made.state.values() for key in state)
    expected = sum(map(OPTIMIZERS[name].state, parameters))
    assert found - tables == pytest.approx(expected, rel=0.02)


def _tensors(state: dict[str, Any]) -> list[Tensor]:
    return [value for value in state.values() if isinstance(value, Tensor)]


def test_an_unknown_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"optimizer: expected one of .*, found 'adamw'; did you mean 'adamw_8bit'"):
        optimizer("adamw")


def test_where_one_tensor_is_taken_after_the_other_the_largest_alone_needs_room() -> None:
    tensors = [torch.empty(1000), torch.empty(10)]
    kind = OPTIMIZERS["adamw_torch"]
    assert kind.scratch(tensors, "cuda") == 4 * 1010
    assert kind.scratch(tensors, "cpu") == kind.scratch(tensors, "mps") == 2 * 4 * 1000
    assert OPTIMIZERS["adafactor"].scratch([tensor.bfloat16() for tensor in tensors], "cuda") == 4 * 4 * 1000
    assert OPTIMIZERS["adamw_torch_fused"].scratch(tensors, "cpu") == 0
