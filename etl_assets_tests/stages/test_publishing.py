"""What a stage publishes, quarantines and refuses, with a dataset that is declared for the test and forgotten after it.

Its partitions are days; its file is whatever the test writes, one `day,number` a line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster as dg
import polars as pl
import pytest
from dagster._core.test_utils import freeze_time

from etl_assets.automation.partitions import daily, monthly
from etl_assets.automation.problems import failed_runs
from etl_assets.definitions import definitions
from etl_assets.quality.audit import Bound, unreadable
from etl_assets.quality.contract import Contract, column
from etl_assets.sources.delimited import read_csv
from etl_assets.sources.files import OptionalFile
from etl_assets.stages import Dataset, Result, landing, presentation, raw, refined
from etl_assets.stages import dataset as stages
from etl_assets.stages.dataset import SPECS
from etl_assets.stages.raw import _keys
from etl_assets.storage.configured import lake
from etl_assets.storage.lake import LakeError
from etl_assets.storage.table import PARTITION, SOURCE_SHA256, WHOLE, Column, Facts, Partitioning, Table
from etl_assets_tests.contents import put_partition
from etl_assets_tests.faults import Faults
from etl_assets_tests.house import House, ephemeral

HEADER = "day,number\n"
Function = Callable[[pl.DataFrame], Result]


class Counts(Contract, stage="refined", table="counts", key=["day", "number"], partitioning=Partitioning("day", "day")):
    """Numbers of a day."""

    day: pl.Date = column("The day")
    number: pl.Int64 = column("A number", ge=0, le=1000)


class Sums(Contract, stage="presentation", table="sums", key=["day"]):
    """The numbers of each day, summed."""

    day: pl.Date = column("The day")
    total: pl.Int64 = column("Sum", le=200_000)


class Months(
    Contract, stage="presentation", table="months", key=["month"], partitioning=Partitioning("month", "month")
):
    """The numbers of each month, summed."""

    month: pl.Date = column("First day of the month")


def typed(records: pl.DataFrame) -> Result:
    """What a right function of the stage does: one row per record, equal ones merged."""
    distinct = records.unique(["_partition", "_row_hash"], keep="first", maintain_order=True)
    number = pl.col("number").cast(pl.Int64, strict=False)
    rows = distinct.select(
        pl.col("day").str.to_date(),
        number,
        _problems=unreadable({"number": ("number", number)}),
        **{c: pl.col(c) for c in records.columns if c.startswith("_")},
    )
    return Result(rows, merged=records.join(distinct, on="_source_row", how="anti"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The source's file."""
    return tmp_path / "counts.csv"


@pytest.fixture
def function() -> dict[str, Function]:
    """The function of the refined stage, to be replaced by a test."""
    return {"refined": typed}


