"""What landing, raw, refined and presentation mean: decorators that turn a function into a plain Dagster asset.

A dataset's file says what is particular to it; what all datasets share in a stage (auditing before publishing,
quarantine, accounting for every row, metadata, provenance, what is up to date) is here, once.
"""

from etl_assets.stages.dataset import Dataset
from etl_assets.stages.landing import landing
from etl_assets.stages.raw import raw
from etl_assets.stages.table_step import Result
from etl_assets.stages.tables import Of, presentation, refined

__all__ = ["Dataset", "Of", "Result", "landing", "presentation", "raw", "refined"]
