"""What a signal does: in this process, and, in the slow tier, to commands."""

from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from commands import SMALL_FLAGS, start, wait_for
from made_sweep import make_sweep
from rich.console import Console
from synthetic import write_dataset
from tiny_run import small_config

from lfm_ray import interruption
from lfm_ray.console import SILENT
from lfm_ray.datasets.shards import Shards
from lfm_ray.interruption import Interrupted, kept_handlers, none_lost, stoppable, terminable
from lfm_ray.search.sweep import Sweep
from lfm_ray.training.execution import Workers
from lfm_ray.training.source import DataSource
from lfm_ray.workflows import single_run, sweeping


def send(number: int) -> None:
    """To this process; Python's handler has run when this returns."""
    os.kill(os.getpid(), number)
    time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_said_the_second_ends(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    former = signal.getsignal(number)
    with stoppable() as stop:
        assert not stop
        send(number)
        assert stop and stop.number == number
        assert "stopping, what runs is saved; once more to stop at once" in capsys.readouterr().err
        with pytest.raises(Interrupted) as raised:
            send(number)
        assert raised.value.status == 128 + number
    assert signal.getsignal(number) is former


@pytest.fixture
def heeded() -> Iterator[None]:
    """Ctrl-C is heeded, also where the tests run in the background of a shell, which ignores it."""
    with kept_handlers():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        yield


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_others_swallow_is_not_lost(number: int, heeded: None) -> None:
    done = []

    def swallowing() -> None:
        with none_lost():
            with suppress(KeyboardInterrupt):
                send(number)
            done.append("the rest")

    with terminable():
        with pytest.raises(Interrupted) as raised:
            swallowing()
        assert raised.value.status == 128 + number
        assert done == ["the rest"]
        with none_lost():
            pass  # nothing came
        with pytest.raises(ValueError, match="of its own"), none_lost():
            raise ValueError("of its own")


def test_sigterm_ends_a_command_as_ctrl_c_does_and_words_can_be_added() -> None:
    with pytest.raises(KeyboardInterrupt), terminable():
        send(signal.SIGTERM)
    told = Interrupted.saying("go on")
    assert (str(told), told.status) == ("go on", 143)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_process_ends_does_not_change_what_a_command_has_done(number: int) -> None:
    late = f"import atexit, os, lfm_ray.cli; atexit.register(os.kill, os.getpid(), {int(number)})"
    code = f"{late}; lfm_ray.cli.run(lambda: print('done'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("what", "status"), [("None", 0), ("(_ for _ in ()).throw(UserError('no'))", 2)])
def test_a_signal_between_a_command_and_the_end_of_python_changes_nothing(number: int, what: str, status: int) -> None:
    code = f"""
import os, sys, lfm_ray.cli
from lfm_ray.errors import UserError
try:
    lfm_ray.cli.run(lambda: {what})
finally:
    os.kill(os.getpid(), {int(number)})
    [None for _ in range(1000)]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_while_a_command_ends_by_the_first_changes_nothing(number: int) -> None:
    code = f"""
import os, lfm_ray.cli
from lfm_ray.interruption import Interrupted
real, sent = lfm_ray.cli.deaf, []
def deaf():
    if not sent:
        sent.append(True)
        os.kill(os.getpid(), {int(number)})
        [None for _ in range(1000)]
    real()
def main():
    raise Interrupted(number={int(number)})
lfm_ray.cli.deaf = deaf
lfm_ray.cli.run(main)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    said = "error: interrupted; the same command goes on where it was\n"
    assert (done.returncode, done.stderr) == (128 + number, said)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_modules_are_imported_is_one_line(number: int) -> None:
    code = f"""
import builtins, os, runpy, signal, lfm_ray
signal.signal(signal.SIGINT, signal.default_int_handler)
real = builtins.__import__
def importing(name, *rest, **named):
    if name == "lfm_ray.main":
        os.kill(os.getpid(), {int(number)})
    return real(name, *rest, **named)
builtins.__import__ = importing
runpy.run_path(lfm_ray.__path__[0] + "/__main__.py", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (128 + number, "error: interrupted before it began\n")


def test_handlers_that_a_library_sets_are_taken_back() -> None:
    former = signal.getsignal(signal.SIGTERM)
    with kept_handlers():
        signal.signal(signal.SIGTERM, lambda number, frame: None)
    assert signal.getsignal(signal.SIGTERM) is former


@pytest.mark.parametrize(
    "number",
    [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), pytest.param(signal.SIGINT, marks=pytest.mark.long)],
)
def test_a_sweep_that_is_stopped_says_how_to_go_on(tmp_path: Path, number: int) -> None:
    write_dataset(tmp_path / "shards/tiny")
    process = start(
        tmp_path, "tune", "--data", "shards/tiny", "--name", "one", "--trials", "200", "--epochs", "100", *SMALL_FLAGS
    )
    wait_for(lambda: bool(list(tmp_path.glob("sweeps/one/trials/*/epochs.jsonl"))), process)
    process.send_signal(number)
    begun = time.monotonic()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number, stderr
    assert time.monotonic() - begun < 20
    assert "tune --resume one goes on" in stderr
    assert "***" not in stderr and "Traceback" not in stderr


@pytest.mark.slow
def test_a_run_that_is_stopped_says_how_to_go_on(tmp_path: Path) -> None:
    write_dataset(tmp_path / "shards/tiny")
    (tmp_path / "run.yaml").write_text("model: {width: 4, embedding_size: 8}\ndata: {batch_size: 16}\n")
    process = start(tmp_path, "train", "run.yaml", "--data", "shards/tiny", "--epochs", "100000", "--name", "one")
    wait_for((tmp_path / "runs/one/epochs.jsonl").exists, process)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143, stderr
    assert "the same command with --name one goes on" in stderr
    assert "***" not in stderr and "Traceback" not in stderr


def test_what_ray_makes_of_a_signal_has_the_status_of_that_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        monkeypatch.setattr(interruption, "_last", number)
        assert interruption.status_of(KeyboardInterrupt()) == 128 + number
    assert interruption.status_of(interruption.Interrupted("", signal.SIGINT)) == 130


def test_a_command_that_is_interrupted_waits_for_no_thread(tmp_path: Path) -> None:
    """Threads of Ray may still run, in which the interpreter would end with a segmentation fault now and then."""
    code = """
import threading, time, lfm_ray.cli
def main():
    threading.Thread(target=time.sleep, args=(600,)).start()
    raise KeyboardInterrupt
lfm_ray.cli.run(main)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "error: interrupted; the same command goes on where it was\n")


