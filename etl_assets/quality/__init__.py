"""Whether data is right: contracts, how values are read and corrected by rules, the audit, quarantine, and drift.

Code here reads and judges frames and writes nothing; `storage` decides where rows go, `stages` when they are judged.
"""
