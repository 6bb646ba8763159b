"""Files and folders that appear whole or not at all, whatever happens to the process that writes them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

import filelock

_UMASK = os.umask(0)
os.umask(_UMASK)
AT_FDCWD, RENAME_EXCHANGE = -100, 2
"""Of Linux's ``renameat2``."""


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Lend a temporary path beside `path`; its file becomes `path` at the end, or goes on an error.

    Whoever reads `path` sees the old file or the whole new one. A symbolic link stays; what it leads to is written.
    """
    path = Path(os.path.realpath(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to write {path.name} in")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file")
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        if error.errno is not None and error.filename is None:  # a full disk: say which
            error.filename = os.fspath(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(folder: str | os.PathLike[str], marker: str, what: str, own: Sequence[str]) -> Iterator[Path]:
    """Lend a new folder beside `folder`; at the end it takes its place, or goes on an error.

    What somebody else has put into the folder that is replaced is moved into the new one. A symbolic link stays; what
    it leads to is replaced.

    Parameters
    ----------
    folder
        Where to.
    marker
        File that a folder which may be replaced holds.
    what
        Name of such a folder, for the error.
    own
        Patterns of the files that go with such a folder.

    Raises
    ------
    FileExistsError
        If `folder` exists and has no such file.
    """
    folder = Path(os.path.realpath(folder))
    if folder.exists() and not (folder / marker).is_file():
        raise FileExistsError(f"{folder} exists and is no {what}; name another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent))
    try:
        yield unfinished
        open_to_others(unfinished)
        old = unfinished
        if not (folder.exists() and _exchange(unfinished, folder)):
            old = unfinished.with_name(f"{unfinished.name}.old")
            if folder.exists():
                os.rename(folder, old)
            os.rename(unfinished, folder)
        for path in old.iterdir() if old.exists() else ():
            if not (any(fnmatch(path.name, pattern) for pattern in own) or (folder / path.name).exists()):
                os.rename(path, folder / path.name)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def open_to_others(folder: Path) -> None:
    """Let others read what is in a temporary folder, as far as the user's umask does: it was made for nobody else."""
    for path in (folder, *folder.rglob("*")):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~_UMASK)


def _exchange(a: Path, b: Path) -> bool:
    """Let two paths change places at once, where the system can: there is no moment without either."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None
    return rename is not None and not rename(AT_FDCWD, os.fsencode(a), AT_FDCWD, os.fsencode(b), RENAME_EXCHANGE)


@contextlib.contextmanager
def alone(path: str | os.PathLike[str]) -> Iterator[None]:
    """Keep other processes that ask for it from writing `path` meanwhile.

    Raises
    ------
    FileExistsError
        If one is writing it.
    """
    path = Path(os.path.realpath(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to write {path.name} in")
    lock = filelock.FileLock(path.with_name(f".{path.name}.lock"))  # which ends with this process, however it ends
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise FileExistsError(f"another process is writing {path} now; wait for it, or name another") from None
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
