"""Opens and hashes files of a checkpoint: regular ones alone, and only on the path that was asked for.

A link could lead anywhere, and a pipe would keep the reader waiting for ever. Knows nothing of what files hold.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import xxhash

_HASHED_BYTES = 1 << 20
"""Read and hashed at once: fits a core's cache. 4 MiB took four times as long."""

_KINDS = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFLNK: "a link"}


@contextmanager
def open_regular(path: Path) -> Iterator[tuple[int, int]]:
    """Yield descriptor and size in bytes. Raises OSError that names the file, also for what is no regular file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise _no_regular_file(path, os.lstat(path).st_mode) from None
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _no_regular_file(path, status.st_mode)
        yield descriptor, status.st_size
    except OSError as error:
        # Reads by descriptor do not know their file.
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        os.close(descriptor)


def read_regular(path: Path) -> bytes:
    """Whole content of a regular file. Raises OSError that names it."""
    with open_regular(path) as (descriptor, num_bytes):
        content = bytearray(num_bytes)
        read_into(descriptor, memoryview(content), 0)
        return bytes(content)


def read_into(descriptor: int, target: memoryview, offset: int) -> None:
    """Fill `target` (bytes) from `offset` of the file. Raises OSError; a file that ends too soon is one."""
    while target:
        num_read = os.preadv(descriptor, [target], offset)
        if num_read == 0:
            raise OSError(
                errno.EIO, f"ends at byte {offset}, {len(target)} bytes too soon: it was cut while it was read"
            )
        target, offset = target[num_read:], offset + num_read


def hash_descriptor(descriptor: int) -> str:
    """xxh3-128 of an open file from its beginning, in hexadecimal. Lets other threads run. Raises OSError."""
    digest, offset = xxhash.xxh3_128(), 0
    buffer = bytearray(_HASHED_BYTES)
    view = memoryview(buffer)
    while num_read := os.preadv(descriptor, [buffer], offset):
        digest.update(view[:num_read])
        offset += num_read
    return digest.hexdigest()


def _no_regular_file(path: Path, mode: int) -> OSError:
    kind = _KINDS.get(stat.S_IFMT(mode), "a device")
    return OSError(errno.EINVAL, f"is {kind}, a checkpoint needs a regular file", str(path))
