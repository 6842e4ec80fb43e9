"""`./dev bench`: every benchmark runs at its smallest sizes and finds its ratios. How fast things are is not asked."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHMARKS, parse
from benchmarks.measure import Ratio, Report, Run

ROOT = Path(__file__).parents[1]
RATIOS = {
    "load": [
        "speed of Warehouse (./dev run) as a share of server-side COPY",
        "speed of copy_table alone as a share of server-side COPY",
        "speed of ADBC as a share of server-side COPY",
        "speed of geopandas.to_postgis as a share of server-side COPY",
    ],
    "pipeline": [
        "the project is so many times faster, 1,000 rows",
        "peak memory over the script's, 1,000 rows",
    ],
    "oltp": [
        *(
            f"{ratio}, 1,000 rows"
            for ratio in (
                "rows landed a second",
                "landing over COPY to a file",
                "rows read of the source for 1,000 changed of the newest",
                "1,000 changed of the newest over all stages",
                "rows read of the source for 1,000 changed of anywhere",
                "1,000 changed of anywhere over all stages",
                "read_sql + to_sql over all stages",
            )
        ),
        "peak memory of 1,000 rows over that of 1,000 rows",
    ],
    "replace-day": ["cost at 100,000 rows over the cost at 10,000 rows"],
    "extract": [
        f"the project is so many times faster than {peer}, {place}"
        for place in ("near", "far")
        for peer in ("requests loop", "dlt")
    ],
    "operate": [
        "a run of one asset over Dagster's floor",
        "a backfill in batches is so many times faster than a run a day",
        "automation tick per asset over Dagster's floor",
        "event log growth over Dagster's floor",
    ],
    "correction": ["cost of the corrected publication over the cost of the full load"],
}


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What `./dev bench` runs."""
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ, text=True, capture_output=True, check=False)


@pytest.mark.long
def test_benchmarks_print_and_write_their_ratios(tmp_path: Path) -> None:
    if importlib.util.find_spec("geoalchemy2") is None:
        pytest.skip("geopandas.to_postgis, a peer, needs geoalchemy2")
    done = bench("--quick", "--rounds", "1", "--json", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stderr
    reports = json.loads((tmp_path / "found.json").read_text())["benchmarks"]
    assert reports.keys() == BENCHMARKS.keys() == RATIOS.keys()
    for name, found in reports.items():
        assert [ratio for ratio in found["ratios"] if "ogr2ogr" not in ratio] == RATIOS[name]
        assert all(ratio["value"] > 0 for ratio in found["ratios"].values())
        assert all(len(case["runs"]) > 0 for case in found["cases"].values())
        for case in found["cases"]:
            assert case in done.stdout


def test_an_extract_of_any_size_is_measured_in_whole_pages(tmp_path: Path) -> None:
    done = bench("extract", "--rows", "1500", "--rounds", "1", "--quick", "--json", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())["benchmarks"]["extract"]
    assert found["title"] == "2,000 rows in 2 pages of a paged API"


def test_a_median_is_of_all_runs_and_a_ratio_knows_what_is_wanted() -> None:
    report = Report("x", "X", runs={"a": [Run(3.0), Run(1.0), Run(2.0)], "b": [Run(4.0, 7.0)]})
    report.ratios = [Ratio("b over a", report.seconds("b") / report.seconds("a"), at_most=1.5), Ratio("c", 1.0)]
    found = report.as_json()
    assert found["cases"]["a"]["seconds"] == 2.0
    assert found["cases"]["a"]["runs"] == [3.0, 1.0, 2.0]
    assert found["cases"]["b"]["megabytes"] == 7.0
    assert found["ratios"] == {
        "b over a": {"value": 2.0, "wanted": "at most 1.5", "met": False},
        "c": {"value": 1.0, "wanted": None, "met": None},
    }


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["lode"], "no benchmark is called lode; there are load, pipeline, replace-day, oltp"),
        (["--rows", "10"], "--rows needs the NAME of the one benchmark that it is for"),
        (["load", "--rows", "0"], "must be at least 1"),
        (["load", "--rows", "10", "20"], "load takes 1 number"),
        (["replace-day", "--rows", "10", "100"], "replace-day needs at least 20 --rows"),
        (["replace-day", "--rows", "100", "100"], "--rows must be different sizes, the smallest first"),
    ],
)
def test_a_wrong_command_line_says_why(arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(arguments)
    assert why in capsys.readouterr().err
