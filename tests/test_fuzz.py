"""Whatever the input, it is accepted or refused with the product's own error, never with a traceback.

pytest tests/test_fuzz.py                          a few hundred inputs of each kind
pytest tests/test_fuzz.py -m long                  2,000 of each
FUZZ_EXAMPLES=5000 pytest tests/test_fuzz.py       the longer run, of other inputs each time
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import small_shards
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lfm_ray.config import RunConfig
from lfm_ray.datasets.preparing.config import PrepareConfig
from lfm_ray.datasets.preparing.manifest import read_manifest
from lfm_ray.datasets.shards import CARD, Shards
from lfm_ray.errors import UserError
from lfm_ray.search.spaces.space_file import load_space
from lfm_ray.settings import flatten, load

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "100"))
fuzz = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES < 1000,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
refused = contextlib.suppress(UserError)

SPACES = [path.read_text() for path in (Path(__file__).parents[1] / "search_spaces").glob("*.yaml")]
NAMES = sorted({part for name in flatten(RunConfig().model_dump()) for part in (name, *name.split("."))})
WORDS = [
    *NAMES, "strategy", "when", "uniform", "loguniform", "choice", "integer", "length", "points", "search", "run",
    "learned", "polynomial", "power", "coefficients", "solver", "cg", "pruning", "trials", "sampler", "js",
]  # fmt: skip
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(WORDS)
values = st.recursive(
    scalars | st.dates() | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS) | scalars, inner, max_size=4),
    max_leaves=12,
)


def mutated(content: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    """`content` with parts replaced: (place from 0 to 1, bytes that are taken out, bytes that are put in)."""
    for place, length, new in changes:
        start = int(place * len(content))
        content = content[:start] + new + content[start + length :]
    return content


PIECES = [b"\n", b": ", b"[", b"{", b"null", b"-1", b"1e999", b"\xff", b"!!python/object", b"2024-01-01", b"<<: 1"]
mutations = st.lists(
    st.tuples(
        st.floats(0, 1), st.sampled_from([0, 1, 2, 8, 64, 10_000]), st.binary(max_size=8) | st.sampled_from(PIECES)
    ),
    min_size=1,
    max_size=4,
)


@fuzz
@given(values)
def test_settings_of_any_shape(tmp_path: Path, content: Any) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(content))
    for cls in (RunConfig, PrepareConfig):
        with refused:
            load(cls, file)


@fuzz
@given(st.lists(st.tuples(st.sampled_from(NAMES) | st.text(max_size=6), values | st.text(max_size=12)), max_size=3))
def test_overrides(pairs: list[tuple[str, Any]]) -> None:
    with refused:
        load(RunConfig, None, [f"{name}={yaml.safe_dump(value).removesuffix('...').strip()}" for name, value in pairs])
    with refused:
        load(RunConfig, None, [f"{name}={value}" for name, value in pairs])


@fuzz
@given(values, st.dictionaries(st.sampled_from(NAMES), values, max_size=3), values)
def test_spaces_of_any_shape(tmp_path: Path, run: Any, search: dict[str, Any], points: Any) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(yaml.safe_dump({"run": run, "search": search, "points": points}))
    with refused:
        load_space(file).known_points()


@fuzz
@given(st.sampled_from(SPACES), mutations)
def test_space_files_with_any_bytes(tmp_path: Path, space: str, changes: list[tuple[float, int, bytes]]) -> None:
    file = tmp_path / "space.yaml"
    file.write_bytes(mutated(space.encode(), changes))
    with refused:
        load_space(file).known_points()


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    for name in "abcdef":
        (folder / f"{name}.wav").write_bytes(b"x")
    return folder


@fuzz
@given(mutations)
def test_manifests_with_any_bytes(media: Path, changes: list[tuple[float, int, bytes]]) -> None:
    splits = ["train"] * 4 + ["val"] * 2
    rows = [f"{i},{name}.wav,word {name},{i % 2},{splits[i]},0,{i + 1}" for i, name in enumerate("abcdef")]
    text = "\n".join(["id,audio,text,label,split,start,end", *rows]) + "\n"
    file = media / "manifest.csv"
    file.write_bytes(mutated(text.encode(), changes))
    with refused:
        read_manifest(file, {"audio": "audio", "text": "text"})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_shards.write(tmp_path_factory.mktemp("shards"))


def read_all(folder: Path) -> None:
    shards = Shards(folder)
    for split in shards.card.splits:
        shards.nbytes(split)
        shards.arrays(split)
    shards.verify()


@fuzz
@given(mutations)
def test_shards_with_any_bytes(dataset: Path, tmp_path: Path, changes: list[tuple[float, int, bytes]]) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy, dirs_exist_ok=True)
    file = copy / "train-00000.arrow"
    file.write_bytes(mutated(file.read_bytes(), changes))
    with refused:
        read_all(copy)


@fuzz
@given(mutations)
def test_dataset_cards_with_any_bytes(dataset: Path, tmp_path: Path, changes: list[tuple[float, int, bytes]]) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy, dirs_exist_ok=True)
    (copy / CARD).write_bytes(mutated((dataset / CARD).read_bytes(), changes))
    with refused:
        read_all(copy)


@fuzz
@given(st.data())
def test_dataset_cards_with_any_values(dataset: Path, tmp_path: Path, data: st.DataObject) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy, dirs_exist_ok=True)
    node = card = json.loads((dataset / CARD).read_text())
    while isinstance(node, dict | list) and node:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(node[key], dict | list) or data.draw(st.booleans()):
            node[key] = data.draw(scalars | st.sampled_from(["../train-00000.arrow", "/etc/passwd", "val-00000.arrow"]))
            break
        node = node[key]
    (copy / CARD).write_text(json.dumps(card))
    with refused:
        read_all(copy)


@pytest.mark.long
def test_many_more_inputs_of_each_kind() -> None:
    command = [sys.executable, "-m", "pytest", "-n", "0", "-m", "not long", __file__]
    done = subprocess.run(command, env=os.environ | {"FUZZ_EXAMPLES": "2000"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
