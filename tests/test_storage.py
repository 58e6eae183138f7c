"""Storage by URI, against an S3 server of this machine, and storage that fails."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer
from synthetic import write_dataset

from lfm_ray import storage
from lfm_ray.config import RunConfig
from lfm_ray.datasets.shards import Shards
from lfm_ray.errors import TrainingFailed, UserError
from lfm_ray.launch import Source, run_in_process
from lfm_ray.run import Row
from lfm_ray.search.journal import PatientJournal
from lfm_ray.search.sweep import Sweep
from lfm_ray.settings import load

KEY = "the-secret-that-nobody-may-see"


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadedMotoServer]:
    result = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    result.start()
    host, port = result.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/bucket", method="PUT"))
        yield result
    result.stop()


@pytest.fixture
def machine(server: ThreadedMotoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """A function that makes this process one on another machine, with an empty disk."""
    machines = iter(range(100))

    def another() -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"machine{next(machines)}"))

    another()
    return another


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("http://host/path", "a folder, s3://BUCKET/PATH or gs://BUCKET/PATH"),
        ("s3:///path", "a folder, s3://BUCKET/PATH"),
        (f"s3://key:{KEY}@bucket/path", "give keys, region and endpoint by the environment"),
        (f"s3://bucket/path?secret_key={KEY}", "give keys, region and endpoint by the environment"),
    ],
)
def test_a_uri_of_another_kind_or_with_a_key_is_refused_and_the_key_not_repeated(uri: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        storage.working_folder(uri)
    assert said in str(caught.value)
    assert KEY not in str(caught.value)


def test_a_folder_is_itself_and_nothing_is_copied(tmp_path: Path) -> None:
    assert storage.working_folder(str(tmp_path)) == tmp_path
    (tmp_path / "a").write_text("a")
    storage.push(tmp_path)
    storage.pull(tmp_path)
    assert storage.exists(tmp_path / "a")
    storage.remove(tmp_path / "a")
    assert not storage.exists(tmp_path / "a")


def test_what_one_machine_pushes_another_pulls(machine) -> None:
    folder = storage.working_folder("s3://bucket/folders/one")
    for name in ("a", "b", "deep/c"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    storage.push(folder)
    machine()
    other = storage.working_folder("s3://bucket/folders/one")
    assert other != folder
    (other / "deep").mkdir(parents=True)
    (other / "left over").write_text("of a sweep of this name that was removed")
    (other / "deep/c").write_text("older")
    storage.pull(other, skip=lambda name: name == "b")
    assert sorted(file.name for file in other.rglob("*") if file.is_file()) == ["a", "c"]
    assert (other / "deep/c").read_text() == "deep/c"
    assert storage.name_of(other / "b") == "s3://bucket/folders/one/b"
    storage.remove(other / "a")
    assert [storage.exists(other / name) for name in ("a", "b", "deep/c")] == [False, True, True]


def test_a_run_goes_on_on_another_machine(machine, tmp_path: Path) -> None:
    source = Source(Shards(write_dataset(tmp_path / "shards")), {})
    config = load(RunConfig, None, ["epochs=3", "model.width=4", "model.embedding_size=8", "data.batch_size=16"])

    def run(uri: str, stop_after: int = 3) -> list[Row]:
        rows: list[Row] = []

        def report(row: Row) -> None:
            rows.append({name: value for name, value in row.items() if name != "seconds"})
            if len(rows) == stop_after:
                raise InterruptedError

        try:
            run_in_process(config, source, storage.working_folder(uri), report, threads=1)
        except InterruptedError:
            machine()
        return rows

    assert len(run("s3://bucket/runs/moved", stop_after=2)) == 2
    assert run("s3://bucket/runs/moved", 4) == run(str(tmp_path / "whole"), 4)
    names = {info.path.rpartition("/")[2] for info in _objects("runs/moved")}
    assert names >= {"config.yaml", "epochs.jsonl", "checkpoint.pt", "checkpoint.previous.pt"}


def test_a_store_that_is_away_for_a_while_is_waited_for(machine, server: ThreadedMotoServer) -> None:
    file = storage.working_folder("s3://bucket/away/a")
    file.parent.mkdir(parents=True)
    file.write_text("a")
    host, port = server.get_host_and_port()
    server.stop()
    back = ThreadedMotoServer(ip_address=host, port=port, verbose=False)
    starting = threading.Timer(1, back.start)
    starting.start()
    storage.patiently(lambda: storage.push(file), file)
    starting.join()
    assert storage.exists(file)


def test_a_disk_that_is_full_for_a_while_is_waited_for_and_said(tmp_path: Path) -> None:
    file, notices = tmp_path / "a", []
    file.symlink_to("/dev/full")
    threading.Timer(0.6, file.unlink).start()
    storage.patiently(lambda: file.write_text("a"), file, notices.append)
    assert file.read_text() == "a"
    assert [notice.split("; ")[1] for notice in notices] == ["trying again for 300 s", "then it worked again"]
    assert "No space left on device" in notices[0]


def test_storage_that_stays_away_ends_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PATIENCE", 0.5)
    with pytest.raises(TrainingFailed, match="full: No space left on device, for 0 s"):
        storage.patiently(lambda: Path("/dev/full").write_text("a"), tmp_path / "full", lambda text: None)


def test_a_journal_write_that_fails_in_its_middle_is_done_once_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "journal"
    file.write_bytes(b'{"a": 1}\n{"b": ')  # a kill in the middle of a line
    journal = PatientJournal(file)
    real, failures = os.fsync, iter([OSError(28, "No space left on device"), None])

    def fsync(number: int) -> None:
        if failure := next(failures):
            raise failure
        real(number)

    monkeypatch.setattr(os, "fsync", fsync)
    journal.append_logs([{"c": 2}])
    assert list(PatientJournal(file).read_logs(0)) == [{"a": 1}, {"c": 2}]


def test_a_sweep_in_a_bucket_goes_on_from_another_machine_and_shows_no_secret(machine, tmp_path: Path) -> None:
    write_dataset(tmp_path / "shards")
    small = ["--set", "model.width=4", "--set", "model.embedding_size=8", "--data", "shards", "--epochs", "2"]
    said = ""
    for arguments in (["--name", "one", "--trials", "1", *small], ["--resume", "one", "--trials", "2"]):
        machine()
        done = subprocess.run(
            [sys.executable, "-m", "lfm_ray.tune", "--storage", "s3://bucket/sweeps", *arguments],
            cwd=tmp_path, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said += done.stdout + done.stderr
    machine()
    trials = Sweep.open(storage.working_folder("s3://bucket/sweeps/one")).trials()
    assert (trials[0].state, len(trials[0].rows)) == ("finished", 2)
    assert (trials[1].state, len(trials[1].rows)) in {("finished", 2), ("pruned", 1)}
    assert "s3://bucket/sweeps/one" in said
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert KEY.encode() not in written + said.encode()
    assert {"best.yaml", "trials.csv", "study.journal"} <= {i.path.rpartition("/")[2] for i in _objects("sweeps/one")}


def _objects(path: str) -> list:
    import pyarrow.fs

    store = pyarrow.fs.FileSystem.from_uri("s3://bucket")[0]
    return list(store.get_file_info(pyarrow.fs.FileSelector(f"bucket/{path}", recursive=True)))
