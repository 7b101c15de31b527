"""Loggers, each with one fault: the scaffolded one, changed; imported as `planted_texts` is."""

from __future__ import annotations

import json
import shutil

from my_logger import MyLogger

from llm4sbr.testing.loggers import Kept


def read_logged(folder):
    """What `MyLogger` keeps, as its own test reads it."""
    return {path.name: _kept(path) for path in folder.iterdir()}


def _kept(run):
    told = json.loads((run / "run.json").read_text())
    curves = {model: {int(step): one[step] for step in one} for model, one in told["curves"].items()}
    files = [path for path in (run / "artefacts").rglob("*") if path.is_file()]
    artefacts = {path.relative_to(run / "artefacts").as_posix(): path.read_bytes() for path in files}
    return Kept(told["settings"], curves, told["metrics"], artefacts)


class WritesAtOnce(MyLogger):
    def __init__(self, *, folder="logged"):
        super().__init__(folder=folder)
        self.folder.mkdir(parents=True)


class LosesSettings(MyLogger):
    def begin(self, run, settings):
        super().begin(run, {})


class LastEpochOnly(MyLogger):
    def curve(self, model, step, values):
        self.kept["curves"][model] = {step: dict(values)}


class OneModelOnly(MyLogger):
    def end(self):
        self.kept["curves"].pop("plain/seed-0", None)
        return super().end()


class RoundsResults(MyLogger):
    def metrics(self, model, values):
        super().metrics(model, {key: float(round(value)) for key, value in values.items()})


class SaysNothing(MyLogger):
    def end(self):
        super().end()
        return " "


class SaysALot(MyLogger):
    def end(self):
        return f"{super().end()}\nand more"


class SecondRun(MyLogger):
    def begin(self, run, settings):
        there = (self.folder / run.name).exists()
        super().begin(run.with_name(f"{run.name}-again") if there else run, settings)


class AllRunsGo(MyLogger):
    def begin(self, run, settings):
        shutil.rmtree(self.folder, ignore_errors=True)
        super().begin(run, settings)


class LosesFiles(MyLogger):
    def artefact(self, name, content):
        pass
