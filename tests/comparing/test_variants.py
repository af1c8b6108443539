"""What is compared, read from text."""

from __future__ import annotations

import pytest

from deltatune.comparing.variants import all_methods, variants
from deltatune.errors import ConfigError
from deltatune.methods import METHODS


def test_methods_with_and_without_settings() -> None:
    found = variants("lora, bitfit,lora:r=16,alpha=32,dora:targets=[query,value],base", [])
    assert [each.label for each in found] == [
        "lora",
        "bitfit",
        "lora r=16 alpha=32",
        "dora targets=[query,value]",
        "base",
    ]
    assert found[2].deltas == ({"method": "lora", "r": 16, "alpha": 32},)
    assert found[3].deltas[0]["targets"] == ["query", "value"]
    assert found[4].deltas == ()
    assert len({each.folder for each in found}) == 5


def test_several_lists_and_one_are_alike() -> None:
    assert variants(["lora", "ia3,norm"], []) == variants("lora,ia3,norm", [])


def test_each_may_have_a_learning_rate_of_its_own() -> None:
    (found,) = variants("lora:r=2,learning_rate=3e-4", [])
    assert found.learning_rate == 3e-4
    assert found.deltas == ({"method": "lora", "r": 2},)
    assert found.label == "lora r=2 learning_rate=0.0003"


def test_the_words() -> None:
    own = [{"method": "ia3", "name": "x"}]
    full, config = variants("full,config", own)
    assert full.deltas[0]["p"] == 1.0
    assert config.deltas == tuple(own)


def test_all_are_those_that_need_no_settings() -> None:
    found = all_methods()
    assert {"base", "full", "lora", "prompt"} <= set(found)
    assert set(METHODS) - set(found) == {"fusion", "peft"}
    assert len(variants(found, [])) == len(found)


def test_folders_differ_where_names_would_not() -> None:
    one, other = variants("lora:targets='a/b',lora:targets='a:b'", [])
    assert one.folder != other.folder
    assert "/" not in one.folder + other.folder


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lorra", r"methods: expected some of .*, found 'lorra'; did you mean 'lora'\?"),
        ("", "expected methods, such as lora,bitfit, found none"),
        ("r=4", "expected a method before 'r=4'"),
        ("lora:rank=4", r"methods: lora:rank=4: rank: expected a setting of lora .*"),
        ("lora:r=0", "methods: lora:r=0: "),
        ("lora:r", "expected settings such as r=16, found 'r'"),
        ("lora,ia3,lora", "expected each variant once, found 'lora' twice"),
        ("base:r=3", "expected no settings, found r"),
        ("lora:learning_rate=-1", "learning_rate: expected a number above 0, found -1"),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        variants(text, [])
