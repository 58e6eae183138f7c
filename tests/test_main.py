"""`lfm-ray`, and what the parsers of all commands have in common."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import lfm_ray
from lfm_ray import cli
from lfm_ray.errors import UserError
from lfm_ray.main import COMMANDS, command
from lfm_ray.resources import shipped_names, space_file

HEAVY = {"torch", "ray", "pandas", "numpy", "pydantic", "rich", "yaml", "optuna", "matplotlib", "pyarrow", "scipy"}


def ran(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=120)


LFM_RAY = "from lfm_ray.main import main; main()"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_what_was_typed_and_imports_nothing_heavy(name: str) -> None:
    done = ran(f"""
import sys
from lfm_ray.main import main
try:
    main()
finally:
    print("heavy", sorted({HEAVY!r} & set(sys.modules)))
""", name, "--help")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: lfm-ray {name} ")
    assert f"    lfm-ray {name} " in done.stdout
    assert "python -m" not in done.stdout
    assert done.stdout.endswith("heavy []\n")


def test_the_package_itself_imports_nothing_heavy() -> None:
    done = ran(f"import sys, lfm_ray; print(sorted({HEAVY!r} & set(sys.modules)))")
    assert done.stdout == "[]\n"


def test_the_commands_are_listed_and_the_version_is_said() -> None:
    listed = ran(LFM_RAY).stdout
    assert all(f"  {name} " in listed for name in COMMANDS)
    assert ran(LFM_RAY, "--version").stdout == "lfm_ray 0.1.0\n"
    module = subprocess.run([sys.executable, "-m", "lfm_ray"], capture_output=True, text=True, timeout=120).stdout
    assert module.startswith("usage: python -m lfm_ray COMMAND")


def test_an_unknown_command_is_one_line() -> None:
    done = ran(LFM_RAY, "tuen")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "tuen: there is no such command; lfm-ray has prepare, tune" in done.stderr


def test_what_was_typed_is_what_is_recorded_and_suggested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["anything", "--set", "data.modalities=[a, b]"])
    assert cli.command_line("tune") == "python -m lfm_ray.tune --set 'data.modalities=[a, b]'"
    monkeypatch.setattr(cli, "_began", cli._began)
    cli.began("lfm-ray")
    line = cli.command_line("tune")
    assert shlex.split(line) == ["lfm-ray", "tune", "--set", "data.modalities=[a, b]"]
    assert cli.typed("train") == "lfm-ray train"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_module_is_also_run_by_python_m(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        command(name)()
    assert ended.value.code == 0


def test_importing_a_command_leaves_the_function_of_its_name() -> None:
    functions = {name: getattr(lfm_ray, name) for name in ("prepare", "tune", "train", "confirm", "export")}
    for name, function in functions.items():
        module = importlib.import_module(f"lfm_ray.{name}")
        assert sys.modules[f"lfm_ray.{name}"] is module
        assert getattr(lfm_ray, name) is function
        assert function.__doc__ and function.__module__ == "lfm_ray.api"
    assert lfm_ray.resources is sys.modules["lfm_ray.resources"]  # others are attributes as ever


def test_report_names_the_command_that_its_paper_has_become(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["report", "--paper", "table1", "--data", "x", "--budget", "4h"])
    with pytest.raises(UserError, match=r"this is now a separate command: python -m lfm_ray\.reproduce table1"):
        command("report")()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["table1", "--data", "x"], "give --budget or --trials"),
        (["figure3", "--data", "x", "--trials", "1", "--split", "val"], "figure3 does not read the test split"),
    ],
)
def test_what_reproduce_refuses(words: list[str], reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["reproduce", *words])
    with pytest.raises(UserError, match=reason):
        command("reproduce")()


def test_a_search_space_is_found_by_its_name_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert {"alpha_schedule", "cubic", "methods"} <= set(shipped_names("search_spaces"))
    shipped = space_file("cubic")
    assert shipped.is_file()
    assert space_file("search_spaces/cubic.yaml") == shipped
    Path("mine.yaml").touch()
    assert space_file("mine.yaml") == Path("mine.yaml")
    for name in ("cubik", "search_spaces/cubik.yaml", "cubik.yaml"):
        with pytest.raises(UserError, match=rf"^{name}: there is no such file; did you mean cubic\?$"):
            space_file(name)
    with pytest.raises(UserError, match="shipped search spaces: alpha_schedule, ave, "):
        space_file("zzz")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("x" * 300, "is no path that can be used: File name too long"),
        ("/".join(["y" * 100] * 45), "is no path that can be used: File name too long"),
        ("loop", "is a link that leads back to itself|is no path that can be used: Too many levels of symbolic links"),
        ("\udcff", "is not a text in UTF-8"),
    ],
)
def test_a_path_that_cannot_be_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str, said: str
) -> None:
    (tmp_path / "loop").symlink_to("loop")

    def look() -> None:
        path.encode()
        (tmp_path / path).exists()
        (tmp_path / path).resolve(strict=True)

    with pytest.raises(SystemExit) as stopped:
        cli.run(look)
    (line,) = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and re.search(said, line) and len(line) < 400
