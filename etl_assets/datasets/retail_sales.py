"""Sales of the retail company: flat files that it drops into a folder."""

from pathlib import Path

import polars as pl

from etl_assets.quality.audit import PROBLEMS, Bound, unreadable
from etl_assets.quality.contract import Contract, column
from etl_assets.quality.outliers import with_outliers
from etl_assets.quality.readings import date_by_form, exact, whole
from etl_assets.quality.rules import Rule, Rulebook, ambiguous, by_rules, corrections, summary, values_before
from etl_assets.sources import SourceRefusedError
from etl_assets.sources.delimited import read_csv
from etl_assets.sources.folder import WatchedFolder
from etl_assets.sources.records import UNPARSED
from etl_assets.sources.retail import DATES
from etl_assets.stages import Dataset, Result, landing, raw, refined

DATASET = Dataset(
    name="retail_sales",
    title="Retail: sales",
    publisher="the retail company",
    homepage="",
    licence="none stated",
    citation="Retail company, sales files",
    cadence="whenever a file is dropped",
    bound=Bound(share=0.25),
)

PRICE = pl.Decimal(12, 2)
BOOK = Rulebook(
    required=("Transaction_ID", "Product_ID", "Quantity", "Price", "Transaction_Date"),
    readings={
        "transaction_id": ("Transaction_ID", whole(pl.col("Transaction_ID"))),
        "product_id": ("Product_ID", whole(pl.col("Product_ID"))),
        "quantity": ("Quantity", whole(pl.col("Quantity"))),
        "price": ("Price", exact(pl.col("Price"), PRICE)),
        "transaction_date": ("Transaction_Date", date_by_form(pl.col("Transaction_Date"), DATES)),
    },
    rules=(
        ambiguous(
            "transaction_id",
            "Nothing says which of them is right. A corrected file replaces the first one under the same name.",
        ),
        Rule(
            "quantity", "is not positive", pl.col("quantity") < 1, "null",
            "No sale has such a quantity, and nothing shows that it is a return; what was sold is not known.",
        ),
        Rule(
            "price", "makes an amount beyond all", pl.col("price").cast(pl.Float64) * pl.col("quantity") >= 1e12,
            "quarantine", "No customer pays a trillion: price or quantity is some other number.",
        ),
        Rule(
            "price", "is negative", pl.col("price") < 0, "null",
            "No price is negative, and nothing shows that only the sign is wrong; the price is not known.",
        ),
    ),
)  # fmt: skip


class RetailSales(Contract, stage="refined", table="retail_sales", key=["transaction_id"]):
    """Sales as the flat files have them, one row per sale. Their product numbers are from no known list of products."""

    transaction_id: pl.Int64 = column("Number of the sale; not one of retail_transactions")
    product_id: pl.Int64 = column("Number of the product")
    quantity: pl.Int64 = column("Units sold", unit="units", nullable=True, ge=1)
    quantity_is_outlier: pl.Boolean = column("Its modified z-score is above 3.5", nullable=True)
    price: PRICE = column("Price of a unit; the source names no currency", nullable=True, ge=0)
    price_is_outlier: pl.Boolean = column("Its modified z-score is above 3.5", nullable=True)
    transaction_date: pl.Date = column("Day of the sale", nullable=True)
    corrections: pl.List(pl.String) = corrections()
    values_before: pl.List(pl.String) = values_before()


def read_sales(path: Path) -> pl.DataFrame:
    """The records of one file; if more than half cannot be read, that file alone is refused."""
    frame = read_csv(path, BOOK.required, delimiter=",")
    problems = frame.select("_source_row", UNPARSED, unreadable(BOOK.readings)).filter(
        pl.col(UNPARSED).is_not_null() | (pl.col(PROBLEMS).list.len() > 0)
    )
    if frame.is_empty():
        raise SourceRefusedError(f"{path.name}: it has a header but no records. The file is not taken.")
    if 2 * problems.height > frame.height:
        first = problems.row(0, named=True)
        [wrong, *_] = first[PROBLEMS] or [{"column": "the record", "value": first[UNPARSED]}]
        raise SourceRefusedError(
            f"{path.name}: {problems.height} of {frame.height} records cannot be read, such as record "
            f"{first['_source_row']}: {wrong['column']} is {wrong['value']!r}. The file is not taken."
        )
    return frame


landing_retail_sales = landing(
    DATASET,
    WatchedFolder(
        location=lambda settings: settings.retail_sales_folder,
        variable="ETL_RETAIL_SALES_FOLDER",
        check=read_sales,
        suffix=".csv",
    ),
)


@raw(DATASET, landing_retail_sales, required=BOOK.required)
def raw_retail_sales(path: Path) -> pl.DataFrame:
    """The records of every file that was dropped."""
    return read_sales(path)


@refined(DATASET, RetailSales, raw=raw_retail_sales)
def refined_retail_sales(raw: pl.DataFrame) -> Result:
    """Typed, by the rules; records that say the same are merged, whichever files they come from."""
    table, merged = by_rules(raw, BOOK)
    table = with_outliers(table, RetailSales, {"quantity_is_outlier": "quantity", "price_is_outlier": "price"})
    return Result(table, merged, {"rules": summary(table, BOOK.rules)})
