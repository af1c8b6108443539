"""What stands in for fused attention on the meta device, beside torch's own on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deltatune.planning.attention import fused_attention
from deltatune.planning.timeline import Timeline


def tensors(device: str, groups: int) -> list[Tensor]:
    shapes = ((2, 4, 16, 8), (2, groups, 16, 8), (2, groups, 16, 8))
    return [torch.rand(shape, device=device, requires_grad=True) for shape in shapes]


def run(device: str, groups: int, **settings: Any) -> tuple[Tensor, list[Tensor]]:
    given = tensors(device, groups)
    out = F.scaled_dot_product_attention(*given, **settings)
    out.sum().backward()
    return out, given


@pytest.mark.parametrize("settings", [{}, {"is_causal": True}, {"enable_gqa": True}], ids=str)
def test_shapes_and_places_in_memory_are_those_of_the_real_one(settings: dict[str, Any]) -> None:
    groups = 2 if settings.get("enable_gqa") else 4
    with fused_attention():
        made, given = run("meta", groups, **settings)
    real, expected = run("cpu", groups, **settings)
    assert made.shape == real.shape
    assert made.transpose(1, 2).is_contiguous()
    assert [each.grad.shape for each in given] == [each.grad.shape for each in expected]


def test_scores_are_not_kept_and_take_nothing() -> None:
    query, key, value = tensors("meta", 4)
    with fused_attention(), Timeline([query, key, value]) as timeline:
        F.scaled_dot_product_attention(query, key, value).sum().backward()
    assert max(block.nbytes for block in timeline.blocks) == query.nbytes


@pytest.mark.parametrize(("causal", "share"), [(False, 1.0), (True, 0.5)])
def test_operations(causal: bool, share: float) -> None:
    with fused_attention() as counter:
        run("meta", 4, is_causal=causal)
    forward = (
        2 * 2 * 2 * 4 * 16 * 16 * 8 * share
    )  # two products, of a product and a sum, a head, a row, a key, a number
    assert counter.operations == forward * 3.5


def test_the_real_one_is_there_again_and_answers_meanwhile() -> None:
    own = F.scaled_dot_product_attention
    with fused_attention():
        assert F.scaled_dot_product_attention is not own
        torch.manual_seed(0)
        found = run("cpu", 4)[0]
    torch.manual_seed(0)
    assert torch.equal(found, run("cpu", 4)[0])
    with pytest.raises(RuntimeError, match="expanded size"), fused_attention():
        torch.empty(2).expand(3)
    assert F.scaled_dot_product_attention is own


def test_without_a_kernel_that_trains_the_scores_are_there() -> None:
    query, key, value = tensors("meta", 4)
    with fused_attention("mps"), Timeline([query, key, value]) as timeline:
        F.scaled_dot_product_attention(query, key, value).sum().backward()
    assert max(block.nbytes for block in timeline.blocks) >= 4 * 2 * 4 * 16 * 16
