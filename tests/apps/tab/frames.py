"""Small tables whose classes follow from their columns, with all kinds of values."""

from __future__ import annotations

import numpy as np
import pandas as pd

from deltatune.apps.tab.data import Table


def table(name: str = "toy", rows: int = 120, classes: int = 2, seed: int = 0) -> Table:
    """Classes by the size of a number; the other columns tell nothing."""
    rng = np.random.default_rng(seed)
    size = rng.permutation(rows) / rows
    frame = pd.DataFrame(
        {
            "size": size,
            "colour": rng.choice(["red", "blue", None], rows),
            "count": pd.Series(rng.integers(0, 9, rows)).astype("Int64"),
            "fresh": rng.random(rows) > 0.5,
        }
    )
    frame.loc[0, "size"] = np.nan
    labels = pd.Series(np.array(["low", "mid", "top"])[(size * classes).astype(int)], name="grade")
    return Table(name, frame, labels)
