"""Commands that compare: property prediction, generation, retrieval, speed of embedding and of training.

Part of the command line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from molcmim.cli_types import Checkpoint, Column, Decoding, Molecules, RandomState, in_folder, there

app = typer.Typer(help="Compare: property prediction, generation, retrieval, speed.", no_args_is_help=True)


@app.command("property")
def benchmark_property(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder; what it already holds is not done again.")],
    checkpoint: Annotated[
        list[str] | None, typer.Option(help="Name or folder, may be given several times; default: molcmim-small.")
    ] = None,
    datasets: Annotated[
        str | None, typer.Option(help="Comma between names; default: esol,freesolv,lipophilicity, or --csv alone.")
    ] = None,
    csv: Annotated[
        list[Path] | None, typer.Option(help="Molecule file with measured values of your own; see --target.")
    ] = None,
    target: Annotated[str, typer.Option(help="Column of those values.")] = "y",
    column: Column = None,
    unit: Annotated[str, typer.Option(help="Unit of those values.")] = "",
    splits: Annotated[str, typer.Option(help="Comma between names: random, scaffold, cluster.")] = "random,scaffold",
    features: Annotated[
        str,
        typer.Option(
            help="Embeddings (mean:9: over nine spellings), RDKit's, names of --extra files; + joins several, with "
            "equal shares."
        ),
    ] = "mean,informative,both,morgan,rdkit2d,maccs,rdkit2d+morgan,both+rdkit2d",
    heads: Annotated[str, typer.Option(help="Comma between names.")] = "ridge,svr,kernel,mlp,forest",
    predictors: Annotated[
        str, typer.Option(help="Trained end to end, comma between names: finetuned, chemprop, dmpnn, graphconv.")
    ] = "",
    data: Annotated[Path | None, typer.Option(help="Folder of the property sets; default: cache, download.")] = None,
    extra: Annotated[
        list[Path] | None, typer.Option(help="Table (.csv, .parquet) of features of your own: smiles and numbers.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Random splits, and cluster splits.")] = 5,
    jobs: Annotated[int, typer.Option(help="Processes; -1: one a core.")] = -1,
) -> None:
    """Predict measured properties from embeddings and from classical features: table, CSV, pictures."""
    from molcmim.benchmark import Plan, Table, run

    if datasets is None:
        datasets = "" if csv else "esol,freesolv,lipophilicity"
    tables = [Table(path, target, column, unit) for path in csv or []]
    sets, kinds, inputs, fitted, whole = map(_names, (datasets, splits, features, heads, predictors))
    plan = Plan(sets, kinds, inputs, fitted, checkpoint or ["molcmim-small"], data, extra or [], seeds, whole, tables)
    results = run(plan, output, jobs)
    typer.echo((output / "table.md").read_text(encoding="utf-8"))
    typer.echo(f"{output}: {len(results)} fits", err=True)


def _names(text: str | None) -> list[str]:
    """Read names with commas between; each counts once."""
    return list(dict.fromkeys(name.strip() for name in text.split(","))) if text else []


@app.command("generation")
def benchmark_generation(
    held_out: Annotated[
        Path, typer.Argument(help="Molecule file that the checkpoint was not trained on.", callback=there)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder; what it already holds is not done again.")],
    checkpoint: Checkpoint = "molcmim-small",
    corpus: Annotated[
        list[Path] | None,
        typer.Option(help="Token store it was trained on, or a file of canonical SMILES; may be given several times."),
    ] = None,
    qed_seeds: Annotated[Path | None, typer.Option(help="Molecule file: seeds of the QED task.")] = None,
    qed_n: Annotated[int, typer.Option(min=1, help="How many of its molecules, from the first.")] = 100,
    qed_calls: Annotated[int, typer.Option(min=1, help="Oracle calls for each of them, by each method.")] = 1000,
    parts: Annotated[str | None, typer.Option(help="Some of the parts, comma between; default: all.")] = None,
    decoding: Decoding = "greedy",
    quick: Annotated[bool, typer.Option("--quick", help="A minute's worth; large standard errors.")] = False,
) -> None:
    """Measure generation: reconstruction, sampling, prior, interpolation, likelihood, speed, and QED optimisation."""
    import dataclasses

    from molcmim import benchmark_generation as bench

    sizes = bench.QUICK if quick else bench.Sizes()
    if qed_seeds is not None:
        sizes = dataclasses.replace(sizes, qed_seeds=qed_n, qed_calls=qed_calls)
    bench.run(
        checkpoint, held_out, output, corpus or [], qed_seeds, sizes, lambda line: typer.echo(line, err=True),
        parts=_names(parts) or None, decoding=decoding,
    )  # fmt: skip
    typer.echo((output / "table.md").read_text(encoding="utf-8"))


@app.command("speed")
def benchmark_speed(
    checkpoint: Checkpoint = "molcmim-small",
    dataset: Annotated[str, typer.Option(help="Whose molecules.")] = "lipophilicity",
    data: Annotated[Path | None, typer.Option(help="Folder of the property sets; default: cache, download.")] = None,
    molecules: Annotated[int | None, typer.Option(help="How many, drawn at random; default: all.")] = None,
    threads: Annotated[str, typer.Option(help="Numbers of CPU threads, comma between.")] = "1,2",
    repeats: Annotated[int, typer.Option(help="Turns of which the median counts.")] = 3,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", callback=in_folder, help="CSV file to write as well.")
    ] = None,
) -> None:
    """Time embeddings from SMILES on, beside RDKit descriptors and fresh transformers of known shapes; on CPU."""
    from molcmim import datasets, speed
    from molcmim.atomic import atomic_path
    from molcmim.featurizer import Featurizer

    chosen = datasets.load(dataset, data)["smiles"]
    chosen = chosen if molecules is None else chosen.sample(min(molecules, len(chosen)), random_state=0)
    featurizer = Featurizer.from_pretrained(checkpoint, "cpu")
    measured = speed.measure(featurizer, list(chosen), [int(count) for count in threads.split(",")], repeats)
    typer.echo(speed.markdown(measured))
    if output is not None:
        with atomic_path(output) as partial:
            measured.to_csv(partial, index=False)


@app.command("train")
def benchmark_train(
    store: Annotated[Path, typer.Argument(help="Folder of a token store to train on.", callback=there)],
    recipe: Annotated[str, typer.Option(help="tiny, small, base, or a YAML file.")] = "small",
    steps: Annotated[int, typer.Option(help="Of each turn; a multiple of 3.")] = 60,
    rounds: Annotated[int, typer.Option(help="Turns of which the fastest counts.")] = 2,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", callback=in_folder, help="CSV file to write as well.")
    ] = None,
) -> None:
    """Time pretraining by a recipe and by variants of it, and embedding the store's tokens with its model."""
    from molcmim import training_speed
    from molcmim.atomic import atomic_path
    from molcmim.recipe import Recipe

    chosen = Recipe.load(recipe)
    measured = training_speed.measure(store, chosen, steps, rounds)
    if output is not None:
        with atomic_path(output) as partial:
            measured.to_csv(partial, index=False)
    typer.echo(measured.to_string(index=False, float_format="{:,.2f}".format))
    shares = training_speed.padding(store, chosen.batch_size)
    typer.echo("padding: " + ", ".join(f"{share:.1%} of {name} batches" for name, share in shares.items()))
    typer.echo(f"mean embeddings: {training_speed.embedding(store, chosen):,.0f} a second, from prepared tokens")


