"""Tests: what each part guarantees, on real parts."""

import gc

# What is imported comes to stay: to look through it again and again takes a sixth of the time that loading takes.
gc.set_threshold(100_000)
