"""The command line: parse arguments, call one function of one room, print. A command imports its own room."""

from __future__ import annotations

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


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"molcmim {molcmim.__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Molecules in, vectors out, and back."""


if __name__ == "__main__":
    app()
