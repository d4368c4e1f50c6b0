"""lmms-eval tasks: YAML, judges, and the data they read."""
