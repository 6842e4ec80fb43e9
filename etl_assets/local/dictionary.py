"""`./dev dictionary`: write the data dictionary from the contracts."""

from __future__ import annotations

from etl_assets.definitions import TABLES
from etl_assets.quality.dictionary import data_dictionary
from etl_assets.settings import PROJECT

DICTIONARY = PROJECT / "docs" / "data_dictionary.md"


def current_dictionary() -> str:
    """The dictionary of the refined and presentation tables as they are declared now."""
    return data_dictionary(table for table in TABLES.values() if table.stage != "raw")


def write_dictionary() -> None:
    """Write the dictionary."""
    DICTIONARY.parent.mkdir(exist_ok=True)
    DICTIONARY.write_text(current_dictionary())
