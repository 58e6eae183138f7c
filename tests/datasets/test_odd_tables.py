"""Tables of other makes: what is no text, number or date is refused by name, and so is a column that is there twice."""

from __future__ import annotations

import os
from pathlib import Path

import media_files
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lfm_ray.datasets.preparing.config import PrepareConfig
from lfm_ray.datasets.preparing.manifest import check_manifest, read_manifest
from lfm_ray.datasets.preparing.sources import of_manifest
from lfm_ray.datasets.preparing.staging import check_replaceable
from lfm_ray.errors import UserError

ODD = {
    "bytes": ([b"a.png", b"b.png", b"c.png"], "bytes that are not UTF-8"),
    "structs": ([{"bytes": b"", "path": "a.png"}] * 3, "a structure"),
    "lists": ([["a.png"], ["b.png"], []], "(a list|an array)"),  # pandas makes arrays of lists that it reads
    "arrays": ([np.arange(2)] * 3, "an array"),
}


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("column", ["image", "label", "split", "id"])
@pytest.mark.parametrize("what", ODD)
def test_a_column_of_something_else_is_named(tmp_path: Path, what: str, column: str, stored: bool) -> None:
    values, said = ODD[what]
    table = pd.DataFrame({"image": ["a.png"] * 3, "label": list("xyx"), column: pd.Series(values, dtype=object)})
    path = tmp_path / "m.parquet"
    if stored:
        table.to_parquet(path)
        table = pd.read_parquet(path)
    with pytest.raises(UserError, match=rf"3 rows are bad.*{column}: holds {said} where a path, a text or a number"):
        check_manifest(path, table, {"image": "image"})


def test_columns_that_are_not_read_may_hold_anything(tmp_path: Path) -> None:
    for name in "abcdefgh":
        media_files.png(tmp_path / f"{name}.png")
    table = pd.DataFrame({"image": [f"{name}.png" for name in "abcdefgh"], "label": list("xyxyxyxy"),
                          "split": ["train"] * 4 + ["val"] * 4, "more": [b""] * 8})  # fmt: skip
    table = pd.concat([table, table["more"]], axis=1)
    assert len(check_manifest(tmp_path / "frame", table, {"image": "image"}).splits["train"]) == 4
    table = table.loc[:, ~table.columns.duplicated()]
    table.to_parquet(tmp_path / "m.parquet")
    assert len(read_manifest(tmp_path / "m.parquet", {"image": "image"}).splits["train"]) == 4


@pytest.mark.parametrize("name", ["self", "None", "True", "columns", "index", "lambda"])
def test_a_modality_can_be_called_as_something_in_python(tmp_path: Path, name: str) -> None:
    for file in "abcd":
        media_files.png(tmp_path / f"{file}.png")
    table = pd.DataFrame(
        {name: [f"{file}.png" for file in "abcd"], "label": list("xyxy"), "split": ["train"] * 2 + ["val"] * 2}
    )
    assert len(check_manifest(tmp_path / "frame", table, {name: "image"}).splits["train"]) == 2


@pytest.mark.parametrize("name", ["image", "label", "split"])
def test_a_column_that_is_there_twice_is_refused(tmp_path: Path, name: str) -> None:
    names = [*("image", "label", "split", "more"), name]
    rows = ["a.png,x,train,1,2"] * 3
    (tmp_path / "m.csv").write_text("\n".join([",".join(names), *rows]))
    tables = [pa.array(["a.png"])] * 5
    pq.write_table(pa.Table.from_arrays(tables, names=names), tmp_path / "m.parquet")
    for file in ("m.csv", "m.parquet"):
        with pytest.raises(UserError, match=rf"{file}: .*has 2 columns named '{name}'; rename or remove all but one"):
            read_manifest(tmp_path / file, {"image": "image"})
    with pytest.raises(UserError, match=f"has 2 columns named '{name}'; rename or remove all but one"):
        check_manifest(tmp_path / "frame", pd.DataFrame([list("abcde")], columns=names), {"image": "image"})


def test_rows_with_more_fields_than_the_head_are_not_shifted(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("image,label\na.png,x,1\nb.png,y,2\n")
    with pytest.raises(UserError, match="its rows have more fields than its first line has names"):
        read_manifest(tmp_path / "m.csv", {"image": "image"})


def test_names_of_files_that_cannot_be_are_bad_rows(tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    (frames / "gone.png").symlink_to(tmp_path / "nowhere")
    (frames / "loop.png").symlink_to(frames / "loop.png")
    os.mkfifo(frames / "pipe.png")
    odd = ["x" * 300, "/".join(["y" * 200] * 30), "nul\0byte", "missing"]
    table = pd.DataFrame({"clip": [*["frames"] * 4, *odd], "label": list("xyxyxyxy"),
                          "split": ["train", "train", "val", "val"] * 2})  # fmt: skip
    found = check_manifest(tmp_path / "m.csv", table, {"clip": "video"})
    assert [bad.reason for bad in found.bad] == ["there is no such file"] * 4
    assert sum(map(len, found.splits.values())) == 4


@pytest.mark.parametrize(
    "value",
    [bytearray(b"x"), memoryview(b"x"), np.bytes_(b"x"), frozenset("x"), object(), 1 + 2j, range(3), pd.Series([1]),
     "half \ud800"],
)  # fmt: skip
@pytest.mark.parametrize("column", ["t", "label"])
def test_a_cell_that_is_no_text_is_not_taken_for_one(tmp_path: Path, column: str, value: object) -> None:
    columns: dict[str, list[object]] = {
        "t": list("pqrstu"),
        "label": list("ababab"),
        "split": ["train"] * 4 + ["val"] * 2,
    }
    columns[column][1] = value
    frame = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})
    (bad,) = check_manifest(tmp_path / "frame", frame, {"t": "text"}).bad
    assert (bad.id, bad.column) == ("1", column) and bad.reason.startswith("holds ")


