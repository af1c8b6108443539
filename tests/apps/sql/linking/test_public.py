"""What the package offers, and what it does without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from deltatune.apps.sql import linking


def test_every_public_name_is_there() -> None:
    assert linking.__all__ == sorted(linking.__all__) == sorted(linking._HOMES)
    for name in linking.__all__:
        assert getattr(linking, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        linking.nothing  # noqa: B018


def test_only_the_trained_linker_needs_torch() -> None:
    code = (
        "import sys; from deltatune.apps.sql.linking import LexicalLinker, Recall, ValueIndex, ValueLinker, Ranking; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
