"""What a method's description accepts, refuses and says of itself."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltatune.errors import ConfigError
from deltatune.methods import METHODS, from_config, from_peft_config, method_class
from deltatune.methods.lora import LoRA
from tests.models.families import FAMILIES
from tests.models.methods import ROWS

names = st.text("abq_.*", min_size=1, max_size=6)
methods = st.builds(
    LoRA,
    targets=st.lists(names, min_size=1, max_size=3).map(tuple),
    layers=st.one_of(st.none(), st.integers(-3, 3), st.just("first:2"), st.just((0, "2-3"))),
    exclude=st.lists(names, max_size=2).map(tuple),
    train_also=st.one_of(st.none(), st.just(()), st.just(("classifier",))),
    r=st.integers(1, 9),
    alpha=st.one_of(st.integers(1, 99), st.floats(0.1, 99)),
    dropout=st.floats(0, 0.99),
    bias=st.sampled_from(["none", "all", "lora_only"]),
    init=st.sampled_from(["default", "gaussian", "pissa"]),
    rslora=st.booleans(),
    rank_pattern=st.dictionaries(names, st.integers(1, 9), max_size=2),
    lr_ratio=st.floats(0.1, 20),
)


@given(methods)
def test_a_description_survives_being_plain_data(method: LoRA) -> None:
    config = method.to_config()
    assert from_config(config) == method
    assert from_config(json.loads(json.dumps(config))) == method


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
def test_every_method_survives_being_plain_data(row: Any) -> None:
    config = row.make(FAMILIES["llama"]).to_config()
    again = from_config(json.loads(json.dumps(config)))
    assert again.to_config() == config
    assert from_config(again.to_config()) == again


def test_only_what_differs_from_the_defaults_is_said() -> None:
    assert LoRA().to_config() == {"method": "lora"}
    assert LoRA(r=4, targets=["key"]).to_config() == {"method": "lora", "r": 4, "targets": ("key",)}
    assert LoRA(targets="key") == LoRA(targets=("key",))
    assert LoRA(layers=[1, 2]) == LoRA(layers=(1, 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 0}, "lora rank of r: expected a whole number from 1, found 0"),
        ({"r": 2.5}, "lora rank of r: expected a whole number from 1, found 2.5"),
        ({"r": True}, "lora rank of r: expected a whole number from 1, found True"),
        ({"rank_pattern": {"q": -1}}, "lora rank of q: expected a whole number from 1, found -1"),
        ({"alpha": 0}, "lora alpha of alpha: expected a number above 0, found 0"),
        ({"alpha": float("nan")}, "lora alpha of alpha: expected a number above 0, found nan"),
        ({"alpha_pattern": {"q": "x"}}, "lora alpha of q: expected a number above 0, found 'x'"),
        ({"dropout": 1}, "lora.dropout: expected 0 <= p < 1, found 1"),
        ({"dropout": -0.1}, "lora.dropout: expected 0 <= p < 1, found -0.1"),
        ({"lr_ratio": 0}, "lora.lr_ratio: expected a number above 0, found 0"),
        ({"bias": "some"}, "lora.bias: expected one of ('none', 'all', 'lora_only'), found 'some'"),
        ({"init": "zero"}, "lora.init: expected one of ('default', 'gaussian', 'pissa', 'orthogonal'), found 'zero'"),
        ({"init": "orthogonal", "r": 3}, "lora rank of r: expected even with init='orthogonal', found 3"),
        ({"targets": ()}, "lora.targets: expected at least one target, found ()"),
        ({"targets": (1,)}, "lora.targets: expected names of modules, found (1,)"),
        ({"layers": 1.5}, "lora.layers: expected numbers, ranges such as '2-5', 'first:4' or 'last:8', found 1.5"),
        ({"rang": 3}, "lora.rang: expected one of "),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_setting_out_of_range_is_refused_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        LoRA.from_config(settings)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_misspelt_setting_and_method_get_a_hint() -> None:
    with pytest.raises(ConfigError, match="did you mean 'alpha'"):
        from_config({"method": "lora", "alhpa": 3})
    with pytest.raises(ConfigError, match=r"method: expected one of .*lora.*, found 'lara'"):
        from_config({"method": "lara"})
    with pytest.raises(ConfigError, match=r"method: expected one of .*, found 'None'"):
        from_config({})


@pytest.mark.parametrize("key", METHODS)
def test_every_row_of_the_table_is_a_described_frozen_dataclass(key: str) -> None:
    cls = method_class(key)
    assert cls.key == key
    assert cls.__name__ == METHODS[key]
    assert cls.__module__ == f"deltatune.methods.{key}"
    assert cls.__doc__
    assert not cls.__doc__.startswith(f"{cls.__name__}(")  # what a dataclass writes for itself
    assert dataclasses.is_dataclass(cls)
    assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]


def test_peft_configs_that_no_method_computes_are_named() -> None:
    with pytest.raises(ConfigError, match="found peft_type 'SOMETHING' with use_it"):
        from_peft_config({"peft_type": "SOMETHING", "use_it": True})
