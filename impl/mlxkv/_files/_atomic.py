"""Replacing a file as a whole: who reads it sees the old one or the new one, whatever happens."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

# What a filesystem answers that cannot lock, or cannot flush a directory.
_UNSUPPORTED = (errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_LONGEST = 180
# Fits the processor's cache.
_HELD = 1 << 18
# Systems take 1024 runs at a time, and less than 2 GiB.
_RUNS, _BATCH = 512, 1 << 28
_SUFFIX = ".tmp.safetensors"


class Writer:
    """The file object that MLX writes to; small pieces are written together."""

    closed = False

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._held = memoryview(bytearray(_HELD))
        self._count = 0

    def write(self, data: memoryview | bytes) -> int:
        """Write all of the bytes, now or with the next; they are not kept. Raises `OSError`."""
        size = len(data)
        if self._count + size > _HELD:
            self.flush()
        if size > _HELD // 2:
            self.flush()
            self._write(memoryview(data))
        else:
            self._held[self._count : self._count + size] = data
            self._count += size
        return size

    def write_runs(self, runs: Iterable[memoryview]) -> None:
        """Write runs of memory in order, many at a time. Raises `OSError`."""
        self.flush()
        for batch in _batches(runs):
            # A single one may be longer than the system takes at once.
            written = os.writev(self._fd, batch) if len(batch) > 1 else 0
            for run in batch if written < sum(run.nbytes for run in batch) else ():
                self._write(run.cast("B")[written:])
                written = max(0, written - run.nbytes)

    def flush(self) -> None:
        """Write what is held back. Raises `OSError`."""
        held, self._count = self._held[: self._count], 0
        self._write(held)

    def _write(self, left: memoryview) -> None:
        while left:
            left = left[os.write(self._fd, left) :]

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.flush()
        return os.lseek(self._fd, offset, whence)

    def tell(self) -> int:
        return self.seek(0, os.SEEK_CUR)


def _batches(runs: Iterable[memoryview]) -> Iterator[list[memoryview]]:
    """As many of them together as a system takes."""
    batch: list[memoryview] = []
    size = 0
    for run in runs:
        if batch and (len(batch) == _RUNS or size + run.nbytes > _BATCH):
            yield batch
            batch, size = [], 0
        batch.append(run)
        size += run.nbytes
    if batch:
        yield batch


@contextmanager
def replacing(target: str) -> Iterator[Writer]:
    """A writer whose contents become the file `target` when the block ends, or nothing at all.

    They go to a temporary file in the same directory, made for this alone and locked; it is
    flushed to the disk, renamed over `target`, and the directory flushed. Where the block raises,
    or anything up to the renaming, the temporary file is removed and `target` is as it was. What
    comes after it, a directory that the disk does not take or an interrupt, is raised too: then
    `target` is the new file, as a whole, and a crash of the machine may bring the old one back.
    Temporary files for the same target that nobody holds the lock of, those of killed processes,
    are removed first.

    Raises `OSError`, and what the block raises.
    """
    folder, name = os.path.split(target)
    folder = folder or "."
    prefix = _prefix(name)
    _sweep(folder, prefix)
    path, fd = _create(folder, prefix)
    try:
        try:
            writer = Writer(fd)
            yield writer
            writer.flush()
            _keep_mode(fd, target)
            os.fsync(fd)
            with _flushing(folder):
                os.replace(path, target)  # noqa: PTH105
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(path)  # noqa: PTH108
            raise
    finally:
        os.close(fd)  # The lock goes with it.


def _prefix(name: str) -> str:
    """What the names of the temporary files of a target begin with."""
    if len(os.fsencode(name)) > _LONGEST:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return f".{name}."


def _create(folder: str, prefix: str) -> tuple[str, int]:
    """A new, locked file of a name that no other has: the process id and a random number."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    while True:
        name = f"{prefix}{os.getpid()}-{secrets.token_hex(8)}{_SUFFIX}"
        path = os.path.join(folder, name)  # noqa: PTH118
        try:
            fd = os.open(path, flags, 0o666)
        except FileExistsError:
            continue
        try:
            if _lock(fd) is not False and _is(path, fd):
                return path, fd
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(path)  # noqa: PTH108
            os.close(fd)
            raise
        os.close(fd)  # A sweep came between: it took it for a dead one's, and removes it.


def _sweep(folder: str, prefix: str) -> None:
    """Remove the temporary files whose writers are dead. Never raises for want of permission."""
    pattern = re.compile(re.escape(prefix) + r"\d+-[0-9a-f]{16}" + re.escape(_SUFFIX))
    try:
        names = [name for name in os.listdir(folder) if pattern.fullmatch(name)]  # noqa: PTH208
    except OSError:
        return
    for name in names:
        path = os.path.join(folder, name)  # noqa: PTH118
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if _lock(fd) and _is(path, fd):
                    os.unlink(path)  # noqa: PTH108
            finally:
                os.close(fd)


def _lock(fd: int) -> bool | None:
    """Lock a file until it is closed, without waiting; None where there are no locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return None
        raise
    return True


def _is(path: str, fd: int) -> bool:
    """Whether the path still is the file that is open."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(fd))  # noqa: PTH116
    except FileNotFoundError:
        return False


def _keep_mode(fd: int, target: str) -> None:
    """Give the new file the permissions of the one that it replaces."""
    with contextlib.suppress(FileNotFoundError):
        os.fchmod(fd, stat.S_IMODE(os.stat(target).st_mode))  # noqa: PTH116


@contextmanager
def _flushing(folder: str) -> Iterator[None]:
    """Make the renaming in the block last, where the filesystem can.

    The directory is opened before; one that may not be opened cannot be flushed.
    """
    fd = None
    with contextlib.suppress(PermissionError):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield
        if fd is not None:
            _flush(fd)
    finally:
        if fd is not None:
            os.close(fd)


def _flush(fd: int) -> None:
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
