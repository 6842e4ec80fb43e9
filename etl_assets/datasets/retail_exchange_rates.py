"""Exchange rates of the retail company, from its API."""

from pathlib import Path

import polars as pl

from etl_assets.quality.audit import PROBLEMS, Bound
from etl_assets.quality.contract import Contract, column
from etl_assets.quality.outliers import with_outliers
from etl_assets.quality.readings import date_by_form, exact
from etl_assets.quality.rules import Rule, Rulebook, by_rules, corrections, summary, values_before
from etl_assets.sources.extracts import read_pages
from etl_assets.sources.retail import DATES, NOTHING, RetailApi, records
from etl_assets.stages import Dataset, Result, landing, raw, refined

DATASET = Dataset(
    name="retail_exchange_rates",
    title="Retail: exchange rates",
    publisher="the retail company",
    homepage="",
    licence="none stated",
    citation="Retail company, exchange rate API",
    cadence="daily",
    # A third of the records has no rate or a negative one, and a third of the others contradict each other.
    bound=Bound(share=0.75),
)

RATE = pl.Decimal(18, 8)
IS_UNREAD = pl.col(PROBLEMS).list.len() > 0
IS_RATE = (pl.col("exchange_rate") > 0) & pl.col("rate_date").is_not_null()
IS_GIVEN = IS_RATE | IS_UNREAD
BOOK = Rulebook(
    required=("Currency_Code", "Exchange_Rate", "Date"),
    nothing=NOTHING,
    readings={
        "currency_code": ("Currency_Code", pl.col("Currency_Code").str.strip_chars()),
        "rate_date": ("Date", date_by_form(pl.col("Date"), DATES)),
        "exchange_rate": ("Exchange_Rate", exact(pl.col("Exchange_Rate"), RATE)),
    },
    rules=(
        Rule(
            "exchange_rate", "is missing", pl.col("exchange_rate").is_null() & ~IS_UNREAD, "quarantine",
            "A record without its rate holds nothing to keep.",
        ),
        Rule(
            "exchange_rate", "is not positive", pl.col("exchange_rate") <= 0, "quarantine",
            "No currency has such a rate, and nothing shows that only the sign is wrong.",
        ),
        Rule(
            "rate_date", "is missing", pl.col("rate_date").is_null(), "quarantine",
            "A rate without a day cannot be looked up.",
        ),
        Rule(
            "exchange_rate", "contradicts another", IS_RATE & (IS_GIVEN.sum().over("currency_code", "rate_date") > 1),
            "quarantine",
            "Several rates of one currency and day differ up to a hundredfold, and neither order nor anything else "
            "shows which is right: a pick or a mean would be invented. The rate of the day before is used, with its "
            "age.",
        ),
    ),
)  # fmt: skip


class RetailExchangeRates(Contract, stage="refined", table="retail_exchange_rates", key=["currency_code", "rate_date"]):
    """Rates that can be relied on, one row per currency and day. The source names no base currency; USD is not 1."""

    currency_code: pl.String = column("ISO 4217 code", str_matches=r"^[A-Z]{3}$")
    rate_date: pl.Date = column("Day of the rate")
    exchange_rate: RATE = column("Rate, against an unknown base currency", gt=0)
    exchange_rate_is_outlier: pl.Boolean = column("Its modified z-score is above 3.5", nullable=True)
    corrections: pl.List(pl.String) = corrections()
    values_before: pl.List(pl.String) = values_before()


landing_retail_exchange_rates = landing(DATASET, RetailApi(path="exchange_rates"))


@raw(DATASET, landing_retail_exchange_rates, required=BOOK.required)
def raw_retail_exchange_rates(path: Path) -> pl.DataFrame:
    """The records of all pages, every value a text."""
    return read_pages(path, records)


@refined(DATASET, RetailExchangeRates, raw=raw_retail_exchange_rates)
def refined_retail_exchange_rates(raw: pl.DataFrame) -> Result:
    """Typed, by the rules; records that say the same are merged."""
    table, merged = by_rules(raw, BOOK)
    values = {"exchange_rate_is_outlier": "exchange_rate"}
    table = with_outliers(table, RetailExchangeRates, values, by="currency_code")
    return Result(table, merged, {"rules": summary(table, BOOK.rules)})
