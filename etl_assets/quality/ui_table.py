"""Records as the UI shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite

import dagster as dg

#: A longer value is cut: every table becomes part of an event in Dagster's database.
_VALUE_LENGTH = 200


def ui_table(records: Sequence[Mapping[str, object]]) -> dg.TableMetadataValue:
    """Records as a table for the UI; values that it cannot show are shown as text."""

    def shown(value: object) -> str | int | float | bool | None:
        is_plain = value is None or isinstance(value, int) or (isinstance(value, float) and isfinite(value))
        return value if is_plain else str(value)[:_VALUE_LENGTH]

    rows = [dg.TableRecord({k: shown(v) for k, v in record.items()}) for record in records]
    if rows:
        return dg.MetadataValue.table(rows)
    return dg.MetadataValue.table([], schema=dg.TableSchema(columns=[dg.TableColumn("none")]))
