"""The command that draws a map of the latent space. Part of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from molcmim.cli_types import Checkpoint, Column, Device, RandomState, Strict, not_input, writable

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer()


@app.command("map")
def draw_map(
    input: Annotated[str, typer.Argument(help="esol, freesolv, lipophilicity, or a molecule file.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", callback=writable, help=".csv, .tsv or .parquet; a .png goes beside it.")
    ] = Path("map.csv"),
    color: Annotated[
        str | None, typer.Option(help="Column of a file whose value, a number or a label, colours a molecule.")
    ] = None,
    unit: Annotated[str, typer.Option(help="Its unit.")] = "",
    column: Column = None,
    embedding: Annotated[str, typer.Option(help="mean, informative, both or descriptors.")] = "mean",
    method: Annotated[str, typer.Option(help="tsne (of 50 principal components) or pca.")] = "tsne",
    checkpoint: Checkpoint = "molcmim-small",
    data: Annotated[Path | None, typer.Option(help="Folder of the property sets; default: cache, download.")] = None,
    random_state: RandomState = 0,
    strict: Strict = False,
    device: Device = None,
) -> None:
    """Lay molecules out in a plane by their embeddings, coloured by a value: a table, and a picture beside it.

    The table is INPUT's, with the columns map_1, map_2 and error after its own.
    """
    import pandas as pd

    from molcmim import files, loaded, mapping, plots
    from molcmim.atomic import atomic_path

    not_input(output, input)
    read = _read(input, data, column, color, unit)
    if taken := sorted({"map_1", "map_2", "error"} & set(read.table)):
        raise ValueError(f"{input} has columns that a map adds: {', '.join(taken)}; rename them first")
    place = mapping.molecules(read.smiles, loaded.featurizer(checkpoint, device), embedding, method, random_state)
    found = pd.concat([read.table, place], axis=1)
    with atomic_path(output) as partial:
        files.write_frame(found, partial, output.suffix)
    good = place["error"] == ""
    title = f"{Path(input).name}: {good.sum():,} molecules\n{Path(checkpoint).name}, {embedding} embedding"
    values = None if read.values is None else read.values[good]
    picture = output.with_suffix(".png")
    plots.plane(place.loc[good, ["map_1", "map_2"]], values, title, place.attrs["axes"], read.said, picture)
    bad = len(found) - good.sum()
    typer.echo(f"{output}: {len(found):,} rows, {bad:,} of them bad (reasons are in the output); {picture}", err=True)
    if strict and bad:
        raise typer.Exit(2)


class _Read(NamedTuple):
    """What is mapped."""

    table: pd.DataFrame
    """As it came, its own column error renamed."""
    smiles: list[Any]
    """Molecules of its rows."""
    values: pd.Series | None
    """Numbers or labels that colour them."""
    said: str
    """What to say of these."""


def _read(input: str, folder: Path | None, column: str | None, color: str | None, unit: str) -> _Read:
    from molcmim import datasets, files, plots
    from molcmim.embedding_files import read_metadata
    from molcmim.values import frame_of

    if known := datasets.DATASETS.get(input):
        frame = datasets.load(input, folder)
        return _Read(frame, frame["smiles"].tolist(), frame["y"], f"{known.quantity} ({known.unit})")
    import pyarrow as pa

    chunks = list(files.read_chunks(input, column))
    whole = pa.concat_tables([chunk.table for chunk in chunks])
    if "embedding" in read_metadata(input):  # what `molcmim featurize` added is of no use beside a map
        whole = whole.drop_columns([name for name in ("embedding", "error") if name in whole.column_names])
    table = files.with_own_error(whole).to_pandas()
    molecules = [molecule for chunk in chunks for molecule in chunk.smiles]
    if color is None:
        return _Read(table, molecules, None, "")
    frame, labels = (frame_of(chunks, input, [color], labels=as_labels, skip_bad=True) for as_labels in (False, True))
    if len(frame.attrs["bad_values"]) > frame[color].notna().sum():  # no numbers, or hardly any
        frame = labels
    if labels is frame and (kinds := frame[color].nunique()) > plots.CATEGORIES:
        raise ValueError(
            f"{input}: {color} holds {kinds} different texts, such as {frame[color].dropna().iloc[0]!r}; numbers, or "
            f"up to {plots.CATEGORIES} labels, have colours"
        )
    if color in table:  # and was not called error
        table[color] = frame[color]  # numbers as such
    return _Read(table, molecules, frame[color], f"{color} ({unit})" if unit else color)
