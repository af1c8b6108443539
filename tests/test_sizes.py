"""Sizes of memory as people write them."""

import pytest

from deltatune.errors import ConfigError
from deltatune.sizes import parse_size, size_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("24GiB", 24 * 2**30),
        ("24 gb", 24 * 10**9),
        ("1.5g", 1_500_000_000),
        ("900MB", 900_000_000),
        ("3Ki", 3072),
        ("77", 77),
        (12345, 12345),
        ("2TiB", 2 * 2**40),
    ],
)
def test_reading(text: int | str, expected: int) -> None:
    assert parse_size(text, "memory_budget") == expected


@pytest.mark.parametrize("text", ["", "much", "-3GB", "3 XB", "0", "1e9", "3ib"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"memory_budget: expected a size such as 24GiB or 900MB"):
        parse_size(text, "memory_budget")


@pytest.mark.parametrize(
    ("count", "expected"), [(999, "999 B"), (2_000, "2 kB"), (1_440_000_000, "1.4 GB"), (3 * 10**12, "3.00 TB")]
)
def test_writing(count: int, expected: str) -> None:
    assert size_text(count) == expected
