import time
def test_all(house):
    for ds in [("gho",),("poverty_national",),("poverty_small_area",),("treasury_title_xii",),("county_profile",)]:
        house.datasets=ds
        t=time.time(); ok=house.run(); print(ds, ok, time.time()-t, house.failures()); print(house.printed)
        t=time.time(); ok=house.run(); print("again", ok, time.time()-t, house.made())
