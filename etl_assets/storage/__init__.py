"""Where data is kept: the landing store, the Parquet lake, the PostGIS warehouse, and the IO managers over them.

Beside them: the surrogate ids that were given, the warehouse's roles, and Dagster's own storage.

What belongs here knows bytes, frames, objects and tables, and nothing of pandera or of any dataset: a contract
reaches this room as a `Table`. What a stage means is decided in `stages`.
"""
