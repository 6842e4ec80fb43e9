"""What publishing a partition anew changes for its readers."""

from __future__ import annotations

import polars as pl

from etl_assets.storage.changes import Changes, compare, differences
from etl_assets_tests.house import House


def test_compare_by_key() -> None:
    before = pl.DataFrame(
        {"id": [1, 2, 3], "size": [1.0, None, 3.0], "name": ["a", "b", "c"], "tags": [["x"], [], None]}
    )
    after = pl.DataFrame({"id": [2, 3, 4], "size": [2.0, 3.5, 9.0], "name": ["b", "c", "d"], "tags": [[], ["y"], []]})
    assert compare(before, after, ["id"]) == Changes(1, 1, 2, {"size": 2, "tags": 1}, {"size": 0.5})


def test_lists_are_told_apart_by_their_items() -> None:
    lists = [(["a", None], ["a"]), (["a; b"], ["a", "b"]), (None, []), (["a"], ["a"])]
    before, after = (pl.DataFrame({"id": range(4), "tags": [pair[n] for pair in lists]}) for n in (0, 1))
    assert compare(before, after, ["id"]).changed == 3
    found = differences(before, after, ["id"])
    assert found.select("before", "after").rows() == [
        ('["a",null]', '["a"]'),
        ('["a; b"]', '["a","b"]'),
        (None, "[]"),
    ]


def test_equal_versions_have_no_changes() -> None:
    frame = pl.DataFrame({"id": [1], "size": [None]}, schema={"id": pl.Int64, "size": pl.Float64})
    assert compare(frame, frame, ["id"]) == Changes(0, 0, 0)


def test_a_column_that_is_new_is_no_change() -> None:
    before, after = pl.DataFrame({"id": [1]}), pl.DataFrame({"id": [1], "new": ["x"]})
    assert compare(before, after, ["id"]) == Changes(0, 0, 0)


def test_values_that_lie_further_apart_than_any_number() -> None:
    """Infinity is none that JSON, in which it is written down, can hold."""
    changes = compare(pl.DataFrame({"k": [1], "v": [-1e308]}), pl.DataFrame({"k": [1], "v": [1e308]}), ["k"])
    assert (changes.columns, changes.largest) == ({"v": 1}, {})


def test_a_corrected_publication_is_reported(house: House) -> None:
    """The sample's second publication restates the size of one event of 2025-02-19, moves another and adds a source."""
    house.has_run()
    assert house.value("SELECT count(*) FROM etl.changes") == 0
    house.publish("2025-04-04")
    assert house.run(), house.failures()
    day = (
        "SELECT rows_added, rows_gone, rows_changed, values_changed FROM etl.changes"
        " WHERE asset = %s AND partition = %s"
    )
    ((added, gone, changed, values),) = house.sql(day, "refined.protest_events", "2025-02-19")
    assert (added, gone, changed) == (0, 0, 3)
    assert values["size_mean"] == 1
    assert values["source_count"] == 1
    ((added, gone, changed, _),) = house.sql(day, "refined.protest_events", "2025-02-10")
    assert (added, changed) == (0, 0)
    assert gone > 0
