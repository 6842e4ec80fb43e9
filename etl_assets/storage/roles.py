"""Who may do what in the warehouse: four roles that nobody logs in as, and what each is given.

    etl_owner       owns the schemas; nothing runs as it
    etl_writer      what the pipeline runs as: makes, fills and changes the project's tables, and nothing else
    etl_reader      reads `refined` and `presentation`: for whoever serves readers
    etl_inspector   reads everything, the raw records, the quarantine and the bookkeeping too: what `./dev sql` runs as

`GRANT etl_reader TO somebody` gives one of them to a login. The roles are made if the role of ETL_WAREHOUSE_URL may
make roles (the embedded default's may); otherwise that role works as itself, and `what_to_run` says how to get them.
"""

from __future__ import annotations

import contextlib
from typing import LiteralString

import psycopg
from psycopg import sql

OWNER, WRITER, READER, INSPECTOR = "etl_owner", "etl_writer", "etl_reader", "etl_inspector"
#: Schemas by who reads them.
READ_BY = {READER: ("refined", "presentation"), INSPECTOR: ("raw", "refined", "presentation", "quarantine", "etl")}
SCHEMAS = READ_BY[INSPECTOR]


def act_as(connection: psycopg.Connection, role: str) -> bool:
    """Act as a role until the transaction ends; False, and no change, if that is forbidden or it has no rights here."""
    # One statement, since every connection pays for it.
    taken = connection.execute(
        "SELECT set_config('role', rolname, true) FROM pg_roles r WHERE rolname = %s AND pg_has_role(oid, %s)"
        " AND EXISTS (SELECT FROM pg_namespace n WHERE nspname = 'refined'"
        " AND has_schema_privilege(r.oid, n.oid, 'USAGE'))",
        (role, _right(connection)),
    )
    return taken.fetchone() is not None


def prepare(connection: psycopg.Connection) -> None:
    """Make the roles if this connection's role may, and give them the schemas, with our tables in them.

    The schemas have to exist. Does nothing if it was done before, or is not allowed.
    """
    if is_done(connection):
        return
    # If any of it is not allowed, all of it is undone: the login then works as itself.
    with contextlib.suppress(psycopg.errors.InsufficientPrivilege), connection.transaction():
        if _make_roles(connection):
            _hand_over(connection)


def _hand_over(connection: psycopg.Connection) -> None:
    """Give the schemas to the owner, our tables in them to the writer, and readers what they may read.

    A database that others use too may have such schemas already: what others have in them stays theirs.
    """
    # The owner of a schema needs the right to make schemas.
    _run(connection, "GRANT CREATE ON DATABASE {} TO {}", sql.Identifier(connection.info.dbname), sql.Identifier(OWNER))
    for schema in SCHEMAS:
        name = sql.Identifier(schema)
        _run(connection, "GRANT USAGE, CREATE ON SCHEMA {} TO {}", name, sql.Identifier(WRITER))
        tables = [sql.Identifier(schema, table) for table in _own_tables(connection, schema)]
        for table in tables:
            _run(connection, "ALTER TABLE {} OWNER TO {}", table, sql.Identifier(WRITER))
        for role, schemas in READ_BY.items():
            if schema in schemas:
                reader = sql.Identifier(role)
                _run(connection, "GRANT USAGE ON SCHEMA {} TO {}", name, reader)
                for table in tables:
                    _run(connection, "GRANT SELECT ON TABLE {} TO {}", table, reader)
                # Tables that the writer makes from now on.
                to_come = "ALTER DEFAULT PRIVILEGES FOR ROLE {} IN SCHEMA {} GRANT SELECT ON TABLES TO {}"
                _run(connection, to_come, sql.Identifier(WRITER), name, reader)
        _run(connection, "ALTER SCHEMA {} OWNER TO {}", name, sql.Identifier(OWNER))


def _own_tables(connection: psycopg.Connection, schema: str) -> list[str]:
    """Our tables in a schema: made by this login, or on record as published, by whichever login; in `etl`, all."""
    is_recorded = connection.execute("SELECT to_regclass('etl.publications') IS NOT NULL").fetchone() == (True,)
    recorded = connection.execute("SELECT DISTINCT asset FROM etl.publications").fetchall() if is_recorded else []
    return [
        name
        for (name,) in connection.execute(
            "SELECT relname FROM pg_class JOIN pg_roles r ON r.oid = relowner"
            " WHERE relnamespace = to_regnamespace(%(schema)s) AND relkind = 'r'"
            " AND (rolname = current_user OR %(schema)s = 'etl' OR %(schema)s || '.' || relname = ANY(%(recorded)s))",
            {"schema": schema, "recorded": [asset for (asset,) in recorded]},
        )
    ]


def what_to_run(connection: psycopg.Connection) -> str | None:
    """What an administrator has to run for the pipeline to run as the writer; None if it already does."""
    login = sql.Identifier(connection.info.user).as_string(connection)
    made = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'etl\\_%'")}
    if lacking := [role for role in (OWNER, WRITER, READER, INSPECTOR) if role not in made]:
        return " ".join(f"CREATE ROLE {role};" for role in lacking) + f" GRANT {OWNER}, {WRITER} TO {login};"
    if not _is_member(connection, WRITER):
        return f"GRANT {WRITER} TO {login};"
    return None if is_done(connection) else f"GRANT {OWNER} TO {login}; then ./dev run once more"


def is_done(connection: psycopg.Connection) -> bool:
    """Whether the schemas are there and belong to the owner."""
    found = connection.execute(
        "SELECT count(*) FROM pg_namespace n JOIN pg_roles r ON r.oid = nspowner"
        " WHERE nspname = ANY(%s) AND rolname = %s",
        (list(SCHEMAS), OWNER),
    ).fetchone()
    return found is not None and found[0] == len(SCHEMAS)


def _make_roles(connection: psycopg.Connection) -> bool:
    """Make missing roles; return whether all are there and this connection's role may act as owner and writer."""
    row = connection.execute(
        "SELECT rolsuper, rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user"
    ).fetchone()
    is_super, may_make = row or (False, False)
    for role in (OWNER, WRITER, READER, INSPECTOR):
        if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone():
            continue
        if not may_make:
            return False
        try:
            with connection.transaction():
                _run(connection, "CREATE ROLE {} NOLOGIN", sql.Identifier(role))
                if not is_super:
                    _run(connection, "GRANT {} TO CURRENT_USER", sql.Identifier(role))
        except (psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
            pass  # roles belong to the whole server: a run on another database was faster
    return is_super or (_is_member(connection, OWNER) and _is_member(connection, WRITER))


def _right(connection: psycopg.Connection) -> str:
    """The right to act as a role: since PostgreSQL 16, a member of the role need not have it."""
    return "SET" if connection.info.server_version >= 16_00_00 else "MEMBER"


def _is_member(connection: psycopg.Connection, role: str) -> bool:
    query = "SELECT pg_has_role(oid, %s) FROM pg_roles WHERE rolname = %s"
    found = connection.execute(query, (_right(connection), role)).fetchone()
    return bool(found and found[0])


def _run(connection: psycopg.Connection, statement: LiteralString, *names: sql.Identifier) -> None:
    connection.execute(sql.SQL(statement).format(*names))
