"""What was fetched but is not landed: much less data than before, and batches that would never be read.

The last good state stays. Not here: what a source itself refuses because it is no data at all (etl_assets.sources).
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

import dagster as dg

from etl_assets.sources import Fetched, FetchedFolder, SourceRefusedError, Validators
from etl_assets.sources.database import BATCH_FORMAT
from etl_assets.sources.http import moment_of
from etl_assets.sources.paging import asks_otherwise
from etl_assets.stages.dataset import SPECS, Dataset, Spec, numbered
from etl_assets.stages.raw import made_from_file
from etl_assets.storage.landing import Landing, Manifest, sha256


def why_shrunk(
    context: dg.AssetExecutionContext, spec: Spec, store: Landing, manifest: Manifest, known: Manifest
) -> str | None:
    """Why a file must not replace the known one: it is much smaller than the last good one. None if it may.

    Not judged: bytes that were landed before, which were no fragment then; a file that the source dates earlier than
    the known one; and the answer to another request, whose usual size is unknown.
    """
    is_other = asks_otherwise(Validators(manifest.etag), Validators(known.etag))
    is_older = _is_older(moment_of(manifest.last_modified), moment_of(known.last_modified))
    if is_other or is_older or store.manifest(manifest.sha256) is not None:
        return None
    good, dataset = _last_read(context, spec, store, known), spec.dataset
    if manifest.size >= good.size * (1 - dataset.max_shrink):
        return None
    return (
        f"{manifest.url} gave {manifest.size:,} bytes, but the last good file has {good.size:,}: it shrank by more "
        f"than {dataset.max_shrink:.0%}. If that is right, `./dev run --accept-shrunk {dataset.name}` lands it; the "
        "last good file stays."
    )


def _is_older(now: datetime | None, before: datetime | None) -> bool:
    """Whether a source that dates its files has gone back to an older one."""
    return now is not None and before is not None and now < before


def _last_read(context: dg.AssetExecutionContext, spec: Spec, store: Landing, known: Manifest) -> Manifest:
    """The newest file that its reader could read: an unreadable one is no measure for the next."""
    for reader in SPECS.values():
        is_of_it = any(source.key == spec.key for source in reader.inputs.values())
        if is_of_it and (digest := made_from_file(context.instance, reader.key)):
            return store.manifest(digest) or known
    return known


def without_shrunk_files(
    dataset: Dataset, store: Landing, known: Manifest | None, fetched: FetchedFolder
) -> FetchedFolder:
    """What was fetched from a folder, with files refused that are much smaller than those landed under their names.

    A file may go back to what it was before: that was no fragment then.
    """
    members, shrunk = known.members if known else {}, dict[str, str]()
    for name, file in fetched.files.items():
        size, old = file.path.stat().st_size, store.manifest(members[name]) if name in members else None
        if old and size < old.size * (1 - dataset.max_shrink) and store.manifest(sha256(file.path)) is None:
            shrunk[name] = (
                f"It has {size:,} bytes, but the last good one has {old.size:,}: it shrank by more than "
                f"{dataset.max_shrink:.0%}. If that is right, `./dev run --accept-shrunk {dataset.name}` takes it."
            )
    files = {name: file for name, file in fetched.files.items() if name not in shrunk}
    return replace(fetched, files=files, refused={**fetched.refused, **shrunk})


def refuse_shrunk_tables(dataset: Dataset, fetched: Fetched) -> None:
    """Refuse a table that has lost most of its rows: as often as not it is being refilled, and they will be back."""
    for name, facts in fetched.facts.items():
        gone, known = facts["deleted"], facts["known"]
        is_empty = gone == known and not facts["rows"]
        if gone > dataset.max_shrink * known and (is_empty or gone > dataset.bound.count):
            raise SourceRefusedError(
                f"{fetched.url}, table {name}: {gone:,} of {known:,} rows are gone, it shrank by more than "
                f"{dataset.max_shrink:.0%}. Nothing was landed. If that is right, `./dev run --accept-shrunk "
                f"{dataset.name}` lands it; the last good state stays."
            )


def refuse_misnamed(store: Landing, files: Mapping[str, Mapping[str, str]]) -> None:
    """Refuse landed folders that are not named as batches are: nobody could say when they were taken."""
    for batch in sorted({batch for found in files.values() for batch in found}):
        try:
            datetime.strptime(batch, BATCH_FORMAT)  # noqa: DTZ007 - UTC
        except ValueError as error:
            raise SourceRefusedError(
                f"{store.lake.address(store.batch_folder(batch))} does not have the name of a batch: "
                "the moment of its snapshot in UTC, such as 2024-11-15T093000.000000Z. Nothing was landed; rename the "
                "folder and the batch in its manifest.json, or remove the folder."
            ) from error


def refuse_unplaced(spec: Spec, store: Landing, files: Mapping[str, Mapping[str, str]]) -> None:
    """Refuse a batch whose day is in no partition: nothing in it would ever be read."""
    calendar = numbered(spec.dataset.partitions) if spec.dataset.partitions else {}
    days = {batch[:10]: batch for found in files.values() for batch in found}
    if others := sorted(days.keys() - calendar.keys()):
        where = store.lake.address(f"landing/{store.dataset}/{others[0]}/")
        raise SourceRefusedError(
            f"the day of the batch {days[others[0]]} is in none of the dataset's partitions ({min(calendar)} to "
            f"{max(calendar)}). Nothing was landed. If the source's clock is wrong, correct it; if somebody has put "
            f"the batch into {where}, remove it, and its entries in current.json."
        )
