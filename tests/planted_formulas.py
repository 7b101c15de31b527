"""Plants one fault at a time into a module of formulas: every statement of it, wrong by itself.

A function keeps its identity and only its code is exchanged, so whoever has imported it gets the fault too.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch

WRONG = "wrong"


class Fault(NamedTuple):
    """One wrong expression of one function."""

    module: ModuleType
    function: str
    """Qualified name within the module."""
    code: CodeType
    """Of the whole module with the fault in it."""
    statement: str
    """As it reads with the fault."""

    def __str__(self) -> str:
        return f"{self.module.__name__.rpartition('.')[2]}.{self.function}: {self.statement}"


def wrong(value: Any) -> Any:
    """Another value of the same kind: floats 1.5 times as large, whole numbers moved, bools turned."""
    if isinstance(value, torch.Tensor):
        if value.is_floating_point():
            return value * 1.5
        if value.dtype == torch.bool:
            return ~value
        return value.roll(1) if (value != value.roll(1)).any() else value + 1
    if isinstance(value, np.ndarray):
        return np.roll(value, 1)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, tuple | list | Iterator) and (parts := [wrong(one) for one in value]):
        return type(value)(*parts) if hasattr(value, "_fields") else parts
    return None


def faults(module: ModuleType) -> list[Fault]:
    """All faults of all functions and methods of a module."""
    path = str(module.__file__)
    tree = ast.parse(Path(path).read_text())
    found = []
    for name, function in _functions(tree, ""):
        for statement in ast.walk(function):
            for holder, field in _expressions(statement):
                right = _get(holder, field)
                _set(holder, field, _spoilt(right, holder))
                code = compile(ast.fix_missing_locations(tree), path, "exec")
                said = ast.unparse(statement).splitlines()[0]
                found.append(Fault(module, name, _code_of(name, code), said))
                _set(holder, field, right)
    return found


@contextmanager
def planted(fault: Fault) -> Iterator[None]:
    """The fault is in the module for as long as this lasts."""
    target: Any = fault.module
    for part in fault.function.split("."):
        target = getattr(target, part)
    function = inspect.unwrap(target)
    assert isinstance(function, FunctionType)
    forget = getattr(target, "cache_clear", lambda: None)
    right = function.__code__
    function.__globals__[WRONG], function.__code__ = wrong, fault.code
    forget()
    try:
        yield
    finally:
        function.__code__ = right
        forget()


def _functions(tree: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Functions and methods; what a function defines inside itself is part of it."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node, f"{node.name}.")


def _expressions(node: ast.AST) -> Iterator[tuple[Any, Any]]:
    """What can be wrong in a statement or an expression: where it is held, and under which name or number."""
    if isinstance(node, ast.Return | ast.Assign | ast.AugAssign) and node.value is not None:
        yield from _parts(node, "value", node.value)
    elif isinstance(node, ast.If | ast.IfExp):
        yield from _parts(node, "test", node.test)
    elif isinstance(node, ast.Expr):
        call = node.value
        if isinstance(call, ast.Call) and not call.args:
            yield node, "value"
        while isinstance(call, ast.Call):  # in-place operations one after the other
            yield from ((call.args, place) for place in range(len(call.args)))
            call = call.func.value if isinstance(call.func, ast.Attribute) else call.func


def _parts(holder: Any, field: Any, value: ast.expr) -> Iterator[tuple[Any, Any]]:
    """The value itself, or what a tuple, a named tuple or a condition is made of."""
    if isinstance(value, ast.Tuple):
        for place, part in enumerate(value.elts):
            yield from _parts(value.elts, place, part)
    elif isinstance(value, ast.Starred):
        yield value, "value"
    elif isinstance(value, ast.BoolOp):
        yield from ((value.values, place) for place in range(len(value.values)))
    elif isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id[0].isupper():
        for place, part in enumerate(value.args):
            yield from _parts(value.args, place, part)
        yield from ((keyword, "value") for keyword in value.keywords)
    elif not isinstance(value, ast.Constant):
        yield holder, field


def _spoilt(right: ast.expr, holder: Any) -> ast.expr:
    """A wrong value; of a call that stands by itself and takes nothing, no call."""
    if isinstance(holder, ast.Expr):
        return ast.Constant(None)
    return ast.Call(ast.Name(WRONG, ast.Load()), [right], [])


def _get(holder: Any, field: Any) -> Any:
    return holder[field] if isinstance(holder, list) else getattr(holder, field)


def _set(holder: Any, field: Any, value: Any) -> None:
    if isinstance(holder, list):
        holder[field] = value
    else:
        setattr(holder, field, value)


def _code_of(name: str, code: CodeType) -> CodeType:
    """The code of the function of that name, out of its module's."""
    parts = [one for one in code.co_consts if isinstance(one, CodeType)]
    for part in parts:
        if part.co_qualname == name:
            return part
    return _code_of(name, next(part for part in parts if name.startswith(f"{part.co_qualname}.")))
