"""The retail company's five sources in one standard table: what was found in each, and no invented matches."""

import polars as pl

from etl_assets.datasets.retail_customers import refined_retail_customers
from etl_assets.datasets.retail_exchange_rates import RATE, refined_retail_exchange_rates
from etl_assets.datasets.retail_products import PRICE, refined_retail_products
from etl_assets.datasets.retail_sales import refined_retail_sales
from etl_assets.datasets.retail_transactions import refined_retail_transactions
from etl_assets.quality.contract import Contract, column
from etl_assets.stages import Dataset, Of, Result, presentation
from etl_assets.stages.pictures import bars

DATASET = Dataset(
    name="unified_transactions",
    title="Retail: transactions and sales, unified",
    publisher="this project",
    homepage="",
    licence="as its inputs",
    citation="Retail company, all of its sources",
    cadence="whenever one of its inputs changes",
)

#: The currency whose rate is looked up. No source says which one amounts are in; the customers live in the United
#: States.
CURRENCY = "USD"
AMOUNT, UNIT_PRICE = pl.Decimal(16, 2), pl.Decimal(16, 4)


class UnifiedTransactions(Contract, stage="presentation", table="unified_transactions", key=["kind", "transaction_id"]):
    """Transactions and sales with their customer, product and exchange rate, where these are known. No amount is
    converted: no source says which currency it is in, nor what its rates are relative to."""

    kind: pl.String = column("Whether the row is from the database or from a sales file", isin=["transaction", "sale"])
    transaction_id: pl.Int64 = column("Number within its kind")
    transaction_date: pl.Date = column("Day", nullable=True)
    quantity: pl.Int64 = column("Units", unit="units", nullable=True)
    unit_price: UNIT_PRICE = column("Paid per unit: the sale's price, or else total_amount / quantity", nullable=True)
    total_amount: AMOUNT = column("The transaction's amount; for a sale, unit_price x quantity", nullable=True)
    amount_matches_price: pl.Boolean = column(
        "Whether total_amount is quantity x product_price; null where one of them is not known", nullable=True
    )
    customer_id: pl.Int64 = column("Number of the customer; sales have none", nullable=True)
    customer_match: pl.Boolean = column("Whether the customer is known")
    customer_name: pl.String = column("Name of the customer", nullable=True)
    age: pl.Int64 = column("Age of the customer as last reported", unit="years", nullable=True)
    gender: pl.String = column("Gender of the customer", nullable=True)
    location: pl.String = column("State that the customer lives in", nullable=True)
    product_id: pl.Int64 = column("Number of the product")
    product_match: pl.Boolean = column("Whether the product is known")
    product_name: pl.String = column("Name of the product", nullable=True)
    category: pl.String = column("Kind of product", nullable=True)
    product_price: PRICE = column("Price of the product now", nullable=True)
    rate_match: pl.Boolean = column("Whether there is a rate on or before the day")
    rate_currency: pl.String = column("Currency of the rate", nullable=True)
    exchange_rate: RATE = column(
        "Last known rate on or before the day, against an unknown base currency", nullable=True
    )
    rate_date: pl.Date = column("Day of that rate", nullable=True)
    rate_age_days: pl.Int64 = column("Days from rate_date to the transaction", unit="days", nullable=True, ge=0)
    month: pl.Int32 = column("Month of the day, 1 to 12", nullable=True)
    day_of_week: pl.Int32 = column("Day of the week, Monday is 1", nullable=True)
    customer_tenure_days: pl.Int64 = column(
        "Days from joining to the transaction; negative if it came before", unit="days", nullable=True
    )
    price_to_product_median: pl.Float64 = column(
        "unit_price / the median unit_price of the product's rows of the same kind", nullable=True
    )
    basket_share: pl.Float64 = column(
        "Share of total_amount in the basket: the sum of the customer's transactions of the day", nullable=True
    )


@presentation(
    DATASET,
    UnifiedTransactions,
    transactions=refined_retail_transactions,
    sales=refined_retail_sales,
    products=Of(refined_retail_products, ["product_id", "product_name", "category", "price"]),
    customers=Of(
        refined_retail_customers, ["customer_id", "customer_name", "age", "gender", "location", "date_joined"]
    ),
    rates=Of(refined_retail_exchange_rates, ["currency_code", "rate_date", "exchange_rate"]),
)
def presentation_unified_transactions(
    transactions: pl.DataFrame,
    sales: pl.DataFrame,
    products: pl.DataFrame,
    customers: pl.DataFrame,
    rates: pl.DataFrame,
) -> Result:
    """Looked up by number and by day; what is not found is null, and its `_match` is false."""
    money = pl.col("total_amount").cast(AMOUNT)
    per_unit = (pl.col("total_amount").cast(UNIT_PRICE) / pl.col("quantity")).cast(UNIT_PRICE)
    both = pl.concat(
        [
            transactions.with_columns(money, kind=pl.lit("transaction"), unit_price=per_unit),
            sales.with_columns(
                kind=pl.lit("sale"),
                unit_price=pl.col("price").cast(UNIT_PRICE),
                total_amount=(pl.col("price") * pl.col("quantity")).cast(AMOUNT),
            ),
        ],
        how="diagonal",
    )
    usable = rates.filter(currency_code=CURRENCY).sort("rate_date").rename({"currency_code": "rate_currency"})
    dated = both.drop_nulls("transaction_date").sort("transaction_date")
    dated = dated.join_asof(usable, left_on="transaction_date", right_on="rate_date", coalesce=False)
    day, median = pl.col("transaction_date"), pl.col("unit_price").cast(pl.Float64).median().over("kind", "product_id")
    is_whole = pl.col("total_amount").is_not_null().all()
    basket = (
        pl.when(is_whole).then(pl.col("total_amount").sum()).over("customer_id", "transaction_date").cast(pl.Float64)
    )
    in_basket = pl.col("customer_id").is_not_null() & day.is_not_null() & (basket > 0)
    table = (
        pl.concat([dated, both.filter(day.is_null())], how="diagonal")
        .join(products.rename({"price": "product_price"}).with_columns(product_match=True), on="product_id", how="left")
        .join(customers.with_columns(customer_match=True), on="customer_id", how="left")
        .with_columns(
            pl.col("product_match", "customer_match").fill_null(value=False),
            rate_match=pl.col("rate_date").is_not_null(),
            amount_matches_price=pl.col("total_amount") == pl.col("quantity") * pl.col("product_price"),
            rate_age_days=(day - pl.col("rate_date")).dt.total_days(),
            month=day.dt.month().cast(pl.Int32),
            day_of_week=day.dt.weekday().cast(pl.Int32),
            customer_tenure_days=(day - pl.col("date_joined")).dt.total_days(),
            price_to_product_median=pl.when(median > 0).then(pl.col("unit_price").cast(pl.Float64) / median),
            basket_share=pl.when(in_basket).then(pl.col("total_amount").cast(pl.Float64) / basket),
        )
        .select(list(UnifiedTransactions.columns()))
    )
    matches = ["product_match", "customer_match", "rate_match"]
    found = table.group_by("kind").agg(pl.col(matches).sum(), rows=pl.len()).sort("kind")
    return Result(table, metadata={"found": bars(found, "kind", ["rows", *matches], "Rows, and how many have a match")})
