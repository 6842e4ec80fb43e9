"""`./dev chaos`: what is killed at any moment loses nothing, doubles nothing, and shows nobody half a partition.

`victim` is the run that dies, `world` what it works on and who looks on meanwhile, `campaign` the moments of a test.
"""
