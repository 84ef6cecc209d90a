"""The checkpoints of one life of a run in a store behind an fsspec URL: copies there and back. Retries nothing."""

import contextlib
import itertools
import os
import shutil
from pathlib import Path

import fsspec

from llama_dist.checkpoint.disk import sync_directory
from llama_dist.checkpoint.manifest import MANIFEST_NAME, CheckpointError, parse_manifest, step_directory, step_of_name
from llama_dist.checkpoint.verify import verify_checkpoint
from llama_dist.config.run_life import is_life

_FETCHING = ".fetching_"


class CheckpointStore:
    """The directory `<url>/<run name>/<life>/` of a store. Signing in is the store's own matter (environment, files).

    Without a life it is the directory above, where the checkpoints of runs lie that had none.
    """

    def __init__(self, url: str, run_name: str, life: str = "") -> None:
        """Raises CheckpointError if no installed package knows the URL's protocol."""
        self.url = f"{url.rstrip('/')}/{run_name}" + (f"/{life}" if life else "")
        if "${" in url:
            raise CheckpointError(f"checkpoint.upload {url}: leave secrets out: the store's own settings sign in")
        try:
            self._filesystem, self._root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise CheckpointError(f"{self.url}: {error}: install the fsspec package of this store") from None

    def size(self, step: str, name: str) -> int | None:
        """Bytes of a file in the store, None if it is not there."""
        try:
            self._filesystem.invalidate_cache()
            found: int = self._filesystem.info(f"{self._root}/{step}/{name}")["size"]
        except FileNotFoundError:
            return None
        return found

    def put(self, path: Path, step: str) -> None:
        """Copy a local file there, over what is there."""
        self._filesystem.makedirs(f"{self._root}/{step}", exist_ok=True)
        self._filesystem.put_file(str(path), f"{self._root}/{step}/{path.name}")

    def read(self, step: str, name: str) -> bytes | None:
        """Content of a small file there, None if it is not there."""
        try:
            content: bytes = self._filesystem.cat_file(f"{self._root}/{step}/{name}")
        except FileNotFoundError:
            return None
        return content

    def write(self, content: bytes, step: str, name: str) -> None:
        """Write a small file there, over what is there."""
        self._filesystem.makedirs(f"{self._root}/{step}", exist_ok=True)
        self._filesystem.pipe_file(f"{self._root}/{step}/{name}", content)

    def remove(self, step: str, name: str) -> None:
        """Remove a file there. One that is not there is no error."""
        with contextlib.suppress(FileNotFoundError):
            self._filesystem.rm_file(f"{self._root}/{step}/{name}")

    def steps(self) -> list[int]:
        """Steps of which the store has a manifest, ascending."""
        steps = {step: name for name in self._names() if (step := step_of_name(name)) is not None}
        return sorted(step for step, name in steps.items() if self.size(name, MANIFEST_NAME))

    def lives(self) -> list[str]:
        """Of a store without a life: the lives that it has something of, oldest first; '' where steps lie here."""
        names = self._names()
        has_steps = any(step_of_name(name) is not None for name in names)
        return ([""] if has_steps else []) + sorted(name for name in names if is_life(name))

    def fetch(self, step: int, checkpoints: Path) -> Path:
        """Copy a checkpoint to the local disk, verify it and move it into place; answers its directory.

        What has its place is set aside. Raises CheckpointError if it is not whole; then nothing is left of it.
        """
        target = step_directory(checkpoints, step)
        staging = checkpoints / f"{_FETCHING}{step:08d}"
        checkpoints.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(mode=0o700)
        try:
            self._get(MANIFEST_NAME, target.name, staging)
            manifest = parse_manifest((staging / MANIFEST_NAME).read_bytes(), target)
            for record in manifest.files:
                self._get(record.name, target.name, staging)
            faults = verify_checkpoint(staging)
            if faults:
                raise CheckpointError(f"{self.url}/{target.name} is damaged:\n  " + "\n  ".join(faults))
            sync_directory(staging)
            if os.path.lexists(target):
                target.rename(_free_name(target))
            staging.rename(target)
            sync_directory(checkpoints)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return target

    def _names(self) -> list[str]:
        self._filesystem.invalidate_cache()
        try:
            return [entry.rstrip("/").rsplit("/", 1)[-1] for entry in self._filesystem.ls(self._root, detail=False)]
        except FileNotFoundError:
            return []

    def _get(self, name: str, step: str, directory: Path) -> None:
        path = directory / name
        self._filesystem.get_file(f"{self._root}/{step}/{name}", str(path))
        path.chmod(0o600)
        with path.open("rb") as stream:
            os.fsync(stream.fileno())


def _free_name(directory: Path) -> Path:
    """A name beside it that is no step's."""
    aside = (directory.with_name(f"{directory.name}.before_fetch_{number}") for number in itertools.count(1))
    return next(path for path in aside if not os.path.lexists(path))
