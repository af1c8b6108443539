"""The chunked loss is cross entropy, with its gradients, and keeps no logits."""

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltatune.packing import loss as losses
from deltatune.packing.loss import target_scores, token_losses, total_loss

N, D, V = 23, 6, 40


@pytest.fixture(autouse=True, params=[1, 7, 1000], ids=lambda rows: f"{rows} rows at a time")
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "CHUNK", 4 * V * request.param)


def problem() -> tuple[nn.Linear, Tensor, Tensor, Tensor]:
    head = nn.Linear(D, V, bias=False).double()
    return (
        head,
        torch.randn(N, D, dtype=torch.double, requires_grad=True),
        torch.randint(V, (N,)),
        torch.rand(N).double(),
    )


def reference(head: nn.Module, hidden: Tensor, labels: Tensor, weights: Tensor | None, eps: float, z: float) -> Tensor:
    logits = head(hidden)
    each = -(1 - eps) * logits.log_softmax(-1).gather(1, labels[:, None])[:, 0] - eps * logits.log_softmax(-1).mean(-1)
    each = each + z * logits.exp().sum(-1).log() ** 2
    return each.sum() if weights is None else (each * weights).sum()


@pytest.mark.parametrize("settings", [{}, {"smoothing": 0.1}, {"z_loss": 0.01}, {"smoothing": 0.2, "z_loss": 0.1}])
@pytest.mark.parametrize("weighted", [False, True])
def test_it_and_its_gradients_are_those_of_the_formula(settings: dict[str, float], weighted: bool) -> None:
    head, hidden, labels, weights = problem()
    given = weights if weighted else None
    whole = reference(head, hidden, labels, given, settings.get("smoothing", 0), settings.get("z_loss", 0))
    wanted = torch.autograd.grad(whole * 3, [hidden, head.weight])
    found = total_loss(head, hidden, labels, weights=given, trained=[head.weight], vocabulary=V, **settings)
    torch.testing.assert_close(found, whole)
    for grad, expected in zip(torch.autograd.grad(found * 3, [hidden, head.weight]), wanted, strict=True):
        torch.testing.assert_close(grad, expected)


def test_a_tensor_that_the_head_does_not_use_gets_no_gradient() -> None:
    head, hidden, labels, _ = problem()
    other = torch.randn(3, requires_grad=True)
    total_loss(head, hidden, labels, trained=[other, head.weight], vocabulary=V).backward()
    assert other.grad is None
    assert head.weight.grad is not None


def test_a_frozen_head_makes_no_gradient_of_its_weight() -> None:
    head, hidden, labels, _ = problem()
    head.requires_grad_(False)
    total_loss(head, hidden, labels, vocabulary=V).backward()
    assert head.weight.grad is None
    assert hidden.grad is not None


def test_no_logits_are_kept_for_the_backward_pass() -> None:
    head, hidden, labels, _ = problem()
    made: list[weakref.ref[Tensor]] = []

    def logits_of(states: Tensor) -> Tensor:
        logits = head(states)
        made.append(weakref.ref(logits))
        return logits

    loss = total_loss(logits_of, hidden, labels, vocabulary=V)
    gc.collect()
    assert made
    assert all(logits() is None for logits in made)
    assert loss.requires_grad


def test_the_losses_of_single_targets() -> None:
    head, hidden, labels, _ = problem()
    expected = F.cross_entropy(head(hidden), labels, reduction="none").detach()
    torch.testing.assert_close(token_losses(head, hidden, labels, vocabulary=V), expected)
    assert token_losses(head, hidden[:0], labels[:0], vocabulary=V).shape == (0,)


def test_the_scores_of_targets_that_share_rows() -> None:
    head, hidden, labels, _ = problem()
    predicting = torch.randint(N // 2, (N,))  # several targets a row, and rows without one
    logits = head(hidden)[predicting]
    labels[:5] = logits.argmax(dim=-1)[:5]
    made: list[int] = []

    def counted(states: Tensor) -> Tensor:
        made.append(len(states))
        return head(states)  # type: ignore[no-any-return]

    found, hits = target_scores(counted, hidden, predicting, labels, vocabulary=V)
    torch.testing.assert_close(found, F.cross_entropy(logits, labels, reduction="none").detach())
    assert torch.equal(hits, logits.argmax(dim=-1) == labels)
    assert hits[:5].all()
    assert sum(made) == len(set(predicting.tolist()))
    assert all(len(each) == 0 for each in target_scores(head, hidden, predicting[:0], labels[:0], vocabulary=V))
