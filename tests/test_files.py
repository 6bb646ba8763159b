from __future__ import annotations

import csv
import gzip
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from molcmim import files

NAMED = [
    ("CCO", "ethanol"),
    ("c1ccccc1", "benzene, dry"),
    ("CC(=O)O", 'acetic "glacial" acid'),
    ("", "nothing"),
    ("O", "007"),
]


def write(path: Path, text: str | bytes) -> Path:
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def delimited(delimiter: str) -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows([("SMILES", "name"), *NAMED])
    return text.getvalue()


def read(path: Path | str, **options: object) -> list[tuple[object, ...]]:
    chunks = list(files.read_chunks(path, **options))
    starts = np.cumsum([0, *(len(chunk.table) for chunk in chunks)])
    assert [chunk.first_row for chunk in chunks] == starts[:-1].tolist()
    return [row for chunk in chunks for row in zip(*(c.to_pylist() for c in chunk.table.columns), strict=True)]


@pytest.mark.parametrize("chunk_rows", [1, 2, 5, 100])
@pytest.mark.parametrize(
    ("name", "delimiter"), [("m.csv", ","), ("m.tsv", "\t"), ("m.csv.gz", ","), ("m.TSV.GZ", "\t")]
)
def test_delimited_files_come_back_as_they_are(tmp_path: Path, name: str, delimiter: str, chunk_rows: int) -> None:
    path = write(tmp_path / name.lower(), delimited(delimiter))
    assert read(path, chunk_rows=chunk_rows) == NAMED
    chunk = next(files.read_chunks(path))
    assert (chunk.column, chunk.smiles) == ("SMILES", [smiles for smiles, _ in NAMED])


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_a_csv_without_a_comma_in_its_header(tmp_path: Path, delimiter: str) -> None:
    assert read(write(tmp_path / "m.csv", delimited(delimiter))) == NAMED
    assert read(write(tmp_path / "m.csv", "smiles\nC;O\n")) == [("C;O",)]


def test_long_fields(tmp_path: Path) -> None:
    assert read(write(tmp_path / "m.csv", f"smiles,note\nC,{'x' * 200_000}\n")) == [("C", "x" * 200_000)]


@pytest.mark.parametrize("name", ["m.smi", "m.txt", "m.smiles.gz"])
def test_smi(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, "CCO ethanol\r\nc1ccccc1\tbenzene ring \n\nO")
    assert read(path, chunk_rows=3) == [("CCO", "ethanol"), ("c1ccccc1", "benzene ring"), ("", ""), ("O", "")]


def test_parquet_keeps_types(tmp_path: Path) -> None:
    table = pa.table({"id": [1, 2, 3], "canonical_SMILES": ["C", None, "CC"], "y": [0.5, None, 1.5]})
    pq.write_table(table, tmp_path / "m.parquet")
    chunks = list(files.read_chunks(tmp_path / "m.parquet", chunk_rows=2))
    assert [chunk.smiles for chunk in chunks] == [["C", None], ["CC"]]
    assert pa.concat_tables([chunk.table for chunk in chunks]).equals(table)


def test_a_blank_line_is_a_row_where_there_is_one_column(tmp_path: Path) -> None:
    assert read(write(tmp_path / "one.csv", "smiles\nC\n\nCC\n")) == [("C",), ("",), ("CC",)]
    assert read(write(tmp_path / "two.csv", "smiles,y\nC,1\n\nCC,2\n\n")) == [("C", "1"), ("CC", "2")]


def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path: Path) -> None:
    assert next(files.read_chunks(write(tmp_path / "m.csv", "\ufeffsmiles\nC\n"))).column == "smiles"


@pytest.mark.parametrize(
    "text",
    [
        "smiles,y,,\nC,1,,\nCC,,,\n",  # columns that were emptied
        " smiles ,y\nC,1\nCC,\n",
        "sep=;\nsmiles;y\nC;1\nCC;\n",
        "sep=,\r\nsmiles,y\r\nC,1\r\nCC,\r\n",
    ],
)
def test_what_spreadsheets_add_is_left_out(tmp_path: Path, text: str) -> None:
    for name, data in (("m.csv", text), ("unicode.csv", text.replace(",", "\t").encode("utf-16"))):
        path = write(tmp_path / name, data)
        assert read(path) == [("C", "1"), ("CC", "")]
        assert next(files.read_chunks(path)).table.column_names == ["smiles", "y"]


