"""Commands that write molecules: decode, reconstruct, sample, interpolate, neighbours, optimize.

Part of the command line.
"""

from __future__ import annotations

import functools
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from molcmim.cli_types import (
    MOLECULES,
    Checkpoint,
    Column,
    Decoding,
    Device,
    Molecules,
    Output,
    RandomState,
    Restart,
    Strict,
    not_input,
    there,
)

if TYPE_CHECKING:
    import pandas as pd

    from molcmim.files import Chunk

app = typer.Typer()
Picture = Annotated[bool, typer.Option(help="Draw the molecules beside OUTPUT, as a .png.")]
MustHave = Annotated[
    list[str] | None, typer.Option(metavar="SMARTS", help="What each molecule must have; may be given several times.")
]
MustNotHave = Annotated[
    list[str] | None,
    typer.Option(metavar="SMARTS", help="What none may have; . is a second fragment. May be given several times."),
]


@app.command("decode")
def decode(
    codes: Annotated[
        str, typer.Argument(help="Latent codes: .npy, or .parquet as `molcmim featurize` writes it.", callback=there)
    ],
    output: Output = None,
    picture: Picture = True,
    checkpoint: Checkpoint = "molcmim-small",
    decoding: Decoding = "greedy",
    random_state: RandomState = 0,
    strict: Strict = False,
    device: Device = None,
) -> None:
    """Decode latent codes (mean embeddings) to molecules, a row each."""
    from molcmim import generation
    from molcmim.embedding_files import read_embeddings

    not_input(output, codes)
    frame = generation.decode(
        read_embeddings(codes), on_error="nan", decoding=decoding, random_state=random_state,
        checkpoint=checkpoint, device=device,
    )  # fmt: skip
    _deliver(frame, output, picture)
    _count_bad(frame, strict)


@app.command("reconstruct")
def reconstruct(
    input: Molecules,
    output: Output = None,
    picture: Picture = True,
    checkpoint: Checkpoint = "molcmim-small",
    decoding: Decoding = "greedy",
    random_state: RandomState = 0,
    column: Column = None,
    strict: Strict = False,
    device: Device = None,
) -> None:
    """Encode molecules, decode their codes, and say which came back."""
    from molcmim import generation

    not_input(output, input)
    frame = generation.reconstruct(
        _molecules(input, column), on_error="nan", decoding=decoding, random_state=random_state,
        checkpoint=checkpoint, device=device,
    )  # fmt: skip
    _deliver(frame, output, picture)
    typer.echo(f"{frame['exact'].sum():,} of {len(frame):,} came back exactly", err=True)
    _count_bad(frame, strict)


@app.command("sample")
def sample(
    seeds: Annotated[list[str] | None, typer.Argument(help="SMILES to draw around; none: the prior.")] = None,
    n: Annotated[int, typer.Option("-n", help="Molecules, for each seed.")] = 100,
    radius: Annotated[float, typer.Option(help="Scaled radius: z = mu(seed) + radius * eps.")] = 1.0,
    valid: Annotated[bool, typer.Option("--valid", help="Keep valid ones only.")] = False,
    unique: Annotated[bool, typer.Option("--unique", help="Keep the first of equal ones only.")] = False,
    not_seed: Annotated[bool, typer.Option("--not-seed", help="Keep none that is its seed.")] = False,
    must_have: MustHave = None,
    must_not_have: MustNotHave = None,
    max_draws: Annotated[int | None, typer.Option(help="Codes decoded at most for each seed; default: 20 n.")] = None,
    output: Output = None,
    picture: Picture = True,
    checkpoint: Checkpoint = "molcmim-small",
    decoding: Decoding = "greedy",
    random_state: RandomState = 0,
    device: Device = None,
) -> None:
    """Draw molecules around seeds, or from the prior; exit with 2 if the draws end before there are N."""
    from molcmim import generation

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", generation.ShortOfMolecules)  # said below
        frame = generation.sample(
            seeds or None, n, radius, valid=valid, unique=unique, not_seed=not_seed, must_have=must_have or (),
            must_not_have=must_not_have or (), max_draws=max_draws, decoding=decoding, random_state=random_state,
            checkpoint=checkpoint, device=device,
        )  # fmt: skip
    _deliver(frame, output, picture)
    draws, fit, different = (frame.attrs[name] for name in ("draws", "valid_draws", "different_draws"))
    typer.echo(f"{draws:,} draws: {fit:,} valid, {different:,} different molecules among these", err=True)
    if len(frame) < (wanted := n * len(seeds or [None])):
        typer.echo(f"only {len(frame):,} of {wanted:,} molecules; raise --max-draws", err=True)
        raise typer.Exit(2)


