"""The command line: parse arguments, call one function of one room, print. A command imports its own room."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import molcmim

app = typer.Typer(
    name="molcmim",
    help="Molecules in, vectors out, and back.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"molcmim {molcmim.__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Molecules in, vectors out, and back."""


@app.command("build-tokenizer")
def build_tokenizer(
    inputs: Annotated[list[str], typer.Argument(help="Molecule files.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")],
    notation: Annotated[str, typer.Option(help="smiles or selfies.")] = "smiles",
    min_count: Annotated[int, typer.Option(help="Rarer symbols are spelled by character.")] = 5,
    limit: Annotated[int | None, typer.Option(help="Molecules to read; default: all.")] = None,
    column: Annotated[str | None, typer.Option(help="Name of the SMILES column.")] = None,
) -> None:
    """Build a tokenizer from the symbols of molecule files."""
    from molcmim import prepare

    size = prepare.build_tokenizer(inputs, output, notation, min_count, limit, column)
    typer.echo(f"{output}: {size} tokens")


@app.command("prepare")
def prepare_store(
    inputs: Annotated[list[str], typer.Argument(help="Molecule files.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to create: the token store.")],
    notation: Annotated[
        str, typer.Option(help="smiles, selfies, or a folder with a tokenizer of yours.")
    ] = "smiles",
    spellings: Annotated[int, typer.Option(help="Random spellings beside the canonical one.")] = 0,
    descriptors: Annotated[bool, typer.Option("--descriptors", help="Compute RDKit descriptors.")] = False,
    join_share: Annotated[float, typer.Option(help="Joined pairs added, per molecule.")] = 0.0,
    max_length: Annotated[int, typer.Option(help="Longest encoding in tokens.")] = 256,
    standardize: Annotated[
        bool, typer.Option("--standardize", help="Largest fragment, neutralised, first.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of spellings and pairs.")] = 0,
    column: Annotated[str | None, typer.Option(help="Name of the SMILES column.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; default: all CPUs.")] = None,
) -> None:
    """Turn molecule files into a token store for pretraining."""
    from molcmim.prepare import REJECTS, StoreRecipe, prepare

    recipe = StoreRecipe(spellings, descriptors, join_share, max_length, standardize, seed)
    store = prepare(inputs, output, notation, recipe, column, workers)
    typer.echo(
        f"{output}: {store.num_molecules:,} molecules ({store.joined:,} joined), "
        f"{store.num_tokens:,} tokens, {store.rejected:,} rows rejected ({output / REJECTS})"
    )


@app.command("evaluate")
def evaluate_checkpoint(
    checkpoint: Annotated[str, typer.Argument(help="Name or folder of a checkpoint.")],
    store: Annotated[Path, typer.Argument(help="Token store of molecules it was not trained on.")],
    molecules: Annotated[int | None, typer.Option(help="How many, at random; default: all.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file to write as well.")] = None,
) -> None:
    """Measure a checkpoint on held-out molecules: exact reconstruction, bits per character, the latent's shape."""
    import json

    from molcmim.evaluation import evaluate, write_report

    report = evaluate(checkpoint, store, molecules)
    if output is not None:
        write_report(report, output)
    typer.echo(json.dumps(report, indent=1))


if __name__ == "__main__":
    app()
