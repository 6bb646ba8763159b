"""The command line: parse arguments, call one function of one room, print. A command imports its own room."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

import molcmim
from molcmim import cli_benchmark, cli_generation, cli_map, cli_property
from molcmim.cli_types import (
    Checkpoint,
    Column,
    Device,
    Format,
    Molecules,
    Restart,
    Strict,
    Workers,
    in_folder,
    known,
    there,
)


class _Commands(typer.core.TyperGroup):
    """Commands that end with one line, not a traceback, where the input is at fault."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with _ended_in_order():
                return super().invoke(ctx)
        except Exception as error:
            # safetensors, which is not loaded for its error's sake, has one of its own for a full disk
            if not isinstance(error, OSError | ValueError | ImportError) and type(error).__name__ != "SafetensorError":
                raise
            said = str(error)
            if isinstance(error, OSError) and error.filename is not None:
                said = f"{error.filename}: {error.strerror}"
            typer.echo(f"molcmim: {said}", err=True)
            raise typer.Exit(1) from error


@contextlib.contextmanager
def _ended_in_order() -> Iterator[None]:
    """Let SIGTERM, which batch systems send before they kill, end a command as Ctrl-C does: unfinished folders go.

    Not the processes of one training, whose sender does not wait for Python.
    """
    ours = threading.current_thread() is threading.main_thread() and "RANK" not in os.environ
    before = signal.signal(signal.SIGTERM, _end) if ours else None
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, before)


def _end(number: int, frame: Any) -> None:
    raise SystemExit(128 + number)


app = typer.Typer(
    name="molcmim",
    cls=_Commands,
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
    column: Column = None,
) -> None:
    """Build a tokenizer from the symbols of molecule files."""
    from molcmim import prepare

    size = prepare.build_tokenizer(inputs, output, notation, min_count, limit, column)
    typer.echo(f"{output}: {size} tokens")


@app.command("prepare")
def prepare_store(
    inputs: Annotated[list[str], typer.Argument(help="Molecule files.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to create: the token store.")],
    notation: Annotated[str, typer.Option(help="smiles, selfies, or a folder with a tokenizer of yours.")] = "smiles",
    spellings: Annotated[int, typer.Option(help="Random spellings beside the canonical one.")] = 0,
    descriptors: Annotated[bool, typer.Option("--descriptors", help="Compute RDKit descriptors.")] = False,
    join_share: Annotated[float, typer.Option(help="Joined pairs added, per molecule.")] = 0.0,
    max_length: Annotated[int, typer.Option(help="Longest encoding in tokens.")] = 256,
    standardize: Annotated[bool, typer.Option("--standardize", help="Largest fragment, neutralised, first.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of spellings and pairs.")] = 0,
    column: Column = None,
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


@app.command("pretrain")
def pretrain_model(
    store: Annotated[
        Path, typer.Argument(help="Token store to train on, as `molcmim prepare` writes it.", callback=there)
    ],
    valid: Annotated[Path, typer.Option(help="Token store of held-out molecules, same tokenizer.", callback=there)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run.")],
    recipe: Annotated[str, typer.Option(help="tiny, small, base, or a YAML file of choices.")] = "small",
    objective: Annotated[
        str | None, typer.Option(help="In place of the recipe's: cmim, mim, vae, infonce, minc, ...")
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="Checkpoint of the same model, whose weights training begins with.")
    ] = None,
    choices: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override a choice of the recipe, e.g. steps=500 or model.width=128."
        ),
    ] = None,
) -> None:
    """Pretrain a model; the same command goes on with an interrupted run.

    The result is the checkpoint OUTPUT/model; OUTPUT/log.csv and OUTPUT/curves.png show how training goes. Every
    choice and its meaning: molcmim.recipe.Recipe; an unknown objective lists the known ones, and one that the posterior
    or the store does not fit says what it needs. Several GPUs: torchrun --nproc-per-node 4 -m molcmim.cli pretrain ...
    """
    from molcmim.pretrain import pretrain
    from molcmim.recipe import Recipe

    overrides = cli_property.assigned(choices)
    overrides |= {key: value for key, value in (("objective", objective), ("start", start)) if value is not None}
    typer.echo(pretrain(store, valid, output, Recipe.load(recipe, **overrides)))


