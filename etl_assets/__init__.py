"""A Dagster project that takes data from its sources to a Parquet lake and a PostGIS warehouse, and keeps it right."""

import gc

# By default, Python looks for cycles after every 700 new objects. What is imported stays: searching it again and again
# takes a fifth of a process's start, and a twentieth of the time of runs (measured).
gc.set_threshold(50_000)
