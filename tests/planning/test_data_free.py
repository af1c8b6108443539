"""Questions about data where there are none."""

from __future__ import annotations

import pytest
import torch

from deltatune.planning.data_free import AnsweringYes


def test_every_mask_is_full() -> None:
    mask, rows = torch.empty(2, 3, dtype=torch.bool, device="meta"), torch.empty(2, 3, 5, device="meta")
    with AnsweringYes():
        assert bool(mask.all())
        assert rows[mask].shape == (6, 5)
        assert mask.nonzero().shape == (6, 2)
        assert rows[torch.tensor([0, 1])].shape == (2, 3, 5)


def test_gradients_go_back_through_a_mask() -> None:
    mask, rows = (
        torch.empty(2, 3, dtype=torch.bool, device="meta"),
        torch.empty(2, 3, 5, device="meta").requires_grad_(),
    )
    with AnsweringYes():
        rows[mask].sum().backward()
    assert rows.grad is not None
    assert rows.grad.shape == rows.shape


def test_tensors_with_data_answer_for_themselves() -> None:
    mask = torch.tensor([True, False])
    with AnsweringYes():
        assert not bool(mask.all())
        assert torch.arange(2)[mask].tolist() == [0]
    with pytest.raises(RuntimeError):
        bool(torch.empty(1, device="meta"))
