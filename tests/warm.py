"""Programs in processes of their own, none of which imports torch and transformers anew: that is most of their time.

A server imports them once, and forks for each program. Run as a script, this file is that server.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


class Warm:
    """Runs Python programs; the package is the installed one, or the one on the path that pytest has."""

    def __init__(self) -> None:
        path = os.pathsep.join(path for path in sys.path if path)
        self.server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": path, "COLUMNS": "200"},
        )  # fmt: skip

    def run(self, arguments: Sequence[str], folder: Path) -> str:
        """Run a script, or a module after ``-m``, in a folder; return what it prints, if it succeeds."""
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        streams = [str(folder / f".{name}") for name in ("stdout", "stderr")]
        print(json.dumps([list(arguments), str(folder), streams]), file=self.server.stdin, flush=True)
        code = int(self.server.stdout.readline())
        printed, said = (Path(stream).read_text(encoding="utf-8") for stream in streams)
        assert code == 0, f"{arguments} failed ({code}):\n{printed}\n{said}"
        return printed

    def close(self) -> None:
        """End the server."""
        self.server.communicate()


def serve() -> None:
    import molcmim.bulk
    import molcmim.pretrain  # noqa: F401 - what nearly all programs import

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            become(*json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def become(arguments: list[str], folder: str, streams: list[str]) -> None:
    """Be the program, to the end of the process."""
    os.chdir(folder)
    for number, stream in enumerate((os.devnull, *streams)):
        os.dup2(os.open(stream, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
    is_module = arguments[0] == "-m"
    sys.argv = arguments[is_module:]
    sys.path[0] = folder if is_module else str(Path(folder, arguments[0]).parent)
    if is_module:
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(arguments[0], run_name="__main__")
    sys.exit()


if __name__ == "__main__":
    serve()
