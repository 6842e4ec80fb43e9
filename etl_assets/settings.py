"""Every setting of the project, typed, in one place.

A setting is read from the environment (`ETL_…`), else from a `.env` file in the working directory, else from what
the embedded default wrote when it was started (`local.json` in `ETL_HOME`), else it has the default given here.
Nothing else in the project reads the environment, except for the shared variables of other software: AWS tools
(`AWS_…`), Dagster itself, PostgreSQL (`PG…`) and the desktop (`XDG_CACHE_HOME`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import unquote, urlsplit

import psycopg
from dotenv import dotenv_values
from psycopg.conninfo import conninfo_to_dict
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    JsonConfigSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

#: Shorter secrets are not masked: they occur in any text.
_SHORTEST_SECRET = 4
PROJECT = Path(__file__).resolve().parent.parent


def home() -> Path:
    """Where the embedded default keeps its state: `ETL_HOME`, or `.etl` beside the project."""
    return Path(os.environ.get("ETL_HOME") or PROJECT / ".etl").expanduser().resolve()


def dagster_home() -> Path:
    """Dagster's own folder: `DAGSTER_HOME`, or one in ETL_HOME."""
    return Path(os.environ.get("DAGSTER_HOME") or home() / "dagster")


def _lake_url() -> str:
    return (home() / "lake").as_uri()


def _addresses() -> dict[str, str]:
    """Every `ETL_<SOURCE>_URL`, by source: a dataset brings its source's address and needs no field here.

    URLs that are settings of their own are left out.
    """
    given = {**dotenv_values(".env"), **{key: value for key, value in os.environ.items() if value}}
    found = {}
    for key, value in given.items():
        name = key.removeprefix("ETL_").lower()
        if value and key.startswith("ETL_") and key.endswith("_URL") and name not in Settings.model_fields:
            found[name.removesuffix("_url")] = value
    return found


def database_parts(address: str) -> Mapping[str, Any] | None:
    """The parts of a PostgreSQL address or DSN; None if it is neither.

    Also None if special characters are not percent-encoded: part of the password would be taken for another part.
    """
    try:
        parts = conninfo_to_dict(address)
    except psycopg.ProgrammingError:
        return None
    is_port = str(parts.get("port") or 5432).replace(",", "").isdecimal()
    return parts if parts and is_port and "@" not in str(parts.get("host")) else None


def connect_timeout(address: str) -> Any:
    """How many seconds to wait for a connection to a database: what its address says, else ten."""
    return (database_parts(address) or {}).get("connect_timeout", 10)


def _passwords(address: str) -> set[str]:
    """The passwords in an address of any kind."""
    found = {(database_parts(address) or {}).get("password")}
    with suppress(ValueError):
        found.add(urlsplit(address).password)
    return {str(password) for password in found if password}


class NotConfiguredError(RuntimeError):
    """A setting that is needed has no value, or one that is not accepted; the message names the variable."""


