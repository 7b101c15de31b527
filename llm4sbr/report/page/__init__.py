"""The HTML report: its figures and tables, and the pages that hold them."""
