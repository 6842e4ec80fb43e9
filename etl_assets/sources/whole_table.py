"""Tables of a PostgreSQL database, each extracted as a whole: for tables in which nothing says what has changed."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
from psycopg import sql

from etl_assets.sources import Fetched, Validators, Workspace
from etl_assets.sources.postgres import address, begin_snapshot, connected


@dataclass(frozen=True)
class WholeTable:
    """A table of the database that ETL_<DATABASE>_URL names, as CSV in the order of its `key`.

    Its version is a digest of its columns and all of its rows, computed by the database: no change goes unseen, and no
    row is transferred if there was none. That reads the whole table, so it is for small ones.
    """

    database: str
    table: str
    key: str

    suffix = ".csv"

    def probe(self, known: Validators | None) -> str | None:
        """The number of rows and the digest; None if they are the known ones."""
        with connected(self.database) as connection:
            version = self._version(connection)
        return None if known and known.etag == version else version

    def fetch(self, work: Workspace, known: Validators | None) -> Fetched | None:
        """The table as of one moment; None if it is the known version."""
        with connected(self.database) as connection:
            begin_snapshot(connection)
            version = self._version(connection)
            if known and known.etag == version:
                return None
            path = work.folder / f"{self.table}{self.suffix}"
            copy = sql.SQL("COPY (SELECT * FROM {} ORDER BY {}) TO STDOUT (FORMAT csv, HEADER)")
            names = sql.Identifier(self.table), sql.Identifier(self.key)
            with path.open("wb") as sink, connection.cursor().copy(copy.format(*names)) as rows:
                for block in rows:
                    sink.write(block)
            url = f"{address(connection)}/{self.table}"
        return Fetched(path, url, Validators(etag=version))

    def _version(self, connection: psycopg.Connection) -> str:
        digest = (
            "SELECT count(*) || ' ' || coalesce(sum(hashtextextended(t::text, 0)), 0) || ' ' ||"
            " (SELECT hashtextextended(string_agg(attname, ' ' ORDER BY attnum), 0) FROM pg_attribute"
            " WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped) FROM {} t"
        )
        name = sql.Identifier(self.table)
        found = connection.execute(sql.SQL(digest).format(name), (name.as_string(connection),)).fetchone()
        assert found is not None
        return str(found[0])
