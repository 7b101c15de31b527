"""What an artefact knows of its items besides keys and titles: attributes, clicks, and named filters.

One safetensors file, read without torch and polars. A column is stored as its distinct values and a code per
item, of one, two or four bytes; if all values are numbers they are in order, so that a comparison is one of
codes. The clicks are those of training. A named filter is a bit per item.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from llm4sbr import store
from llm4sbr.errors import InputError, StoreError

ATTRIBUTES = "attributes.safetensors"

_NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,17})(?:\.\d{1,17})?")
"""No leading zeros: `007` is a code, not a number."""

TOLD = 50
"""Values of a column that are told."""

Value = str | int | float


class Numbers:
    """A column of numbers.

    Args:
        values: float64, the distinct numbers, ascending, and NaN at the end if some are unknown.
        codes: whole numbers (N,), positions in `values`.
    """

    def __init__(self, values: NDArray[np.float64], codes: NDArray[Any]) -> None:
        self.values = values
        self.codes = codes
        self.known = len(values) - int(np.isnan(values).sum())
        """The code of what is unknown."""

    @classmethod
    def of(cls, numbers: NDArray[np.float64]) -> Numbers:
        """The column of numbers float64 (N,), NaN where unknown."""
        values, codes = np.unique(numbers, return_inverse=True)
        return cls(values, _small(codes.reshape(-1), len(values)))

    def below(self, number: float, *, itself: bool) -> NDArray[np.bool_]:
        """Bool (N,), true where a number is known and below another, or is it."""
        place = np.searchsorted(self.values[: self.known], number, "right" if itself else "left")
        return np.asarray(self.codes < int(place))

    def equal(self, number: float | None) -> NDArray[np.bool_]:
        """Bool (N,), true at a number, or where it is unknown."""
        if number is None:
            return np.asarray(self.codes == self.known)
        return self.below(number, itself=True) & ~self.below(number, itself=False)

    def about(self) -> dict[str, Any]:
        """The least and the largest number."""
        return {"kind": "number", "least": float(self.values[0]), "most": float(self.values[self.known - 1])}


class Texts:
    """A column of texts.

    Args:
        values: the distinct texts.
        codes: whole numbers (N,), positions in `values`; "" stands for unknown.
    """

    def __init__(self, values: Sequence[str], codes: NDArray[Any]) -> None:
        self.values = values
        self.codes = codes

    def about(self) -> dict[str, Any]:
        """How many values there are, and the `TOLD` most frequent ones."""
        counts = np.bincount(self.codes, minlength=len(self.values))
        order = np.argsort(-counts, kind="stable").tolist()
        known = [self.values[code] for code in order if self.values[code]]
        return {"kind": "text", "distinct": len(known), "values": known[:TOLD]}

    @cached_property
    def places(self) -> dict[str, int]:
        """Value -> its code."""
        return {value: code for code, value in enumerate(self.values)}


Column = Numbers | Texts


class Attributes:
    """Columns by name, each with a value per item.

    Args:
        columns: the attributes.
        clicks: int (N,), each item's clicks in training; None if they are not known.
        filters: named filters, bool (N,) each, true where an item passes.
    """

    def __init__(
        self,
        columns: Mapping[str, Column],
        clicks: NDArray[Any] | None = None,
        filters: Mapping[str, NDArray[np.bool_]] | None = None,
    ) -> None:
        self.columns = dict(columns)
        self.clicks = clicks
        self.filters = dict(filters or {})

    @classmethod
    def of(cls, texts: Mapping[str, Sequence[str]], clicks: NDArray[Any] | None = None) -> Attributes:
        """The attributes of a catalogue: column name -> one text per item, "" where unknown."""
        return cls({name: _column(column) for name, column in texts.items()}, clicks)

    def item(self, id: int) -> dict[str, Value]:
        """The known attributes of the item with catalogue id `id` (1..N)."""
        found: dict[str, Value] = {}
        for name, column in self.columns.items():
            if isinstance(column, Numbers):
                number = float(column.values[column.codes[id - 1]])
                if number == number:  # not NaN
                    found[name] = int(number) if number.is_integer() else number
            elif text := column.values[column.codes[id - 1]]:
                found[name] = text
        return found

    @cached_property
    def most_clicked(self) -> NDArray[np.int64] | None:
        """Catalogue ids int64 (N,), those with most clicks first; None if clicks are not known."""
        return None if self.clicks is None else np.argsort(-self.clicks.astype(np.int64), kind="stable") + 1

    def popular(self, count: int, allowed: NDArray[np.float32] | None) -> list[tuple[int, float]] | None:
        """The items with most clicks, and their clicks; None if clicks are not known.

        Args:
            count: at most so many.
            allowed: float32 (1, N), 0 for items that may be among them; None if all may.
        """
        order = self.most_clicked
        if order is None or self.clicks is None:
            return None
        if allowed is not None:
            order = order[allowed[0, order - 1] == 0]
        return [(id, float(self.clicks[id - 1])) for id in order[:count].tolist()]

    def chosen(self, names: Sequence[str]) -> Attributes:
        """The same with these columns only; `InputError` if there is no such column."""
        for name in names:
            if name not in self.columns:
                raise no_such("attribute", name, self.columns)
        return Attributes({name: self.columns[name] for name in names}, self.clicks, self.filters)

    def write(self, path: Path) -> None:
        """Write the file at `path`."""
        from safetensors.numpy import save_file

        tensors: dict[str, NDArray[Any]] = {}
        for number, column in enumerate(self.columns.values()):
            tensors[f"{number}.codes"] = column.codes
            if isinstance(column, Numbers):
                tensors[f"{number}.values"] = column.values
                continue
            text = json.dumps(list(column.values), ensure_ascii=False).encode()
            tensors[f"{number}.values"] = np.frombuffer(text, np.uint8)
        for number, passing in enumerate(self.filters.values()):
            tensors[f"filter.{number}"] = np.packbits(passing)
        if self.clicks is not None:
            tensors["clicks"] = self.clicks.astype(np.int32)
        names = {"columns": list(self.columns), "filters": list(self.filters)}
        facts = {"names": json.dumps(names)}  # several would stand in any order, and the file be another one
        with store.writing(path) as temporary:
            save_file({name: np.ascontiguousarray(one) for name, one in tensors.items()}, temporary, facts)

    @classmethod
    def open(cls, path: Path, size: int) -> Attributes:
        """Read the file at `path`, written by `write` for `size` items.

        Raises:
            StoreError: it is damaged, or of another catalogue.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "numpy") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                names = json.loads((file.metadata() or {})["names"])
            columns = {
                name: _read(tensors, number, size) for number, name in enumerate(_texts(names["columns"]))
            }
            filters = {
                name: unpacked(tensors[f"filter.{number}"], size)
                for number, name in enumerate(_texts(names["filters"]))
            }
            clicks = tensors.get("clicks")
            if clicks is not None:
                _check(clicks, np.int32, size)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
            reason = " ".join(str(error).split())[:200]
            raise StoreError(f"{path}: not the attributes of {size} items ({reason}); export again") from None
        return cls(columns, clicks, filters)