def test_a_comma_in_quotes_separates_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "m.csv", 'smiles;"Solubility, log S"\nC;1,5\n')
    assert next(files.read_chunks(path)).table.to_pydict() == {"smiles": ["C"], "Solubility, log S": ["1,5"]}


def test_an_index_of_pandas_is_a_column(tmp_path: Path) -> None:
    frame = pd.DataFrame({"smiles": ["C", "CC", "CCC"], "y": [1, 2, 3]}, index=[2, 0, 1])
    frame.to_parquet(tmp_path / "m.parquet")
    (chunk,) = files.read_chunks(tmp_path / "m.parquet")
    found = chunk.table.to_pandas()
    assert found.index.tolist() == [0, 1, 2]
    assert found["y"].tolist() == [1, 2, 3]
    assert found["__index_level_0__"].tolist() == [2, 0, 1]


@pytest.mark.parametrize("suffix", [".csv", ".TSV", ".parquet"])
def test_frames_are_written_without_lists_in_text(tmp_path: Path, suffix: str) -> None:
    frame = pd.DataFrame({"smiles": ["C", None], "error": [None, "bad"], "code": [None, np.zeros(3)]})
    files.write_frame(frame.drop(columns="code"), tmp_path / "m", suffix)
    written = (
        pd.read_parquet(tmp_path / "m")
        if suffix == ".parquet"
        else pd.read_csv(tmp_path / "m", sep=None, engine="python")
    )
    pd.testing.assert_frame_equal(written, frame.drop(columns="code"), check_dtype=False)
    if suffix != ".parquet":
        with pytest.raises(ValueError, match=f"column code holds lists, which a {suffix} file does not"):
            files.write_frame(frame, tmp_path / "m", suffix)


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("id,Smiles,y", "Smiles"),
        ("isomeric_smiles,SMILES", "SMILES"),
        ("smiles_raw,Canonical_SMILES", "Canonical_SMILES"),
        ("name,SMILES string", "SMILES string"),
    ],
)
def test_smiles_column_is_found(tmp_path: Path, header: str, found: str) -> None:
    path = write(tmp_path / "m.csv", f"{header}\n{','.join('C' for _ in header.split(','))}\n")
    assert next(files.read_chunks(path)).column == found


@pytest.mark.parametrize(
    ("name", "data", "options", "message"),
    [
        ("m.csv", "id,mol\n1,C\n", {}, r"no column with 'smiles' in the name; .* present \(--column\): id, mol"),
        ("m.csv", "smiles_a,smiles_b\nC,C\n", {}, "several columns with 'smiles'.*smiles_a, smiles_b"),
        ("m.csv", "id,mol\n1,C\n", {"column": "drug"}, "no column 'drug'; the columns present: id, mol"),
        ("m.csv", "smiles,y\nC,1\nCC\n", {}, r"m.csv, line 3: 1 fields, where the header has 2: 'CC'"),
        ("m.csv", 'smiles,y\n"C\nC",1\nCC,1,2\n', {}, "m.csv, line 4: 3 fields, where the header has 2"),
        ("m.csv", 'smiles,y\nC,"1\n', {}, "m.csv, line 2: unexpected end of data"),
        ("m.csv", "smiles,y,y\nC,1,2\n", {}, "y is the name of more than one column; rename them"),
        ("m.csv", "smiles,y,\nC,1,\nCC,2,x\n", {}, "m.csv, line 3: a value in a column without a name: .*'x'"),
        ("m.csv", "smiles,,y\nC,,1\n", {}, "column 2 has no name in the first line, 'smiles, , y'"),
        ("m.csv", "", {}, "m.csv: no molecules in it"),
        ("m.csv", "smiles\n", {}, "m.csv: no molecules in it"),
        ("m.smi", "", {}, "m.smi: no molecules in it"),
        ("m.csv", b"smiles,name\nC,a\nCC,\xb5\n", {}, r"row 1 \(counted from 0\).*\['CC', '\\udcb5'\]"),
        ("m.csv", "smiles,l\xf6slich\nC,1\n".encode("latin-1"), {}, "m.csv: the header is not UTF-8 text"),
        ("m.smi", b"C\n" * 3 + b"\xff\n", {"chunk_rows": 2}, r"row 3 \(counted from 0\) is not UTF-8"),
        ("m.parquet", "no", {}, "m.parquet: not a sound Parquet file"),
        ("m.xls", "", {}, "m.xls: unknown suffix '.xls'; known are .smi, .*"),
        ("m.gz", "", {}, "m.gz: unknown suffix ''"),
        ("m.csv", "smiles\nC\n", {"format": "xls"}, "unknown format 'xls'; known are csv, parquet, sdf, smi"),
    ],
)  # fmt: skip
def test_errors_say_what_and_where(
    tmp_path: Path, name: str, data: str | bytes, options: dict[str, object], message: str
) -> None:
    path = write(tmp_path / name, data)
    with pytest.raises(ValueError, match=message):
        list(files.read_chunks(path, **options))


