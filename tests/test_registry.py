"""Built-in parts are found by the names of their files, and imported when they are used."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lfm_ray.methods import METHODS
from lfm_ray.models.encoders import ENCODERS
from lfm_ray.registry import Registry, parts_in

BASE = "class Tool:\n    pass\n"
DERIVED = "from {package}.base import Tool\n\n\nclass {name}(Tool):\n    pass\n"


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[type]:
    """Of a package of three tools, one file each, one with two tools, and a file with their base."""
    package = "tools_of_" + tmp_path.name
    folder = tmp_path / package
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "__main__.py").write_text("raise RuntimeError", encoding="utf-8")
    (folder / "base.py").write_text(BASE, encoding="utf-8")
    for name in ("saw", "hammer", "rasp"):
        text = DERIVED.format(package=package, name=name.capitalize())
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    two = DERIVED.format(package=package, name="Screw") + "\n\nclass Nail(Tool):\n    pass\n"
    (folder / "screw.py").write_text(two, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = parts_in(package, shared=("base", "__main__"))
    return Registry("tool", found, lambda part: isinstance(part, type) and part.__module__.startswith("tools_of_"))


def test_parts_are_listed_by_file_without_an_import(tools: Registry[type]) -> None:
    assert list(tools) == ["hammer", "rasp", "saw", "screw"]
    assert not [name for name in sys.modules if name.startswith("tools_of_") and "." in name]


def test_a_part_is_the_one_that_its_file_defines(tools: Registry[type]) -> None:
    assert tools["rasp"].__name__ == "Rasp"
    imported = {name.rpartition(".")[2] for name in sys.modules if name.startswith("tools_of_")}
    assert imported & {"saw", "hammer", "rasp", "screw"} == {"rasp"}


def test_a_file_with_two_parts_is_refused(tools: Registry[type]) -> None:
    with pytest.raises(ValueError, match="tool screw cannot be imported"):
        tools["screw"]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_called_as_its_file(name: str) -> None:
    assert METHODS[name].model_fields["name"].default == name


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_file_holds_one(name: str) -> None:
    assert ENCODERS[name].kinds
