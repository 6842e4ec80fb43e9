r"""A table's contract: one pandera model from which everything known about a column is derived.

A contract is a class with one annotated attribute per column:

    class Counties(Contract, stage="refined", table="us_counties", key=["fips"]):
        '''US counties, one row per county of the vintage.'''

        fips: pl.String = column("Five-digit FIPS code", str_matches=r"^\d{5}$")
        geometry: pl.Binary = geometry("MultiPolygon", 4326, "Boundary")

From it come the validation, the storage `Table` (Parquet schema, PostGIS DDL, comments), the column schema of the
Dagster UI and the data dictionary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import dagster as dg
import pandera.polars as pa

from etl_assets.storage.frames import sql_type
from etl_assets.storage.table import SOURCE_ROW, SOURCE_SHA256, Column, Geometry, Partitioning, Reference, Table


def column(
    description: str,
    *,
    unit: str | None = None,
    nullable: bool = False,
    sql: str | None = None,
    references: type[Contract] | None = None,
    **checks: Any,
) -> Any:
    """Declare a column: what it means, its unit, whether it may be null, and pandera's checks (`ge=0`, `isin=…`).

    `sql` overrides the PostgreSQL type that the frame type has, in the spelling of `format_type`. `references` is the
    contract whose key (one column) the values refer to; in a presentation table it is a foreign key in the warehouse.
    """
    metadata = {"unit": unit, "sql": sql, "references": references}
    return pa.Field(description=description, nullable=nullable, metadata=metadata, **checks)


def geometry(kind: str, srid: int, description: str, *, nullable: bool = False) -> Any:
    """Declare a geometry column of WKB values: its kind (`Point`, `MultiPolygon`, …) and SRID."""
    metadata = {"unit": f"EPSG:{srid}", "sql": f"geometry({kind},{srid})", "geometry": Geometry(kind, srid)}
    return pa.Field(description=description, nullable=nullable, metadata=metadata)


@dataclass(frozen=True)
class Place:
    """A contract's table: its stage and name, the key that tells its rows apart, and its partitioning."""

    stage: str
    table: str
    key: tuple[str, ...]
    partitioning: Partitioning | None


class Contract(pa.DataFrameModel):
    """Base of all contracts; see the module's docstring."""

    _place: ClassVar[Place]

    class Config:  # pyrefly: ignore[bad-override] # pandera takes a class of any kind
        """pandera's settings: exactly the declared columns, in their declared types."""

        strict = True
        coerce = False

    def __init_subclass__(
        cls,
        stage: str = "",
        table: str = "",
        key: Sequence[str] = (),
        partitioning: Partitioning | None = None,
        **kwargs: Any,
    ) -> None:
        """Take the table's place, key and partitioning from the class statement."""
        super().__init_subclass__(**kwargs)
        cls._place = Place(stage, table, tuple(key), partitioning)

    @classmethod
    def place(cls) -> Place:
        """The table's stage, name, key and partitioning."""
        return cls._place

    @classmethod
    def columns(cls) -> dict[str, Any]:
        """pandera's columns, by name."""
        return dict(cls.to_schema().columns)


#: What refined rows carry besides their contract's columns: where they were read from.
SOURCE_COLUMNS = (
    Column(SOURCE_SHA256, "text", "SHA-256 of the landed file that the row was read from", nullable=False),
    Column(SOURCE_ROW, "bigint", "Number of the record in that file; the first record is 1", nullable=False),
)


def storage_table(contract: type[Contract], *, with_source: bool = False) -> Table:
    """The table that a contract declares, as storage knows it."""
    columns, place = [], contract.place()
    for name, declared in contract.columns().items():
        facts = declared.metadata or {}
        unit = facts.get("unit")
        columns.append(
            Column(
                name=name,
                sql=facts.get("sql") or sql_type(declared.dtype.type),
                description=f"{declared.description} [{unit}]" if unit else declared.description or "",
                nullable=bool(declared.nullable),
                geometry=facts.get("geometry"),
                references=_reference(place.stage, facts.get("references")),
            )
        )
    if with_source:
        columns.extend(SOURCE_COLUMNS)
    missing = [c for c in place.key if c not in {column.name for column in columns}]
    if missing:
        raise TypeError(f"{contract.__name__}: the key names columns that are not declared: {', '.join(missing)}")
    if empty := [c.name for c in columns if c.name in place.key and c.nullable]:
        raise TypeError(f"{contract.__name__}: a key cannot be null, but it has nullable columns: {', '.join(empty)}")
    return Table(
        stage=place.stage,
        name=place.table,
        columns=tuple(columns),
        description=" ".join((contract.__doc__ or "").split()),
        primary_key=place.key,
        partitioning=place.partitioning,
    )


def _reference(stage: str, of: type[Contract] | None) -> Reference | None:
    """The foreign key, if the table may have one; references of refined tables are audited by their stage instead."""
    if of is None or stage != "presentation":
        return None
    place = of.place()
    (key,) = place.key
    return Reference(place.stage, place.table, key)


def ui_schema(contract: type[Contract]) -> dg.TableSchema:
    """The contract's columns for the Dagster UI, with their constraints."""
    columns, own_key = [], contract.place().key
    for name, declared in contract.columns().items():
        facts = declared.metadata or {}
        checks = [check.error or check.name or str(check) for check in declared.checks or []]
        if (of := facts.get("references")) is not None:
            checks.append(f"references {of.place().stage}.{of.place().table}")
        columns.append(
            dg.TableColumn(
                name=name,
                type=facts.get("sql") or sql_type(declared.dtype.type),
                description=declared.description,
                constraints=dg.TableColumnConstraints(
                    nullable=bool(declared.nullable), unique=own_key == (name,), other=checks
                ),
                tags={"unit": facts["unit"]} if facts.get("unit") else None,
            )
        )
    key = [f"primary key ({', '.join(own_key)})"] if own_key else []
    rules = [check.error or check.name or str(check) for check in contract.to_schema().checks or ()]
    return dg.TableSchema(columns=columns, constraints=dg.TableConstraints(other=[*key, *rules]))