@pytest.mark.parametrize(
    "column",
    [pd.Categorical([b"x"] * 3), pd.array([b"x"] * 3, dtype=pd.ArrowDtype(pa.binary())),
     pd.array([["x"]] * 3, dtype=pd.ArrowDtype(pa.list_(pa.string()))), np.ones(3, complex)],
)  # fmt: skip
def test_a_column_of_any_type_is_looked_at(tmp_path: Path, column: object) -> None:
    with pytest.raises(UserError, match="3 rows are bad, the first: 0: t: holds "):
        check_manifest(tmp_path / "frame", pd.DataFrame({"label": list("aba"), "t": column}), {"t": "text"})


def test_what_is_no_table_is_refused() -> None:
    frame = pd.DataFrame({("label", "x"): ["a"], ("t", "x"): ["b"]})
    for manifest in (frame, [1, 2], {"label": ["a"]}):
        with pytest.raises(UserError, match="manifest: must be a path or a data frame of pandas with a name for each"):
            of_manifest(manifest, {"t": "text"}, PrepareConfig())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "meant"),
    [("Split", "split"), ("split ", "split"), (" split", "split"), ("\ufeffsplit", "split"), ("spl\u200bit", "split"),
     ("\uff53plit", "split"), ("ID", "id"), ("Start", "start"), ("T.end", "t.end"), ("T", "t"), ("Label", "label")],
)  # fmt: skip
def test_a_column_that_only_looks_like_one_that_is_read_is_refused(tmp_path: Path, name: str, meant: str) -> None:
    table = pd.DataFrame({"label": list("abab"), "t": list("wxyz"), name: ["train", "train", "val", "val"]})
    table.to_csv(tmp_path / "m.csv", index=False)
    table.to_parquet(tmp_path / "m.parquet")
    said = rf"the column .* is not read, as it is not called '{meant}'; rename it, or remove it"
    for file in ("m.csv", "m.parquet"):
        with pytest.raises(UserError, match=said):
            read_manifest(tmp_path / file, {"t": "text"})
    with pytest.raises(UserError, match=said):
        check_manifest(tmp_path / "frame", table, {"t": "text"})


def test_of_two_labels_the_one_that_is_named_is_read(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("label,Label,t,split\na,p,x,train\na,q,y,train\na,p,z,val\n")
    assert read_manifest(tmp_path / "m.csv", {"t": "text"}, label="Label").classes == ["p", "q"]
    with pytest.raises(UserError, match="the column 'Label' is not read"):
        read_manifest(tmp_path / "m.csv", {"t": "text"})


@pytest.mark.parametrize("name", ["m.csv", "m.parquet", "m.tar"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    (tmp_path / f"device-{name}").symlink_to("/dev/zero")
    for path in (tmp_path / name, tmp_path / f"device-{name}"):
        with pytest.raises(UserError, match="is neither a file nor a folder, but a pipe, a socket or a device"):
            of_manifest(path, {"t": "text"}, PrepareConfig())


@pytest.mark.parametrize("name", ["x" * 201, "a\udcff", "a\x1b[31m", "a\nb\x00"])
def test_a_folder_that_could_not_be_opened_again_is_not_made(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"has at most 200 bytes|has a character that is not UTF-8 or cannot be shown"):
        check_replaceable(tmp_path / name)


def test_links_to_nowhere_and_foreign_folders_are_not_written(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "gone").symlink_to("nowhere")
    for name in ("loop", "gone"):
        with pytest.raises(UserError, match=r"is a link that leads nowhere|Too many levels of symbolic"):
            check_replaceable(tmp_path / name)
    (tmp_path / "home").mkdir()
    os.mkfifo(tmp_path / "home" / "pipe")  # what lies in a foreign folder is not looked at
    with pytest.raises(UserError, match="exists and is not a dataset of lfm_ray; choose another folder"):
        check_replaceable(tmp_path / "home")


def test_what_pandas_says_is_put_into_words(tmp_path: Path) -> None:
    unclosed, long = 'a,"x\nb,y\n', "a,b\na,b,c\n"
    for rows, said in ((unclosed, "a quotation mark is not closed, from row 1 on"), (long, "Expected 2 fields")):
        (tmp_path / "m.csv").write_text(f"label,t\n{rows}")
        with pytest.raises(UserError, match=f"cannot be read: {said}"):
            read_manifest(tmp_path / "m.csv", {"t": "text"})
