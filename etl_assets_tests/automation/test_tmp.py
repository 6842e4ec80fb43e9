import dagster as dg

from etl_assets.definitions import defs
from etl_assets_tests.house import House


def tick(house, cursor=None):
    r = dg.evaluate_automation_conditions(defs, house.instance, cursor=cursor)
    got = {}
    for res in r.results:
        ks = r.get_requested_partitions(res.key)
        if ks:
            got["/".join(res.key.path)] = set(ks)
    return got, r.cursor


def test_x(house: House):
    cur = None
    for k in ("landing/protest_events", "landing/us_counties", "landing/eventdata_baseline"):
        house.materialize(k)
    for i in range(8):
        got, cur = tick(house, cur)
        print(i, {k: (len(v), sorted(map(str, v))[:2]) for k, v in got.items()})
        for k, v in got.items():
            if v == {None}:
                house.materialize(k)
            else:
                for p in sorted(v):
                    house.materialize(k, p)
