"""The command that draws a map of the latent space. Part of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from molcmim.cli_generation import Checkpoint, Column, Device, RandomState, Strict, not_input, writable

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer()


@app.command("map")
def draw_map(
    input: Annotated[str, typer.Argument(help="esol, freesolv, lipophilicity, or a molecule file with values.")],
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
    """Lay molecules out in a plane by their embeddings, coloured by a value: a table, and a picture beside it."""
    from molcmim import files, loaded, mapping, plots
    from molcmim.atomic import atomic_path

    not_input(output, input)
    frame, name, colored_by, said = _read(input, data, column, color, unit)
    found = mapping.molecules(frame, loaded.featurizer(checkpoint, device), embedding, method, random_state)
    with atomic_path(output) as partial:
        if output.suffix == ".parquet":
            found.to_parquet(partial, index=False)
        else:
            found.to_csv(partial, index=False, sep=files.DELIMITERS[output.suffix[1:]])
    drawn = found[found["error"] == ""]
    title = f"{name}: {len(drawn):,} molecules\n{Path(checkpoint).name}, {embedding} embedding"
    picture = output.with_suffix(".png")
    plots.plane(drawn[["map_1", "map_2"]], drawn[colored_by], title, found.attrs["axes"], said, picture)
    bad = len(found) - len(drawn)
    typer.echo(f"{output}: {len(found):,} rows, {bad:,} of them bad (reasons are in the output); {picture}", err=True)
    if strict and bad:
        raise typer.Exit(2)


def _read(
    input: str, folder: Path | None, column: str | None, color: str | None, unit: str
) -> tuple[pd.DataFrame, str, str, str]:
    """Molecules with a value; what they are called, the value's column, and what to say of it."""
    from molcmim import datasets, plots

    if known := datasets.DATASETS.get(input):
        return datasets.load(input, folder), input, "y", f"{known.quantity} ({known.unit})"
    if color is None:
        known_sets = ", ".join(datasets.DATASETS)
        raise ValueError(f"{input} is none of {known_sets}; of a file, say by --color which column colours molecules")
    said = f"{color} ({unit})" if unit else color
    try:
        frame = datasets.load_csv(input, column, [color])
    except ValueError:  # no numbers
        frame = datasets.load_csv(input, column, [color], labels=True)
        if frame[color].nunique() > plots.CATEGORIES:
            raise
    return frame, Path(input).name, color, said
