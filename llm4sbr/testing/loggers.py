"""The contract of loggers; subclass `LoggerContract` in a plugin's tests.

class TestMine(LoggerContract):
    def create(self, folder):
        return MyLogger(folder=str(folder))

    def read(self, folder):
        ...  # what is kept there, by name of the run
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from llm4sbr.loggers import Logger
from llm4sbr.testing.contract import Contract, optional

SETTINGS = {"train.dim": "16", "infer.llm": "a|b"}
CURVE = [{"loss": 2.0, "valid.HR@20": 0.25}, {"loss": 1.5, "valid.HR@20": 0.5}]
RESULT = {"HR@20": 0.375, "MRR@20": 0.125}


class Kept(NamedTuple):
    """What a logger has kept of one run."""

    settings: dict[str, str]
    curves: dict[str, dict[int, dict[str, float]]]
    """Model -> epoch -> what was measured."""
    metrics: dict[str, dict[str, float]]
    """Row of the table -> results."""
    artefacts: dict[str, bytes]
    """Name -> content."""


class LoggerContract(Contract, kind="loggers"):
    """Tests of one logger."""

    def create(self, folder: Path) -> Logger:
        """The logger, which keeps what it is told below a folder."""
        raise NotImplementedError

    def read(self, folder: Path) -> dict[str, Kept]:
        """What is kept there, by name of the run, read by the means of those who look at it."""
        raise NotImplementedError

    def component(self) -> object:
        """The logger."""
        return self.create(Path("unused"))

    def test_satisfies_the_protocol(self, tmp_path: Path) -> None:
        """It has the members of the protocol, and its constructor writes nothing."""
        assert isinstance(self.create(tmp_path / "kept"), Logger), (
            "needs begin, curve, metrics, artefact and end"
        )
        assert not (tmp_path / "kept").exists(), "the constructor writes"

    def test_keeps_what_it_is_told(self, tmp_path: Path) -> None:
        """Settings, every epoch of every model, and the results of every row are there in the end."""
        self._tell(tmp_path, "shop")
        kept = self.read(tmp_path / "kept")
        assert list(kept) == ["shop"], f"runs {list(kept)}, expected shop"
        self._compare(kept["shop"])

    def test_says_where_it_is(self, tmp_path: Path) -> None:
        """`end` returns one line."""
        place = self._tell(tmp_path, "shop")
        assert place.strip(), "nothing is said"
        assert len(place.splitlines()) == 1, f"{place!r} has several lines"

    def test_a_run_that_is_there_is_replaced(self, tmp_path: Path) -> None:
        """The same run once more leaves no second one and no second values, and other runs stay."""
        for name in ("shop", "other", "shop"):
            self._tell(tmp_path, name)
        kept = self.read(tmp_path / "kept")
        assert sorted(kept) == ["other", "shop"], f"runs {sorted(kept)}, expected other and shop"
        for one in kept.values():
            self._compare(one)

    @optional("artefacts")
    def test_keeps_files(self, tmp_path: Path) -> None:
        """A file is kept with its name and content."""
        self._tell(tmp_path, "shop")
        found = self.read(tmp_path / "kept")["shop"].artefacts
        assert found == {"export/onnx/model.onnx": b"weights"}, f"files {sorted(found)} are kept"

    def _tell(self, folder: Path, name: str) -> str:
        content = folder / "model.onnx"
        content.write_bytes(b"weights")
        logger = self.create(folder / "kept")
        logger.begin(folder / name, SETTINGS)
        for model in ("plain/seed-0", "llm/seed-0"):
            for step, values in enumerate(CURVE, 1):
                logger.curve(model, step, values)
        for row in ("popularity", "llm"):
            logger.metrics(row, RESULT)
        logger.artefact("export/onnx/model.onnx", content)
        return logger.end()

    def _compare(self, kept: Kept) -> None:
        assert kept.settings == SETTINGS, f"settings {kept.settings}"
        assert sorted(kept.curves) == ["llm/seed-0", "plain/seed-0"], f"curves of {sorted(kept.curves)}"
        for model, curve in kept.curves.items():
            assert sorted(curve) == [1, 2], f"{model}: epochs {sorted(curve)}, expected 1 and 2"
            for step, values in curve.items():
                expected = pytest.approx(CURVE[step - 1])
                assert values == expected, f"{model}, epoch {step}: {values}"
        assert sorted(kept.metrics) == ["llm", "popularity"], f"results of {sorted(kept.metrics)}"
        for row, values in kept.metrics.items():
            assert values == pytest.approx(RESULT), f"{row}: {values}"
