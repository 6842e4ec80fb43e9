"""The APIs as routes of the source server: each answers from recordings as the real one does live."""

from etl_assets.local.apis.gho import census, gho, retail, treasury

__all__ = ["census", "gho", "retail", "treasury"]
