"""The landing stage: the bytes exactly as received, or none at all."""

import hashlib
import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg

from etl_assets.quality.ui_table import ui_table
from etl_assets.settings import NotConfiguredError
from etl_assets.sources import (
    Fetched,
    FetchedFolder,
    Source,
    SourceError,
    SourceRefusedError,
    Validators,
    Workspace,
    http,
)
from etl_assets.sources.folder import WatchedFolder
from etl_assets.stages.dataset import Dataset, Spec, remember
from etl_assets.stages.refusals import (
    refuse_misnamed,
    refuse_shrunk_tables,
    refuse_unplaced,
    why_shrunk,
    without_shrunk_files,
)
from etl_assets.storage.configured import landing_store
from etl_assets.storage.hashes import sha256_of_lines
from etl_assets.storage.landing import Landed, Landing, Manifest, sha256
from etl_assets.storage.scratch import scratch_folder

#: Tag of runs that land the source's file whole, whatever the source says about its version.
ANEW = "etl/anew"
#: Tag of runs that land data though it is much less than before: somebody has looked, and it is right.
ACCEPT_SHRUNK = "etl/accept_shrunk"


def landing(dataset: Dataset, source: Source, *, metadata: Mapping[str, Any] | None = None) -> dg.AssetsDefinition:
    """The asset `landing/<dataset>`: asks the source, and lands its file if it differs from the last one.

    The step fails, and the last good file stays, if the source cannot be reached, answers with something other than
    data, or with much less than before (`Dataset.max_shrink`) without saying that it is older. From a folder, new files
    are landed; broken ones are reported by the check `files` and hold no other back.
    `metadata` is shown with the asset.
    """
    spec = remember(Spec(dg.AssetKey(["landing", dataset.name]), dataset, None, source))
    every = dg.AssetCheckSpec("files", asset=spec.key, description="Every file of the folder can be read")

    @dg.asset(
        key=spec.key,
        group_name=dataset.name,
        description=f"{dataset.title}: what the source gave, exactly as received.",
        metadata={**dataset.metadata(), **(metadata or {})},
        owners=[dataset.owner],
        kinds={"file"},
        io_manager_key="landing_io",
        pool=f"source_{dataset.name}",
        check_specs=[every] if isinstance(source, WatchedFolder) else None,
        freshness_policy=dg.FreshnessPolicy.time_window(dataset.stale_after) if dataset.stale_after else None,
    )
    def land(context: dg.AssetExecutionContext) -> Iterator[Any]:
        store = landing_store(dataset.name)
        known = store.current()
        asks = known is not None and context.run.tags.get(ANEW) != "true"
        accepts = context.run.tags.get(ACCEPT_SHRUNK) == "true"
        judged = replace(spec, dataset=replace(dataset, max_shrink=1.0)) if accepts else spec
        try:
            with scratch_folder("fetch") as folder:
                files = store.files(known) if known is None or known.batch else {}
                refuse_misnamed(store, files)
                work = Workspace(
                    folder,
                    store.pages(),
                    lambda: _opened(store, known),
                    sorted({batch for found in files.values() for batch in found}),
                    known.state if known and asks else {},
                    lambda name: _batched(store, files.get(name, {}), name),
                )
                if known and not asks:
                    work.pages.clear()  # the pages of an interrupted extract are asked for anew, too
                fetched = source.fetch(work, validators_of(known) if asks else None)
                if isinstance(fetched, FetchedFolder):
                    yield from _land_folder(context, judged, store, known, fetched, anew=not asks)
                elif fetched and fetched.batch:
                    yield _land_batch(context, judged, store, files, known, fetched)
                elif fetched:
                    yield _land_file(context, judged, store, work, known, fetched)
                else:
                    assert known  # the source has no other version
                    yield _landed(store, Landed(known, ()), known)
        except (SourceError, NotConfiguredError) as error:
            raise dg.Failure(f"{dataset.name}: {error}", allow_retries=False) from error

    return land


def validators_of(known: Manifest | None) -> Validators | None:
    """The validators for asking a source whether it has another version than the landed one."""
    return Validators(known.etag, known.last_modified, known.url) if known else None


def _check_of_files(context: dg.AssetExecutionContext, refused: Mapping[str, str]) -> dg.AssetCheckResult:
    for name, why in refused.items():
        context.log.warning(f"{name} was not taken: {why}")
    return dg.AssetCheckResult(
        passed=not refused,
        check_name="files",
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(f"{name}: {why}" for name, why in refused.items()) or None,
        metadata={"refused": ui_table([{"file": name, "why": why} for name, why in refused.items()])},
    )


@contextmanager
def _opened(store: Landing, known: Manifest | None) -> Generator[Path | None]:
    if known is None:
        yield None
    else:
        with store.open(known) as path:
            yield path


def _batched(store: Landing, batches: Mapping[str, str], name: str) -> Iterator[Path]:
    """The landed files of one of a source's tables, oldest batch first."""
    for batch, digest in sorted(batches.items()):
        with store.open_batched(batch, name, digest) as path:
            yield path


def _land_file(
    context: dg.AssetExecutionContext,
    spec: Spec,
    store: Landing,
    work: Workspace,
    known: Manifest | None,
    fetched: Fetched,
) -> dg.Output[object]:
    """The output that lands a file; refused if the file is much smaller than the last good one."""
    manifest = _manifest(spec, fetched, context.run.run_id)
    if known and (why := why_shrunk(context, spec, store, manifest, known)):
        work.pages.clear()  # complete, but not to be taken: the next extract asks for all of them
        raise SourceRefusedError(why)
    return _landed(store, Landed(manifest, [(fetched.path, manifest)]), known)


