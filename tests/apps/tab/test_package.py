"""The package without what its extra brings."""

from __future__ import annotations

import importlib
import sys

import pytest

import deltatune.apps.tab
from deltatune.errors import DeltaError


@pytest.mark.parametrize("package", ["pandas", "sklearn"])
def test_without_the_extra_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DeltaError, match=rf'needs the package {package}, .*; run pip install "deltatune\[tab\]"'):
        importlib.reload(deltatune.apps.tab)
