"""Storage and shards by URI, against servers of S3 and Google's store on this machine, and storage that fails."""

from __future__ import annotations

import os
import pickle
import shutil
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from commands import SMALL_FLAGS, run, start, wait_for
from gcp_storage_emulator.server import create_server
from made_sweep import make_sweep
from moto.server import ThreadedMotoServer
from synthetic import write_dataset

from lfm_ray import cli, storage
from lfm_ray.config import RunConfig
from lfm_ray.datasets.shards import CARD, Shards
from lfm_ray.errors import TrainingFailed, UserError
from lfm_ray.ray_session import ray_session
from lfm_ray.search.ray_tune.resources import check_nodes
from lfm_ray.search.study.journal import PatientJournal
from lfm_ray.search.sweep import Sweep, trial_folder
from lfm_ray.settings import load
from lfm_ray.training.execution import Launch, run_in_process
from lfm_ray.training.source import DataSource
from lfm_ray.training.trainer import Row

KEY = "the-secret-that-nobody-may-see"


class Server:
    """A server of S3, which can go away and come back with what it holds."""

    def __init__(self) -> None:
        self.port = 0
        self.start()

    def start(self) -> None:
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self._server.start()
        _, self.port = self._server.get_host_and_port()

    def stop(self) -> None:
        self._server.stop()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    result = Server()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{result.port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{result.port}/bucket", method="PUT"))
        yield result
    result.stop()


@pytest.fixture(scope="module")
def google() -> Iterator[None]:
    """A server of Google's store, with a bucket."""
    with socket.socket() as free, pytest.MonkeyPatch.context() as patch:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        result = create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
        result.start()
        patch.setenv(storage.GS_EMULATOR, f"http://127.0.0.1:{port}")
        yield
        result.stop()


@pytest.fixture
def machine(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
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
        (f"s3://key:{KEY}@bucket/path", "set keys, region and endpoint in the environment"),
        (f"s3://bucket/path?secret_key={KEY}", "set keys, region and endpoint in the environment"),
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


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_what_one_machine_pushes_another_pulls(machine, google: None, scheme: str) -> None:
    folder = storage.working_folder(f"{scheme}://bucket/folders/one")
    for name in ("a", "b", "deep/c"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    storage.push(folder)
    machine()
    other = storage.working_folder(f"{scheme}://bucket/folders/one")
    assert other != folder
    (other / "deep").mkdir(parents=True)
    (other / "left over").write_text("of a sweep of this name that was removed")
    (other / "deep/c").write_text("older")
    storage.pull(other, skip=lambda name: name == "b")
    assert sorted(file.name for file in other.rglob("*") if file.is_file()) == ["a", "c"]
    assert (other / "deep/c").read_text() == "deep/c"
    assert storage.name_of(other / "b") == f"{scheme}://bucket/folders/one/b"
    storage.copy(other / "b", other / "copy of b")
    storage.fetch(other / "copy of b")
    assert (other / "copy of b").read_text() == "b"
    storage.remove(other / "a")
    assert [storage.exists(other / name) for name in ("a", "b", "deep/c")] == [False, True, True]


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_shards_in_a_bucket_are_copied_to_a_machine_once_and_checked(
    machine, google: None, tmp_path: Path, scheme: str
) -> None:
    uri = f"{scheme}://bucket/shards/{scheme}"
    upload(write_dataset(tmp_path / "shards"), uri)
    here, there = Shards(tmp_path / "shards"), Shards(uri)
    for split in ("train", "val"):
        for name, values in here.arrays(split)[0].items():
            assert np.array_equal(there.arrays(split)[0][name], values)
    copies = sorted(file.name for file in there.path.glob("*.arrow"))
    assert copies == sorted(f"{here.card.splits[split][0].sha256}.arrow" for split in ("train", "val"))
    storage.remove(there.path / "train-00000.arrow")
    assert len(Shards(uri).arrays("train")[1]) == 48  # nothing is read from the store again
    sent = pickle.dumps(there)
    machine()
    with pytest.raises(UserError, match=f"{uri}/train-00000.arrow: is not there"):
        pickle.loads(sent).arrays("train")
    assert len(pickle.loads(sent).arrays("val")[1]) == 24
    altered = storage.working_folder(uri) / "train-00000.arrow"
    altered.write_bytes((tmp_path / "shards/train-00000.arrow").read_bytes()[:-8] + b"altered!")
    storage.push(altered)
    altered.unlink()
    with pytest.raises(UserError, match=f"{uri}/train-00000.arrow: its checksum differs"):
        Shards(uri).arrays("train")
    assert len(list(Shards(uri).path.glob("*.arrow"))) == 1
    upload(write_dataset(tmp_path / "other", train=12), uri)
    assert len(Shards(uri).arrays("train")[1]) == 12
    with pytest.raises(UserError, match=f"{scheme}://bucket/shards/none: there is no {CARD}"):
        Shards(f"{scheme}://bucket/shards/none")


def test_of_many_processes_one_copies_and_the_others_wait(
    machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(write_dataset(tmp_path / "shards"), "s3://bucket/shards/many")
    shards = Shards("s3://bucket/shards/many")
    real, copied, all_began = storage._copy_into, [], threading.Barrier(4)

    def slow(*arguments: object) -> str:
        copied.append(arguments)
        time.sleep(0.3)
        return real(*arguments)

    def fetch() -> None:
        all_began.wait()
        shards.fetch(["train"])  # a lock of a file is of the one who opened it, in one process or in several

    monkeypatch.setattr(storage, "_copy_into", slow)
    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(copied) == 1
    assert [file.suffix for file in shards.path.glob("*") if file.suffix not in (".json", ".lock")] == [".arrow"]


@pytest.mark.slow
def test_before_the_first_trial_every_node_has_copied_the_shards_or_is_named(
    machine, tmp_path: Path, cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(write_dataset(tmp_path / "shards"), "s3://bucket/shards/nodes")
    cluster.add_node(num_cpus=1, env_vars={"XDG_CACHE_HOME": str(tmp_path / "second")})
    (tmp_path / "sweep.yaml").touch()
    monkeypatch.chdir(tmp_path)
    with ray_session(cluster.address):
        source = DataSource.open(load(RunConfig, None, ["data.path=s3://bucket/shards/nodes", "data.memory_share=0"]))
        check_nodes(source, tmp_path / "sweep.yaml")
        copies = (tmp_path / "second/lfm_ray/s3/bucket/shards/nodes").glob("*.arrow")
        wanted = {source.shards.card.splits[split][0].sha256 for split in ("train", "val")}
        assert {file.stem for file in copies} == wanted
        nowhere_else = DataSource(Shards(Path("/proc/self/cwd/shards")), {})  # a path that is another's on each node
        with pytest.raises(UserError, match=r"node [\d.]+ \(.+\): cannot read the shards in /proc/self/cwd/shards"):
            check_nodes(nowhere_else, tmp_path / "sweep.yaml")
        storage.remove(source.shards.path / "val-00000.arrow")
        shutil.rmtree(tmp_path / "second")
        with pytest.raises(UserError, match=r"cannot copy the shards: s3://bucket/shards/nodes/val-.* is not there"):
            check_nodes(source, tmp_path / "sweep.yaml")


def test_a_store_that_refuses_is_one_line(machine, capsys: pytest.CaptureFixture[str]) -> None:
    file = storage.working_folder("s3://no-such-bucket/sweeps/one/a")
    file.parent.mkdir(parents=True)
    file.write_text("a")
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda: storage.push(file))
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert "NO_SUCH_BUCKET" in said and said.count("\n") == 1


def test_a_run_goes_on_on_another_machine(machine, tmp_path: Path) -> None:
    source = DataSource(Shards(write_dataset(tmp_path / "shards")), {})
    config = load(RunConfig, None, ["epochs=3", "model.width=4", "model.embedding_size=8", "data.batch_size=16"])

    def run(uri: str, stop_after: int = 3) -> list[Row]:
        rows: list[Row] = []

        def report(row: Row) -> None:
            rows.append({name: value for name, value in row.items() if name != "seconds"})
            if len(rows) == stop_after:
                raise SystemExit

        try:
            run_in_process(Launch(config, source, storage.working_folder(uri)), report)
        except SystemExit:
            machine()
        return rows

    assert len(run("s3://bucket/runs/moved", stop_after=2)) == 2
    assert run("s3://bucket/runs/moved", 4) == run(str(tmp_path / "whole"), 4)
    names = {info.path.rpartition("/")[2] for info in _objects("runs/moved")}
    assert names >= {"config.yaml", "epochs.jsonl", "checkpoint.pt", "checkpoint.previous.pt"}


def test_a_store_that_is_away_for_a_while_is_waited_for(machine, server: Server) -> None:
    file = storage.working_folder("s3://bucket/away/a")
    file.parent.mkdir(parents=True)
    file.write_text("a")
    server.stop()
    starting = threading.Timer(1, server.start)
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
    assert [notice.split("; ")[1] for notice in notices] == ["retrying for 300 s", "then it worked again"]
    assert "No space left on device" in notices[0]


def test_storage_that_stays_away_ends_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PATIENCE", 0.5)
    with pytest.raises(TrainingFailed, match="full: No space left on device, for 0 s"):
        storage.patiently(lambda: Path("/dev/full").write_text("a"), tmp_path / "full", lambda text: None)


def test_a_journal_write_that_fails_in_its_middle_is_done_once_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path("journal")
    file.write_bytes(b'{"a": 1}\n{"b": ')  # a kill in the middle of a line, and of Optuna's lock
    Path("journal.lock").symlink_to("journal")
    journal = PatientJournal(file)
    real, failures = os.fsync, iter([OSError(28, "No space left on device"), None])

    def fsync(number: int) -> None:
        if failure := next(failures):
            raise failure
        real(number)

    monkeypatch.setattr(os, "fsync", fsync)
    journal.append_logs([{"c": 2}])
    assert list(PatientJournal(file).read_logs(0)) == [{"a": 1}, {"c": 2}]


@pytest.mark.slow
def test_a_sweep_in_a_bucket_that_is_away_for_a_while_goes_on_from_another_machine_and_shows_no_secret(
    machine, server: Server, tmp_path: Path
) -> None:
    write_dataset(tmp_path / "shards")
    small = [*SMALL_FLAGS, "--data", "shards", "--epochs", "2"]
    said = ""
    for arguments in (["--name", "one", "--trials", "1", *small], ["--resume", "one", "--trials", "2"]):
        machine()
        with (tmp_path / "said").open("w+") as output:
            process = start(tmp_path, "tune", "--storage", "s3://bucket/sweeps", *arguments, output=output)
            if "--name" in arguments:
                begun = "s3://bucket/sweeps/one/sweep.yaml"  # and no trial has been handed out yet
                wait_for(lambda uri=begun: storage.exists(storage.working_folder(uri)), process)
                server.stop()
                wait_for(lambda: "retrying for" in (tmp_path / "said").read_text(), process)
                server.start()
            assert process.wait(timeout=300) == 0, (tmp_path / "said").read_text()
        said += (tmp_path / "said").read_text()
    machine()
    trials = Sweep.open(storage.working_folder("s3://bucket/sweeps/one")).trials()
    assert (trials[0].state, len(trials[0].rows)) == ("finished", 2)
    assert (trials[1].state, len(trials[1].rows)) in {("finished", 2), ("pruned", 1)}
    assert "s3://bucket/sweeps/one" in said
    assert "then it worked again" in said
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert KEY.encode() not in written + said.encode()
    assert {"best.yaml", "trials.csv", "study.journal"} <= {i.path.rpartition("/")[2] for i in _objects("sweeps/one")}


def upload(folder: Path, uri: str) -> None:
    """What `aws s3 cp --recursive` does."""
    there = storage.working_folder(uri)
    there.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        (there / file.name).write_bytes(file.read_bytes())
        storage.push(there / file.name)
        (there / file.name).unlink()


def _objects(path: str) -> list:
    import pyarrow.fs

    store = pyarrow.fs.FileSystem.from_uri("s3://bucket")[0]
    return list(store.get_file_info(pyarrow.fs.FileSelector(f"bucket/{path}", recursive=True)))


def stored(uri: str) -> list[str]:
    """The names of the objects below a URI."""
    place = storage.working_folder(uri)
    return sorted(file.relative_to(place).as_posix() for file in storage.sizes_in(place))


def test_sweeps_in_a_bucket_are_listed_and_removed_from_another_machine(
    machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = storage.working_folder("s3://bucket/listed")
    for name in ("mine", "other"):
        sweep = make_sweep(where / name, trials=4)
        for number in range(4):
            trial = trial_folder(sweep.folder, number)
            for model in ("checkpoint.pt", "weights/epoch-0001.pt"):
                (trial / model).parent.mkdir(exist_ok=True)
                (trial / model).write_bytes(bytes(1000))
        for file in ("confirm/0001-seed1/checkpoint.pt", "tensorboard/002-heuristic/events"):
            (sweep.folder / file).parent.mkdir(parents=True)
            (sweep.folder / file).write_bytes(bytes(1000))
        sweep.let_go()
        storage.push(sweep.folder)

    def said(*arguments: str) -> str:
        machine()
        done = run(tmp_path, "sweeps", *arguments, "--storage", "s3://bucket/listed")
        assert done.returncode == 0, done.stderr
        return " ".join(done.stdout.split())

    listed = said()
    assert listed.count("finished, 4") == 2 and "mine" in listed and "other" in listed and "(trial " in listed
    assert said("remove", "mine", "--trial", "2").startswith(
        "removed the files of trial 2 in s3://bucket/listed/mine, "
    )
    left = stored("s3://bucket/listed/mine")
    assert not any("0002" in name or "002-" in name for name in left)
    assert len([name for name in left if name.endswith(".pt")]) == 7
    assert said("remove", "mine", "--checkpoints") == "removed the models in s3://bucket/listed/mine, 7.0 kB"
    assert not any(name.endswith(".pt") for name in stored("s3://bucket/listed/mine"))
    assert "trials/0001/epochs.jsonl" in stored("s3://bucket/listed/mine")
    assert said("remove", "mine").startswith("removed s3://bucket/listed/mine, ")
    assert not stored("s3://bucket/listed/mine")
    assert len([name for name in stored("s3://bucket/listed/other") if name.endswith(".pt")]) == 9
    assert "mine" not in said()
