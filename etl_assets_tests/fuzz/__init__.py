"""`./dev fuzz`: whatever a source sends is published within the contract, kept out with a reason, or refused.

`mutations` says how an answer is spoilt, `subjects` which answers of which sources, `campaign` what may come of it.
"""