@app.command("interpolate")
def interpolate(
    a: Annotated[str, typer.Argument(help="SMILES where the way begins.")],
    b: Annotated[str, typer.Argument(help="SMILES where it ends.")],
    steps: Annotated[int, typer.Option(help="Codes on the way, both ends among them.")] = 10,
    path: Annotated[str, typer.Option(help="linear or spherical.")] = "linear",
    output: Output = None,
    picture: Picture = True,
    checkpoint: Checkpoint = "molcmim-small",
    decoding: Decoding = "greedy",
    random_state: RandomState = 0,
    device: Device = None,
) -> None:
    """Decode codes on the way from one molecule to another."""
    from molcmim import generation

    frame = generation.interpolate(
        a, b, steps, path=path, decoding=decoding, random_state=random_state, checkpoint=checkpoint, device=device
    )
    _deliver(frame, output, picture, strip=True)
    for name, place in (("a", 0), ("b", -1)):
        if frame["canonical"].iloc[place] != (end := frame.attrs[name]):
            back = frame["smiles"].iloc[place]
            typer.echo(f"{end} is decoded as {back}; --decoding nearest brings more molecules back", err=True)


@app.command("neighbours")
def neighbours(
    query: Annotated[str, typer.Argument(help="SMILES of what is looked for, or a file of molecules, which all are.")],
    library: Molecules,
    k: Annotated[int, typer.Option("-k", help="How many for each.")] = 10,
    output: Output = None,
    picture: Picture = True,
    checkpoint: Checkpoint = "molcmim-small",
    column: Column = None,
    spellings: Annotated[int, typer.Option(min=1, help="SMILES of each molecule that codes are averaged over.")] = 1,
    device: Device = None,
) -> None:
    """Find the molecules of a file that are nearest to a query in the latent space.

    `row` is the row of LIBRARY, counted from 0 (a header is none), whose other columns follow, as do those of a file of
    queries, query_...; `log_prob` is in nats.
    A LIBRARY that `molcmim featurize` wrote as .parquet, mean embeddings of the same column by the same checkpoint, is
    not embedded again.
    """
    import os.path

    from molcmim import files, generation
    from molcmim.checkpoint import read_record, resolve
    from molcmim.embedding_files import read_embeddings, read_metadata

    not_input(output, library, query)
    chunks = [_without_embedding(chunk) for chunk in files.read_chunks(library, column)]
    known, embeddings = read_metadata(library), None
    if known.get("embedding") == "mean" and library.lower().endswith(".parquet"):
        asked = {"weights_sha256": read_record(resolve(checkpoint))["weights_sha256"], "read_from": chunks[0].column,
                 "canonicalize": True, "standardize": False, "spellings": spellings}  # fmt: skip
        if differ := [name for name in asked if known.get(name) != asked[name]]:
            said = f"the embeddings in {library} are others than are asked for ({', '.join(differ)})"
            typer.echo(f"{said}; it is embedded anew", err=True)
        else:
            embeddings = read_embeddings(library)
    molecules = [molecule for chunk in chunks for molecule in chunk.smiles]
    queries = list(files.read_chunks(query)) if os.path.isfile(query) else None  # Path's fails for a long SMILES
    frame = generation.neighbours(
        query if queries is None else [molecule for chunk in queries for molecule in chunk.smiles],
        molecules,
        k,
        embeddings=embeddings,
        on_error="skip",
        spellings=spellings,
        checkpoint=checkpoint,
        device=device,
    )
    for name, values in _others(library, chunks, frame["row"]).items():
        frame[f"library_{name}" if name in frame else name] = values
    for name, values in _others(query, queries, frame["query_row"]).items() if queries else ():
        frame[f"query_{name}"] = values
    _deliver(frame, output, picture)
    if missed := frame.attrs.get("queries_skipped"):
        row, reason = next(iter(missed.items()))
        typer.echo(f"{query}: {len(missed):,} row(s) are left out; the first: row {row}, {reason}", err=True)
    typer.echo(f"{frame.attrs['library']:,} rows, {frame.attrs['skipped']:,} of them bad and left out", err=True)


