"""Products of the retail company, from its database."""

from pathlib import Path

import polars as pl

from etl_assets.quality.audit import Bound
from etl_assets.quality.contract import Contract, column
from etl_assets.quality.outliers import with_outliers
from etl_assets.quality.readings import exact, whole
from etl_assets.quality.rules import Rule, Rulebook, by_rules, corrections, summary, values_before
from etl_assets.sources.delimited import read_csv
from etl_assets.sources.whole_table import WholeTable
from etl_assets.stages import Dataset, Result, landing, raw, refined

DATASET = Dataset(
    name="retail_products",
    title="Retail: products",
    publisher="the retail company",
    homepage="",
    licence="none stated",
    citation="Retail company, database, table products",
    cadence="whenever a product or its stock changes",
    bound=Bound(share=0.25),
)

PRICE = pl.Decimal(12, 2)
BOOK = Rulebook(
    required=("product_id", "product_name", "category", "price", "stock_available"),
    readings={
        "product_id": ("product_id", whole(pl.col("product_id"))),
        "product_name": ("product_name", pl.col("product_name").str.strip_chars()),
        "category": ("category", pl.col("category").str.strip_chars()),
        "price": ("price", exact(pl.col("price"), PRICE)),
        "stock_available": ("stock_available", whole(pl.col("stock_available"))),
    },
    rules=(
        Rule(
            "price", "is negative", pl.col("price") < 0, "null",
            "No price is negative, and nothing shows that only the sign is wrong; the price is not known.",
        ),
        Rule(
            "stock_available", "is negative", pl.col("stock_available") < 0, "null",
            "Stock cannot be negative; whether it is oversold or miscounted is not known.",
        ),
    ),
)  # fmt: skip


class RetailProducts(Contract, stage="refined", table="retail_products", key=["product_id"]):
    """Products as they are now, one row per product."""

    product_id: pl.Int64 = column("Number of the product")
    product_name: pl.String = column("Name", nullable=True)
    category: pl.String = column("Kind of product", nullable=True)
    price: PRICE = column("Price of a unit; the source names no currency", nullable=True, ge=0)
    price_is_outlier: pl.Boolean = column("Its modified z-score is above 3.5", nullable=True)
    stock_available: pl.Int64 = column("Units in stock", unit="units", nullable=True, ge=0)
    corrections: pl.List(pl.String) = corrections()
    values_before: pl.List(pl.String) = values_before()


landing_retail_products = landing(DATASET, WholeTable("retail", "products", key="product_id"))


@raw(DATASET, landing_retail_products, required=BOOK.required)
def raw_retail_products(path: Path) -> pl.DataFrame:
    """The rows of the table, every value a text."""
    return read_csv(path)


@refined(DATASET, RetailProducts, raw=raw_retail_products)
def refined_retail_products(raw: pl.DataFrame) -> Result:
    """Typed, by the rules."""
    table, merged = by_rules(raw, BOOK)
    table = with_outliers(table, RetailProducts, {"price_is_outlier": "price"})
    return Result(table, merged, {"rules": summary(table, BOOK.rules)})
