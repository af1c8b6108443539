"""What the writer learns: right answers, prompts with all that they need, and few different beginnings."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import sqlglot

from deltatune.apps.sql.config import PromptSpec
from deltatune.apps.sql.examples import Example
from deltatune.apps.sql.linking.gold import gold
from deltatune.apps.sql.questions import TEMPLATES, questions
from deltatune.apps.sql.run import Reader
from deltatune.apps.sql.source import Source
from deltatune.apps.sql.teaching import lessons, shown_together


@pytest.fixture
def funds(sqlite_readers: dict[str, Reader]) -> Source:
    return Source(sqlite_readers["funds"], sqlite_readers["funds"].schema)


@pytest.fixture
def examples(funds: Source) -> list[Example]:
    return questions(funds.reader, [t for t in TEMPLATES if t.database == "funds"], per_template=4)


def test_a_prompt_shows_what_the_answer_needs(funds: Source, examples: list[Example]) -> None:
    made = list(lessons(examples, {"funds": funds}, PromptSpec()))
    assert len(made) == len(examples)
    for record in made:
        about = record["prompt"].split("\n\nQuestion:")[0]
        shown = {line.split(":")[0] for line in about.splitlines() if not line.startswith("-")}
        columns = {line.split()[1] for line in about.splitlines() if line.startswith("-")}
        tree = sqlglot.parse_one(record["completion"], read="sqlite")
        made_up = {cte.alias for cte in tree.find_all(sqlglot.exp.CTE)}
        assert {table.name for table in tree.find_all(sqlglot.exp.Table)} - made_up <= shown
        aliases = {alias.alias for alias in tree.find_all(sqlglot.exp.Alias)}
        assert {column.name for column in tree.find_all(sqlglot.exp.Column)} - aliases <= columns
    assert {record["completion"] for record in made} == {example.sql for example in examples}


def test_queries_share_what_they_are_shown(funds: Source, examples: list[Example]) -> None:
    needed = [gold(example, funds.schema) for example in examples]
    alone = shown_together(needed, funds.schema, PromptSpec(share=1), random.Random(0))
    shared = shown_together(needed, funds.schema, PromptSpec(share=8), random.Random(0))
    for shown in (alone, shared):
        for query, selection in zip(needed, shown, strict=True):
            assert all(set(columns) <= set(selection[table]) for table, columns in query.items())
    counts = Counter(str(selection) for selection in shared)
    assert max(counts.values()) >= 4
    assert len(counts) < len(examples) / 3 < len({str(selection) for selection in alone})
    assert len({id(selection) for selection in shared}) >= len(examples) / 8


def test_lessons_are_in_the_dialect_of_the_database(readers: dict[str, Reader], funds: Source) -> None:
    source = Source(readers["funds"], readers["funds"].schema)
    dated = [t for t in TEMPLATES if t.database == "funds" and "STRFTIME" in t.sql]
    examples = questions(funds.reader, dated, per_template=1)
    for record in lessons(examples, {"funds": source}, PromptSpec()):
        source.reader.run(record["completion"])
        assert record["prompt"].startswith(
            {"sqlite": "SQLite", "duckdb": "DuckDB", "postgres": "PostgreSQL"}[source.reader.dialect]
        )
