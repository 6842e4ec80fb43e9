"""A Dagster project that takes data from its sources to a Parquet lake and a PostGIS warehouse, and keeps it right."""
