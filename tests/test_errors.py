from __future__ import annotations

import inspect

import pytest

from llm4sbr import errors

CLASSES = [value for _, value in inspect.getmembers(errors, inspect.isclass)]


def test_all_names_every_error() -> None:
    assert sorted(errors.__all__) == sorted(cls.__name__ for cls in CLASSES)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_is_in_the_one_tree_and_drawn_where_it_stands(cls: type[Exception]) -> None:
    assert issubclass(cls, errors.Llm4sbrError)
    drawn = {
        line.strip("│├└─ ").split()[0]: line
        for line in (errors.__doc__ or "").splitlines()
        if line[:4] == "    "
    }
    depth = len(cls.__mro__) - len(errors.Llm4sbrError.__mro__)
    line = drawn[cls.__name__]
    assert line.index(cls.__name__) == 4 + 4 * depth, "the drawing indents by four per generation"
