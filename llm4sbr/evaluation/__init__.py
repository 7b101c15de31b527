"""From ranks to a table: metrics, comparison of rows, breakdown by groups, and the verdict."""
