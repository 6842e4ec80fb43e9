"""Five questions on what ToteSys sells, each with its chart."""

import polars as pl

from etl_assets.datasets.totesys import DATASET, TABLES, SalesOrder
from etl_assets.datasets.totesys_dimensions import (
    presentation_dim_currency,
    presentation_dim_design,
    presentation_dim_location,
)
from etl_assets.quality.contract import Contract, column
from etl_assets.stages import Of, Result, presentation
from etl_assets.stages.pictures import bars, lines


class SalesQuestions(Contract, stage="presentation", table="sales_questions", key=["question", "item"]):
    """Five questions on the orders as they are now: units in total, by month, by design, by currency, by country."""

    question: pl.String = column("total, month, design, currency or country (of delivery)")
    item: pl.String = column("What is counted: all, a month (2024-11), a design, a currency, a country")
    orders: pl.Int64 = column("Orders", unit="orders", ge=1)
    units_sold: pl.Int64 = column("Units", unit="totes", ge=0)


_ASKED_BY = ["design_id", "currency_id", "agreed_delivery_location_id"]


@presentation(
    DATASET,
    SalesQuestions,
    sales=Of(TABLES[SalesOrder].current, ["created_at", "units_sold", *_ASKED_BY]),
    designs=Of(presentation_dim_design, ["design_id", "design_name"]),
    currencies=Of(presentation_dim_currency, ["currency_id", "currency_code"]),
    locations=Of(presentation_dim_location, ["location_id", "country"]),
)
def presentation_sales_questions(
    sales: pl.DataFrame, designs: pl.DataFrame, currencies: pl.DataFrame, locations: pl.DataFrame
) -> Result:
    """Designs may share a name, so each is shown with its number."""
    rows = (
        sales.join(designs, on="design_id")
        .join(currencies, on="currency_id")
        .join(locations, left_on="agreed_delivery_location_id", right_on="location_id")
    )
    items = {
        "total": pl.lit("all"),
        "month": pl.col("created_at").dt.strftime("%Y-%m"),
        "design": pl.concat_str("design_name", pl.lit(" ("), "design_id", pl.lit(")")),
        "currency": pl.col("currency_code"),
        "country": pl.col("country"),
    }
    counted = {
        question: rows.group_by(question=pl.lit(question), item=item)
        .agg(orders=pl.len().cast(pl.Int64), units_sold=pl.col("units_sold").sum())
        .sort("units_sold", "item", descending=[True, False])
        for question, item in items.items()
    }
    months = counted["month"].sort("item").with_columns(month=pl.col("item").str.to_date("%Y-%m"))
    years = rows.group_by(item=pl.col("created_at").dt.year()).agg(pl.col("units_sold").sum()).sort("item")
    return Result(
        pl.concat(counted.values()).filter(pl.col("orders") > 0),  # without any orders, there still is a total
        metadata={
            "total": bars(years, "item", "units_sold", "Units sold in total, by year"),
            "by_month": lines(months, "month", ["units_sold"], "Units sold by month"),
            "by_design": bars(counted["design"].head(20), "item", "units_sold", "Units sold by design: the first 20"),
            "by_currency": bars(counted["currency"], "item", "orders", "Orders by currency"),
            "by_country": bars(counted["country"].head(25), "item", "orders", "Orders by country of delivery"),
        },
    )
