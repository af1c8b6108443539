"""Every rule can be read, and every rule matters."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from deltatune.methods import METHODS
from deltatune.planning.advice import VARIANTS
from deltatune.planning.rules import FAMILIES, RULES, Candidate, Rule, Situation, route_of

every_rule = pytest.mark.parametrize("rule", RULES, ids=[rule.name for rule in RULES])

CANDIDATES = [
    Candidate(key, settings, merges, routes)
    for key in (*METHODS, "full", "proxy")
    for settings in ({}, {"targets": ("all_linear",)})
    for merges in (True, False)
    for routes in (True, False)
]


def situations() -> Iterator[Situation]:
    for parameters, task, examples, tasks, merged, reachable, quant, tight in itertools.product(
        (2 * 10**7, 7 * 10**9, 7 * 10**10),
        ("causal-lm", "seq2seq-lm", "sequence-classification"),
        (None, 100, 10_000, 10**6),
        (1, 5),
        *[(False, True)] * 2,
        (None, "nf4"),
        (False, True),
    ):
        yield Situation(parameters, task, examples, tasks, merged, reachable, quant, tight)


@every_rule
def test_a_rule_holds_somewhere_and_says_something_of_some_methods(rule: Rule) -> None:
    assert any(rule.when(situation) for situation in situations())
    assert len({(rule.points(candidate), rule.excludes(candidate)) for candidate in CANDIDATES}) > 1


@every_rule
def test_a_rule_can_be_cited(rule: Rule) -> None:
    assert rule.says
    assert re.search(r"\w+ .*\d{4}, https://arxiv\.org/abs/\d{4}\.\d{5}|found by trying", rule.source)


@every_rule
def test_a_rule_is_on_the_page(rule: Rule) -> None:
    page = (Path(__file__).parents[2] / "docs" / "planning.md").read_text()
    assert f"| {rule.name} | {rule.holds} | {rule.says} |" in page


def test_names_are_told_apart() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)


def test_a_method_has_one_place_at_most() -> None:
    placed = [key for keys in FAMILIES.values() for key in keys]
    assert len(set(placed)) == len(placed)
    assert set(placed) <= {*METHODS, "full"}
    assert route_of("dora") == "low rank"
    assert route_of("a new method") == "other"


def test_points_are_given_to_methods_that_there_are() -> None:
    known = {*METHODS, "full", "proxy"}
    strange = Candidate("no such method", {}, merges=True, routes=True)
    for rule in RULES:
        if rule.name not in ("many tasks, one base",):  # which asks what it can do
            assert not rule.points(strange)
    assert {variant["method"] for variant in VARIANTS} <= known
