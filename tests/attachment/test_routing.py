"""Routing: each row of a batch takes the deltas its route names, and gets what those deltas alone would give it."""

from __future__ import annotations

import pytest
import torch

import deltatune as dt
from deltatune.attachment.delta import Delta
from deltatune.attachment.routing import Routing
from deltatune.errors import AttachError
from tests.models.families import FAMILIES, Family
from tests.models.methods import ROWS, Row
from tests.models.tools import assert_close, attach, every_family, every_method, families


@every_family
@every_method
def test_each_row_gets_what_its_deltas_alone_would_give(family: Family, row: Row) -> None:
    if not row.routes:
        pytest.skip("works on weights, which every row shares")
    model = family.model()
    base = family.forward(model)
    attach(model, row, family, "a", seed=1)
    only_a = family.forward(model)
    dt.disable(model, "a")
    attach(model, row, family, "b", seed=2)
    only_b = family.forward(model)
    dt.enable(model)
    both = family.forward(model)

    with dt.routed(model, ["a", None, "b"]):
        assert_close(family.forward(model), torch.stack([only_a[0], base[1], only_b[2]]))
    with dt.routed(model, [["b", "a"], "b", ()]):
        assert_close(family.forward(model), torch.stack([both[0], only_b[1], base[2]]))
    assert_close(family.forward(model), both)


@families("llama", "bert")
def test_a_route_trains_its_delta_on_its_rows_alone(family: Family) -> None:
    model = family.model()
    a = attach(model, ROWS["lora"], family, "a", seed=1)
    b = attach(model, ROWS["lora"], family, "b", seed=2)
    inputs = family.inputs()

    def gradient(delta: Delta, output: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad(output.pow(2).sum(), list(delta.parameters()), retain_graph=True))

    with dt.routed(model, ["a", None, "b"]):
        output = family.answer(model(**inputs))
    found = gradient(a, output), gradient(b, output)
    first, last = ({name: value[i : i + 1] for name, value in inputs.items()} for i in (0, 2))
    b.disable()
    expected_a = gradient(a, family.answer(model(**first)))
    a.disable()
    b.enable()
    expected_b = gradient(b, family.answer(model(**last)))
    for one, other in zip([*found[0], *found[1]], [*expected_a, *expected_b], strict=True):
        assert_close(one, other)


@families("llama")
def test_a_batch_may_hold_each_row_several_times(family: Family) -> None:
    model = family.model()
    attach(model, ROWS["lora"], family, "a", seed=1)
    with dt.routed(model, ["a", None, "a"]):
        once = family.forward(model)
        repeated = model(**{n: v.repeat_interleave(2, dim=0) for n, v in family.inputs().items()}).logits
    assert_close(repeated, once.repeat_interleave(2, dim=0))


@families("llama")
def test_a_batch_that_the_routes_do_not_divide_is_refused(family: Family) -> None:
    model = family.model()
    attach(model, ROWS["lora"], family, "a", seed=1)
    for routes in (["a", None], ["a"] * 4):
        with (
            pytest.raises(AttachError, match=f"batch of {len(routes)} rows or a multiple, found 3"),
            dt.routed(model, routes),
        ):
            family.forward(model)


@families("llama")
def test_routes_are_checked_before_anything_runs(family: Family) -> None:
    model = family.model()
    attach(model, ROWS["lora"], family, "a", seed=1)
    with pytest.raises(AttachError, match="'c': expected one that is attached, found 'a'"), dt.routed(model, ["c"]):
        pass
    with pytest.raises(AttachError, match="expected a route for each row of the batch, found none"):
        dt.routed(model, []).__enter__()


@families("llama")
def test_a_disabled_delta_stays_off_on_every_row(family: Family) -> None:
    model = family.model()
    base = family.forward(model)
    attach(model, ROWS["lora"], family, "a", seed=1).disable()
    with dt.routed(model, ["a"] * 3):
        assert torch.equal(family.forward(model), base)


def test_every_row_on_one_delta_is_that_delta_without_gathering() -> None:
    routing = Routing.of(["a", ["a", "b"], "a"])
    assert routing.indices("a", 3) is None
    assert routing.indices("a", 6) is None
    assert routing.indices("b", 6) == (2, 3)
    assert routing.indices("c", 3) == ()
    assert routing.names == {"a", "b"}


def test_a_route_holds_inside_a_stack_that_flattens_rows_and_tokens() -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(0, 1), torch.nn.Linear(4, 6))
    x = torch.randn(3, 5, 4)
    base = model(x)
    delta = dt.attach(model, dt.LoRA(targets=("1",)), name="a")
    torch.nn.init.normal_(next(part for _, part in delta.items()).lora_B)
    changed = model(x)
    with dt.routed(model, [None, "a", None]):
        found = model(x)
    assert_close(found.view(3, 5, 6), torch.stack([t.view(3, 5, 6)[i] for i, t in enumerate([base, changed, base])]))


def test_rows_of_the_text_and_image_towers_follow_the_same_routes() -> None:
    family = FAMILIES["clip"]
    model = family.model()
    base = family.forward(model)
    attach(model, ROWS["lora"], family, "a", seed=1)
    changed = family.forward(model)
    assert not torch.allclose(base[:, :16], changed[:, :16])
    assert not torch.allclose(base[:, 16:], changed[:, 16:])
    with dt.routed(model, ["a", None, None]):
        assert_close(family.forward(model), torch.stack([changed[0], base[1], base[2]]))
