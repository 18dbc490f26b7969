"""The names of converters, and what they say of themselves."""

import inspect
from pathlib import Path

import pytest

from nnunetv2_ext.dataset_conversion.registry import converters, description, summary


@pytest.mark.parametrize("name", converters())
def test_says_what_it_expects(name):
    converter = converters()[name]
    assert summary(converter)
    assert "Expects" in description(converter)
    assert "::" in description(converter)
    assert len(inspect.getsource(converter).splitlines()) < 100


@pytest.mark.parametrize("name", converters())
def test_is_tested_on_a_miniature(name):
    module = converters()[name].__module__.rpartition(".")[2]
    test_module = Path(__file__).with_name("datasets") / f"test_{module}.py"
    assert f'"{name}"' in test_module.read_text(encoding="utf-8")