@app.command("evaluate")
def evaluate_checkpoint(
    checkpoint: Annotated[str, typer.Argument(help="Name or folder of a checkpoint.", callback=known)],
    store: Annotated[Path, typer.Argument(help="Token store of molecules it was not trained on.", callback=there)],
    molecules: Annotated[int | None, typer.Option(min=1, help="How many, at random; default: all.")] = None,
    random_spellings: Annotated[bool, typer.Option(help="Read a random spelling, not the canonical.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", callback=in_folder, help="JSON file to write as well.")
    ] = None,
) -> None:
    """Measure a checkpoint on held-out molecules: exact reconstruction, bits per character, the latent's shape."""
    import json

    from molcmim.evaluation import evaluate, write_report

    report = evaluate(checkpoint, store, molecules, random_spellings=random_spellings)
    if output is not None:
        write_report(report, output)
    typer.echo(json.dumps(report, indent=1))


@app.command("featurize")
def featurize(
    input: Molecules,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write: .parquet, .csv, .tsv, .npy.")],
    checkpoint: Checkpoint = "molcmim-small",
    embedding: Annotated[str, typer.Option(help="mean, informative, both or descriptors.")] = "mean",
    column: Column = None,
    format: Format = None,
    canonicalize: Annotated[bool, typer.Option(help="Embed the canonical SMILES, or as written.")] = True,
    standardize: Annotated[bool, typer.Option("--standardize", help="Largest fragment, neutralised, first.")] = False,
    spellings: Annotated[
        int, typer.Option(min=1, help="SMILES of each molecule that mu is averaged over; so many times slower.")
    ] = 1,
    strict: Strict = False,
    workers: Workers = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Molecules a batch; default: by tokens.")] = None,
    device: Device = None,
    precision: Annotated[str, typer.Option(help="float32, or bfloat16: faster where the hardware has it.")] = "float32",
    chunk_rows: Annotated[int, typer.Option(min=1, help="Rows that are worked on at a time.")] = 10_000,
    restart: Restart = False,
) -> None:
    """Embed a file of molecules; the same command resumes where a killed one stopped."""
    from molcmim.bulk import featurize_file

    done = featurize_file(
        input, output, checkpoint, embedding, column=column, format=format, canonicalize=canonicalize,
        standardize=standardize, spellings=spellings, chunk_rows=chunk_rows, workers=workers, batch_size=batch_size,
        device=device, precision=precision, restart=restart,
    )  # fmt: skip
    typer.echo(f"{output}: {done}", err=True)
    if strict and done.bad:
        raise typer.Exit(2)


@app.command("export")
def export(
    output: Annotated[Path, typer.Option("--output", "-o", callback=in_folder, help="File to write: .onnx.")],
    checkpoint: Checkpoint = "molcmim-small",
) -> None:
    """Write the encoder as an ONNX graph, token ids in, mean embeddings out, for programs without torch."""
    from molcmim import onnx

    onnx.export(checkpoint, output)


@app.command("info")
def info(
    name: Annotated[str, typer.Argument(help="Checkpoint, or folder of a fine-tuned model.")] = "molcmim-small",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a checkpoint or a fine-tuned model is: sizes, hashes, how it was trained."""
    import json

    from molcmim import checkpoint, tuned

    finetuned = (Path(name) / tuned.RECORD).is_file()
    description = tuned.describe(name) if finetuned else checkpoint.describe(name)
    typer.echo(json.dumps(description, indent=1) if as_json else checkpoint.as_table(description))


app.add_typer(cli_benchmark.app, name="benchmark")
app.add_typer(cli_generation.app)  # its commands stand beside these, as do those of
app.add_typer(cli_map.app)
app.add_typer(cli_property.app)


if __name__ == "__main__":
    app()
