"""What people read: tables and what they do and do not show."""

REPORT = "report.html"
"""The file that `report.html` writes into a run directory or an experiment's folder."""
