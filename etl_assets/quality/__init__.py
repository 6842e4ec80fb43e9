"""Whether data is right: contracts, the audit of a frame against its contract, quarantine, and drift.

What belongs here judges frames and writes nothing; where rows go is `storage`'s business, when they are judged is
`stages`'.
"""
