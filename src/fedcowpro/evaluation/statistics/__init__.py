"""Statistics of an evaluation: intervals, tests and rankings of methods, with the case as the unit."""
