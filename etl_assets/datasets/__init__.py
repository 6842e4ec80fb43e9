"""One file per dataset: its contract and its four stages, read top to bottom in the order the data flows.

A dataset with too many tables for one file has several that begin with its name (`totesys…`), or a file for a table
(`state_advances_monthly`). Modules here are found automatically; what two datasets share belongs in `stages`, `quality`
or `sources`.
"""
