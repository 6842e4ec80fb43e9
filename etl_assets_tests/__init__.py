"""Tests: what each part guarantees, on real parts."""
