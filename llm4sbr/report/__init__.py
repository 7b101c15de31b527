"""Reports: results as tables, for the terminal and the HTML page."""

REPORT = "report.html"
"""Name of the report in the folder of a run or an experiment."""
