"""Arguments and options that several commands take, and what is refused before anything slow is imported.

Part of the command line.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Annotated, TypeVar

import typer

P = TypeVar("P", str, Path, None)
SUFFIXES = (".csv", ".tsv", ".parquet")
MOLECULES = "Molecule file: .smi, .csv, .tsv, .sdf (.gz), .parquet, .xlsx; - for stdin."


def there(path: P) -> P:
    """Refuse an input that is not there."""
    if path not in (None, "-") and not os.path.exists(path):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    return path


def known(checkpoint: str) -> str:
    """Refuse the name or path of a checkpoint that is nowhere."""
    from molcmim import folders

    folders.find("checkpoints", checkpoint, "checkpoint.json")
    return checkpoint


def in_folder(output: Path | None) -> Path | None:
    """Refuse an output whose folder is not there, or takes no files."""
    if output is not None and not output.parent.is_dir():
        raise typer.BadParameter(f"no folder {output.parent} to write {output.name} in")
    if output is not None and not os.access(output.parent, os.W_OK):
        raise typer.BadParameter(f"{output.parent} takes no files from you; write {output.name} elsewhere")
    return output


def writable(output: Path | None) -> Path | None:
    """Refuse an output that cannot be written."""
    if output is not None and output.suffix.lower() not in SUFFIXES:
        raise typer.BadParameter(f"{output}: cannot write {output.suffix!r}; known suffixes are {', '.join(SUFFIXES)}")
    return in_folder(output)


def not_input(output: Path | None, *inputs: str | Path | None) -> None:
    """Refuse to write over what is read."""
    if output is None or not output.exists():
        return
    for path in inputs:
        if path is not None and os.path.exists(path) and os.path.samefile(output, path):  # Path's fails for long SMILES
            raise typer.BadParameter(f"{output} is the input; name another file", param_hint="--output")


Molecules = Annotated[str, typer.Argument(help=MOLECULES, callback=there)]
Checkpoint = Annotated[str, typer.Option(help="Name or folder of a checkpoint.", callback=known)]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", callback=writable, help=".csv, .tsv or .parquet; default: CSV to standard output."),
]
Column = Annotated[str | None, typer.Option(help="Name of the SMILES column.")]
Format = Annotated[str | None, typer.Option(help="smi, csv, tsv, sdf, parquet, xlsx; default: by suffix.")]
Decoding = Annotated[
    str, typer.Option(help="greedy, beam:5, nucleus:0.9, valid:10 (a beam where greedy fails), nearest:10.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, ...; default: CUDA if any.")]
RandomState = Annotated[int, typer.Option(help="Seed of what is drawn.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with 2 if there are bad rows.")]
Restart = Annotated[bool, typer.Option("--restart", help="Begin anew; replace what is there.")]
Workers = Annotated[
    int | None,
    typer.Option(min=0, help="Processes that read ahead of the model; default: 1, beside a GPU all CPUs."),
]
