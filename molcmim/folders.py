"""Where named folders of data lie, and what tells two files apart. Knows nothing of what they hold."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def find(kind: str, name_or_path: str | os.PathLike[str], marker: str) -> Path:
    """Resolve the name or path of a folder.

    Looked for, in this order: the path as given, ``$MOLCMIM_HOME/<name>``, ``$MOLCMIM_HOME/<kind>/<name>``,
    the copy inside the installed package, the source checkout.

    Parameters
    ----------
    kind : {"tokenizers", "checkpoints"}
        What is looked for.
    name_or_path
        A path, or the name of a folder in one of these places.
    marker
        File that tells such a folder from others.

    Raises
    ------
    FileNotFoundError
        If it is nowhere; the message says what was looked at, and which names there are.
    """
    homes = [_PACKAGE / "_data" / kind, _PACKAGE.parent / kind]
    if home := os.environ.get("MOLCMIM_HOME"):
        homes = [Path(home), Path(home) / kind, *homes]
    looked_at = [Path(name_or_path), *(home / name_or_path for home in homes)]
    for folder in looked_at:
        if (folder / marker).is_file():
            return folder
    known = sorted({folder.parent for home in homes for folder in home.glob(f"*/{marker}")})
    places = "".join(f"\n  {folder}: {_what_is(folder, marker)}" for folder in dict.fromkeys(looked_at))
    raise FileNotFoundError(
        f"no {kind.removesuffix('s')} {str(name_or_path)!r}; looked at{places}\n"
        f"Known by name: {', '.join(f'{folder.name} ({folder})' for folder in known) or 'none'}; "
        "give one of these, a path, or set MOLCMIM_HOME."
    )


def _what_is(folder: Path, marker: str) -> str:
    if not folder.is_dir():
        return "a file, not a folder" if folder.exists() else "not there"
    held = sorted(path.name for path in folder.iterdir())
    return f"no {marker} in it but {', '.join([*held[:5], *(['...'] if held[5:] else [])]) or 'nothing'}"


def verify(folder: Path, hashes: Mapping[str, str], record: str, advice: str) -> None:
    """Compare files with the SHA-256 that a record has of each; ValueError, with `advice`, for the first that differs.

    Parameters
    ----------
    folder
        Where they are.
    hashes
        Name -> SHA-256.
    record
        Name of the file that says so, for the message.
    advice
        What to do.
    """
    for name, expected in hashes.items():
        if (found := sha256(folder / name)) != expected:
            raise ValueError(
                f"{folder / name} is damaged: SHA-256 {found[:12]}..., {record} says {expected[:12]}...; {advice}"
            )


def sha256(*paths: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, or of several as if they were one, in hexadecimal digits."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
