"""The landing store: bytes exactly as received, addressed by their content, with a manifest each.

    landing/<dataset>/<sha256>.csv          the bytes, written once and never changed
    landing/<dataset>/<sha256>.json         the manifest: where and when they were received
    landing/<dataset>/current.json          the manifest of the newest, and what to ask the source with next time
    landing/<dataset>/pages/…               the pages of an extract that is not whole yet

`current.json` is written last: a fetch that is killed earlier leaves the last good file current. A source that is a
folder lands a set: each of its files as above, and a manifest that names them.

A source that is read in batches lands folders of files, which are kept side by side:

    landing/<dataset>/2024-11-15/<batch>/<name>.parquet     a batch's rows of each of the source's tables
    landing/<dataset>/2024-11-15/<batch>/manifest.json      written last: a batch without it is not seen
    landing/<dataset>/current.json                          the newest manifest, with the files of all batches
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Generator, Iterable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from etl_assets.storage.lake import Lake, LakeError
from etl_assets.storage.scratch import scratch_folder

#: The name of a manifest.
_MANIFEST = re.compile(r"([0-9a-f]{64})\.json")


@dataclass(frozen=True)
class Manifest:
    """What is known about a landed file, or a set or batch of them; holds no secrets.

    A set has no bytes of its own: its SHA-256 is made from those of its files, so that the same bytes under other names
    are the same set.
    """

    sha256: str
    size: int
    suffix: str
    url: str
    fetched_at: str
    published_at: str
    etag: str | None
    last_modified: str | None
    headers: dict[str, str] = field(default_factory=dict)
    licence: str = ""
    citation: str = ""
    run_id: str = ""
    #: For a source that is read in batches: the batch that was landed last, facts about its files, what the source has
    #: to know at its next fetch, and for every name its files: batch -> SHA-256.
    batch: str | None = None
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    files: dict[str, dict[str, str]] = field(default_factory=dict)
    #: For a set: the SHA-256 of each of its files, by the file's name.
    members: dict[str, str] = field(default_factory=dict)

    def versions(self, name: str | None) -> dict[str, str]:
        """The SHA-256 of what was landed under a name, by batch; without a name, of the whole, with an empty batch."""
        return {"": self.sha256} if name is None else self.files.get(name, {})

    def batches(self) -> list[str]:
        """Every batch that has landed files, oldest first."""
        return sorted({batch for files in self.files.values() for batch in files})


@dataclass(frozen=True)
class Landing:
    """The landing store of one dataset in a lake."""

    lake: Lake
    dataset: str

    def current(self) -> Manifest | None:
        """The manifest of the newest landed file, if there is one."""
        data = self.lake.get(f"landing/{self.dataset}/current.json")
        return Manifest(**json.loads(data)) if data else None

    def manifest(self, sha256: str) -> Manifest | None:
        """The manifest of a landed file."""
        data = self.lake.get(f"landing/{self.dataset}/{sha256}.json")
        return Manifest(**json.loads(data)) if data else None

    def manifests(self) -> Iterator[Manifest]:
        """The manifest of every file that was landed and is still there."""
        prefix = f"landing/{self.dataset}/"
        for path in self.lake.list(prefix):
            found = _MANIFEST.fullmatch(path.removeprefix(prefix))
            if found and (manifest := self.manifest(found[1])):
                yield manifest

    def forget(self, manifest: Manifest) -> None:
        """Delete a landed file and its manifest; the manifest last, so that an interrupted deletion is found again."""
        if not manifest.members:  # a set has no bytes of its own
            self.lake.delete(self._object(manifest))
        self.lake.delete(f"landing/{self.dataset}/{manifest.sha256}.json")

    def land(self, path: Path, manifest: Manifest) -> None:
        """Store a file and its manifest, and make it the current one."""
        self._store_bytes(path, manifest)
        self._make_current(manifest)

    def land_set(self, files: Iterable[tuple[Path, Manifest]], manifest: Manifest) -> None:
        """Store the files that are new in a set, each with its manifest, and make the set the current one."""
        for path, own in files:
            self._store_bytes(path, own)
            self.lake.put(f"landing/{self.dataset}/{own.sha256}.json", _text(own), create=True)
        self._make_current(manifest)

    def members(self, manifest: Manifest) -> list[Manifest]:
        """The manifests of a set's files, in the order of their names; for a single file, its own."""
        if not manifest.members:
            return [manifest]
        found = {sha256: self.manifest(sha256) for _, sha256 in sorted(manifest.members.items())}
        if lost := [sha256 for sha256, own in found.items() if own is None]:
            raise LakeError(
                f"{self.lake.address(f'landing/{self.dataset}/{lost[0]}.json')} is missing. Delete "
                f"{self.lake.address(f'landing/{self.dataset}/current.json')} and land the folder again."
            )
        return [own for own in found.values() if own]

    def _store_bytes(self, path: Path, manifest: Manifest) -> None:
        if not self.lake.size(self._object(manifest)):
            self.lake.put(self._object(manifest), path)

    def _make_current(self, manifest: Manifest) -> None:
        # A source may go back to an earlier file: its manifest then says when it last came.
        self.lake.put(f"landing/{self.dataset}/{manifest.sha256}.json", _text(manifest))
        self.lake.put(f"landing/{self.dataset}/current.json", _text(manifest))

    # --- batches

    def land_batch(self, folder: Path, manifest: Manifest) -> None:
        """Store a batch's files with their manifest, if there are any, and make `manifest` the current one."""
        batch = manifest.batch
        assert batch
        own = {name: {batch: files[batch]} for name, files in manifest.files.items() if batch in files}
        if own:
            for name in own:
                self.lake.put(self._batched(batch, name), folder / f"{name}.parquet")
            text = _text(replace(manifest, files=own, state={}))
            self.lake.put(f"{self.batch_folder(batch)}manifest.json", text)
        self.lake.put(f"landing/{self.dataset}/current.json", _text(manifest))

    def files(self, known: Manifest | None) -> dict[str, dict[str, str]]:
        """The files of every batch by name: those in the manifest, and those of complete batches beside them.

        Somebody else has put the latter there: say, a batch of last week that another process has extracted.
        """
        found = {name: dict(files) for name, files in known.files.items()} if known else {}
        there = {batch for files in found.values() for batch in files}
        for path in self.lake.list(f"landing/{self.dataset}"):
            if path.endswith("/manifest.json") and (batch := path.split("/")[-2]) not in there:
                for name in Manifest(**json.loads(self.lake.get(path) or b"{}")).files:
                    with self.open_batched(batch, name) as file:
                        found.setdefault(name, {})[batch] = sha256(file)
        return found

    @contextmanager
    def open_batched(self, batch: str, name: str, expected: str | None = None) -> Generator[Path]:
        """A batch's file as a local path; raises LakeError if it is gone or its SHA-256 is not the `expected` one."""
        path = self._batched(batch, name)
        if self.lake.folder is not None:
            yield self._checked(self.lake.folder / path, path, expected)
            return
        with scratch_folder("landed") as folder:
            local = folder / f"{name}.parquet"
            self.lake.download(path, local)
            yield self._checked(local, path, expected)

    def _checked(self, local: Path, path: str, expected: str | None) -> Path:
        if not local.exists() or (expected is not None and sha256(local) != expected):
            raise LakeError(
                f"{self.lake.address(path)} is missing or not the file that was landed. Restore it, or delete the "
                "batch's folder and its entries in current.json."
            )
        return local

    def batch_folder(self, batch: str) -> str:
        """Where the files of a batch are, below the lake's root."""
        return f"landing/{self.dataset}/{batch[:10]}/{batch}/"

    def _batched(self, batch: str, name: str) -> str:
        return f"{self.batch_folder(batch)}{name}.parquet"

    # --- files

    def address(self, manifest: Manifest) -> str:
        """Where a landed file is, for a person."""
        if manifest.batch:
            return self.lake.address(self.batch_folder(manifest.batch))
        return self.lake.address(f"landing/{self.dataset}/" if manifest.members else self._object(manifest))

    @contextmanager
    def open(self, manifest: Manifest) -> Generator[Path]:
        """A landed file as a local path, in a writable folder that is deleted with the block.

        Raises LakeError if the bytes are gone or are not the ones that were landed.
        """
        with scratch_folder("landed") as folder:
            path = folder / f"{self.dataset}{manifest.suffix}"
            if self.lake.folder is not None:
                path.symlink_to(self.lake.folder / self._object(manifest))
            elif self.lake.size(self._object(manifest)) is not None:
                self.lake.download(self._object(manifest), path)
            if not path.exists() or sha256(path) != manifest.sha256:
                raise LakeError(
                    f"{self.address(manifest)} is missing or not the file that was landed. Delete it, if it is there, "
                    f"and {self.lake.address(f'landing/{self.dataset}/current.json')}, and land it again."
                )
            yield path

    def pages(self) -> LakePages:
        """The pages of extracts that are not whole yet."""
        return LakePages(self.lake, f"landing/{self.dataset}/pages/")

    def _object(self, manifest: Manifest) -> str:
        # A file that is JSON itself must not take its manifest's name.
        suffix = manifest.suffix if manifest.suffix != ".json" else ".data.json"
        return f"landing/{self.dataset}/{manifest.sha256}{suffix}"