def _land_folder(
    context: dg.AssetExecutionContext,
    spec: Spec,
    store: Landing,
    known: Manifest | None,
    fetched: FetchedFolder,
    *,
    anew: bool,
) -> Iterator[Any]:
    """The output that lands a folder's new files, and the check that says which files were not taken."""
    fetched = without_shrunk_files(spec.dataset, store, known, fetched)
    if known is not None and anew:  # forget files that have left the folder, not those that cannot be read now
        there = {*fetched.refused, *fetched.waiting}
        kept = {name: digest for name, digest in known.members.items() if name in there}
        known_now = replace(known, members=kept, state={name: known.state.get(name) for name in kept})
    else:
        known_now = known
    landed = _landed_set(spec, store, known_now, fetched, context.run.run_id)
    yield _landed(store, landed, known, files=landed.manifest.members, refused=dict(fetched.refused))
    yield _check_of_files(context, fetched.refused)


def _land_batch(
    context: dg.AssetExecutionContext,
    spec: Spec,
    store: Landing,
    files: dict[str, dict[str, str]],
    known: Manifest | None,
    fetched: Fetched,
) -> dg.Output[object]:
    """The output that lands a batch: its files beside those of the batches before."""
    assert fetched.batch
    own = sorted(fetched.path.glob("*.parquet"))
    for path in own:
        files.setdefault(path.stem, {})[fetched.batch] = sha256(path)
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    manifest = replace(_manifest(spec, fetched, context.run.run_id), sha256=digest, files=files)
    refuse_unplaced(spec, store, files)
    refuse_shrunk_tables(spec.dataset, fetched)
    return dg.Output(
        Landed(manifest, [(fetched.path, manifest)]),
        data_version=dg.DataVersion(manifest.sha256),
        metadata={
            "new": known is None or manifest.sha256 != known.sha256,
            "batch": fetched.batch if own else "nothing has changed",
            "bytes": manifest.size,
            "url": manifest.url,
            "fetched_at": manifest.fetched_at,
            "batches": len(manifest.batches()),
            "tables": ui_table([{"table": name, **facts} for name, facts in manifest.facts.items()]),
            **({"lake": dg.MetadataValue.path(store.address(manifest))} if own else {}),
        },
    )


def _landed(store: Landing, landed: Landed, known: Manifest | None, **more: Any) -> dg.Output[object]:
    """A landed file or set as the step's output, with what the UI shows of it."""
    manifest = landed.manifest
    return dg.Output(
        landed,
        data_version=dg.DataVersion(manifest.sha256),
        metadata={
            "new": known is None or manifest.sha256 != known.sha256,
            "sha256": manifest.sha256,
            "version": manifest.etag or manifest.last_modified,
            "bytes": manifest.size,
            "url": manifest.url,
            "fetched_at": manifest.fetched_at,
            "published_at": manifest.published_at,
            "lake": dg.MetadataValue.path(store.address(manifest)),
            "headers": manifest.headers,
            **more,
        },
    )


def _landed_set(spec: Spec, store: Landing, known: Manifest | None, fetched: FetchedFolder, run_id: str) -> Landed:
    """The set of a folder's files: those that were landed before, and those that are new or replaced."""
    new = {name: _manifest(spec, file, run_id) for name, file in fetched.files.items()}
    members = (known.members if known else {}) | {name: own.sha256 for name, own in new.items()}
    state = (known.state if known else {}) | {name: own.etag for name, own in new.items()}
    facts = {file.sha256: file for file in (*(store.members(known) if known else ()), *new.values())}
    own = [facts[digest] for digest in sorted(set(members.values()))]
    manifest = Manifest(
        sha256=sha256_of_lines(file.sha256 for file in own),
        size=sum(file.size for file in own),
        suffix="",
        url=fetched.url,
        fetched_at=datetime.now(UTC).isoformat(timespec="seconds"),
        published_at=max(file.published_at for file in own),
        etag=fetched.validators.etag,
        last_modified=None,
        licence=spec.dataset.licence,
        citation=spec.dataset.citation,
        run_id=run_id,
        state=state,
        members=members,
    )
    return Landed(manifest, [(fetched.files[name].path, file) for name, file in new.items()])


def _manifest(spec: Spec, fetched: Fetched, run_id: str) -> Manifest:
    assert spec.source is not None
    now = datetime.now(UTC)
    modified = fetched.validators.last_modified
    published = http.moment_of(modified) or now
    files = sorted(fetched.path.glob("*")) if fetched.batch else [fetched.path]
    return Manifest(
        sha256="" if fetched.batch else sha256(fetched.path),
        size=sum(path.stat().st_size for path in files),
        suffix=spec.source.suffix,
        url=fetched.url,
        fetched_at=now.isoformat(timespec="seconds"),
        published_at=published.isoformat(timespec="seconds"),
        etag=fetched.validators.etag,
        last_modified=modified,
        headers=fetched.headers,
        licence=spec.dataset.licence,
        citation=spec.dataset.citation,
        run_id=run_id,
        batch=fetched.batch,
        facts={name: dict(found) for name, found in fetched.facts.items()},
        state=dict(fetched.state),
    )
