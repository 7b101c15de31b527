"""Contract tests and toy data, for this package and for plugin authors."""
