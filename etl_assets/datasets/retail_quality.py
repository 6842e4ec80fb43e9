"""How good the retail company's five sources are: what is missing, wrong, double and kept out."""

from types import ModuleType

import polars as pl

from etl_assets.datasets import (
    retail_customers,
    retail_exchange_rates,
    retail_products,
    retail_sales,
    retail_transactions,
)
from etl_assets.quality.contract import Contract, column
from etl_assets.quality.rules import by_rules, obey
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

MODULES = {
    module.DATASET.name.removeprefix("retail_"): module
    for module in (retail_customers, retail_exchange_rates, retail_products, retail_sales, retail_transactions)
}
#: The names of the rules by what they do.
NAMES = {
    action: [rule.name for module in MODULES.values() for rule in module.RULES if rule.action == action]
    for action in ("null", "correct")
}
SHARES = ("missing", "invalid", "duplicated", "corrected", "quarantined")


class RetailQuality(Contract, stage="presentation", table="retail_quality", key=["source"]):
    """The quality of each source as it is now; shares are from 0 to 1. The rows themselves say which rule did what."""

    source: pl.String = column("The source")
    records: pl.Int64 = column("Records that the source has", ge=0)
    rows: pl.Int64 = column("Records that are published; the others are duplicated or quarantined", ge=0)
    missing_share: pl.Float64 = column(
        "Values that are empty, blank or say so, of all in required columns", nullable=True, ge=0, le=1
    )
    invalid_share: pl.Float64 = column(
        "Records with a value that cannot be right, and is null", nullable=True, ge=0, le=1
    )
    duplicated_share: pl.Float64 = column("Records that say the same as another", nullable=True, ge=0, le=1)
    corrected_share: pl.Float64 = column("Records with a value that was mended", nullable=True, ge=0, le=1)
    quarantined_share: pl.Float64 = column("Records that were kept out", nullable=True, ge=0, le=1)


@presentation(
    DATASET,
    RetailQuality,
    partitions=None,
    **{f"raw_{name}": getattr(module, f"raw_retail_{name}") for name, module in MODULES.items()},
    **{
        f"refined_{name}": Of(getattr(module, f"refined_retail_{name}"), ["corrections", "values_before"])
        for name, module in MODULES.items()
    },
)
def presentation_retail_quality(**tables: pl.DataFrame) -> Result:
    """Counted from what the source has and what is published of it."""
    table = pl.DataFrame(
        [
            {"source": name, **_measured(tables[f"raw_{name}"], tables[f"refined_{name}"], module)}
            for name, module in MODULES.items()
        ],
        schema={name: declared.dtype.type for name, declared in RetailQuality.columns().items()},
    )
    shares = [f"{name}_share" for name in SHARES]
    return Result(table, metadata={"shares": bars(table, "source", shares, "Share of each source", shares=True)})


def _measured(raw: pl.DataFrame, refined: pl.DataFrame, module: ModuleType) -> dict[str, float | None]:
    cells = raw.select(module.REQUIRED)  # some records may lack other columns altogether
    empty = cells.select((pl.all().is_null() | (pl.all().str.strip_chars() == "")).sum()).sum_horizontal()[0]
    rules = [rule for rule in module.RULES if rule.action == "missing"]
    read, merged = by_rules(raw, module.READINGS, rules, getattr(module, "NOTHING", ()))
    said = pl.concat([read, obey(merged, rules)]).select(pl.col("values_before").list.explode())
    missing = empty + said.filter(pl.col("values_before").str.strip_chars() != "").height
    changes = refined.with_row_index("row").explode("corrections", "values_before").drop_nulls("corrections")
    by = {action: changes.filter(pl.col("corrections").is_in(names)) for action, names in NAMES.items()}
    counts = {
        "invalid": by["null"]["row"].n_unique(),
        "duplicated": merged.height,
        "corrected": by["correct"]["row"].n_unique(),
        "quarantined": raw.height - merged.height - refined.height,
    }
    return {
        "records": raw.height,
        "rows": refined.height,
        "missing_share": missing / (cells.width * raw.height) if raw.height else None,
        **{f"{name}_share": count / raw.height if raw.height else None for name, count in counts.items()},
    }
