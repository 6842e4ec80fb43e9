"""Where data is kept: the landing store, the Parquet lake, the PostGIS warehouse, and the IO managers over them.

Beside them: the surrogate ids that were given, the warehouse's roles, and Dagster's own storage.

Code in this room knows about bytes, frames, objects and tables, but not about pandera or any dataset: a contract
arrives here as a `Table`. What a stage means is decided in `stages`.
"""
