"""Few-shot classification of the rows of tables: a language model reads each row as text and answers a question on it.

After TabLLM (Hegselmann et al. 2023, https://arxiv.org/abs/2210.10723).

Needs the extra: pip install "deltatune[tab]".
"""

from __future__ import annotations

from deltatune.errors import DeltaError

try:
    import pandas
    import sklearn
except ImportError as error:
    raise DeltaError(
        f'deltatune.apps.tab: needs the package {error.name}, found none; run pip install "deltatune[tab]"'
    ) from None

del pandas, sklearn
