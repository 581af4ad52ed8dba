"""Evaluations that a run schedules: one a file, each exporting `Evaluator`."""
