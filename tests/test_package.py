"""What setup.cfg, constraints.txt and the sources say of one another."""

from __future__ import annotations

import ast
import configparser
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lfm_ray.resources import shipped_folder

CLONE = Path(__file__).parents[1]


def requirements(section: str, option: str) -> list[Requirement]:
    file = configparser.ConfigParser()
    file.read(CLONE / "setup.cfg")
    return [Requirement(line) for line in file[section][option].splitlines() if line.strip() and line[0] != "#"]


def test_every_dependency_is_pinned_in_the_constraints_to_a_version_that_is_allowed() -> None:
    lines = [line for line in (CLONE / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = dict(line.split("==") for line in lines)
    for one in [*requirements("options", "install_requires"), *requirements("options.extras_require", "test")]:
        assert one.specifier.contains(pinned[canonicalize_name(one.name)]), one
    assert not any("/" in version for version in pinned.values())


@cache
def imported(file: Path) -> set[str]:
    """The modules that a file imports, at its head or later."""
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    names = {f"{node.module}.{one.name}" for node in nodes if isinstance(node, ast.ImportFrom) for one in node.names}
    return names | {one.name for node in nodes if isinstance(node, ast.Import) for one in node.names}


def test_private_modules_of_ray_are_imported_in_one_file() -> None:
    private = ("ray._", "ray.cluster_utils", "ray.train.v2", "ray.train._", "ray.tune._", "ray.data._")
    found = {
        file.relative_to(CLONE)
        for folder in ("lfm_ray", "tests", "benchmarks")
        for file in (CLONE / folder).rglob("*.py")
        if any(name.startswith(private) for name in imported(file))
    }
    assert found == {Path("lfm_ray/ray_private.py")}


@pytest.mark.parametrize("module", ["librosa", "playwright", "psutil", "moto", "hypothesis", "pytest"])
def test_what_only_the_tests_need_is_not_imported_at_run_time(module: str) -> None:
    names = {name.partition(".")[0] for file in (CLONE / "lfm_ray").rglob("*.py") for name in imported(file)}
    assert module not in names


def test_a_wheel_would_hold_all_that_is_shipped() -> None:
    file = configparser.ConfigParser()
    file.read(CLONE / "setup.cfg")
    for folder in ("search_spaces", "data"):
        patterns = [word.strip() for word in file["options.package_data"][f"lfm_ray.{folder}"].split(",")]
        held = {one for pattern in patterns for one in shipped_folder(folder).glob(pattern)}
        missing = {one for one in shipped_folder(folder).rglob("*") if one.is_file()} - held
        assert {one.name for one in missing if one.suffix != ".pyc"} <= {"make_speech.py"}
