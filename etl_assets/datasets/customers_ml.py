"""The retail company's customers, ready for a model: what was known on one day, and what they did after it."""

from datetime import date, timedelta

import polars as pl

from etl_assets.datasets.retail_customers import refined_retail_customers
from etl_assets.datasets.retail_products import refined_retail_products
from etl_assets.datasets.retail_transactions import refined_retail_transactions
from etl_assets.quality.contract import Contract, column
from etl_assets.stages import Dataset, Of, presentation

DATASET = Dataset(
    name="customers_ml",
    title="Retail: customers for models",
    publisher="this project",
    homepage="",
    licence="as its inputs",
    citation="Retail company, customers and transactions",
    cadence="whenever one of its inputs changes",
)

#: Features cover the days before the cutoff, labels the days from it on. The day is fixed: one derived from the data
#: would move with every new transaction, and the features with it.
CUTOFF, HORIZON = date(2022, 10, 1), timedelta(days=90)
AMOUNT = pl.Decimal(16, 2)


class CustomersMl(Contract, stage="presentation", table="customers_ml", key=["customer_id"]):
    """Features as of a cutoff and labels of the 90 days from it on, one row per customer. Nothing is imputed or scaled:
    that is learned from the training rows alone. A transaction without a date is in neither: it may be from any day.
    Age, gender and location are the last known ones, since the source keeps no history of them."""

    customer_id: pl.Int64 = column("Number of the customer; not a feature")
    cutoff: pl.Date = column("Features cover the days before it; not a feature")
    age: pl.Int64 = column("Feature: age as last reported", unit="years", nullable=True)
    gender: pl.String = column("Feature: gender", nullable=True)
    location: pl.String = column("Feature: state that the customer lives in", nullable=True)
    tenure_days: pl.Int64 = column(
        "Feature: days from joining to the cutoff; null if joined later", unit="days", nullable=True, ge=0
    )
    transactions: pl.Int64 = column("Feature: transactions", ge=0)
    units: pl.Int64 = column("Feature: units bought, as far as known", unit="units", ge=0)
    amount: AMOUNT = column("Feature: sum of the amounts that are known", ge=0)
    amounts_unknown: pl.Int64 = column("Feature: transactions whose amount is not known", ge=0)
    largest_amount: AMOUNT = column("Feature: largest amount of a transaction", nullable=True)
    days_since_last: pl.Int64 = column(
        "Feature: days from the last transaction to the cutoff", unit="days", nullable=True, ge=1
    )
    products: pl.Int64 = column("Feature: different products bought", ge=0)
    categories: pl.Int64 = column("Feature: different kinds of products bought", ge=0)
    buys: pl.Boolean = column("Label: whether there is a transaction in the 90 days that start at the cutoff")
    spends: AMOUNT = column("Label: sum of the known amounts of those days", ge=0)


@presentation(
    DATASET,
    CustomersMl,
    customers=Of(refined_retail_customers, ["customer_id", "age", "gender", "location", "date_joined"]),
    transactions=Of(
        refined_retail_transactions, ["customer_id", "product_id", "transaction_date", "quantity", "total_amount"]
    ),
    products=Of(refined_retail_products, ["product_id", "category"]),
)
def presentation_customers_ml(
    customers: pl.DataFrame, transactions: pl.DataFrame, products: pl.DataFrame
) -> pl.DataFrame:
    """Features and labels are counted apart: before the cutoff, and from it on."""
    day, amount = pl.col("transaction_date"), pl.col("total_amount")
    features = (
        transactions.filter(day < CUTOFF)
        .join(products, on="product_id", how="left")
        .group_by("customer_id")
        .agg(
            transactions=pl.len().cast(pl.Int64),
            units=pl.col("quantity").sum(),
            amount=amount.sum().cast(AMOUNT),
            amounts_unknown=amount.null_count().cast(pl.Int64),
            largest_amount=amount.max().cast(AMOUNT),
            days_since_last=(pl.lit(CUTOFF) - day.max()).dt.total_days(),
            products=pl.col("product_id").n_unique().cast(pl.Int64),
            categories=pl.col("category").drop_nulls().n_unique().cast(pl.Int64),
        )
    )
    labels = (
        transactions.filter(day.is_between(CUTOFF, CUTOFF + HORIZON, closed="left"))
        .group_by("customer_id")
        .agg(buys=pl.lit(value=True), spends=amount.sum().cast(AMOUNT))
    )
    joined = pl.when(pl.col("date_joined") <= CUTOFF).then("date_joined")
    return (
        customers.join(features, on="customer_id", how="left")
        .join(labels, on="customer_id", how="left")
        .with_columns(
            pl.col("transactions", "units", "amounts_unknown", "products", "categories").fill_null(0),
            pl.col("amount", "spends").fill_null(pl.lit(0, AMOUNT)),
            pl.col("buys").fill_null(value=False),
            cutoff=pl.lit(CUTOFF),
            tenure_days=(pl.lit(CUTOFF) - joined).dt.total_days(),
        )
        .select(list(CustomersMl.columns()))
    )
