"""Commands that predict properties: finetune, predict. Part of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from molcmim.cli_types import Checkpoint, Column, Device, Format, Molecules, Restart, Strict, Workers, there

app = typer.Typer()


def assigned(choices: list[str] | None) -> dict[str, Any]:
    """Read `--set KEY=VALUE`, given several times."""
    import yaml

    settings = {}
    for choice in choices or []:
        key, equals, value = choice.partition("=")
        if not equals:
            raise typer.BadParameter(f"{choice!r} is not of the form KEY=VALUE", param_hint="--set")
        try:
            settings[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise typer.BadParameter(f"{value!r} is no value in YAML", param_hint="--set") from None
    return settings


@app.command("finetune")
def finetune(
    data: Annotated[
        str,
        typer.Argument(help="Molecules and measured values: .csv, .tsv, .sdf (.gz), .parquet, .xlsx.", callback=there),
    ],
    target: Annotated[list[str], typer.Option(help="Column to predict; may be given several times.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the model and its report.")],
    split: Annotated[
        str,
        typer.Option(
            help="Into train, valid and test: random; scaffold, or cluster (of fingerprints), which stay "
            "together; or stratified, by the target: as many of each class, or range of values, as their shares allow."
        ),
    ] = "random",
    split_column: Annotated[
        str | None, typer.Option(help="Column that says train, valid or test of each row, instead of --split.")
    ] = None,
    group_column: Annotated[
        str | None,
        typer.Option(
            help="Column of which rows with the same value stay in one part, instead of --split: a project, a series; "
            "that of the SMILES keeps equal molecules together."
        ),
    ] = None,
    split_sizes: Annotated[
        tuple[float, float, float],
        typer.Option(
            metavar="TRAIN VALID TEST",
            help="Shares of the rows; 0.9 0.1 0 for a last model, when nothing is to be tested.",
        ),
    ] = (0.8, 0.1, 0.1),
    classify: Annotated[bool, typer.Option("--classify", help="The values are classes, any labels.")] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad-values", help="Values that are no numbers, such as <5, count as unknown.")
    ] = False,
    ensemble: Annotated[int, typer.Option(min=1, help="Models; from 2 on numbers have uncertainties.")] = 1,
    checkpoint: Checkpoint = "molcmim-small",
    embedding: Annotated[str, typer.Option(help="mean, descriptors, or, slowly, informative or both.")] = "mean",
    epochs: Annotated[
        int | None, typer.Option(min=0, help="At most; default: 24; 0: the pretrained model stays frozen.")
    ] = None,
    standardize: Annotated[bool, typer.Option("--standardize", help="Largest fragment, neutralised, first.")] = False,
    column: Column = None,
    seed: Annotated[int, typer.Option(help="Of the split and of all that is drawn.")] = 0,
    choices: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Any other choice, e.g. learning_rate=1e-3 or descriptors=false."
        ),
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Replace the model that is there.")] = False,
    strict: Strict = False,
    device: Device = None,
) -> None:
    """Fine-tune a pretrained model on a table, and say how well it predicts what it has not seen.

    Half of each prediction is the network's, half a kernel machine's on RDKit's 2D descriptors.
    OUTPUT holds the model, for `molcmim predict` and the scikit-learn estimators, predictions.csv, metrics.csv, and
    pictures: learning.png, parity.png, of an ensemble calibration.png, of classes confusion.png. Every choice and its
    meaning: molcmim.finetune.Choices.
    """
    import sys

    from molcmim import property_metrics, tuning_report
    from molcmim.finetune import Choices

    settings = {"embedding": embedding, "ensemble": ensemble, "standardize": standardize, "seed": seed}
    settings |= {} if epochs is None else {"epochs": epochs}
    report = tuning_report.finetune_table(
        data, list(dict.fromkeys(target)), output, split=split, split_column=split_column,
        group_column=group_column, sizes=split_sizes, seed=seed, column=column, classify=classify, skip_bad=skip_bad,
        checkpoint=checkpoint, choices=Choices.of({**settings, **assigned(choices)}), device=device, restart=restart,
        progress=sys.stderr.isatty(),
    )  # fmt: skip
    typer.echo(property_metrics.as_text(report.metrics))
    for warning in report.warnings:
        typer.echo(f"to know: {warning}", err=True)
    bad = int(report.predictions["error"].notna().sum())
    used = int(report.predictions["part"].notna().sum())
    said = f"{len(report.predictions):,} rows, {used:,} of them in a part"
    said += f", {bad:,} with errors (reasons are in predictions.csv)" * bool(bad)
    typer.echo(f"{output}: {said}", err=True)
    if strict and bad:
        raise typer.Exit(2)


@app.command("predict")
def predict(
    model: Annotated[Path, typer.Argument(help="Folder that `molcmim finetune` wrote.", callback=there)],
    input: Molecules,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write: .csv, .tsv, .parquet, .npy.")],
    column: Column = None,
    format: Format = None,
    strict: Strict = False,
    workers: Workers = None,
    device: Device = None,
    chunk_rows: Annotated[int, typer.Option(min=1, help="Rows that are worked on at a time.")] = 2_000,
    measured: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN",
            help="Column of INPUT that holds measured values, one for each target, in order: errors and pictures are "
            "written beside OUTPUT.",
        ),
    ] = None,
    interval: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Add the ends of intervals that hold this share of the truth, say 0.9."),
    ] = None,
    restart: Restart = False,
) -> None:
    """Predict a file of molecules; the same command resumes where a killed one stopped.

    With --measured it also says how wrong the predictions are, as .metrics.csv beside OUTPUT, with the pictures that
    `molcmim finetune` draws.
    """
    from molcmim import property_metrics, prospective
    from molcmim.bulk import predict_file

    if measured and output.suffix.lower() == ".npy":
        raise typer.BadParameter("an .npy file has no column of measured values; write .csv", param_hint="--output")
    if measured:
        prospective.check(model, input, measured, column, format)
    done = predict_file(
        input, output, model, column=column, format=format, chunk_rows=chunk_rows, workers=workers, device=device,
        interval=interval, restart=restart,
    )  # fmt: skip
    typer.echo(f"{output}: {done}", err=True)
    if measured:
        metrics = prospective.assess(model, output, measured, column)
        typer.echo(property_metrics.as_text(metrics))
        if left_out := metrics.attrs["left_out"]:
            typer.echo(f"{left_out:,} row(s) have a measured value that is no number, and do not count", err=True)
    if strict and done.bad:
        raise typer.Exit(2)
