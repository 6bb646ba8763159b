"""sdf: against RDKit's own reader, on files that RDKit wrote and on files that somebody damaged."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rdkit import Chem
from rdkit.Chem import rdDepictor

from molcmim import files, sdf, smiles

MOLECULES = pd.read_csv(Path(__file__).parents[1] / "examples" / "molecules.csv")
CHIRAL = ["C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O", "C/C=C/C", "C/C=C\\C", "[NH3+]CC(=O)[O-]", "CC(=O)O.CN"]


def written(path: Path, molecules: list[str], items: list[dict[str, str]], v3000: bool = False) -> Path:
    """An SD file of these molecules, by RDKit."""
    with Chem.SDWriter(str(path)) as writer:
        writer.SetForceV3000(v3000)
        for i, (molecule, own) in enumerate(zip(molecules, items, strict=True)):
            mol = Chem.MolFromSmiles(molecule)
            rdDepictor.Compute2DCoords(mol)
            mol.SetProp("_Name", f"molecule {i}")
            for name, text in own.items():
                mol.SetProp(name, text)
            writer.write(mol)
    return path


def table(path: Path, **options: int) -> pd.DataFrame:
    return pd.concat([chunk.table.to_pandas() for chunk in files.read_chunks(path, **options)], ignore_index=True)


@pytest.mark.parametrize("v3000", [False, True])
def test_it_reads_what_rdkit_wrote(tmp_path: Path, v3000: bool) -> None:
    molecules = [*MOLECULES["smiles"], *CHIRAL]
    items = [{"logP": f"{i / 7:.3f}", **({"note": f"two\nlines {i}"} if i % 3 else {})} for i in range(len(molecules))]
    path = written(tmp_path / "m.sdf", molecules, items, v3000)
    found = table(path, chunk_rows=7)
    assert found.columns.tolist() == ["smiles", "name", "logP", "note"]
    assert found["smiles"].tolist() == [Chem.CanonSmiles(molecule) for molecule in molecules]
    by_rdkit = [
        mol.GetPropsAsDict(includePrivate=True, autoConvertStrings=False) for mol in Chem.SDMolSupplier(str(path))
    ]
    for column, name in (("name", "_Name"), ("logP", "logP"), ("note", "note")):
        assert found[column].tolist() == [own.get(name, "") for own in by_rdkit]
    (tmp_path / "m.sdf.gz").write_bytes(gzip.compress(path.read_bytes().replace(b"\n", b"\r\n")))
    pd.testing.assert_frame_equal(table(tmp_path / "m.sdf.gz"), found)
    assert files.count_rows(path) == files.count_rows(tmp_path / "m.sdf.gz") == len(molecules)
    assert {chunk.column for chunk in files.read_chunks(path)} == {"smiles"}


def test_a_damaged_record_is_a_row_without_smiles_and_harms_no_other(tmp_path: Path) -> None:
    path = written(tmp_path / "m.sdf", ["CCO", "CCN", "CCF"], [{"y": str(i)} for i in range(3)])
    whole = path.read_text()
    first, second, third, _ = whole.split("$$$$\n")
    for old, new, times, reason in (
        ("  3  2", "  9  9", 1, "RDKit cannot read it"),
        (" N ", " Xx", 1, "Element 'Xx' not found"),
        (" C ", " F ", 2, "Explicit valence for atom # 1 F, 2, is greater than permitted"),
        ("M  END\n", "", 1, "a record without a whole MOL block"),
    ):
        broken = second.replace(old, new, times)
        assert broken != second
        path.write_text("$$$$\n".join([first, broken, third, ""]))
        found = table(path)
        assert found["smiles"].tolist() == ["CCO", "", "CCF"]
        assert found["y"].tolist() == ["0", "1", "2"]
        read = next(files.read_chunks(path)).smiles
        assert (read[0], read[2]) == ("CCO", "CCF")
        canonical, reasons = smiles.canonicalize(read)
        assert canonical == ["CCO", None, "CCF"]
        assert reason in reasons[1]
    path.write_text(first + "$$$$\n" + "\n\n\n$$$$\n" + third.rstrip("\n"))  # an empty record, and no last $$$$
    assert table(path)["smiles"].tolist() == ["CCO", "", "CCF"]
    assert files.count_rows(path) == 3


def test_what_is_larger_than_any_smiles_that_is_read_is_not_written() -> None:
    chain = Chem.MolToMolBlock(Chem.MolFromSmiles("C" * 20), forceV3000=True)
    assert smiles.from_mol_block(chain) == "C" * 20
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(smiles, "MAX_CHARACTERS", 19)
        assert smiles.from_mol_block(chain).reason == "20 atoms; at most 19 are read"


def test_a_mol_file_is_one_record(tmp_path: Path) -> None:
    path = tmp_path / "m.mol"
    path.write_text(Chem.MolToMolBlock(Chem.MolFromSmiles(CHIRAL[0])))
    assert table(path)["smiles"].tolist() == [CHIRAL[0]]


def test_items_may_be_named_as_our_columns_are_and_differ_from_record_to_record(tmp_path: Path) -> None:
    path = written(tmp_path / "m.sdf", ["CCO", "CCN"], [{"smiles": "mine", "b": "1"}, {"name": "N", "SMILES": "x"}])
    found = table(path)
    assert found.columns.tolist() == ["smiles", "name", "smiles (2)", "b", "name (2)", "SMILES"]
    assert found["smiles (2)"].tolist() == ["mine", ""]
    assert next(files.read_chunks(path)).column == "smiles"
    assert next(files.read_chunks(path, "SMILES")).smiles == ["", "x"]


def test_errors_say_what_and_where(tmp_path: Path) -> None:
    path = written(tmp_path / "m.sdf", ["CCO", "CCN"], [{"unit": "g"}, {"unit": "uM"}])
    path.write_bytes(path.read_bytes().replace(b"uM", b"\xb5M"))
    with pytest.raises(ValueError, match=r"m.sdf: row 1 \(counted from 0\) is not UTF-8 text; convert the file"):
        table(path)
    path.write_bytes(path.read_bytes().replace(b"\xb5M", b"M").replace(b"molecule 0", b"mol\xe9cule"))
    with pytest.raises(ValueError, match=r"m.sdf: row 0 \(counted from 0\) is not UTF-8"):
        table(path)
    (tmp_path / "empty.sdf").write_text("")
    with pytest.raises(ValueError, match=r"empty.sdf: no molecules in it"):
        files.read_chunks(tmp_path / "empty.sdf")
    (tmp_path / "m.sdf.gz").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"m.sdf.gz: damaged gzip file"):
        files.read_chunks(tmp_path / "m.sdf.gz")
    code = "from molcmim.files import read_chunks; read_chunks('-', format='sdf')"
    run = subprocess.run([sys.executable, "-c", code], input="", capture_output=True, text=True, check=False)
    assert "ValueError: an SD file is read twice" in run.stderr


WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=20)
LINE = WORDS | st.sampled_from(["M  END", "> <a>", ">  7 <b> (x)", ">", "", " "])


@given(st.lists(st.lists(LINE, max_size=12), max_size=5))
def test_any_text_is_cut_into_records_and_none_is_lost(texts: list[list[str]]) -> None:
    own = [[line for line in lines if not line.startswith(sdf.END)] for lines in texts]
    lines = [f"{line}\n" for record in own for line in [*record, sdf.END]]
    found = list(sdf.records(lines))
    assert len(found) == len(own)
    for record, of in zip(found, own, strict=True):
        end = of.index("M  END") + 1 if "M  END" in of else 0
        assert record.block == "\n".join(of[:end])
        for name, text in record.items.items():
            assert any(f"<{name}>" in line for line in of[end:])
            assert f"\n{text}\n" in "\n".join(["", *of[end:], ""]) or not text
            assert all(line.strip() for line in text.split("\n")) or not text
        assert "a" in record.items or of[end : end + 1] != ["> <a>"]
    header, *cells = sdf.rows(lines, sdf.item_names(lines))
    assert len(cells) == len(own)
    assert {len(row) for row in cells} <= {len(header)}
    assert len(set(header)) == len(header)
