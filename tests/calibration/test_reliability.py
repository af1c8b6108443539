"""Bins and errors against sums written out, and the picture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deltatune.calibration.maps import Calibration, temperature
from deltatune.calibration.plot import plot_reliability
from deltatune.calibration.reliability import reliability
from deltatune.errors import ConfigError
from tests.calibration.test_maps import drawn


def test_a_bin_has_its_examples() -> None:
    probabilities = torch.tensor([[0.95, 0.05], [0.9, 0.1], [0.3, 0.7], [0.5, 0.5]])
    found = reliability(probabilities, [0, 1, 1, 0], bins=10)
    assert [each.count for each in found.bins] == [0, 0, 0, 0, 1, 0, 1, 0, 1, 1]
    assert found.bins[8].confidence == pytest.approx(0.9)  # 0.9 is the end of its bin
    assert found.bins[8].accuracy == 0
    assert found.expected_error == pytest.approx((0.5 + 0.3 + 0.9 + 0.05) / 4)
    assert found.largest_error == pytest.approx(0.9)


@given(st.integers(1, 40), st.integers(2, 4), st.integers(1, 20), st.integers(0, 99))
def test_the_error_is_the_sum_written_out(examples: int, classes: int, bins: int, seed: int) -> None:
    scores, labels = drawn(examples, classes, 1.0, seed)
    probabilities = scores.softmax(-1)
    found = reliability(probabilities, labels, bins)
    confidence, chosen = probabilities.max(-1)
    total = 0.0
    for number in range(bins):
        inside = (confidence > number / bins) & (confidence <= (number + 1) / bins)
        if inside.any():
            gap = (chosen == labels)[inside].double().mean() - confidence[inside].mean()
            total += float(inside.double().mean() * gap.abs())
    assert found.examples == examples
    assert found.expected_error == pytest.approx(total, abs=1e-9)


def test_drawn_labels_are_believed_and_a_temperature_mends_what_is_too_sure() -> None:
    scores, labels = drawn(20_000, 4, 3.0)
    before = reliability(Calibration()(scores), labels).expected_error
    after = reliability(temperature(scores, labels)(scores), labels).expected_error
    assert after < 0.02 < 0.1 < before


def test_a_picture_is_written_whole(tmp_path: Path) -> None:
    scores, labels = drawn(200, 3, 3.0)
    found = reliability(Calibration()(scores), labels)
    plot_reliability({"before": found, "after": found}, tmp_path / "new" / "reliability.png", "title")
    assert (tmp_path / "new" / "reliability.png").read_bytes().startswith(b"\x89PNG")


def test_no_bins_are_refused() -> None:
    with pytest.raises(ConfigError, match="bins: expected at least 1, found 0; raise it"):
        reliability(torch.ones(1, 1), [0], bins=0)
