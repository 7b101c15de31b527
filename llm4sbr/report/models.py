"""The table of a run's trained models, from their `model.json`."""

from __future__ import annotations

from collections.abc import Sequence

from llm4sbr.report.formats import MISSING, count, duration, metric
from llm4sbr.report.table import Row, Table, cells
from llm4sbr.training import SELECT_BY


def models_table(records: Sequence[Row]) -> Table:
    """Epochs, the best epoch and its validation metric, for every variant and seed.

    Args:
        records: contents of `model.json`.
    """
    on_test = any(record["facts"].get("selected_on") == "test" for record in records)
    chosen_by = f"{'TEST' if on_test else 'valid'} {SELECT_BY}"
    lines = []
    for record in records:
        facts = record["facts"]
        reached = facts.get("valid", {}).get(SELECT_BY)
        lines.append(
            cells(
                facts["variant"],
                str(facts["seed"]),
                count(facts["epochs"]),
                count(facts["best_epoch"]),
                MISSING if reached is None else metric(reached),
                count(record["parameters"]),
                duration(facts["seconds"]),
            )
        )
    header = cells("variant", "seed", "epochs", "best", chosen_by, "parameters", "time")
    sampled = sorted({record["facts"].get("loss", "full") for record in records} - {"full"})
    legend = f"Trained on sampled items: {'; '.join(sampled)}." if sampled else ""
    return Table("Trained models", header, lines, legend)