@app.command("optimize")
def optimize(
    seeds: Annotated[list[str] | None, typer.Argument(help="SMILES to begin at.")] = None,
    input: Annotated[
        str | None, typer.Option("--input", "-i", help=f"More of them. {MOLECULES}", callback=there)
    ] = None,
    oracle: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORACLE",
            help="qed (default), plogp, logp, sa, molecular_weight, similarity:SMILES, regressor:FOLDER (of `molcmim "
            "finetune`; of several targets regressor:FOLDER:TARGET), or FILE.py:FUNCTION of yours, list of SMILES -> "
            "scores. More is better: for sa (1: easy to make, 10: hard) and molecular_weight give --weight -1. Several "
            "are summed.",
        ),
    ] = None,
    weight: Annotated[
        list[float] | None, typer.Option(help="Factor of each --oracle, in their order; below 0: less is better.")
    ] = None,
    calls: Annotated[int, typer.Option(help="Molecules that may be scored for each seed.")] = 1000,
    min_similarity: Annotated[float, typer.Option(help="Least Tanimoto similarity to the seed.")] = 0.0,
    must_have: MustHave = None,
    must_not_have: MustNotHave = None,
    target: Annotated[float | None, typer.Option(help="Score at which a seed's search ends.")] = None,
    method: Annotated[str, typer.Option(help="cma, or a baseline: perturbation, best-of-n.")] = "cma",
    radius: Annotated[float, typer.Option(help="Standard deviation of the noise at the start.")] = 0.5,
    top: Annotated[int, typer.Option(min=1, help="Molecules to write for each seed, the best first.")] = 5,
    top_similarity: Annotated[
        float,
        typer.Option(help="Those written are less similar to each other than this (Tanimoto); 1: however similar."),
    ] = 1.0,
    output: Output = None,
    picture: Picture = True,
    restart: Restart = False,
    checkpoint: Checkpoint = "molcmim-small",
    decoding: Decoding = "greedy",
    random_state: RandomState = 0,
    column: Column = None,
    device: Device = None,
) -> None:
    """Search for molecules near seeds that score better, all seeds side by side.

    Beside OUTPUT lie all evaluations, as .log.parquet, from which the same command goes on where a killed one stopped,
    and one with more --calls, or another --target, takes the scores; and the trajectory, as .trajectory.png.
    """
    from molcmim import generation, generation_plots

    names = oracle or ["qed"]
    if len(set(names)) < len(names):
        raise typer.BadParameter(f"one is given twice: {', '.join(names)}; give it a --weight", param_hint="--oracle")
    if weight and len(weight) != len(names):
        raise typer.BadParameter(f"{len(weight)} for {len(names)} of --oracle", param_hint="--weight")
    not_input(output, input)
    rows: list[object] = [*(seeds or []), *(_readable(input, column) if input else [])]
    log = output and output.with_suffix(".log.parquet")
    evaluations = generation.optimize(
        rows, {name: _oracle(name) for name in names}, calls=calls, min_similarity=min_similarity,
        must_have=must_have or (), must_not_have=must_not_have or (),
        target=float("inf") if target is None else target, weights=dict(zip(names, weight or [], strict=False)),
        method=method, radius=radius, log=log, restart=restart, decoding=decoding,
        random_state=random_state, checkpoint=checkpoint, device=device,
    )  # fmt: skip
    _deliver(generation.best(evaluations, top, top_similarity), output, picture)
    if output and picture:
        generation_plots.trajectory(evaluations, output.with_suffix(".trajectory.png"))
    cost = evaluations.attrs
    typer.echo(
        f"{len(evaluations):,} calls, {cost['scored']:,} different molecules scored; {cost['draws']:,} codes decoded, "
        f"of them {cost['invalid']:,} invalid, {cost['dissimilar']:,} too dissimilar, "
        f"{cost['excluded']:,} excluded by substructures, {cost['repeated']:,} known or not chosen; "
        f"{cost['restarts']} restarts",
        err=True,
    )
    if cost["failed"]:
        typer.echo(
            f"no score for {cost['failed']:,} of these molecules; the first: {evaluations['error'].dropna().iloc[0]}. "
            "With --restart they are asked for again",
            err=True,
        )


