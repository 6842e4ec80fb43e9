"""`./dev dictionary`: write the data dictionary from the contracts."""

from __future__ import annotations

import etl_assets.definitions  # noqa: F401 the datasets register themselves
from etl_assets.quality.dictionary import data_dictionary
from etl_assets.settings import PROJECT
from etl_assets.stages.staleness import in_order

DICTIONARY = PROJECT / "docs" / "data_dictionary.md"


def current_dictionary() -> str:
    """The dictionary of the refined and presentation tables as they are declared now."""
    tables = [spec.table for spec in in_order() if spec.table]
    return data_dictionary(table for table in tables if table.stage != "raw")


def write_dictionary() -> None:
    """Write the dictionary."""
    DICTIONARY.parent.mkdir(exist_ok=True)
    DICTIONARY.write_text(current_dictionary())
