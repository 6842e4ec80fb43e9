"""One file per dataset: its contract and its four stages, read top to bottom in the order the data flows.

Modules here are found automatically; what two datasets share belongs in `stages`, `quality` or `sources`.
"""
