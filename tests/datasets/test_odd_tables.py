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

from lfm_ray.datasets.preparing.manifest import check_manifest, read_manifest
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
