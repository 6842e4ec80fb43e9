"""WHO GHO: an OData service of indicators, of the countries they are about, and of the list of the indicators.

Here: its resources, query options, pages with a link to the next one, errors, and the names it gives.
Not here: the language of `$filter` (odata_filter.py).
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote, urlencode

from etl_assets.local.apis.odata_filter import Filter, typed
from etl_assets.local.apis.querying import (
    ORDERS,
    BadQueryError,
    Row,
    Table,
    in_some_order,
    parameter,
    read,
    sorted_by,
    whole_number,
)
from etl_assets.local.routes import Request, Response, Route

_EDM_TYPES = {
    **dict.fromkeys(("Id", "TimeDim"), "Edm.Int32"),
    **dict.fromkeys(("NumericValue", "Low", "High"), "Edm.Double"),
    **dict.fromkeys(("Date", "TimeDimensionBegin", "TimeDimensionEnd"), "Edm.DateTimeOffset"),
}
_FIELDS = (
    *("Id", "IndicatorCode", "SpatialDimType", "SpatialDim", "ParentLocationCode", "TimeDimType"),
    *("ParentLocation", "Dim1Type", "TimeDim", "Dim1", "Dim2Type", "Dim2", "Dim3Type", "Dim3"),
    *("DataSourceDimType", "DataSourceDim", "Value", "NumericValue", "Low", "High", "Comments", "Date"),
    *("TimeDimensionValue", "TimeDimensionBegin", "TimeDimensionEnd"),
)
#: The number of sort keys that Microsoft's OData accepts unless configured otherwise.
_MOST_KEYS = 5
_OPTIONS = {"$filter", "$select", "$orderby", "$top", "$skip", "$count", "$format"}
_INDICATOR_NAMES = {
    "WHOSIS_000001": "Life expectancy at birth (years)",
    "WHOSIS_000002": "Healthy life expectancy (HALE) at birth (years)",
    "WHOSIS_000007": "Healthy life expectancy (HALE) at age 60 (years)",
    "WHOSIS_000015": "Life expectancy at age 60 (years)",
    "MDG_0000000001": "Infant mortality rate (probability of dying between birth and age 1 per 1000 live births)",
    "MDG_0000000007": "Under-five mortality rate (probability of dying by age 5 per 1000 live births)",
}


def gho(page_size: int = 1000) -> Route:
    """WHO GHO under `/who_gho/api`; an answer has at most `page_size` rows, and a link to the next ones.

    A request can ask for smaller pages with the header `Prefer: odata.maxpagesize=N`.
    """
    turns = itertools.cycle(range(ORDERS))

    def answer(request: Request) -> Response | None:
        if request.segments[1:2] != ("api",):
            return None
        if request.method not in ("GET", "HEAD"):
            return Response(405, headers={"Allow": "GET, HEAD"})
        name, table = "/".join(request.segments[2:]), _table(request)
        if table is None:
            return Response(404)
        try:
            return _page(request, name, table, next(turns), page_size)
        except BadQueryError as error:
            message = f"The query specified in the URI is not valid: {error}."
            return _response({"error": {"code": "", "message": message}}, 400)

    return answer


def _response(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    content_type = "application/json; odata.metadata=minimal; odata.streaming=true"
    return Response(status, body, content_type, {"OData-Version": "4.0", **(headers or {})})


def _table(request: Request) -> Table | None:
    recordings = {
        name.removesuffix(".json"): recording
        for name, recording in request.recordings.latest("who_gho").items()
        if re.fullmatch(r"\w+\.json", name)
    }
    match request.segments[2:]:
        case ("Indicator",):
            return _listing(
                {"IndicatorCode": code, "IndicatorName": _INDICATOR_NAMES.get(code, code), "Language": "EN"}
                for code in sorted(recordings)
            )
        case ("DIMENSION", "COUNTRY", "DimensionValues"):
            return _listing(_countries(read(recording, _indicator) for recording in recordings.values()))
        case (code,) if code in recordings:
            return read(recordings[code], _indicator)
    return None


def _indicator(content: bytes) -> Table:
    rows: list[Row] = json.loads(content)["value"]
    names = dict.fromkeys(itertools.chain(_FIELDS, *rows))
    return Table(rows, {name: _EDM_TYPES.get(name, "Edm.String") for name in names}, {})


def _listing(rows: Iterable[Row]) -> Table:
    listed = list(rows)
    return Table(listed, dict.fromkeys(itertools.chain.from_iterable(listed), "Edm.String"), {})


def _countries(tables: Iterable[Table]) -> list[Row]:
    parents: dict[str, tuple[str | None, str | None]] = {}
    for row in itertools.chain.from_iterable(table.rows for table in tables):
        _, title = parents.get(row["SpatialDim"], (None, None))
        if (
            row["SpatialDimType"] == "COUNTRY" and row["SpatialDim"] and title is None
        ):  # older answers have the code only
            parents[row["SpatialDim"]] = row.get("ParentLocationCode"), row.get("ParentLocation")
    return [
        {
            "Code": code,
            "Title": _COUNTRY_NAMES.get(code, code),
            "ParentDimension": "REGION",
            "ParentCode": parent,
            "ParentTitle": title,
        }
        for code, (parent, title) in sorted(parents.items())
    ]


def _page(request: Request, name: str, table: Table, turn: int, page_size: int) -> Response:
    if unknown := [name for name in request.query if name.startswith("$") and name not in _OPTIONS]:
        raise BadQueryError(f"the query option '{unknown[0]}' is not supported")
    rows = _rows(table, parameter(request, "$filter"), parameter(request, "$orderby"), turn)
    skip = whole_number(parameter(request, "$skip"), "$skip") or 0
    top = whole_number(parameter(request, "$top"), "$top")
    count = parameter(request, "$count")
    if count not in (None, "true", "false"):
        raise BadQueryError(f"'{count}' is not a value for '$count'")
    headers = {}
    if preferred := re.search(r"(?:odata\.)?maxpagesize=(\d+)", request.headers.get("prefer", "")):
        page_size = max(1, min(page_size, int(preferred[1])))
        headers["Preference-Applied"] = f"odata.maxpagesize={page_size}"

    window = rows[skip:] if top is None else rows[skip : skip + top]
    page = window[:page_size]
    context = f"https://ghoapi.azureedge.net/api/$metadata#{name}"
    if fields := parameter(request, "$select"):
        chosen = [field.strip() for field in fields.split(",")]
        for field in chosen:
            table.type_of(field)
        page = [{field: row.get(field) for field in chosen} for row in page]
        context += f"({','.join(chosen)})"

    content: dict[str, Any] = {"@odata.context": context}
    if count == "true":
        content["@odata.count"] = len(rows)
    content["value"] = page
    if len(window) > page_size:
        following = {name: values[0] for name, values in request.query.items()} | {"$skip": str(skip + page_size)}
        if top is not None:
            following["$top"] = str(top - page_size)
        query = urlencode(following, quote_via=quote, safe="$,")
        content["@odata.nextLink"] = f"http://{request.headers.get('host', '')}{request.path}?{query}"
    return _response(content, headers=headers)


@lru_cache(maxsize=64)
def _rows(table: Table, condition: str | None, orderby: str | None, turn: int) -> list[Row]:
    test = Filter(condition, table).test if condition else lambda row: True
    keys, items = [], orderby.split(",") if orderby else []
    if len(items) > _MOST_KEYS:
        raise BadQueryError("the number of clauses in $orderby query option exceeded the maximum number allowed")
    for item in items:
        match item.split():
            case [name] | [name, "asc"]:
                keys.append((typed(name, table.type_of(name)), False))
            case [name, "desc"]:
                keys.append((typed(name, table.type_of(name)), True))
            case _:
                raise BadQueryError(f"'{item.strip()}' is not something to order by")
    return sorted_by(in_some_order(filter(test, table.rows), turn), keys)


# --- names

_COUNTRIES = """
ABW Aruba|AFG Afghanistan|AGO Angola|AIA Anguilla|ALB Albania|AND Andorra|ARE United Arab Emirates|ARG Argentina
ARM Armenia|ASM American Samoa|ATG Antigua and Barbuda|AUS Australia|AUT Austria|AZE Azerbaijan|BDI Burundi|BEL Belgium
BEN Benin|BFA Burkina Faso|BGD Bangladesh|BGR Bulgaria|BHR Bahrain|BHS Bahamas|BIH Bosnia and Herzegovina|BLR Belarus
BLZ Belize|BMU Bermuda|BOL Bolivia (Plurinational State of)|BRA Brazil|BRB Barbados|BRN Brunei Darussalam|BTN Bhutan
BWA Botswana|CAF Central African Republic|CAN Canada|CHE Switzerland|CHL Chile|CHN China|CIV Côte d'Ivoire|CMR Cameroon
COD Democratic Republic of the Congo|COG Congo|COK Cook Islands|COL Colombia|COM Comoros|CPV Cabo Verde|CRI Costa Rica
CUB Cuba|CYM Cayman Islands|CYP Cyprus|CZE Czechia|DEU Germany|DJI Djibouti|DMA Dominica|DNK Denmark
DOM Dominican Republic|DZA Algeria|ECU Ecuador|EGY Egypt|ERI Eritrea|ESP Spain|EST Estonia|ETH Ethiopia|FIN Finland
FJI Fiji|FRA France|FRO Faroe Islands|FSM Micronesia (Federated States of)|GAB Gabon
GBR United Kingdom of Great Britain and Northern Ireland|GEO Georgia|GHA Ghana|GIN Guinea|GMB Gambia|GNB Guinea-Bissau
GNQ Equatorial Guinea|GRC Greece|GRD Grenada|GRL Greenland|GTM Guatemala|GUM Guam|GUY Guyana|HKG Hong Kong|HND Honduras
HRV Croatia|HTI Haiti|HUN Hungary|IDN Indonesia|IND India|IRL Ireland|IRN Iran (Islamic Republic of)|IRQ Iraq
ISL Iceland|ISR Israel|ITA Italy|JAM Jamaica|JOR Jordan|JPN Japan|KAZ Kazakhstan|KEN Kenya|KGZ Kyrgyzstan|KHM Cambodia
KIR Kiribati|KNA Saint Kitts and Nevis|KOR Republic of Korea|KWT Kuwait|LAO Lao People's Democratic Republic
LBN Lebanon|LBR Liberia|LBY Libya|LCA Saint Lucia|LIE Liechtenstein|LKA Sri Lanka|LSO Lesotho|LTU Lithuania
LUX Luxembourg|LVA Latvia|MAC Macao|MAR Morocco|MCO Monaco|MDA Republic of Moldova|MDG Madagascar|MDV Maldives
MEX Mexico|MHL Marshall Islands|MKD North Macedonia|MLI Mali|MLT Malta|MMR Myanmar|MNE Montenegro|MNG Mongolia
MNP Northern Mariana Islands|MOZ Mozambique|MRT Mauritania|MSR Montserrat|MUS Mauritius|MWI Malawi|MYS Malaysia
NAM Namibia|NCL New Caledonia|NER Niger|NGA Nigeria|NIC Nicaragua|NIU Niue|NLD Netherlands (Kingdom of the)|NOR Norway
NPL Nepal|NRU Nauru|NZL New Zealand|OMN Oman|PAK Pakistan|PAN Panama|PER Peru|PHL Philippines|PLW Palau
PNG Papua New Guinea|POL Poland|PRI Puerto Rico|PRK Democratic People's Republic of Korea|PRT Portugal|PRY Paraguay
PSE occupied Palestinian territory, including east Jerusalem|PYF French Polynesia|QAT Qatar|ROU Romania
RUS Russian Federation|RWA Rwanda|SAU Saudi Arabia|SDN Sudan|SEN Senegal|SGP Singapore|SLB Solomon Islands
SLE Sierra Leone|SLV El Salvador|SMR San Marino|SOM Somalia|SRB Serbia|SSD South Sudan|STP Sao Tome and Principe
SUR Suriname|SVK Slovakia|SVN Slovenia|SWE Sweden|SWZ Eswatini|SYC Seychelles|SYR Syrian Arab Republic
TCA Turks and Caicos Islands|TCD Chad|TGO Togo|THA Thailand|TJK Tajikistan|TKL Tokelau|TKM Turkmenistan|TLS Timor-Leste
TON Tonga|TTO Trinidad and Tobago|TUN Tunisia|TUR Türkiye|TUV Tuvalu|TZA United Republic of Tanzania|UGA Uganda
UKR Ukraine|URY Uruguay|USA United States of America|UZB Uzbekistan|VCT Saint Vincent and the Grenadines
VEN Venezuela (Bolivarian Republic of)|VGB British Virgin Islands|VIR United States Virgin Islands|VNM Viet Nam
VUT Vanuatu|WSM Samoa|XKX Kosovo|YEM Yemen|ZAF South Africa|ZMB Zambia|ZWE Zimbabwe
"""
_COUNTRY_NAMES = {entry[:3]: entry[4:] for line in _COUNTRIES.split("\n") for entry in line.split("|") if entry}
