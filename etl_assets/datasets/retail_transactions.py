"""Transactions of the retail company, from its database."""

from pathlib import Path

import polars as pl

from etl_assets.quality.audit import Bound
from etl_assets.quality.contract import Contract, column
from etl_assets.quality.outliers import with_outliers
from etl_assets.quality.readings import date_by_form, exact, whole
from etl_assets.quality.rules import Rule, Rulebook, by_rules, corrections, summary, values_before
from etl_assets.sources.delimited import read_csv
from etl_assets.sources.whole_table import WholeTable
from etl_assets.stages import Dataset, Result, landing, raw, refined

DATASET = Dataset(
    name="retail_transactions",
    title="Retail: transactions",
    publisher="the retail company",
    homepage="",
    licence="none stated",
    citation="Retail company, database, table transactions",
    cadence="with every transaction",
    bound=Bound(share=0.25),
)

AMOUNT = pl.Decimal(14, 2)
#: An amount as the source has it: the noise of a binary fraction reaches to the seventeenth digit.
AS_GIVEN = pl.Decimal(36, 18)
CENTS = pl.col("total_amount").round(2)
BESIDE = (pl.col("total_amount") - CENTS).abs()
BOOK = Rulebook(
    required=("transaction_id", "customer_id", "product_id", "quantity", "transaction_date", "total_amount"),
    readings={
        "transaction_id": ("transaction_id", whole(pl.col("transaction_id"))),
        "customer_id": ("customer_id", whole(pl.col("customer_id"))),
        "product_id": ("product_id", whole(pl.col("product_id"))),
        "quantity": ("quantity", whole(pl.col("quantity"))),
        "transaction_date": (
            "transaction_date",
            date_by_form(pl.col("transaction_date"), {r"\d{4}-\d{2}-\d{2}": "%Y-%m-%d"}),
        ),
        "total_amount": ("total_amount", exact(pl.col("total_amount"), AS_GIVEN)),
    },
    rules=(
        Rule(
            "total_amount", "is negative", pl.col("total_amount") < 0, "null",
            "Nothing shows that it is a return, or that only the sign is wrong; what was paid is not known.",
        ),
        Rule(
            "total_amount", "has the noise of a binary fraction", (BESIDE > 0) & (BESIDE < 1e-6), "correct",
            "It is a whole number of cents, computed in binary: 1241.0099999999998 is 1241.01.", CENTS,
        ),
        Rule(
            "total_amount", "is finer than a cent", BESIDE >= 1e-6, "quarantine",
            "Nobody pays fractions of a cent: it is not an amount of money.",
        ),
        Rule(
            "total_amount", "is beyond all amounts", pl.col("total_amount").abs() >= 10**12, "quarantine",
            "No customer pays a trillion: it is not an amount of money.",
        ),
        Rule(
            "quantity", "is beyond all quantities", pl.col("quantity") >= 10**9, "quarantine",
            "Nobody sells a billion units at once: it is some other number.",
        ),
        Rule(
            "quantity", "is not positive", pl.col("quantity") < 1, "null",
            "No sale has such a quantity, and nothing shows that it is a return; what was sold is not known.",
        ),
    ),
)  # fmt: skip


class RetailTransactions(Contract, stage="refined", table="retail_transactions", key=["transaction_id"]):
    """Transactions, one row per transaction. unified_transactions says whether product and customer are known."""

    transaction_id: pl.Int64 = column("Number of the transaction")
    customer_id: pl.Int64 = column("Number of the customer")
    product_id: pl.Int64 = column("Number of the product")
    quantity: pl.Int64 = column("Units", unit="units", nullable=True, ge=1)
    quantity_is_outlier: pl.Boolean = column("Its modified z-score is above 3.5", nullable=True)
    transaction_date: pl.Date = column("Day of the transaction", nullable=True)
    total_amount: AMOUNT = column("Amount; the source names no currency", nullable=True, ge=0)
    total_amount_is_outlier: pl.Boolean = column("Its modified z-score is above 3.5", nullable=True)
    corrections: pl.List(pl.String) = corrections()
    values_before: pl.List(pl.String) = values_before()


landing_retail_transactions = landing(DATASET, WholeTable("retail", "transactions", key="transaction_id"))


@raw(DATASET, landing_retail_transactions, required=BOOK.required)
def raw_retail_transactions(path: Path) -> pl.DataFrame:
    """The rows of the table, every value a text."""
    return read_csv(path)


@refined(DATASET, RetailTransactions, raw=raw_retail_transactions)
def refined_retail_transactions(raw: pl.DataFrame) -> Result:
    """Typed, by the rules."""
    table, merged = by_rules(raw, BOOK)
    table = table.with_columns(pl.col("total_amount").cast(AMOUNT, strict=False))  # what does not fit is in quarantine
    values = {"quantity_is_outlier": "quantity", "total_amount_is_outlier": "total_amount"}
    table = with_outliers(table, RetailTransactions, values)
    return Result(table, merged, {"rules": summary(table, BOOK.rules)})
