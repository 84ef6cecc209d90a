"""The checkpoints of one run in a store behind an fsspec URL: sizes, copies there and back. Retries nothing."""

import os
import shutil
from pathlib import Path

import fsspec

from llama_dist.checkpoint.disk import sync_directory
from llama_dist.checkpoint.manifest import MANIFEST_NAME, CheckpointError, parse_manifest, step_directory, step_of_name
from llama_dist.checkpoint.verify import verify_checkpoint

_FETCHING = ".fetching_"


class CheckpointStore:
    """The directory `<url>/<run name>/` of a store. Signing in is the store's own matter (environment, its files)."""

    def __init__(self, url: str, run_name: str) -> None:
        """Raises CheckpointError if no installed package knows the URL's protocol."""
        self.url = f"{url.rstrip('/')}/{run_name}"
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

    def steps(self) -> list[int]:
        """Steps of which the store has a manifest, ascending."""
        self._filesystem.invalidate_cache()
        try:
            names = [entry.rsplit("/", 1)[-1] for entry in self._filesystem.ls(self._root, detail=False)]
        except FileNotFoundError:
            return []
        steps = {step: name for name in names if (step := step_of_name(name)) is not None}
        return sorted(step for step, name in steps.items() if self.size(name, MANIFEST_NAME))

    def fetch(self, step: int, checkpoints: Path) -> Path:
        """Copy a checkpoint to the local disk, verify it and move it into place; answers its directory.

        Raises CheckpointError if it is not whole; then nothing is left of it.
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
                shutil.rmtree(target)  # the local one was found damaged, or is not wanted
            staging.rename(target)
            sync_directory(checkpoints)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return target

    def _get(self, name: str, step: str, directory: Path) -> None:
        path = directory / name
        self._filesystem.get_file(f"{self._root}/{step}/{name}", str(path))
        path.chmod(0o600)
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
