"""lmms-eval benchmarks: suites by name, answers from a pool of actors, lmms-eval's own aggregation."""