@app.command("retrieval")
def benchmark_retrieval(
    library: Molecules,
    output: Annotated[
        Path, typer.Option("--output", "-o", callback=in_folder, help="CSV file; a .png goes beside it.")
    ],
    queries: Annotated[int, typer.Option(min=1, help="How many of the molecules are looked for.")] = 500,
    embedding: Annotated[str, typer.Option(help="mean, informative, both or descriptors.")] = "mean",
    checkpoint: Checkpoint = "molcmim-small",
    column: Column = None,
    spellings: Annotated[int, typer.Option(min=1, help="SMILES of each molecule that mu is averaged over.")] = 1,
    random_state: RandomState = 0,
) -> None:
    """Ask whether neighbours in the latent space are alike: same scaffold, similar fingerprint; beside chance."""
    from molcmim import files, loaded, retrieval
    from molcmim.atomic import atomic_path

    molecules = [molecule for chunk in files.read_chunks(library, column) for molecule in chunk.smiles]
    featurizer = loaded.featurizer(checkpoint)
    measured = retrieval.measure(featurizer, molecules, queries, embedding, random_state, spellings=spellings)
    with atomic_path(output) as partial:
        measured.to_csv(partial, index=False)
    retrieval.draw(measured, output.with_suffix(".png"))
    typer.echo(measured.to_string(index=False, float_format="{:.3f}".format))
