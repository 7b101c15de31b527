"""What all contracts share: levels of their checks, what a component claims, and how a failure is told.

A check is *required* unless it is marked. An *optional* one tests a capability that a component may do
without, if it says so and why, in a class attribute: `lacks = {"export": "sorts, which ONNX cannot"}`. One
marked *if offered* tests a member that a component may have, and must then have right.
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
    """What the component has to do."""


def _told(check: Callable[..., None]) -> Callable[..., None]:
    """The check; what it raises says which term of the contract it was, whose, and where."""

    @functools.wraps(check)
    def told(self: Contract, *args: Any, **kwargs: Any) -> None:
        __tracebackhide__ = True
        try:
            check(self, *args, **kwargs)
        except (Exception, pytest.fail.Exception) as error:
            text = " ".join((inspect.getdoc(check) or "").split())
            error.add_note(f"contract of {self.kind}, {check.__name__}: {text}")
            error.add_note(f"broken by {self.name or type(self).__name__}{_where(error)}")
            raise

    return told


def _where(error: BaseException) -> str:
    """The line of the component's that raised, "" if the check itself did."""
    frames = [*traceback.extract_tb(error.__traceback__)]
    if isinstance(error, RegistryError) and error.__cause__:  # the registry says whose constructor it was
        frames += traceback.extract_tb(error.__cause__.__traceback__)
    kit = Path(__file__).parent
    last = max(i for i, frame in enumerate(frames) if Path(frame.filename).parent == kit)
    below = frames[last + 1 :]
    own = [frame for frame in below if not frame.filename.startswith(_LIBRARIES)]
    if not own:
        return ""
    return f" in {own[-1].name}, {Path(own[-1].filename).name}:{own[-1].lineno}: {own[-1].line}"


class Contract:
    """Base of the contracts. A failed check says what the contract is, and where the component broke it."""

    kind: str
    """Of component, as in `registry.KINDS`."""
    name: str = ""
    """The component's installed name, where it is found by name."""
    create: Callable[..., Any]
    """Makes the component, where it is not."""

    def __init_subclass__(cls, kind: str = "", **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if kind:  # what a plugin adds or replaces is told as it is
            cls.kind = kind
            for name in [name for name in vars(cls) if name.startswith("test_")]:
                setattr(cls, name, _told(getattr(cls, name)))

    def component(self) -> object:
        """The component or its class, to see what it claims."""
        return registry.load(self.kind, self.name) if self.name else self.create()

    @_told
    def test_claims_make_sense(self) -> None:
        """`plugin_api` is this one's, `suggests` names settings, `tunes` options, `lacks` capabilities."""
        from llm4sbr.config import Config, build, flatten, nest

        component = self.component()
        assert getattr(component, "plugin_api", PLUGIN_API) == PLUGIN_API
        known = flatten(Config().model_dump())
        suggested = dict(getattr(component, "suggests", {}))
        assert [key for key in suggested if key not in known] == [], "`suggests` names what is no setting"
        build(nest(suggested))
        self._check_tunes(dict(getattr(component, "tunes", {})))
        lacks = lacking(component)
        optional = {term.level.partition(": ")[2] for term in terms(type(self)) if term.level != REQUIRED}
        assert set(lacks) <= optional, f"`lacks` names what is not optional; optional: {sorted(optional)}"
        assert all(isinstance(why, str) and why.strip() for why in lacks.values()), "`lacks` must say why"

    def _check_tunes(self, tunes: Mapping[str, Any]) -> None:
        """Every name is an option of the constructor, which takes every value."""
        for key, dimension in space.declared(tunes, prefix="tunes").items():
            for value in dimension.probes() if self.name else ():
                registry.check(self.kind, self.name, {key.removeprefix("tunes."): value})


def optional(capability: str) -> Callable[[Check], Check]:
    """Marks a check of something that a component may lack, if it says so."""

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
    """Marks a check of a member that a component may have."""

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
    """The optional capabilities that a component says it lacks -> why."""
    found: Mapping[str, str] = getattr(component, "lacks", {})
    return found


def terms(contract: type[Contract]) -> list[Term]:
    """The checks of a contract, in the order of its source, those of all kinds last."""
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
