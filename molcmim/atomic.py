"""Files and folders that appear whole or not at all, whatever happens to the process that writes them."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Lend a temporary path beside `path`; its file becomes `path` at the end, or goes on an error.

    Whoever reads `path` sees the old file or the whole new one.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to write {path.name} in")
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(folder: str | os.PathLike[str], marker: str, what: str, own: Sequence[str]) -> Iterator[Path]:
    """Lend a new folder beside `folder`; at the end it takes its place, or goes on an error.

    What somebody else has put into the folder that is replaced is moved into the new one.

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
    folder = Path(folder)
    if folder.exists() and not (folder / marker).is_file():
        raise FileExistsError(f"{folder} exists and is no {what}; name another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent))
    try:
        yield unfinished
        unfinished.chmod(0o755)
        for path in unfinished.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)  # safetensors lets nobody else read
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
