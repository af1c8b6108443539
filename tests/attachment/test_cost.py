"""What attaching costs, counted in calls rather than in time."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

import deltatune as dt
from tests.models.families import FAMILIES
from tests.models.methods import ROWS, Row
from tests.models.tools import attach, every_method


def calls(run: Callable[[], Any]) -> int:
    """How many functions are called, written in Python or not."""
    count = 0

    def counted(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counted)
    try:
        run()
    finally:
        sys.setprofile(None)
    return count


@every_method
def test_the_fiftieth_delta_costs_what_the_second_does(row: Row) -> None:
    if row.in_place:
        pytest.skip("those that are on are taken out of the base and put in again")
    family = FAMILIES["llama"]
    model = family.model()
    attach(model, row, family, "0")  # imports, and makes the bank
    attached = [calls(lambda n=n: attach(model, row, family, str(n))) for n in range(1, 50)]
    # Finding a name among the others and asking each whether it is on may grow, a little.
    assert attached[-1] <= 1.2 * attached[0]

    detached = [calls(lambda n=n: dt.detach(model, str(n))) for n in range(49, 0, -1)]
    assert detached[0] <= 2.5 * detached[-1]


@pytest.mark.parametrize("state", ["disabled", "routed away"])
def test_deltas_that_do_not_act_cost_a_forward_pass_little(state: str) -> None:
    family = FAMILIES["llama"]
    model = family.model()
    family.forward(model)
    base = calls(lambda: family.forward(model))
    attach(model, ROWS["lora"], family, "0")
    one = calls(lambda: family.forward(model)) - base
    for n in range(1, 20):
        attach(model, ROWS["lora"], family, str(n)).disable()
    if state == "routed away":
        dt.enable(model)
        dt.disable(model, "0")
        with dt.routed(model, [None] * 3):
            many = calls(lambda: family.forward(model)) - base
    else:
        many = calls(lambda: family.forward(model)) - base
    assert many <= 6 * one