class Settings(BaseSettings):
    """The project's settings; each field is the variable `ETL_<FIELD>`."""

    model_config = SettingsConfigDict(
        env_prefix="ETL_", env_file=".env", extra="ignore", env_ignore_empty=True, frozen=True
    )

    reads_embedded: ClassVar[bool] = True

    lake_url: str = Field(
        default_factory=_lake_url,
        description="The Parquet lake: a folder, file:///folder or s3://bucket/prefix",
    )
    warehouse_url: SecretStr | None = Field(
        default=None, description="The PostGIS warehouse: postgresql://user:password@host:port/database"
    )
    dagster_storage_url: SecretStr | None = Field(
        default=None, description="PostgreSQL for Dagster's own storage; without it, SQLite in DAGSTER_HOME"
    )
    dagster_ui_url: str = Field(default="http://127.0.0.1:3000", description="Where people open the UI")

    sources: Literal["local", "live"] = Field(
        default="local", description="`local` replays recordings, `live` asks the publishers"
    )
    local_sources_url: str | None = Field(
        default=None, description="The local source server; written by the embedded default when it starts"
    )
    local_versions: dict[str, str] = Field(
        default_factory=dict, description="Which recordings of each API that server shows; written with its address"
    )
    sample_data: Path | None = Field(
        default=None,
        description="A folder of recordings for the local source server; default: the project's sample",
    )
    sample_as_of: str | None = Field(
        default=None, description="The local sources show their newest publication up to this date"
    )

    addresses: dict[str, str] = Field(
        default_factory=_addresses,
        repr=False,  # an address may hold a password
        description="Other addresses of sources: ETL_<SOURCE>_URL, such as ETL_PROTEST_EVENTS_URL",
    )
    totesys_url: SecretStr | None = Field(
        default=None, description="The ToteSys database; the embedded default has one of its own"
    )
    retail_url: SecretStr | None = Field(
        default=None, description="The retail company's database; the embedded default has one of its own"
    )
    census_key: SecretStr | None = Field(
        default=None, description="Key of the US Census API, free at https://api.census.gov/data/key_signup.html"
    )
    retail_token: SecretStr | None = Field(default=None, description="Bearer token of the retail company's API")
    retail_sales_folder: str | None = Field(
        default=None,
        description="Where the retail company drops its sales files: a folder, file:///folder or s3://bucket/prefix",
    )
    eventdata_baseline: str | None = Field(
        default=None,
        description="GeoJSON or CSV with the former rows of presentation.eventdata; `none` takes them out again",
    )

    log_format: Literal["text", "json"] = Field(
        default="text", description="Logs on the terminal: lines for people, or one JSON object per line"
    )
    alert_webhook_url: SecretStr | None = Field(
        default=None, description="Alerts to a webhook that takes Slack's JSON; the address is a secret"
    )
    alert_smtp_url: SecretStr | None = Field(
        default=None, description="Alerts by e-mail through smtp://user:password@host:port (or smtps://)"
    )
    alert_email_to: str | None = Field(default=None, description="Recipients of the alert e-mails, separated by commas")
    alert_email_from: str = Field(default="etl-assets@localhost", description="Sender of the alert e-mails")
    alert_sns_topic: str | None = Field(default=None, description="Alerts to a topic of AWS SNS, by its ARN")

    # At least eight days: alerts look back seven, and must still find there what they are about.
    keep_logs_days: int = Field(default=90, ge=8, description="Days for which messages and output of steps are kept")
    keep_landed_days: int = Field(
        default=365, ge=8, description="Days for which a landed file is kept after another one took its place"
    )

    http_timeout: float = Field(default=60.0, gt=0, description="Seconds without a byte until a request fails")
    http_attempts: int = Field(default=4, ge=1, description="Attempts at a source whose error may be temporary")
    http_retry_wait: float = Field(
        default=1.0, ge=0, description="Seconds before the second attempt; doubled for each further one"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put what the embedded default wrote below the environment and `.env`."""
        chosen = (init_settings, env_settings, dotenv_settings)
        if not cls.reads_embedded:
            return chosen
        return (*chosen, JsonConfigSettingsSource(settings_cls, json_file=home() / "local.json"))

    @field_validator("lake_url", "retail_sales_folder")
    @classmethod
    def _holds_no_secret(cls, url: str | None) -> str | None:
        """Refuse credentials in the URL: it is shown unmasked, and obstore takes no credentials from it."""
        if url and "@" in urlsplit(url).netloc:
            raise ValueError("no user and password here; set them as for AWS tools (AWS_ACCESS_KEY_ID …)")
        return url

    @field_validator("dagster_storage_url")
    @classmethod
    def _is_an_address(cls, url: SecretStr | None) -> SecretStr | None:
        """Refuse what is not an address: the driver's error about it would contain part of the password."""
        given = url.get_secret_value() if url else None
        if given is not None and not ("://" in given and database_parts(given)):
            raise ValueError(
                "not a PostgreSQL address (postgresql://user:password@host:port/database, with characters such as "
                "@, / and % in user or password percent-encoded)"
            )
        return url

    def secrets(self) -> set[str]:
        """Every value that nobody may see: the secret settings, and the passwords in addresses."""
        found = {value.get_secret_value() for _, value in self if isinstance(value, SecretStr)}
        given = [*found, *self.addresses.values()]
        found |= {password for address in given for password in _passwords(address)}
        found |= {unquote(password) for password in found}
        return {secret for secret in found if len(secret) >= _SHORTEST_SECRET}

    def database_url(self, database: str) -> str:
        """The address, with its password, of the warehouse or of a source; raises NotConfiguredError without one."""
        found: SecretStr | str | None = getattr(self, f"{database}_url", None) or self.addresses.get(database)
        if found is None:
            raise NotConfiguredError(
                f"The database {database} is not configured: ETL_{database.upper()}_URL is not set and the embedded "
                f"default is not running. Start it with `./dev up`, or set ETL_{database.upper()}_URL="
                "postgresql://user:password@host:port/database."
            )
        return found.get_secret_value() if isinstance(found, SecretStr) else found

    def source_url(self, source: str, *, local: str, live: str | None) -> str:
        """The address of a source: `ETL_<SOURCE>_URL` if set, else the local server's path or the publisher's.

        Raises NotConfiguredError where there is none, as with a source that has no public address (`live` is None).
        """
        if source in self.addresses:
            return self.addresses[source]
        if self.sources == "live":
            if live is None:
                raise NotConfiguredError(
                    f"{source} has no public address: set ETL_{source.upper()}_URL to the one that you use."
                )
            return live
        if self.local_sources_url is None:
            raise NotConfiguredError(
                "The sources cannot be asked: the local source server is not running. "
                "Start it with `./dev up`, or set ETL_SOURCES=live to ask the publishers."
            )
        return f"{self.local_sources_url.rstrip('/')}/{local}"

    def local_version(self, source: str) -> str:
        """Which recordings of an API the local server shows; empty if another server is asked."""
        is_asked = self.sources == "local" and source not in self.addresses
        return self.local_versions.get(source, "") if is_asked else ""


def settings() -> Settings:
    """The settings as they are now: read again whenever the environment or one of their files has changed."""
    given = tuple(item for item in os.environ.items() if item[0].upper().startswith("ETL_"))
    return _settings(given, _version(Path.cwd() / ".env"), _version(home() / "local.json"))


@lru_cache(maxsize=8)
def _settings(*_seen: object) -> Settings:
    return _made(Settings)  # takes milliseconds, and a run asks for the settings hundreds of times


def _made(kind: type[Settings]) -> Settings:
    try:
        return kind()
    except ValidationError as error:
        wrong = (f"ETL_{found['loc'][0]}".upper() + f": {found['msg']}" for found in error.errors(include_input=False))
        raise NotConfiguredError("; ".join(wrong)) from None  # the error quotes the values, which may be secret


def _version(file: Path) -> tuple[object, ...]:
    """A value that is different for every file, and after every write to it."""
    try:
        found = file.stat()
    except OSError:
        return (file,)
    return (file, found.st_ino, found.st_mtime_ns, found.st_size)


class _ExplicitSettings(Settings):
    """The settings, ignoring what the embedded default wrote."""

    reads_embedded: ClassVar[bool] = False


def explicit_settings() -> Settings:
    """The settings that somebody has chosen: the embedded default has to provide what is missing here."""
    return _made(_ExplicitSettings)
