"""How good the retail company's five sources are: what is missing, wrong, double and kept out."""

import polars as pl

from etl_assets.datasets import (
    retail_customers,
    retail_exchange_rates,
    retail_products,
    retail_sales,
    retail_transactions,
)
from etl_assets.quality.contract import Contract, column
from etl_assets.stages import Dataset, Of, Result, presentation
from etl_assets.stages.pictures import bars

DATASET = Dataset(
    name="retail_quality",
    title="Retail: quality of the sources",
    publisher="this project",
    homepage="",
    licence="as its inputs",
    citation="Retail company, all of its sources",
    cadence="whenever one of its inputs changes",
)

SOURCES = {
    "customers": (retail_customers.raw_retail_customers, retail_customers.refined_retail_customers),
    "exchange_rates": (
        retail_exchange_rates.raw_retail_exchange_rates,
        retail_exchange_rates.refined_retail_exchange_rates,
    ),
    "products": (retail_products.raw_retail_products, retail_products.refined_retail_products),
    "sales": (retail_sales.raw_retail_sales, retail_sales.refined_retail_sales),
    "transactions": (retail_transactions.raw_retail_transactions, retail_transactions.refined_retail_transactions),
}
MODULES = (retail_customers, retail_exchange_rates, retail_products, retail_sales, retail_transactions)
#: The names of the rules by what they do.
NAMES = {
    action: [rule.name for module in MODULES for rule in module.RULES if rule.action == action]
    for action in ("missing", "null", "correct")
}
SHARES = ("missing", "invalid", "duplicated", "corrected", "quarantined")


class RetailQuality(Contract, stage="presentation", table="retail_quality", key=["source"]):
    """The quality of each source as it is now; shares are from 0 to 1. Which rule did what, the rows themselves say."""

    source: pl.String = column("The source")
    records: pl.Int64 = column("Records that the source has", ge=0)
    rows: pl.Int64 = column("Records that are published; the others are duplicated or quarantined", ge=0)
    missing_share: pl.Float64 = column("Values that are empty, blank or say so, of all values", nullable=True, le=1)
    invalid_share: pl.Float64 = column("Records with a value that cannot be right, and is null", nullable=True, le=1)
    duplicated_share: pl.Float64 = column("Records that are equal to another in all", nullable=True, le=1)
    corrected_share: pl.Float64 = column("Records with a value that was mended", nullable=True, le=1)
    quarantined_share: pl.Float64 = column("Records that were kept out", nullable=True, le=1)


@presentation(
    DATASET,
    RetailQuality,
    partitions=None,
    **{f"raw_{name}": Of(raw) for name, (raw, _) in SOURCES.items()},
    **{f"refined_{name}": Of(refined, ["corrections", "values_before"]) for name, (_, refined) in SOURCES.items()},
)
def presentation_retail_quality(**tables: pl.DataFrame) -> Result:
    """Counted from what the source has and what is published of it."""
    table = pl.DataFrame(
        [{"source": name, **_measured(tables[f"raw_{name}"], tables[f"refined_{name}"])} for name in SOURCES],
        schema={name: declared.dtype.type for name, declared in RetailQuality.columns().items()},
    )
    shares = [f"{name}_share" for name in SHARES]
    return Result(table, metadata={"shares": bars(table, "source", shares, "Share of each source", shares=True)})


def _measured(raw: pl.DataFrame, refined: pl.DataFrame) -> dict[str, float | None]:
    cells = raw.select(pl.exclude(r"^_.*$"))
    empty = cells.select((pl.all().is_null() | (pl.all().str.strip_chars() == "")).sum()).sum_horizontal()[0]
    changes = refined.with_row_index("row").explode("corrections", "values_before").drop_nulls("corrections")
    by = {action: changes.filter(pl.col("corrections").is_in(names)) for action, names in NAMES.items()}
    missing = empty + by["missing"].filter(pl.col("values_before").str.strip_chars() != "").height
    duplicated = raw.height - raw["_row_hash"].n_unique()
    counts = {
        "invalid": by["null"]["row"].n_unique(),
        "duplicated": duplicated,
        "corrected": by["correct"]["row"].n_unique(),
        "quarantined": raw.height - duplicated - refined.height,
    }
    return {
        "records": raw.height,
        "rows": refined.height,
        "missing_share": missing / (cells.width * raw.height) if raw.height else None,
        **{f"{name}_share": count / raw.height if raw.height else None for name, count in counts.items()},
    }