def _oracle(name: str) -> Any:
    """Find what stands on the command line for an oracle; what is nothing special is a name."""
    file, colon, rest = name.rpartition(":")
    if colon and file.endswith(".py"):
        import runpy

        sys.path.insert(0, str(Path(file).resolve().parent))  # as for a script: what lies beside it can be imported
        try:
            defined = runpy.run_path(file)
        except Exception as error:  # whatever is wrong with it
            at = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
            raise ValueError(f"{file}{at}: {type(error).__name__}: {error}") from error
        if not callable(defined.get(rest)):
            raise typer.BadParameter(f"{file} defines no function {rest!r}", param_hint="--oracle")
        return _marked(defined[rest], Path(file))
    if name.startswith("regressor:"):
        from molcmim.tuned import RECORD

        folder, target = Path(name.partition(":")[2]), None
        if not folder.is_dir() and file.startswith("regressor:"):
            folder, target = Path(file.partition(":")[2]), rest
        return _marked(_predictor(folder, target), folder / RECORD)  # which holds the hash of the weights
    return name


def _predictor(folder: Path, target: str | None) -> Any:
    """Load a fine-tuned model, to predict one of its targets."""
    from molcmim.sklearn import MolCMIMRegressor

    model = MolCMIMRegressor.load(folder)
    if target is None and len(model.targets_) == 1:
        return model.predict
    if target not in model.targets_:
        raise typer.BadParameter(
            f"name one of the targets of {folder}, {', '.join(model.targets_)}: regressor:{folder}:TARGET",
            param_hint="--oracle",
        )
    which = model.targets_.index(target)
    return lambda molecules: model.predict(molecules).reshape(len(molecules), -1)[:, which]


def _marked(oracle: Any, file: Path) -> Any:
    """Say with an oracle what it is made of, so that scores of another are not taken for its own."""
    from molcmim import folders

    marked = functools.partial(oracle)
    marked.fingerprint = folders.sha256(file)  # type: ignore[attr-defined]
    return marked


def _molecules(path: str, column: str | None) -> list[object]:
    from molcmim import files

    return [molecule for chunk in files.read_chunks(path, column) for molecule in chunk.smiles]


def _without_embedding(chunk: Chunk) -> Chunk:
    """Drop the largest column of what `molcmim featurize` wrote: it is read by itself, if at all."""
    has = "embedding" in chunk.table.column_names and chunk.column != "embedding"
    return chunk._replace(table=chunk.table.drop_columns("embedding")) if has else chunk


def _others(path: str, chunks: list[Chunk], rows: pd.Series) -> dict[str, list[Any]]:
    """Rows of a file's columns: all but that of the SMILES, and those that `molcmim featurize` adds."""
    import pyarrow as pa

    from molcmim.embedding_files import read_metadata

    known = {chunks[0].column, *(["embedding", "error"] if "embedding" in read_metadata(path) else [])}
    table = pa.concat_tables([chunk.table for chunk in chunks])
    others = table.select([name for name in table.column_names if name not in known])
    found: dict[str, list[Any]] = others.take(rows.to_numpy()).to_pydict()
    return found


def _readable(path: str, column: str | None) -> list[object]:
    """Molecules of a file without those that cannot be read, which are counted."""
    from molcmim import smiles

    molecules = _molecules(path, column)
    reasons = smiles.canonicalize(molecules)[1]
    if bad := [f"row {row}, {reason}" for row, reason in enumerate(reasons) if reason]:
        typer.echo(f"{path}: {len(bad):,} row(s) are left out; the first: {bad[0]}", err=True)
    return [molecule for molecule, reason in zip(molecules, reasons, strict=True) if reason is None]


def _deliver(frame: pd.DataFrame, output: Path | None, picture: bool, strip: bool = False) -> None:
    """Write the frame, and its picture beside it."""
    from molcmim import drawing, files
    from molcmim.atomic import atomic_path

    if output is None:
        typer.echo(frame.to_csv(index=False), nl=False)
        return
    with atomic_path(output) as partial:
        files.write_frame(frame, partial, output.suffix)
    said = f"{output}: {len(frame):,} rows, {frame['valid'].sum():,} of them valid"
    if picture and (drawn := drawing.draw_frame(frame, png := output.with_suffix(".png"), strip)):
        said += f"; {png}: the first {drawn:,} of them"
    typer.echo(said, err=True)


def _count_bad(frame: pd.DataFrame, strict: bool) -> None:
    """Count the rows that nothing was decoded for."""
    bad = frame["smiles"].isna().sum()
    if bad:
        typer.echo(f"{bad:,} bad rows (reasons are in the output)", err=True)
    if bad and strict:
        raise typer.Exit(2)