def test_ray_does_not_handle_signals_below_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it would print a stack of C++."""
    import ray

    from lfm_ray import ray_session

    constants = ray._private.ray_constants
    monkeypatch.setattr(constants, "RAY_DISABLE_FAILURE_SIGNAL_HANDLER", False)
    monkeypatch.setattr(ray, "init", lambda **_: None)
    ray_session._start(None, None)
    assert constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER is True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_trials_that_were_asked_to_stop_end_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Tune returns as if all were well when its stopper says so."""
    from ray import tune

    from lfm_ray.search.ray_tune import tuning

    asked: list[bool] = []

    class Tuner:
        def __init__(self, trainable: object, *, run_config: tune.RunConfig, **_: object) -> None:
            self.stopper = run_config.stop

        def fit(self) -> str:
            asked.append(self.stopper.stop_all())
            send(number)
            asked.append(self.stopper.stop_all())
            return "what has ended"

    monkeypatch.setattr(tune, "Tuner", Tuner)
    monkeypatch.setattr(tune, "with_resources", lambda trainable, request: trainable)
    resources: Any = SimpleNamespace(request=lambda: None, trials_at_once=lambda: 1)
    for name in ("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "TUNE_DISABLE_STRICT_METRIC_CHECKING",
                 "TUNE_GLOBAL_CHECKPOINT_S", "TUNE_DISABLE_SIGINT_HANDLER"):  # fmt: skip
        monkeypatch.setenv(name, "1")  # set back at the end
    level = logging.getLogger("ray.tune").level
    with pytest.raises(Interrupted) as raised:
        tuning._tune(lambda: None, tune.TuneConfig(), tmp_path, resources, [])
    logging.getLogger("ray.tune").setLevel(level)
    assert (asked, raised.value.status) == ([False, True], 128 + number)


def stand_ins(monkeypatch: pytest.MonkeyPatch, module: Any, shards: Shards) -> None:
    """Puts something without Ray in the place of what a workflow asks it for."""
    monkeypatch.setattr(module, "ray_session", lambda address: nullcontext())
    monkeypatch.setattr(module, "Resources", lambda *_, **__: SimpleNamespace(trials_at_once=lambda: 1))
    monkeypatch.setattr(module.DataSource, "open", lambda *_, **__: DataSource(shards, {}))


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_a_run_that_is_interrupted_says_how_to_go_on(
    tmp_path: Path, shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_ins(monkeypatch, single_run, shards)
    monkeypatch.setattr(single_run, "run_on_workers", interrupted)
    with pytest.raises(Interrupted, match=r"^stopped; the same command with --name mine goes on$"):
        single_run.train(
            small_config(), tmp_path / "mine", Workers(), fit_degree=None, profile=False, address=None, console=SILENT
        )


@pytest.mark.parametrize("how", ["interrupted", "the time is up", "all have ended"])
def test_a_sweep_says_that_not_all_trials_have_ended(
    tmp_path: Path, shards: Shards, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    made = make_sweep(tmp_path / "sweeps/mine", trials=2, epochs=2, planned=5)
    made.let_go()
    sweep = Sweep.open(made.folder)
    stand_ins(monkeypatch, sweeping, shards)
    monkeypatch.setattr(Sweep, "check_data", lambda *_: None)
    monkeypatch.setattr(sweeping, "search", interrupted if how == "interrupted" else lambda *_: how == "the time is up")
    written: list[bool] = []
    monkeypatch.setattr(sweeping, "write_results", lambda sweep, cut_short=False: written.append(cut_short))
    output = io.StringIO()
    means = sweeping.Means(Workers(), None, 1.0, (), None, Console(file=output, width=200))
    with pytest.raises(Interrupted) if how == "interrupted" else nullcontext() as raised:
        sweeping.run_once(sweep, means)
    goes_on = f"tune --resume mine --storage {tmp_path / 'sweeps'} goes on"
    if raised is not None:
        assert str(raised.value).startswith("stopped; ") and str(raised.value).endswith(goes_on)
    said = output.getvalue().replace("\n", "")
    assert ("the time is up, with 3 trials to go; " in said and goes_on in said) == (how == "the time is up")
    assert written == [how == "the time is up"]
