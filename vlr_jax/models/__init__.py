"""Retrieval models: one paper a file, each exporting `Model`."""
