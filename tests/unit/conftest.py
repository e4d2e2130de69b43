"""Nothing to set up: run from inside the collection's path, with its root on PYTHONPATH (scripts/test does both)."""
