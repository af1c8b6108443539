"""What every test gets: one random stream, one thread and no network."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    import torch

    torch.manual_seed(0)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """A compiler that has met nothing: after eight shapes it gives up on a function, in whichever test they came."""
    import torch

    torch.compiler.reset()
    yield
    torch.compiler.reset()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out the cells of methods by families where there is nothing for the method to act on."""

    def fits(item: pytest.Item) -> bool:
        given = item.callspec.params if hasattr(item, "callspec") else {}
        row, family = given.get("row"), given.get("family")
        return not hasattr(row, "fits") or not hasattr(family, "build") or row.fits(family)

    items[:] = [item for item in items if fits(item)]
