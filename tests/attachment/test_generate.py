"""``generate``: a row of a routed batch writes what its delta alone would write for that prompt."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deltatune as dt
from tests.models.families import FAMILIES, GENERATORS, Family
from tests.models.methods import ROWS, Row
from tests.models.tools import attach, every_method, families

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "no-cache": {"use_cache": False},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "sampled": {"do_sample": True, "num_return_sequences": 2},
}


def prompts(lengths: tuple[int, ...] = (5, 3, 4)) -> dict[str, Tensor]:
    """Prompts of these lengths, padded on the left."""
    ids = torch.randint(3, 99, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(3))
    mask = torch.stack([torch.arange(max(lengths)) >= max(lengths) - length for length in lengths]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def generate(model: nn.Module, inputs: dict[str, Tensor], **how: Any) -> Tensor:
    torch.manual_seed(5)
    written: Tensor = model.generate(**inputs, max_new_tokens=6, min_new_tokens=6, **how)  # type: ignore[operator]
    return written.view(len(inputs["input_ids"]), -1, written.shape[-1])


@families(*GENERATORS)
@every_method
@pytest.mark.parametrize("how", WAYS.values(), ids=list(WAYS))
def test_a_routed_row_writes_what_its_delta_alone_writes(family: Family, row: Row, how: dict[str, Any]) -> None:
    if not row.routes:
        pytest.skip("works on weights, which every row shares")
    model, inputs = family.model(), prompts()
    base = generate(model, inputs, **how)
    attach(model, row, family, "a", seed=1)
    only_a = generate(model, inputs, **how)
    dt.disable(model, "a")
    attach(model, row, family, "b", seed=2)
    only_b = generate(model, inputs, **how)
    dt.enable(model)

    with dt.routed(model, ["a", None, "b"]):
        found = generate(model, inputs, **how)
    assert torch.equal(found, torch.stack([only_a[0], base[1], only_b[2]]))
    # The routes have to matter for this to say anything.
    assert not torch.equal(only_a, base)
    assert not torch.equal(only_b, base)
    assert not torch.equal(only_a, only_b)


@families(*GENERATORS)
@every_method
def test_padding_on_the_left_changes_nothing(family: Family, row: Row) -> None:
    model, inputs = family.model(), prompts()
    attach(model, row, family, "a", seed=1)
    together = generate(model, inputs)
    for i, mask in enumerate(inputs["attention_mask"].bool()):
        alone = generate(model, {name: value[i : i + 1, mask] for name, value in inputs.items()})
        assert torch.equal(together[i, 0, -6:], alone[0, 0, -6:])


def test_a_delta_switched_between_two_texts_leaves_no_trace() -> None:
    family = FAMILIES["llama"]
    model, inputs = family.model(), prompts()
    base = generate(model, inputs)
    attach(model, ROWS["lora"], family, "a", seed=1)
    changed = generate(model, inputs)
    with dt.disabled(model):
        assert torch.equal(generate(model, inputs), base)
    assert torch.equal(generate(model, inputs), changed)
    dt.detach(model)
    assert torch.equal(generate(model, inputs), base)
