"""What tells files that were changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from deltatune.errors import DataError
from deltatune.io.digest import digest


def test_changed_files_are_seen(tmp_path: Path) -> None:
    file = tmp_path / "data.csv"
    file.write_text("a,b\n1,2\n")
    before = digest([str(file), None])
    assert digest([file]) == before
    file.write_text("a,b\n1,3\n")
    assert digest([file]) != before
    with pytest.raises(DataError, match=r"gone\.csv: can not be read"):
        digest(["gone.csv"])
