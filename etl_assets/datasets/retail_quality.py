"""How good the retail company's five sources are: what is missing, wrong, double and kept out."""

from dataclasses import replace

import polars as pl

from etl_assets.datasets import retail_customers as customers
from etl_assets.datasets import retail_exchange_rates as rates
from etl_assets.datasets import retail_products as products
from etl_assets.datasets import retail_sales as sales
from etl_assets.datasets import retail_transactions as transactions
from etl_assets.quality.contract import Contract, column
from etl_assets.quality.rules import Rulebook, by_rules, obey
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


#: Of each source: its raw and its refined table, and its rules.
SOURCES = {
    "customers": (customers.raw_retail_customers, customers.refined_retail_customers, customers.BOOK),
    "exchange_rates": (rates.raw_retail_exchange_rates, rates.refined_retail_exchange_rates, rates.BOOK),
    "products": (products.raw_retail_products, products.refined_retail_products, products.BOOK),
    "sales": (sales.raw_retail_sales, sales.refined_retail_sales, sales.BOOK),
    "transactions": (
        transactions.raw_retail_transactions, transactions.refined_retail_transactions, transactions.BOOK,
    ),
}  # fmt: skip
SHARES = ("missing", "invalid", "duplicated", "corrected", "quarantined")


class RetailQuality(Contract, stage="presentation", table="retail_quality", key=["source"]):
    """The quality of each source as it is now; shares are from 0 to 1. The rows themselves say which rule did what."""

    source: pl.String = column("The source")
    records: pl.Int64 = column("Records that the source has", ge=0)
    rows: pl.Int64 = column("Records that are published; the others are duplicated or quarantined", ge=0)
    missing_share: pl.Float64 = column(
        "Share of values in required columns that are empty, blank or marked as missing", nullable=True, ge=0, le=1
    )
    invalid_share: pl.Float64 = column(
        "Share of records with a value that cannot be right and was set to null", nullable=True, ge=0, le=1
    )
    duplicated_share: pl.Float64 = column("Share of records that repeat another", nullable=True, ge=0, le=1)
    corrected_share: pl.Float64 = column("Share of records with a corrected value", nullable=True, ge=0, le=1)
    quarantined_share: pl.Float64 = column("Share of records in quarantine", nullable=True, ge=0, le=1)


@presentation(
    DATASET,
    RetailQuality,
    partitions=None,
    **{f"raw_{name}": raw for name, (raw, _, _) in SOURCES.items()},
    **{f"refined_{name}": Of(refined, ["corrections", "values_before"]) for name, (_, refined, _) in SOURCES.items()},
)
def presentation_retail_quality(**tables: pl.DataFrame) -> Result:
    """Counted from what the source has and what is published of it."""
    table = pl.DataFrame(
        [
            {"source": name, **_measured(tables[f"raw_{name}"], tables[f"refined_{name}"], book)}
            for name, (_, _, book) in SOURCES.items()
        ],
        schema={name: declared.dtype.type for name, declared in RetailQuality.columns().items()},
    )
    shares = [f"{name}_share" for name in SHARES]
    return Result(table, metadata={"shares": bars(table, "source", shares, "Share of each source", shares=True)})


def _measured(raw: pl.DataFrame, refined: pl.DataFrame, book: Rulebook) -> dict[str, float | None]:
    """The quality of one source.

    Missing values are the empty cells of all records, and what the rules of missing values find in them; what else the
    rules did is counted in the rows that are published, which name it.
    """
    cells = raw.select(book.required)  # some records may lack other columns altogether
    empty = cells.select((pl.all().is_null() | (pl.all().str.strip_chars() == "")).sum()).sum_horizontal()[0]
    rules = [rule for rule in book.rules if rule.action == "missing"]
    read, merged = by_rules(raw, replace(book, rules=rules))
    said = pl.concat([read, obey(merged, rules)]).select(pl.col("values_before").list.explode())
    missing = empty + said.filter(pl.col("values_before").str.strip_chars() != "").height
    changes = refined.with_row_index("row").explode("corrections", "values_before").drop_nulls("corrections")

    def changed(action: str) -> int:
        names = [rule.name for rule in book.rules if rule.action == action]
        return changes.filter(pl.col("corrections").is_in(names))["row"].n_unique()

    counts = {
        "invalid": changed("null"),
        "duplicated": merged.height,
        "corrected": changed("correct"),
        "quarantined": raw.height - merged.height - refined.height,
    }
    return {
        "records": raw.height,
        "rows": refined.height,
        "missing_share": missing / (cells.width * raw.height) if raw.height else None,
        **{f"{name}_share": count / raw.height if raw.height else None for name, count in counts.items()},
    }
