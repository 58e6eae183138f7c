"""Raw folders as people have them: unpacked one level too deep, from Windows or macOS, not unpacked, incomplete."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from raw_layouts import LAYOUTS

from lfm_ray.datasets.preparing.cards import raw_manifest
from lfm_ray.datasets.preparing.sources import of_dataset
from lfm_ray.errors import UserError

LISTS = (".csv", ".txt", ".tsv", ".lst")
ON_FILES = [name for name in LAYOUTS if not name.endswith("_features")]
WITH_LISTS = [name for name in ON_FILES if name != "crema_d"]


def files(root: Path, lists: bool) -> list[Path]:
    """Lists, or media; the texts of MVSA's tweets are media."""
    found = [path for path in root.rglob("*") if path.is_file()]
    return [path for path in found if (path.suffix in LISTS and path.parent.name != "data") == lists]


def rows(name: str, root: Path) -> list[tuple[str, ...]]:
    """All rows of a manifest without bad ones: split, id, class and files, without the root, in small letters."""
    manifest, _ = of_dataset(name, root)
    assert not manifest.bad
    found = []
    for split, of_split in manifest.splits.items():
        for row in of_split:
            values = [str(row.values[one]).replace(str(root), "").lower() for one in sorted(row.values)]
            found.append((split, row.id, str(row.label), *values))
    return found


def each_list(root: Path, change: Callable[[bytes], bytes]) -> None:
    for path in files(root, lists=True):
        path.write_bytes(change(path.read_bytes()))


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A copy of a dataset's raw folder."""
    made = tmp_path_factory.mktemp("made")
    count = iter(range(1000))

    def copy(name: str) -> Path:
        if not (made / name).is_dir():
            LAYOUTS[name](made / name)
        return Path(shutil.copytree(made / name, made / f"copy{next(count)}"))

    return copy


@pytest.mark.parametrize("name", WITH_LISTS)
def test_lists_of_other_systems(raw: Callable[[str], Path], name: str) -> None:
    root = raw(name)
    expected = rows(name, root)
    each_list(root, lambda content: b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n"))
    assert rows(name, root) == expected
    root = raw(name)
    each_list(root, lambda content: b"\n" + content.replace(b"\n", b" \t \n\n") + b"  \n")
    assert rows(name, root) == expected


@pytest.mark.parametrize("name", ON_FILES)
def test_extensions_in_capitals_and_what_macos_puts_beside_files(raw: Callable[[str], Path], name: str) -> None:
    root = raw(name)
    expected = rows(name, root)
    for path in files(root, lists=False):
        if path.suffix != ".txt":
            path.rename(path.with_suffix(path.suffix.upper()))
    for path in [*files(root, lists=False), *files(root, lists=True)]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7Mac OS X")
    (root / "__MACOSX").mkdir()
    shutil.copytree(root, root / "__MACOSX" / "copy", ignore=shutil.ignore_patterns("__MACOSX"))
    assert rows(name, root) == expected


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_root_that_is_one_level_too_high_or_still_packed(raw: Callable[[str], Path], name: str) -> None:
    root = raw(name)
    outer = root.with_name(f"{root.name} outer")
    outer.mkdir()
    root.rename(outer / "archive-main")
    if name in ("cmu_mosi_features", "cmu_mosei_features"):  # whose file is found wherever it is
        assert not raw_manifest(name, outer).empty
    else:
        with pytest.raises(UserError, match=r"; archive-main in it is laid out so: --root .*outer/archive-main$"):
            raw_manifest(name, outer)
    shutil.rmtree(outer / "archive-main")
    (outer / "all.zip").touch()
    with pytest.raises(UserError, match=r"unpack all\.zip first$"):
        raw_manifest(name, outer)


@pytest.mark.parametrize("name", ["twitter2015", "sarcasm", "food101", "mvsa_single"])
def test_a_folder_of_media_in_one_of_its_own_name_or_still_packed(raw: Callable[[str], Path], name: str) -> None:
    root = raw(name)
    expected = rows(name, root)
    folder = (
        root
        / {"twitter2015": "twitter2015_images", "sarcasm": "dataset_image", "food101": "images", "mvsa_single": "data"}[
            name
        ]
    )
    if name != "mvsa_single":  # whose texts are there too
        inner = folder.rename(root / "moved")
        folder.mkdir()
        inner.rename(folder / folder.name)
        assert [row[:3] for row in rows(name, root)] == [row[:3] for row in expected]
        shutil.rmtree(folder)
    else:
        for picture in folder.glob("*.jpg"):
            picture.unlink()
    with zipfile.ZipFile(root / "pictures.zip", "w"):
        pass
    with pytest.raises(
        UserError, match=r"none of its \d+ files of image is there, such as .*; unpack pictures\.zip first$"
    ):
        of_dataset(name, root)


def test_a_listed_file_that_is_not_there_is_one_bad_row(raw: Callable[[str], Path]) -> None:
    """Of YouTube's ids capitals count: another clip is not taken for it."""
    root = raw("ave")
    (root / "AVE" / "-train0.mp4").rename(root / "AVE" / "-TRAIN0.mp4")
    manifest, _ = of_dataset("ave", root)
    assert {row.value for row in manifest.bad if row.column == "audio"} == {str(root / "-train0.mp4")}
    root = raw("twitter2015")
    (root / "twitter2015_images" / "train0.jpg").rename(root / "twitter2015_images" / "TRAIN0.jpg")
    manifest, _ = of_dataset("twitter2015", root)
    assert [(row.id, row.reason) for row in manifest.bad] == [("train-0", "there is no such file")]


@pytest.mark.parametrize("name", WITH_LISTS)
@pytest.mark.parametrize(("content", "said"), [(b"", "is empty"), ("caf\u00e9\n".encode("latin-1"), "is not UTF-8")])
def test_lists_that_are_empty_or_of_another_encoding(
    raw: Callable[[str], Path], name: str, content: bytes, said: str
) -> None:
    root = raw(name)
    each_list(root, lambda _: content)
    with pytest.raises(UserError, match=said):
        raw_manifest(name, root)
