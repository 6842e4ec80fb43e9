"""What the publishers are asked, without the network: the addresses and parameters that their documentation has."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import dagster as dg
import pytest
import requests

from etl_assets.sources import SourceError, Workspace
from etl_assets.stages.dataset import SPECS

TITLE_XII = "https://api.fiscaldata.treasury.gov/services/api/fiscal_service/v2/accounting/od/title_xii"


@pytest.mark.parametrize(
    ("name", "url", "parameters"),
    [
        (
            "protest_events",
            "https://dataverse.harvard.edu/api/datasets/:persistentId/versions/:latest-published/files",
            {"persistentId": "doi:10.7910/DVN/RI9JFU"},
        ),
        ("us_counties", "https://eric.clst.org/assets/wiki/uploads/Stuff/gz_2010_us_050_00_500k.json", {}),
        ("gho", "https://ghoapi.azureedge.net/api/WHOSIS_000001", {"$orderby": "Date desc", "$top": "1"}),
        ("gho_countries", "https://ghoapi.azureedge.net/api/DIMENSION/COUNTRY/DimensionValues", {"$count": "true"}),
        ("treasury_title_xii", TITLE_XII, {"sort": "-record_date", "page[number]": "1"}),
        (
            "poverty_small_area",
            "https://api.census.gov/data/timeseries/poverty/saipe",
            {"for": "state:*", "key": "a key"},
        ),
        (
            "poverty_national",
            "https://api.census.gov/data/timeseries/poverty/histpov2",
            {"get": "NAME,PCTPOV,YEAR,RACE", "for": "us:*", "key": "a key"},
        ),
    ],
)
def test_a_publisher_is_asked_at_its_documented_address(
    name: str, url: str, parameters: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def send(self: requests.Session, request: requests.PreparedRequest, **options: object) -> requests.Response:
        asked.append(urlsplit(str(request.url)))
        raise requests.ConnectionError("there is no network")

    monkeypatch.setattr(requests.Session, "send", send)
    monkeypatch.setenv("ETL_SOURCES", "live")
    monkeypatch.setenv("ETL_CENSUS_KEY", "a key")
    source = SPECS[dg.AssetKey(["landing", name])].source
    assert source is not None
    with suppress(SourceError):
        source.fetch(Workspace(tmp_path), None)
    calls = [(urlunsplit(call._replace(query="")), dict(parse_qsl(call.query))) for call in asked]
    assert {address for address, _ in calls} == {url}
    assert any(given.items() >= parameters.items() for _, given in calls), calls
