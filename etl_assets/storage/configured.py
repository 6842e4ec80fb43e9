"""The storage that is configured now; everything above this room gets it here."""

from __future__ import annotations

from etl_assets.settings import settings
from etl_assets.storage.identities import Identities
from etl_assets.storage.lake import Lake
from etl_assets.storage.landing import Landing
from etl_assets.storage.publish import Publisher
from etl_assets.storage.warehouse import Warehouse


def lake() -> Lake:
    """The Parquet lake."""
    return Lake(settings().lake_url)


def warehouse() -> Warehouse:
    """The PostGIS warehouse."""
    return Warehouse(settings().database_url("warehouse"))


def publisher() -> Publisher:
    """What publishes to both."""
    return Publisher(lake(), warehouse())


def landing_store(dataset: str) -> Landing:
    """The landing store of a dataset."""
    return Landing(lake(), dataset)


def identities(name: str) -> Identities:
    """The surrogate ids that are given under a name."""
    return Identities(lake(), name)
