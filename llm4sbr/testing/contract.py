"""Base of the contracts: test classes that every component of a kind has to pass.

A check is *required* unless it is marked otherwise. An *optional* check tests a capability that a component
may lack if a class attribute says so and why: `lacks = {"export": "sorts, which ONNX cannot"}`. A check
marked *if offered* tests an optional member, and is skipped for components that do not have it.
"""

from __future__ import annotations

import functools
import inspect
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest

from llm4sbr import registry
from llm4sbr.config import space
from llm4sbr.errors import RegistryError
from llm4sbr.protocols import PLUGIN_API

Check = TypeVar("Check", bound=Callable[..., None])

REQUIRED = "required"

_LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))


class Term(NamedTuple):
    """One check of a contract."""

    name: str
    level: str
    """`required`, `optional: CAPABILITY` or `if offered: MEMBER`."""
    text: str
    """What the component has to do: the docstring of the check."""


def _annotated(check: Callable[..., None]) -> Callable[..., None]:
    """Add to a check's failure which requirement was violated, by which component, and in which line."""

    @functools.wraps(check)
    def annotated(self: Contract, *args: Any, **kwargs: Any) -> None:
        __tracebackhide__ = True
        try:
            check(self, *args, **kwargs)
        except (Exception, pytest.fail.Exception) as error:
            text = " ".join((inspect.getdoc(check) or "").split())
            error.add_note(f"contract of {self.kind}, {check.__name__}: {text}")
            error.add_note(f"broken by {self.name or type(self).__name__}{_where(error)}")
            raise

    return annotated


def _where(error: BaseException) -> str:
    """The line of the component that raised; "" if the check itself failed."""
    frames = [*traceback.extract_tb(error.__traceback__)]
    if isinstance(error, RegistryError) and error.__cause__:  # raised by the component's constructor
        frames += traceback.extract_tb(error.__cause__.__traceback__)
    kit = Path(__file__).parent
    last = max(i for i, frame in enumerate(frames) if Path(frame.filename).parent == kit)
    below = frames[last + 1 :]
    own = [frame for frame in below if not frame.filename.startswith(_LIBRARIES)]
    if not own:
        return ""
    return f" in {own[-1].name}, {Path(own[-1].filename).name}:{own[-1].lineno}: {own[-1].line}"


class Contract:
    """Base class of the contracts; a failed check says what is required and where the component fails."""

    kind: str
    """The kind of component, one of `registry.KINDS`."""
    name: str = ""
    """The component's installed name, in contracts that load it from the registry."""
    create: Callable[..., Any]
    """Creates the component, in all other contracts."""

    def __init_subclass__(cls, kind: str = "", **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if kind:  # true for our contracts, not for a plugin's subclass and the tests that it adds
            cls.kind = kind
            for name in [name for name in vars(cls) if name.startswith("test_")]:
                setattr(cls, name, _annotated(getattr(cls, name)))

    def component(self) -> object:
        """The component or its class, whose attributes `lacks`, `suggests` and `tunes` are read."""
        return registry.load(self.kind, self.name) if self.name else self.create()

    @_annotated
    def test_claims_make_sense(self) -> None:
        """`plugin_api` is current; `suggests`, `tunes`, `lacks` name settings, options, capabilities."""
        from llm4sbr.config import Config, build, flatten, nest

        component = self.component()
        assert getattr(component, "plugin_api", PLUGIN_API) == PLUGIN_API
        known = flatten(Config().model_dump())
        suggested = dict(getattr(component, "suggests", {}))
        assert [key for key in suggested if key not in known] == [], "`suggests` has unknown settings"
        build(nest(suggested))
        self._check_tunes(dict(getattr(component, "tunes", {})))
        lacks = lacking(component)
        optional = {term.level.partition(": ")[2] for term in terms(type(self)) if term.level != REQUIRED}
        assert set(lacks) <= optional, f"`lacks` has what is not optional; optional: {sorted(optional)}"
        assert all(isinstance(why, str) and why.strip() for why in lacks.values()), "`lacks` must say why"

    def _check_tunes(self, tunes: Mapping[str, Any]) -> None:
        """Check that the constructor has each option and accepts the values to be tried."""
        for key, dimension in space.declared(tunes, prefix="tunes").items():
            for value in dimension.probes() if self.name else ():
                registry.check(self.kind, self.name, {key.removeprefix("tunes."): value})


def optional(capability: str) -> Callable[[Check], Check]:
    """Mark a check of a capability that a component may lack if it says so."""

    def mark(check: Check) -> Check:
        @functools.wraps(check)
        def checked(self: Contract, *args: Any, **kwargs: Any) -> None:
            reason = lacking(self.component()).get(capability)
            if reason:
                pytest.skip(f"lacks {capability}: {reason}")
            check(self, *args, **kwargs)

        checked.level = f"optional: {capability}"  # type: ignore[attr-defined]
        return checked  # type: ignore[return-value]

    return mark


def if_offered(member: str) -> Callable[[Check], Check]:
    """Mark a check of an optional member, which is skipped for components without it."""

    def mark(check: Check) -> Check:
        @functools.wraps(check)
        def checked(self: Contract, *args: Any, **kwargs: Any) -> None:
            if not getattr(self.component(), member, None):
                pytest.skip(f"offers no {member}")
            check(self, *args, **kwargs)

        checked.level = f"if offered: {member}"  # type: ignore[attr-defined]
        return checked  # type: ignore[return-value]

    return mark


def lacking(component: object) -> Mapping[str, str]:
    """The optional capabilities that a component declares to lack -> the reason."""
    found: Mapping[str, str] = getattr(component, "lacks", {})
    return found


def terms(contract: type[Contract]) -> list[Term]:
    """The checks of a contract in source order, followed by those that all contracts share."""
    return [
        Term(name, getattr(check, "level", REQUIRED), " ".join((inspect.getdoc(check) or "").split()))
        for name, check in _checks(contract)
    ]


def _checks(contract: type[Contract]) -> Iterator[tuple[str, Callable[..., None]]]:
    seen: set[str] = set()
    for one in contract.__mro__:
        for name, value in vars(one).items():
            if name.startswith("test_") and name not in seen:
                seen.add(name)
                yield name, value
