"""The paper's experiments: a grid of runs, and the tables and figures made from their results."""