@dataclass(frozen=True)
class LakePages(MutableMapping[str, bytes]):
    """Small objects below a prefix of the lake, as a mapping: what an extract has got so far."""

    lake: Lake
    prefix: str

    def __getitem__(self, name: str) -> bytes:
        """The object of a name; raises KeyError where there is none."""
        data = self.lake.get(self.prefix + name)
        if data is None:
            raise KeyError(name)
        return data

    def __setitem__(self, name: str, body: bytes) -> None:
        """Write an object."""
        self.lake.put(self.prefix + name, body)

    def __delitem__(self, name: str) -> None:
        """Delete an object."""
        self.lake.delete(self.prefix + name)

    def __iter__(self) -> Iterator[str]:
        """The names there are."""
        return iter(path.removeprefix(self.prefix) for path in self.lake.list(self.prefix))

    def __len__(self) -> int:
        """How many there are."""
        return len(self.lake.list(self.prefix))

    def clear(self) -> None:
        """Delete all of them at once, instead of one by one."""
        self.lake.delete(*self.lake.list(self.prefix))


@dataclass(frozen=True)
class Landed:
    """What a landing step yields: the manifest that becomes current, and the new files with theirs."""

    manifest: Manifest
    new: Sequence[tuple[Path, Manifest]]


@dataclass(frozen=True)
class LandedFile:
    """A landed file or set of files, as a stage's function gets it."""

    store: Landing
    manifest: Manifest

    def files(self) -> Iterator[tuple[Manifest, Path]]:
        """Each file with its manifest, as a local path that is valid until the next file is asked for."""
        for manifest in self.store.members(self.manifest):
            with self.store.open(manifest) as path:
                yield manifest, path


def _text(manifest: Manifest) -> bytes:
    return json.dumps(asdict(manifest), indent=1).encode()


def sha256(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
