"""One file per dataset: its contract and its four stages, read top to bottom in the order the data flows.

A module here is found by itself; what two datasets share belongs in `stages`, `quality` or `sources`.
"""