@pytest.mark.parametrize("name", ["m.csv", "m.smi.gz", "m.parquet"])
def test_missing_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=name):
        files.read_chunks(tmp_path / name)


def test_truncated_gzip_gives_what_is_whole_and_then_says_so(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = "".join(f"{'C' * rng.integers(1, 99)}\n" for _ in range(50_000))
    whole = gzip.compress(lines.encode())
    (tmp_path / "m.smi.gz").write_bytes(whole[: len(whole) // 2])
    chunks = files.read_chunks(tmp_path / "m.smi.gz", chunk_rows=1000)
    got: list[str] = []
    with pytest.raises(ValueError, match=r"m\.smi\.gz: damaged gzip file"):
        for chunk in chunks:
            got += chunk.smiles
    assert 10_000 < len(got) < 40_000
    assert got == lines.split()[: len(got)]
    (tmp_path / "plain.smi.gz").write_bytes(b"CCO\n")
    with pytest.raises(ValueError, match="not gzip at all"):
        files.read_chunks(tmp_path / "plain.smi.gz")
    (tmp_path / "no.parquet").write_bytes(b"no")
    assert [files.count_rows(tmp_path / name) for name in ("m.smi.gz", "plain.smi.gz", "no.parquet")] == [None] * 3


def test_standard_input() -> None:
    code = (
        "import sys; from molcmim.files import read_chunks\n"
        "print([c.smiles for c in read_chunks('-')]); sys.stdin.read()"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        input="name,smiles\na,C\nb,CC\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.stdout, run.stderr) == ("[['C', 'CC']]\n", "")
    assert files.count_rows("-") is None


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "m.csv.gz", "smiles,name\n" + "CC(=O)Oc1ccccc1C(=O)O,aspirin\n" * 300_000)
    pool = pa.default_memory_pool()
    before, most = pool.bytes_allocated(), 0
    for chunk in files.read_chunks(path, chunk_rows=1000):
        most = max(most, pool.bytes_allocated() - before)
        assert len(chunk.table) == 1000
    assert 0 < most < 1e6


@pytest.mark.parametrize("name", ["m.smi", "m.csv", "m.csv.gz"])
def test_count_rows(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    lines = ["".join(rng.choice(list("CNOS()=#123"), rng.integers(1, 99))) + "\n" for _ in range(20_000)]
    path = write(tmp_path / name, ("smiles\n" if "csv" in name else "") + "".join(lines))
    assert files.count_rows(path) == 20_000
    monkeypatch.setattr(files, "_SAMPLE", 500_000)  # of 1,000,000
    assert files.count_rows(path) == pytest.approx(20_000, rel=0.3)
    assert files.count_rows(path) != 20_000


def test_count_rows_without_a_last_newline_and_of_parquet(tmp_path: Path) -> None:
    assert files.count_rows(write(tmp_path / "m.smi", "C\nCC")) == 2
    assert files.count_rows(write(tmp_path / "m.csv", "smiles\nC")) == 1
    assert files.count_rows(write(tmp_path / "empty.csv", "")) == 0
    pq.write_table(pa.table({"smiles": ["C"] * 7}), tmp_path / "m.parquet")
    assert files.count_rows(tmp_path / "m.parquet") == 7