@pytest.fixture
def counts(
    request: pytest.FixtureRequest,
    file: Path,
    function: dict[str, Function],
    warehouse_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[House]:
    """A house with this dataset only."""
    before = dict(SPECS)
    SPECS.clear()
    dataset = Dataset(
        name="counts", title="Counts", publisher="A test", homepage="https://example.org", licence="none",
        citation="none", cadence="never", partitions=daily("2025-01-01"), bound=Bound(share=0.25, count=2),
        schema=getattr(request, "param", "evolve"),
    )  # fmt: skip
    module: Any = ModuleType("counts")
    module.landed = landing(dataset, OptionalFile(lambda s: str(file), without=b"", suffix=".csv"))

    @raw(dataset, module.landed, required=["day", "number"], partition=pl.col("day"))
    def raw_counts(path: Path) -> pl.DataFrame:
        return read_csv(path)

    @refined(dataset, Counts, raw=raw_counts)
    def refined_counts(raw: pl.DataFrame) -> Result:
        return function["refined"](raw)

    @presentation(dataset, Sums, counts=refined_counts)
    def sums(counts: pl.DataFrame) -> pl.DataFrame:
        return counts.group_by("day").agg(total=pl.col("number").sum())

    module.raw, module.refined, module.sums = raw_counts, refined_counts, sums
    monkeypatch.setenv("ETL_WAREHOUSE_URL", warehouse_url)
    monkeypatch.setenv("ETL_LAKE_URL", str(tmp_path / "lake"))
    with ephemeral() as instance:
        yield House(
            tmp_path,
            tmp_path,
            warehouse_url,
            tmp_path,
            Faults(),
            instance,
            definitions=definitions([module]),
            datasets=(),
        )
    SPECS.clear()
    SPECS.update(before)


def lines(*numbers: object, day: str) -> str:
    """Records of a day."""
    return "".join(f"{day},{number}\n" for number in numbers)


def rows(house: House) -> dict[str, list[int]]:
    """What is published, per day."""
    found = house.sql("SELECT day::text, array_agg(number ORDER BY number) FROM refined.counts GROUP BY 1 ORDER BY 1")
    return dict(found)


def quarantine(house: House) -> list[tuple[Any, ...]]:
    """What is kept out, in the order of the file."""
    return house.sql(
        "SELECT _partition, checks[1], columns[1], values[1], _source_row FROM quarantine.counts ORDER BY _source_row"
    )


def test_rows_are_published_quarantined_or_merged(counts: House, file: Path) -> None:
    """Each with its reason, and none twice; what becomes good leaves the quarantine."""
    file.write_text(
        HEADER
        + lines(1, 2, 2, "many", day="2025-01-01")
        + lines(5, -5, day="2025-01-02")
        + "2025-01-03\n"
        + lines(7, day="9999-12-31")
    )
    assert counts.run(), counts.failures()
    assert rows(counts) == {"2025-01-01": [1, 2], "2025-01-02": [5]}
    assert quarantine(counts) == [
        ("2025-01-01", "readable", "number", "many", 4),
        ("2025-01-02", "greater_than_or_equal_to(0)", "number", "-5", 6),
        ("unplaced", "fields", "", "2025-01-03", 7),
        ("unplaced", "placeable", "day", "9999-12-31", 8),
    ]
    reasons = counts.sql("SELECT reason FROM quarantine.counts ORDER BY _source_row")
    assert reasons[0][0] == "readable: number is many; not_nullable: number is missing"
    assert reasons[3][0] == "placeable: day is 9999-12-31, which is in no partition"
    facts = {name: value.value for name, value in counts.check("refined/counts", "balance").metadata.items()}
    assert facts == {"rows_in": 6, "rows_out": 3, "quarantined": 2, "merged": 1}

    before = counts.frame("quarantine.counts")
    assert counts.run()
    assert counts.made() == {}
    assert counts.frame("quarantine.counts").equals(before)

    file.write_text(HEADER + lines(1, 2, 2, 4, day="2025-01-01") + lines(5, 6, day="2025-01-02"))
    assert counts.run(), counts.failures()
    assert rows(counts) == {"2025-01-01": [1, 2, 4], "2025-01-02": [5, 6]}
    assert quarantine(counts) == []
    table = SPECS[dg.AssetKey(["refined", "counts"])].table
    assert table is not None
    assert counts.lake.read(table).frame.height == 5


def test_a_day_beyond_the_bound_keeps_its_last_state(counts: House, file: Path) -> None:
    """The other days of the run are published, the run fails with the cases, and the next run tries again."""
    first = lines(1, 2, day="2025-01-01") + lines(3, 4, day="2025-01-02") + lines(5, day="2025-01-03")
    file.write_text(HEADER + first)
    assert counts.run(), counts.failures()

    bad = lines(1, -1, -2, -3, day="2025-01-02")
    file.write_text(HEADER + lines(1, 9, -1, day="2025-01-01") + bad + lines(6, day="2025-01-03"))
    assert not counts.run()
    assert (
        "1 of 3 partitions were refused, the others are published. 2025-01-02: 3 of 4 rows break" in counts.failures()
    )
    assert re.search(r", such as record 5 \(.*: number is -1\)\. Nothing was written", counts.failures())
    assert counts.made()["refined/counts"] == 2
    assert rows(counts) == {"2025-01-01": [1, 9], "2025-01-02": [3, 4], "2025-01-03": [6]}
    assert [row[0] for row in quarantine(counts)] == ["2025-01-01"]
    refused = counts.check("refined/counts", "contract", partition="2025-01-02")
    assert not refused.passed
    assert refused.blocking
    cases = [record.data for record in refused.metadata["failure_cases"].records]
    assert [(case["value"], case["record"]) for case in cases] == [("-1", 5), ("-2", 6), ("-3", 7)]
    assert counts.check("refined/counts", "contract", partition="2025-01-01").passed
    assert counts.check("refined/counts", "contract").partition == "2025-01-02", "what the UI shows of all of them"
    refined = dg.AssetKey(["refined", "counts"])
    status = counts.instance.get_status_by_partition(
        refined, ["2025-01-01", "2025-01-02", "2025-01-03"], daily("2025-01-01")
    )
    assert {day: found.name if found else None for day, found in (status or {}).items()} == {
        "2025-01-01": "MATERIALIZED",
        "2025-01-02": "FAILED",
        "2025-01-03": "MATERIALIZED",
    }

    assert not counts.run()
    assert counts.made() == {}
    file.write_text(HEADER + lines(1, 9, -1, day="2025-01-01") + lines(1, 8, day="2025-01-02"))
    assert counts.run(), counts.failures()
    assert rows(counts) == {"2025-01-01": [1, 9], "2025-01-02": [1, 8]}
    assert [row[0] for row in quarantine(counts)] == ["2025-01-01"]
    assert counts.sql("SELECT day::text, total FROM presentation.sums ORDER BY 1") == [
        ("2025-01-01", 10),
        ("2025-01-02", 9),
    ]


def test_the_rows_of_a_refused_day_are_no_drift(counts: House, file: Path) -> None:
    """They are not published: whoever were told that a day has lost most of its rows would look for them in vain."""
    file.write_text(HEADER + lines(*range(200), day="2025-01-01") + lines(1, day="2025-01-02"))
    assert counts.run(), counts.failures()
    file.write_text(HEADER + lines(*range(20), *range(-180, 0), day="2025-01-01") + lines(2, day="2025-01-02"))
    assert not counts.run()
    assert rows(counts) == {"2025-01-01": list(range(200)), "2025-01-02": [2]}
    volume = counts.check("refined/counts", "volume")
    assert volume.passed, volume.description
    assert volume.metadata["rows"].value == 1
    file.write_text(HEADER + lines(*range(20), day="2025-01-01") + lines(*range(180), day="2025-01-03"))
    assert counts.run(), counts.failures()
    volume = counts.check("refined/counts", "volume")
    assert volume.description == "2025-01-01: 20 rows, 200 when last published"


def test_each_day_of_a_partly_refused_run_tells_its_rows(counts: House, file: Path) -> None:
    """As each day of a run does of which all is published."""
    file.write_text(HEADER + lines(1, 2, day="2025-01-01") + lines(-1, -2, -3, day="2025-01-02"))
    assert not counts.run()
    refined = dg.AssetKey(["refined", "counts"])
    found = [record.asset_materialization for record in counts.instance.fetch_materializations(refined, 10).records]
    told = [(made.partition, made.metadata["dagster/partition_row_count"].value) for made in found if made]
    assert told == [("2025-01-01", 2)]


def wrongly(change: Callable[[pl.DataFrame], pl.DataFrame]) -> Function:
    """A function of the stage whose rows are changed in the end."""

    def function(records: pl.DataFrame) -> Result:
        right = typed(records)
        assert isinstance(right.frame, pl.DataFrame)
        return Result(change(right.frame), right.merged)

    return function


def date(day: str) -> pl.Expr:
    """A day as a literal."""
    return pl.lit(day).str.to_date()


WRONG: dict[str, tuple[Callable[[pl.DataFrame], pl.DataFrame], str]] = {
    "a row is lost": (
        lambda rows: rows.filter(pl.col("number") != 2),
        "1 of 2 partitions were refused, the others are published. 2025-01-01: "
        "2 rows came in, but 1 are to be published, 0 quarantined and 0 merged: 1 are unaccounted for",
    ),
    "a row is invented": (
        lambda rows: pl.concat([rows, rows.head(1).with_columns(number=pl.lit(500, pl.Int64))]),
        "1 of 2 partitions were refused, the others are published. 2025-01-01: "
        "2 rows came in, but 3 are to be published, 0 quarantined and 0 merged: -1 are unaccounted for",
    ),
    "a row is moved to another day": (
        lambda rows: rows.with_columns(day=pl.when(number=2).then(date("2025-01-02")).otherwise("day")),
        "2 of 2 partitions were refused.* 2 rows came in, but 1 are to be published",
    ),
    "a column is missing": (lambda rows: rows.drop("number"), r"columns: missing \['number'\]"),
    "a row belongs to another partition": (
        lambda rows: rows.with_columns(day=date("2025-01-20")),
        "3 rows belong to partitions that are not being run, such as 2025-01-20",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_function_that_does_not_account_for_every_row(
    counts: House, file: Path, function: dict[str, Function], kind: str
) -> None:
    """Nothing of a day that is affected is published; what was there stays."""
    change, why = WRONG[kind]
    file.write_text(HEADER + lines(1, day="2025-01-01"))
    assert counts.run(), counts.failures()
    objects = counts.objects()
    function["refined"] = wrongly(change)
    file.write_text(HEADER + lines(1, 2, day="2025-01-01") + lines(3, day="2025-01-02"))
    assert not counts.run()
    assert re.search(why, counts.failures())
    assert rows(counts)["2025-01-01"] == [1]
    assert rows(counts).get("2025-01-02") == ([3] if "the others are published" in counts.failures() else None)
    stays = "refined/counts/2025-01-01.parquet"
    assert counts.objects()[stays] == objects[stays]
    function["refined"] = typed
    assert counts.run(), counts.failures()
    assert rows(counts) == {"2025-01-01": [1, 2], "2025-01-02": [3]}


def test_who_is_told_of_a_lost_row_is_not_sent_to_look_at_the_quarantine(
    counts: House, file: Path, function: dict[str, Function]
) -> None:
    """Though another row of the day is in it: the function is at fault, not the source."""
    function["refined"] = wrongly(lambda rows: rows.filter(pl.col("number").ne_missing(2)))
    file.write_text(HEADER + lines(1, 2, -3, day="2025-01-01"))
    assert not counts.run()
    contract = counts.check("refined/counts", "contract", partition="2025-01-01")
    assert {name: contract.metadata[name].value for name in ("rows", "quarantined", "unaccounted")} == {
        "rows": 1,
        "quarantined": 1,
        "unaccounted": 1,
    }
    assert [problem.kind for problem in failed_runs(counts.instance)] == ["the check contract fails"]


def test_a_row_that_a_stage_made_and_that_breaks_its_contract(counts: House, file: Path) -> None:
    """It comes from no record that could be quarantined: left out, it would be lost."""
    file.write_text(HEADER + lines(1, day="2025-01-01"))
    assert counts.run(), counts.failures()
    file.write_text(HEADER + lines(1, 2, day="2025-01-01") + lines(*range(500, 1001), day="2025-01-02"))
    assert not counts.run()
    assert "presentation.sums: the frame as a whole breaks the contract: 1 rows break" in counts.failures()
    assert counts.sql("SELECT day::text, total FROM presentation.sums") == [("2025-01-01", 1)]
    contract = counts.check("presentation/sums", "contract")
    assert not contract.passed
    assert [case.data["value"] for case in contract.metadata["failure_cases"].records] == ["375750"]


def test_a_record_whose_day_has_come_leaves_quarantine(counts: House, file: Path) -> None:
    """The file is the same: it is read again because the calendar goes further."""
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    file.write_text(HEADER + lines(1, day="2025-01-01") + lines(2, day=str(tomorrow)))
    for _ in range(2):
        assert counts.run(), counts.failures()
        assert quarantine(counts) == [("unplaced", "placeable", "day", str(tomorrow), 2)]
    assert counts.made() == {}
    with freeze_time(datetime.now(UTC) + timedelta(days=3)):
        stages._numbered.cache_clear()  # as another day does, which is its key
        assert counts.run(), counts.failures()
        assert rows(counts) == {"2025-01-01": [1], str(tomorrow): [2]}
        assert quarantine(counts) == []
        assert counts.run(), counts.failures()
        assert counts.made() == {}
    stages._numbered.cache_clear()


@pytest.mark.parametrize("counts", ["freeze", "discard"], indirect=True)
def test_a_column_that_is_absent_for_once_is_not_new_when_it_comes_back(counts: House, file: Path) -> None:
    for note in (",a", "", ",b"):
        file.write_text(("day,number,note\n" if note else HEADER) + f"2025-01-01,1{note}\n")
        assert counts.run(), counts.failures()
    assert counts.sql("SELECT note FROM raw.counts") == [("b",)]


def test_records_from_before_a_dataset_had_partitions_are_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would be there twice, in the lake and in the warehouse."""
    monkeypatch.setenv("ETL_WAREHOUSE_URL", "postgresql://127.0.0.1:9/none")
    monkeypatch.setenv("ETL_LAKE_URL", str(tmp_path / "lake"))
    table = Table("raw", "orders", (Column(PARTITION, "text"),), partitioning=Partitioning(PARTITION, "value"))
    frame = pl.DataFrame({PARTITION: ["", ""], SOURCE_SHA256: "", "_run_id": "", "_loaded_at": datetime.now(UTC)})
    for rows, keys in ((2, {WHOLE, "2025-01-01"}), (0, {"2025-01-01"})):
        facts = Facts(WHOLE, rows, "", "", "", "")
        put_partition(lake(), table, frame.head(rows), facts)
        assert _keys(table, {WHOLE: facts, "2025-01-01": facts}) == keys


def test_too_many_records_without_a_partition(counts: House, file: Path) -> None:
    """Such as all of them, when a source changes how it writes its dates: no day may be emptied by that."""
    file.write_text(HEADER + lines(1, 2, 3, day="2025-01-01"))
    assert counts.run(), counts.failures()
    file.write_text(HEADER + lines(1, 2, 3, day="01/01/2025"))
    assert not counts.run()
    assert "3 of 3 records belong to no partition, such as record 1 (placeable: day is 01/01/2025" in counts.failures()
    assert counts.made() == {"landing/counts": 1}
    assert "partitions changed" not in counts.printed
    assert rows(counts) == {"2025-01-01": [1, 2, 3]}
    readable = counts.check("raw/counts", "readable")
    assert not readable.passed
    assert [case.data["record"] for case in readable.metadata["failure_cases"].records] == [1, 2, 3]
    assert not counts.run()  # and it is not forgotten


def test_many_bad_rows_of_small_days_are_told(counts: House, file: Path) -> None:
    """No day has too many of them, all together have."""
    days = [f"2025-01-{n:02}" for n in range(1, 9)]
    file.write_text(HEADER + "".join(lines(1, 2, day=day) for day in days))
    assert counts.run(), counts.failures()
    file.write_text(HEADER + "".join(lines(1, -2, day=day) for day in days))
    assert counts.run(), counts.failures()
    volume = counts.check("refined/counts", "volume")
    assert (volume.passed, volume.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert volume.description == "2025-01-01 to 2025-01-08: 8 of 16 rows are in quarantine"
    assert "look at refined/counts: volume: 2025-01-01 to 2025-01-08: 8 of 16 rows are in quar" in counts.printed


def test_a_stage_that_cannot_know_its_partitions_is_refused_where_it_is_declared(counts: House) -> None:
    dataset = SPECS[dg.AssetKey(["refined", "counts"])].dataset
    with pytest.raises(TypeError, match=r"presentation\.sums is made partition by partition: say in its contract"):
        refined(dataset, Sums)


def test_a_day_with_far_more_rows_than_the_days_before(counts: House, file: Path) -> None:
    """It is published, with a warning."""
    usual = "".join(lines(*range(10 + n % 3), day=f"2025-01-{n:02}") for n in range(1, 21))
    file.write_text(HEADER + usual)
    assert counts.run(), counts.failures()
    assert counts.check("refined/counts", "volume").passed
    file.write_text(HEADER + usual + lines(*range(500), day="2025-01-21"))
    assert counts.run(), counts.failures()
    volume = counts.check("refined/counts", "volume")
    assert not volume.passed
    assert volume.severity is dg.AssetCheckSeverity.WARN
    assert not volume.blocking
    assert [row.data["partition"] for row in volume.metadata["drifted"].records] == ["2025-01-21"]
    assert len(rows(counts)["2025-01-21"]) == 500


def test_columns_of_the_file_come_and_go(counts: House, file: Path) -> None:
    """New ones are kept and reported; a required one that is missing is refused with both lists."""
    file.write_text(HEADER + lines(1, day="2025-01-01") + lines(2, day="2025-01-02"))
    assert counts.run(), counts.failures()
    assert counts.check("raw/counts", "columns").passed

    file.write_text("note,day,_id,number,\nnew,2025-01-01,7,1,\n,2025-01-02,,2,\n")
    assert counts.run(), counts.failures()
    drift = counts.check("raw/counts", "columns")
    assert not drift.passed
    assert drift.severity is dg.AssetCheckSeverity.WARN
    assert drift.description == "note is new; source_id is new; column_5 is new"
    assert counts.made() == {"landing/counts": 1, "raw/counts": 1, "refined/counts": 1}
    new = counts.sql("SELECT note, source_id, number FROM raw.counts ORDER BY number")
    assert new == [("new", "7", "1"), (None, None, "2")]

    file.write_text("day,count\n" + lines(1, 2, day="2025-01-01"))
    assert not counts.run()
    assert "missing: ['number']. It has: ['day', 'count'" in counts.failures()
    assert not counts.check("raw/counts", "readable").passed
    assert rows(counts) == {"2025-01-01": [1], "2025-01-02": [2]}


@pytest.mark.parametrize("counts", ["freeze"], indirect=True)
def test_a_frozen_schema_refuses_new_columns(counts: House, file: Path) -> None:
    file.write_text(HEADER + lines(1, day="2025-01-01"))
    assert counts.run(), counts.failures()
    file.write_text("day,number,note\n2025-01-01,2,new\n")
    assert not counts.run()
    assert "the columns ['note'] are new, but the dataset's schema is frozen" in counts.failures()
    assert rows(counts) == {"2025-01-01": [1]}


@pytest.mark.parametrize("counts", ["discard"], indirect=True)
def test_a_discarding_schema_leaves_new_columns_out(counts: House, file: Path) -> None:
    file.write_text(HEADER + lines(1, day="2025-01-01"))
    assert counts.run(), counts.failures()
    file.write_text("day,number,note\n2025-01-01,2,new\n")
    assert counts.run(), counts.failures()
    assert counts.check("raw/counts", "columns").description == "note is new"
    assert "note" not in counts.frame("raw.counts").columns
    assert rows(counts) == {"2025-01-01": [2]}


def test_a_file_that_could_not_be_read_is_no_measure_for_the_next(counts: House, file: Path) -> None:
    """It is landed as received, being larger; the good one that follows has not shrunk because of that."""
    file.write_text(HEADER + lines(1, day="2025-01-01"))
    assert counts.run(), counts.failures()
    file.write_text("<p>Sorry</p>\n" * 1000)
    assert not counts.run()
    file.write_text(HEADER + lines(2, day="2025-01-01"))
    assert counts.run(), counts.failures()
    assert rows(counts) == {"2025-01-01": [2]}
    file.write_text("day")
    assert not counts.run()
    assert "gave 3 bytes, but the last good file has 24: it shrank by more than 50%" in counts.failures()
    assert rows(counts) == {"2025-01-01": [2]}


def test_a_source_may_go_back_to_a_file_that_was_there_before(counts: House, file: Path) -> None:
    """However much smaller it is."""
    for numbers in ([1], range(100), [1]):
        file.write_text(HEADER + lines(*numbers, day="2025-01-01"))
        assert counts.run(), counts.failures()
        assert rows(counts) == {"2025-01-01": list(numbers)}


def test_partitions_of_other_calendars_are_refused_where_they_are_declared(counts: House) -> None:
    """A month would be made of its first day, and the file's records would belong nowhere; no check would tell."""
    dataset = SPECS[dg.AssetKey(["refined", "counts"])].dataset
    refined_counts = counts.definitions.resolve_assets_def(dg.AssetKey(["refined", "counts"]))
    with pytest.raises(
        TypeError, match=r"presentation.months is partitioned by month, but its input refined/counts by day"
    ):
        presentation(dataset, Months, partitions=monthly("2025-01-01"), counts=refined_counts)
    with pytest.raises(TypeError, match="counts has partitions: say with `partition`"):
        raw(dataset, refined_counts, required=["day"])
    with pytest.raises(TypeError, match="counts has no partitions: do not say with `partition`"):
        raw(replace(dataset, partitions=None), refined_counts, required=["day"], partition=pl.col("day"))


def test_nothing_is_made_from_what_the_lake_has_lost(house: House) -> None:
    """It would be short, and published as a success."""
    house.has_run()
    tables = ("presentation.county_protests_monthly", "presentation.eventdata")
    before = [house.frame(table) for table in tables]
    house.lake.delete("refined/protest_events/2025-02-12.parquet")
    for key, days in ((tables[0], ()), (tables[1], ("2025-02-12", "2025-02-12"))):
        with pytest.raises(LakeError, match=r"1 of its partitions .* gone from the lake.*2025-02-12\.parquet"):
            house.materialize(key.replace(".", "/"), *days)
    assert all(house.frame(table).equals(old) for table, old in zip(tables, before, strict=True))
    assert house.run(), house.failures()
    assert house.made()["refined/protest_events"] == 1
    assert all(house.frame(table).equals(old) for table, old in zip(tables, before, strict=True))


class Dated(Contract, stage="presentation", table="dated", key=["number"], partitioning=Partitioning("day", "day")):
    """Numbers that may have a day."""

    number: pl.Int64 = column("A number")
    day: pl.Date = column("The day", nullable=True)


def test_a_row_that_belongs_to_no_partition_is_not_left_out(counts: House, file: Path) -> None:
    """Made by a stage that has no records to account for, nobody would miss it."""
    file.write_text(HEADER + lines(1, 2, day="2025-01-01"))
    assert counts.run(), counts.failures()
    dataset = SPECS[dg.AssetKey(["refined", "counts"])].dataset
    refined_counts = counts.definitions.resolve_assets_def(dg.AssetKey(["refined", "counts"]))
    module: Any = ModuleType("dated")

    @presentation(dataset, Dated, counts=refined_counts)
    def dated(counts: pl.DataFrame) -> pl.DataFrame:
        return counts.select("number", day=pl.when(pl.col("number") > 1).then("day"))

    module.refined, module.dated = refined_counts, dated
    counts.definitions = definitions([module])
    with pytest.raises(dg.Failure, match="1 rows belong to partitions that are not being run, such as None"):
        counts.materialize("presentation/dated")


def test_another_record_that_cannot_be_parsed_takes_the_place_of_the_last(counts: House, file: Path) -> None:
    """All that is known of it is its text: without it, they would all be the same."""
    for record in ("2025-01-03", "2025-01-04"):
        file.write_text(HEADER + lines(1, 2, day="2025-01-01") + record + "\n")
        assert counts.run(), counts.failures()
        assert counts.sql("SELECT _unparsed FROM raw.counts WHERE _unparsed IS NOT NULL") == [(record,)]


def test_the_bound_is_of_all_records_of_a_day(counts: House, file: Path) -> None:
    """Three of twelve are no more than a quarter; of the nine that are good they would be."""
    file.write_text(HEADER + lines(*range(9), -1, -2, -3, day="2025-01-01"))
    assert counts.run(), counts.failures()
    assert len(quarantine(counts)) == 3
