"""The public surface: every promised name is there, and asking for the package alone costs nothing."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import deltatune as dt
from deltatune.methods import METHODS


def test_the_promised_names_are_those_that_can_be_had() -> None:
    assert sorted(dt._HOMES) == sorted(name for name in dt.__all__ if name != "__version__")
    assert len(dt.__all__) == len(set(dt.__all__))
    assert dir(dt) == sorted(dt.__all__)


@pytest.mark.parametrize("name", dt.__all__)
def test_a_promised_name_imports_and_says_what_it_is(name: str) -> None:
    value = getattr(dt, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert value.__name__ == name
        assert value.__module__ == dt._HOMES[name]
        assert value.__doc__


def test_what_type_checkers_see_is_what_is_imported() -> None:
    tree = ast.parse(inspect.getsource(dt))
    seen = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("deltatune.")
        for alias in node.names
    }
    assert seen == dt._HOMES


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'deltatune' has no attribute 'nothing'"):
        _ = dt.nothing


@pytest.mark.parametrize("statement", ["import deltatune", "import deltatune.methods", "import deltatune.errors"])
def test_importing_the_package_imports_no_torch(statement: str) -> None:
    heavy = "'torch', 'transformers', 'peft', 'numpy', 'bitsandbytes'"
    code = f"{statement}; import sys; assert not {{{heavy}}} & set(sys.modules), sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_table_of_methods_names_files_that_exist() -> None:
    folder = Path(inspect.getfile(dt)).parent / "methods"
    assert {f"{key}.py" for key in METHODS} <= {path.name for path in folder.iterdir()}
    assert list(METHODS) == sorted(METHODS)


@pytest.mark.parametrize("key", METHODS)
def test_every_method_is_public_and_its_file_says_what_it_computes(key: str) -> None:
    cls = getattr(dt, METHODS[key])
    module = inspect.getmodule(cls)
    assert module is not None
    assert module.__doc__
    assert inspect.getdoc(cls)
