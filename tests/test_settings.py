from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lfm_ray import trust
from lfm_ray.config import RunConfig
from lfm_ray.datasets.preparing.config import PrepareConfig
from lfm_ray.errors import UserError
from lfm_ray.optimization.schedules import Constant, Learned
from lfm_ray.search.spaces.space_file import load_space
from lfm_ray.settings import build, load, merge


def test_a_config_survives_the_way_through_yaml(tmp_path: Path) -> None:
    config = load(RunConfig, None, ["alpha.strategy=polynomial", "alpha.coefficients=[0.5, 0.25]", "epochs=7"])
    file = tmp_path / "run.yaml"
    file.write_text(config.to_yaml())
    assert load(RunConfig, file) == config
    assert load(PrepareConfig, None).to_yaml()


def test_an_override_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("epochs: 5\noptimizer: {learning_rate: 0.1}\n")
    config = load(RunConfig, file, ["optimizer.learning_rate=1e-3"])
    assert (config.epochs, config.optimizer.learning_rate, config.loss.tau) == (5, 1e-3, RunConfig().loss.tau)


def test_another_strategy_drops_the_settings_of_the_first() -> None:
    values = {"alpha": {"strategy": "learned", "eta_alpha": 0.2}}
    assert merge(values, {"alpha.strategy": "constant", "alpha.value": 0.4})["alpha"] == {
        "strategy": "constant",
        "value": 0.4,
    }
    assert build(RunConfig, merge(values, {"alpha.initial": 0.5})).alpha == Learned(
        strategy="learned", eta_alpha=0.2, initial=0.5
    )
    assert values == {"alpha": {"strategy": "learned", "eta_alpha": 0.2}}  # the original is left alone


def test_alpha_without_a_strategy_is_a_constant() -> None:
    assert load(RunConfig, None, ["alpha.value=0.3"]).alpha == Constant(value=0.3)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["loss.tua=1"], ["--set loss.tua", "did you mean tau"]),
        (["epoch=3"], ["--set epoch", "did you mean epochs"]),
        (["epochs=many"], ["epochs", "integer", "'many'"]),
        (["epochs=0"], ["epochs", "greater than or equal to 1"]),
        (["loss.tau=.nan"], ["loss.tau"]),
        (["loss.tau=-1"], ["loss.tau", "greater than 0"]),
        (["alpha.strategy=learnt"], ["alpha.strategy", "'learnt'", "did you mean learned"]),
        (["alpha.strategy=learned", "alpha.eta_alhpa=1"], ["alpha.eta_alhpa", "did you mean eta_alpha"]),
        (["alpha.strategy=polynomial", "alpha.coefficients=[0.1, 2]"], ["alpha.coefficients.1", "(it is 2)"]),
        (["epochs.x=1"], ["epochs"]),
        (["epochs"], ["path.to.setting=value"]),
        (["epochs=["], ["--set epochs=[", "YAML"]),
        (["data.modalities=[]"], ["--set data.modalities", "names no modality"]),
        (["data.modalities=[a, b, a]"], ["--set data.modalities", "names a modality twice"]),
    ],
)
def test_a_wrong_override_is_one_line_that_names_it(overrides: list[str], said: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load(RunConfig, None, overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert all(text in message for text in said), message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epochs: 3\nloss:\n  tau: 0.1\n  matchin: js\n", ["line 4", "loss.matchin", "did you mean matching"]),
        ("epochs: [3]\n", ["line 1", "epochs"]),
        ("epochs: 3\n  loss: 1\n", ["line 2", "not valid YAML"]),
        ("- epochs\n", ["must be a mapping"]),
    ],
)
def test_a_wrong_file_is_named_with_its_line(tmp_path: Path, text: str, said: list[str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        load(RunConfig, file)
    assert all(part in str(caught.value) for part in ["run.yaml", *said]), caught.value


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load(RunConfig, tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epochs: 0x" + "f" * 5000, r"run\.yaml, line 1: not valid YAML: a whole number has at most 64 bits"),
        ("epochs: 0b" + "1" * 100_000, "a whole number has at most 64 bits"),
        ("epochs: " + "9" * 5000, r"line 1: not valid YAML: '999.*' is no whole number that can be read"),
        ("epochs: !!int ten", "'ten' is no whole number that can be read"),
        ("epochs: !!bool 7", "'7' is not a value of the type that is written before it"),
        (f"epochs: {'a' * 10**6}", r"it is 'aaa.*\.\.\."),
        ("a: \u00e9".encode("latin-1"), "is not a text in UTF-8"),
        (b" " * (2 * 2**20 + 1), "is larger than 2 MiB; are these settings?"),
        ("loss: 3", r"loss: must be a section, with settings of its own \(it is 3\)"),
    ],
)
def test_odd_values_are_told_shortly(tmp_path: Path, text: str | bytes, said: str) -> None:
    (tmp_path / "run.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=said) as raised:
        load(RunConfig, tmp_path / "run.yaml")
    assert len(str(raised.value)) < 1000


BOMB = "x0: &x0 {a: 1}\n" + "".join(
    f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 10)}]\n" for n in range(1, 9)
)  # of ten times as many nodes in each line


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epochs: 2024-02-31", "not valid YAML: day is out of range for month"),
        ("epochs: 2024-01-01T25:00:00", "not valid YAML: hour must be in 0..23"),
        (f"epochs: {'[' * 60}{']' * 60}", "line 1: not valid YAML: nested more than 50 deep"),
        (f"epochs: {'{a: ' * 60}1{'}' * 60}", "line 1: not valid YAML: nested more than 50 deep"),
        (f"epochs: {'[' * 100_000}", "nested more than 50 deep"),
        (BOMB, r"has more than 100,000 keys and values, its aliases \(\*NAME\) written out"),
        ("epochs: &a [*a]", "not valid YAML: has more than 100,000 keys and values"),
        ("epochs: 1\nepochs: 2", "line 2: not valid YAML: 'epochs' is there twice"),
        ("loss: {tau: 0.1, 'tau': 0.2}", "line 1: not valid YAML: 'tau' is there twice"),
    ],
)
@pytest.mark.parametrize("read", [lambda file: load(RunConfig, file), load_space])
def test_what_a_few_lines_of_yaml_could_do_is_refused(
    tmp_path: Path, read: Callable[[Path], object], text: str, said: str
) -> None:
    file = tmp_path / "settings.yaml"
    for content in (text, "run:\n" + "".join(f"  {line}\n" for line in text.splitlines())):
        file.write_text(content)
        began = time.process_time()
        with pytest.raises(UserError, match=said.replace("line 1", r"line \d").replace("line 2", r"line \d")) as raised:
            read(file)
        assert "\n" not in str(raised.value) and time.process_time() - began < 2


def test_settings_are_not_read_from_pipes_and_devices(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path / "pipe.yaml", Path("/dev/zero")):
        with pytest.raises(UserError, match="is neither a file nor a folder, but a pipe, a socket or a device"):
            load(RunConfig, path)


def test_names_of_parts_are_found_in_a_long_text_at_once() -> None:
    began = time.process_time()
    assert trust.PART.findall(f"{'a' * 10**6} my_lab.methods:Tilt, x:Y") == ["my_lab.methods:Tilt", "x:Y"]
    assert time.process_time() - began < 2


@pytest.mark.parametrize("override", ["x" * 5000, f"epochs={'[' * 5000}", f"epochs={'9' * 5000}"])
def test_a_long_override_is_told_shortly(override: str) -> None:
    with pytest.raises(UserError, match="--set ") as raised:
        load(RunConfig, None, [override])
    assert len(str(raised.value)) < 400
