"""Examples to augment: templates and synthesised ones of each database."""

from __future__ import annotations

import pytest

from deltatune.apps.sql.examples import Example
from deltatune.apps.sql.questions import TEMPLATES, questions
from deltatune.apps.sql.run import Reader
from deltatune.apps.sql.synthesis import synthesize


@pytest.fixture(scope="session")
def examples(sqlite_readers: dict[str, Reader]) -> list[Example]:
    """A few hundred, of all kinds."""
    return [
        example
        for name, reader in sqlite_readers.items()
        for made in (
            questions(reader, [t for t in TEMPLATES if t.database == name], per_template=2),
            synthesize(reader, count=100, seed=9),
        )
        for example in made
    ]
