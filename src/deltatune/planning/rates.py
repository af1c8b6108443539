"""Where to begin with the learning rate: methods differ by a hundred times."""

from __future__ import annotations

from deltatune.planning.rules import SMALL

__all__ = ["start_rate"]

RATES = {
    "full": 2e-5,
    "child": 1e-4,
    "ptuning": 3e-3,
    "prompt": 3e-2,
    "prefix": 1e-2,
    "ia3": 1e-2,
    "bitfit": 1e-3,
    "norm": 1e-3,
}
"""For AdamW. From the papers, and for the input side from the runs in ``docs/benchmarks.md``."""

MATRICES = 1e-3
"""For methods that train new matrices, on a base of up to a billion parameters."""
MATRICES_IN_LARGE = 2e-4
"""And on a larger one (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314, appendix B)."""


def start_rate(method: str, parameters: int) -> float:
    """A learning rate to begin with; ``deltatune compare --search`` finds a better one.

    Args:
        method: its key, or ``full``.
        parameters: of the base.
    """
    return RATES.get(method, MATRICES if parameters < SMALL else MATRICES_IN_LARGE)
