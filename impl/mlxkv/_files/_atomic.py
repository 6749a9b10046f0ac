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
from collections.abc import Iterator
from contextlib import contextmanager

# What a filesystem answers that cannot lock, or cannot flush a directory.
_UNSUPPORTED = (errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_LONGEST = 180
_SUFFIX = ".tmp.safetensors"


class Writer:
    """The file object that MLX writes to: whole writes, without a buffer of its own."""

    closed = False

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, data: memoryview | bytes) -> int:
        """Write all of it. Raises `OSError`."""
        left = memoryview(data).cast("B")
        count = len(left)
        while left:
            left = left[os.write(self._fd, left) :]
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return os.lseek(self._fd, offset, whence)

    def tell(self) -> int:
        return os.lseek(self._fd, 0, os.SEEK_CUR)


@contextmanager
def replacing(target: str) -> Iterator[Writer]:
    """A writer whose contents become the file `target` when the block ends, or nothing at all.

    They go to a temporary file in the same directory, made for this alone and locked; it is
    flushed to the disk, renamed over `target`, and the directory flushed. Where the block or any
    of that raises, the temporary file is removed and `target` is as it was. Temporary files for
    the same target that nobody holds the lock of, those of killed processes, are removed first.

    Raises `OSError`, and what the block raises.
    """
    folder, name = os.path.split(target)
    folder = folder or "."
    prefix = _prefix(name)
    _sweep(folder, prefix)
    path, fd = _create(folder, prefix)
    try:
        try:
            yield Writer(fd)
            _keep_mode(fd, target)
            os.fsync(fd)
            os.replace(path, target)  # noqa: PTH105
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(path)  # noqa: PTH108
            raise
    finally:
        os.close(fd)  # The lock goes with it.
    _flush_folder(folder)


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


def _flush_folder(folder: str) -> None:
    """Make the renaming last; a directory that may not be opened cannot be flushed."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(fd)
