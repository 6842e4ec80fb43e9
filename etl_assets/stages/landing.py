"""The landing stage: the bytes exactly as received, or none at all."""

import email.utils
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg

from etl_assets.quality.audit import table as ui_table
from etl_assets.settings import NotConfiguredError
from etl_assets.sources import Fetched, Source, SourceError, SourceRefusedError, Validators, Workspace
from etl_assets.stages.dataset import SPECS, Dataset, Spec, remember
from etl_assets.storage.configured import landing_store
from etl_assets.storage.landing import Landing, Manifest, sha256
from etl_assets.storage.scratch import scratch_folder

#: Tag of runs that land the source's file whole, whatever the source says of its version.
ANEW = "etl/anew"


def landing(
    dataset: Dataset, source: Source, *, table: str | None = None, metadata: Mapping[str, Any] | None = None
) -> dg.AssetsDefinition:
    """The asset `landing/<table>`: asks the source, and lands its file if it is another than the last one.

    The step fails, and the last good file stays, if the source cannot be reached, answers with something else than
    data, or with much less than before (`Dataset.max_shrink`). `metadata` is shown with the asset.
    """
    name = table or dataset.name
    spec = remember(Spec(dg.AssetKey(["landing", name]), dataset, None, source))

    @dg.asset(
        key=spec.key,
        group_name=dataset.name,
        description=f"{dataset.title}: the source's file exactly as received.",
        metadata={**dataset.metadata(), **(metadata or {})},
        owners=[dataset.owner],
        kinds={"file"},
        io_manager_key="landing_io",
        pool=f"source_{dataset.name}",
        freshness_policy=dg.FreshnessPolicy.time_window(dataset.stale_after) if dataset.stale_after else None,
    )
    def land(context: dg.AssetExecutionContext) -> Iterator[dg.Output[object]]:
        store = landing_store(name)
        known = store.current()
        try:
            with scratch_folder("fetch") as folder:
                asks = known is not None and context.run.tags.get(ANEW) != "true"
                validators = Validators(known.etag, known.last_modified) if known and asks else None
                files = store.files(known) if known is None or known.batch else {}
                work = Workspace(
                    folder,
                    store.pages(),
                    lambda: _opened(store, known),
                    sorted({batch for found in files.values() for batch in found}),
                    known.state if known and asks else {},
                    lambda name: _members(store, files.get(name, {}), name),
                )
                fetched = source.fetch(work, validators)
                manifest = known if fetched is None else _manifest(dataset, source, fetched, context.run.run_id)
                assert manifest is not None
                if fetched and fetched.batch:
                    yield _batch(store, files, manifest, fetched, known)
                    return
                good = known and _last_read(context, spec, store, known)
                if good and fetched and manifest.size < good.size * (1 - dataset.max_shrink):
                    raise SourceRefusedError(
                        f"{manifest.url} gave {manifest.size:,} bytes, the last good one has {good.size:,}: it shrank "
                        f"by more than {dataset.max_shrink:.0%}. If that is right, raise max_shrink of the dataset "
                        f"{dataset.name} for one run; the last good file stays."
                    )
                same = known is not None and manifest.sha256 == known.sha256
                yield dg.Output(
                    (manifest, None if fetched is None else fetched.path),
                    data_version=dg.DataVersion(manifest.sha256),
                    metadata={
                        "new": not same,
                        "sha256": manifest.sha256,
                        "version": manifest.etag or manifest.last_modified,
                        "bytes": manifest.size,
                        "url": manifest.url,
                        "fetched_at": manifest.fetched_at,
                        "published_at": manifest.published_at,
                        "lake": dg.MetadataValue.path(store.address(manifest)),
                        "headers": manifest.headers,
                    },
                )
        except (SourceError, NotConfiguredError) as error:
            raise dg.Failure(f"{dataset.name}: {error}", allow_retries=False) from error

    return land


@contextmanager
def _opened(store: Landing, known: Manifest | None) -> Iterator[Path | None]:
    if known is None:
        yield None
    else:
        with store.open(known) as path:
            yield path


def _members(store: Landing, batches: Mapping[str, str], name: str) -> Iterator[Path]:
    """The landed files of one of a source's tables, oldest batch first."""
    for batch, digest in sorted(batches.items()):
        with store.open_member(batch, name, digest) as path:
            yield path


def _batch(
    store: Landing,
    files: dict[str, dict[str, str]],
    manifest: Manifest,
    fetched: Fetched,
    known: Manifest | None,
) -> dg.Output[object]:
    """What lands a batch: its files beside those of the batches before."""
    assert manifest.batch
    own = sorted(fetched.path.glob("*.parquet"))
    for path in own:
        files.setdefault(path.stem, {})[manifest.batch] = sha256(path)
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    manifest = replace(manifest, sha256=digest, files=files)
    return dg.Output(
        (manifest, fetched.path),
        data_version=dg.DataVersion(manifest.sha256),
        metadata={
            "new": known is None or manifest.sha256 != known.sha256,
            "batch": manifest.batch if own else "nothing has changed",
            "bytes": manifest.size,
            "url": manifest.url,
            "fetched_at": manifest.fetched_at,
            "batches": len(manifest.batches()),
            "tables": ui_table([{"table": name, **facts} for name, facts in manifest.facts.items()]),
            **({"lake": dg.MetadataValue.path(store.address(manifest))} if own else {}),
        },
    )


def _last_read(context: dg.AssetExecutionContext, spec: Spec, store: Landing, known: Manifest) -> Manifest:
    """The newest file that its reader could read: one that it could not is no measure for the next."""
    for reader in SPECS.values():
        if any(source.key == spec.key for source in reader.inputs.values()):
            event = context.instance.get_latest_materialization_event(reader.key)
            metadata = event.asset_materialization.metadata if event and event.asset_materialization else {}
            if "landed_file" in metadata:
                return store.manifest(str(metadata["landed_file"].value)) or known
    return known


def _manifest(dataset: Dataset, source: Source, fetched: Fetched, run_id: str) -> Manifest:
    now = datetime.now(UTC)
    modified = fetched.validators.last_modified
    try:
        published = email.utils.parsedate_to_datetime(modified).astimezone(UTC) if modified else now
    except ValueError:  # a source that does not know how to write a date
        published = now
    files = sorted(fetched.path.glob("*")) if fetched.batch else [fetched.path]
    return Manifest(
        sha256="" if fetched.batch else sha256(fetched.path),
        size=sum(path.stat().st_size for path in files),
        suffix=source.suffix,
        url=fetched.url,
        fetched_at=now.isoformat(timespec="seconds"),
        published_at=published.isoformat(timespec="seconds"),
        etag=fetched.validators.etag,
        last_modified=modified,
        headers=fetched.headers,
        licence=dataset.licence,
        citation=dataset.citation,
        run_id=run_id,
        batch=fetched.batch,
        facts={name: dict(found) for name, found in fetched.facts.items()},
        state=dict(fetched.state),
    )
