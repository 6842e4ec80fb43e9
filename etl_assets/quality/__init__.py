"""Whether data is right: contracts, the audit of a frame against its contract, quarantine, and drift.

Code here judges frames and writes nothing; `storage` decides where rows go, `stages` when they are judged.
"""
