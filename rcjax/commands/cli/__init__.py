"""A file for each command, with its options. What takes long to import is imported where it runs: help is quick."""
