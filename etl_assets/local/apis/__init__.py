"""The APIs as routes of the source server: each answers from recordings as the real one does live.

Here: a module per API, with its queries, paging, envelopes and refusals; what several do alike is in querying.py.
Not here: HTTP (source_server.py); which recordings there are to answer from (recordings.py).
"""

from etl_assets.local.apis.census import census
from etl_assets.local.apis.gho import gho
from etl_assets.local.apis.retail import retail
from etl_assets.local.apis.treasury import treasury

__all__ = ["census", "gho", "retail", "treasury"]
