"""Reports: results as tables, for the terminal and the HTML page."""

REPORT = "report.html"
"""The file that `report.html` writes into a run directory or an experiment's folder."""