def unpacked(bits: NDArray[Any], size: int) -> NDArray[np.bool_]:
    """Bool (N,) from its bits; `ValueError` if these are of another size."""
    _check(bits, np.uint8, (size + 7) // 8)
    return np.unpackbits(bits, count=size).astype(np.bool_)


def no_such(what: str, name: str, known: Mapping[str, Any]) -> InputError:
    """The error that there is no attribute or filter of this name."""
    there = f"there are {', '.join(known)}" if known else "there are none"
    return InputError(f"no {what} is called {name!r:.60}; {there}"[:500])


def _column(texts: Sequence[str]) -> Column:
    places: dict[str, int] = {}
    codes = np.fromiter((places.setdefault(text, len(places)) for text in texts), np.int64, len(texts))
    known = [text for text in places if text]
    if known and all(_NUMBER.fullmatch(text) for text in known):
        numbers = np.array([float(text) if text else np.nan for text in places], np.float64)
        return Numbers.of(numbers[codes])
    return Texts(list(places), _small(codes, len(places)))


def _small(codes: NDArray[np.int64], count: int) -> NDArray[Any]:
    return codes.astype(np.uint8 if count <= 2**8 else np.uint16 if count <= 2**16 else np.uint32)


def _read(tensors: Mapping[str, NDArray[Any]], number: int, size: int) -> Column:
    values, codes = tensors[f"{number}.values"], tensors[f"{number}.codes"]
    if codes.dtype not in (np.uint8, np.uint16, np.uint32):
        raise ValueError(f"codes of {codes.dtype}")
    _check(codes, codes.dtype, size)
    numbers = values.dtype == np.float64
    known = _ascending(values) if numbers else _texts(json.loads(values.tobytes()))
    if size and int(codes.max()) >= len(known):
        raise ValueError(f"code {codes.max()} of {len(known)} values")
    return Numbers(values, codes) if numbers else Texts(cast(list[str], known), codes)


def _ascending(values: NDArray[Any]) -> NDArray[np.float64]:
    known = values[:-1] if len(values) and np.isnan(values[-1]) else values
    if values.ndim != 1 or not len(known) or not np.isfinite(known).all() or (np.diff(known) <= 0).any():
        raise ValueError("numbers that are not in order")
    return values


def _texts(found: object) -> list[str]:
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise ValueError("not a list of texts")
    return found


def _check(values: NDArray[Any], dtype: Any, size: int) -> NDArray[Any]:
    if values.dtype != dtype or values.shape != (size,):
        raise ValueError(f"{values.dtype} {values.shape}")
    return values
