"""What trials fit on which nodes, what a node must see, and the files of docs/cluster."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any, cast

import grpc
import jsonschema
import pytest
import ray
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import write_dataset

from lfm_ray.datasets.reading.stream import READER_CPUS
from lfm_ray.datasets.shards import Shards
from lfm_ray.errors import UserError
from lfm_ray.search.ray_tune.resources import DRIVER_CPUS, Resources, _missing, check_nodes
from lfm_ray.training.execution import Workers
from lfm_ray.training.source import DataSource
from lfm_ray.tune import arguments

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
CPU1, CPU2, CPU3, GPU = {"CPU": 1.0}, {"CPU": 2.0}, {"CPU": 3.0}, {"CPU": 4.0, "GPU": 1.0}


@pytest.mark.parametrize(
    ("workers", "readers", "nodes", "trials"),
    [
        (Workers(1, 1), 0, [CPU2], 2),
        (Workers(1, 2), 0, [CPU1, CPU1], 0),  # two CPUs, but not on one node
        (Workers(1, 2), 0, [CPU3, CPU3], 2),  # six CPUs, of which each node wastes one
        (Workers(2, 1), 0, [CPU1, CPU1, CPU1], 1),
        (Workers(2, 1), 0, [CPU1, CPU1, CPU1, CPU1], 2),
        (Workers(3, 2), 0, [CPU2, CPU3], 0),
        (Workers(1, 1), 1, [CPU2, CPU1], 1),  # a trial reads its data on a second CPU, of any node
        (Workers(1, 1), 1, [CPU2, CPU2], 2),
        (Workers(1, 1, 1), 0, [CPU2, CPU2, GPU], 1),  # nodes without a GPU hold none
        (Workers(1, 1, 0.5), 0, [GPU, GPU], 4),
        (Workers(1, 1, 0.4), 0, [{"CPU": 8.0, "GPU": 2.0}], 4),  # five times 0.4 would need a part of both
        (Workers(1, 1, 1 / 3), 0, [GPU], 3),
        (Workers(2, 1, 1), 0, [GPU, GPU, GPU], 1),
        (Workers(1, 4, 2), 0, [{"CPU": 8.0, "GPU": 4.0}], 2),
        (Workers(1, 1), 0, [{"memory": 1e9}], 0),  # a head that computes nothing
    ],
)
def test_trials_are_counted_node_by_node(workers: Workers, readers: int, nodes: list[Any], trials: int) -> None:
    assert Resources(workers, None, readers).fits(nodes) == trials


class Node:
    """The free CPUs and GPUs of a node, granted as Ray does: a part of a GPU is of one, whole ones are unused."""

    def __init__(self, cpus: int, gpus: int) -> None:
        self.cpus, self.gpus = Fraction(cpus), [Fraction(1)] * gpus

    def take(self, cpus: Fraction, gpus: Fraction = Fraction(0)) -> bool:
        """Grants a request, if it can."""
        parts = [gpus] if gpus < 1 else [Fraction(1)] * int(gpus)
        free = [i for i, left in enumerate(self.gpus) if left >= parts[0]][: len(parts)] if gpus else []
        if cpus > self.cpus or (gpus and len(free) < len(parts)):
            return False
        self.cpus -= cpus
        for i in free:
            self.gpus[i] -= parts[0]
        return True


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=6),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from([Fraction(0), Fraction(1, 4), Fraction(2, 5), Fraction(1, 3), Fraction(1), Fraction(2)]),
    st.integers(0, 2),
    st.integers(0, 10**9),
)
def test_the_trials_that_are_counted_fit_wherever_ray_places_them_and_no_more_do(
    shape: list[tuple[int, int]], count: int, cpus: int, gpus: Fraction, readers: int, seed: int
) -> None:
    workers = Workers(count, cpus, float(gpus))
    resources = Resources(workers, None, readers)
    trials = resources.fits([{"CPU": float(c), "GPU": float(g)} for c, g in shape])
    nodes, random = [Node(*one) for one in shape], Random(seed)

    def placed(requests: int, *request: Fraction) -> int:
        """How many of them find a node; which one each is given is up to chance."""
        return sum(any(node.take(*request) for node in random.sample(nodes, len(nodes))) for _ in range(requests))

    each = Fraction(str(resources.nested().cpus)) if count > 1 else Fraction(cpus)
    drivers = trials if count > 1 else 0
    assert placed(drivers, Fraction(str(DRIVER_CPUS))) == drivers
    assert placed(trials * count, each, gpus) == trials * count
    assert placed(trials * count * readers, Fraction(str(READER_CPUS))) == trials * count * readers
    nodes = [Node(*one) for one in shape]
    fit = placed(100, Fraction(cpus), gpus)
    if not readers:
        assert trials == fit // count


def test_a_node_that_lacks_data_or_storage_says_what_to_do(tmp_path: Path) -> None:
    written = tmp_path / "sweep.yaml"
    written.touch()
    source = DataSource(Shards(write_dataset(tmp_path / "shards")), {})
    assert _missing(source, str(written)) == ""
    assert "--storage that all nodes share" in _missing(source, str(tmp_path / "absent"))
    (tmp_path / "shards").rename(tmp_path / "moved")
    assert "cannot read the shards" in _missing(source, str(written))
    assert _missing(DataSource(source.shards, {"train": object()}), str(written)) == ""  # they are in the object store
    write_dataset(tmp_path / "shards")
    card = tmp_path / "shards/dataset.json"
    card.write_text(card.read_text().replace("synthetic", "other"))
    assert "holds other data" in _missing(source, str(written))


@pytest.mark.parametrize("left", [True, False])
def test_a_node_that_cannot_be_asked_is_named_unless_it_has_left(monkeypatch: pytest.MonkeyPatch, left: bool) -> None:
    names = ["a" * 56, "b" * 56]
    nodes = [
        {"NodeID": name, "Alive": True, "NodeManagerAddress": name[:1], "NodeManagerHostname": ""} for name in names
    ]
    asked: list[str] = []

    class Task:
        def options(self, scheduling_strategy: Any) -> Task:
            asked.append(scheduling_strategy.node_id)
            return self

        def remote(self, *arguments: object) -> str:
            return asked[-1]

    def get(node: str) -> str:
        if node == names[1]:
            nodes[1]["Alive"] = not left
            raise ray.exceptions.TaskUnschedulableError("the node doesn't exist any more")
        return ""

    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray, "remote", lambda **options: lambda function: Task())
    monkeypatch.setattr(ray, "get", get)
    with nullcontext() if left else pytest.raises(UserError, match=r"node b \(\): cannot run lfm_ray: .*any more"):
        check_nodes(DataSource(cast(Shards, None), {}), Path("sweep.yaml"))
    assert asked == names


def test_the_ray_cluster_file_follows_rays_schema() -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
    config = yaml.safe_load((DOCS / "cluster/aws.yaml").read_text())
    jsonschema.validate(config, schema)
    assert config["head_node_type"] in config["available_node_types"]
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    assert all("RAY_AUTH_MODE=token" in line for line in starts if "ray start" in line)


def test_the_kuberay_job_has_what_the_operator_needs() -> None:
    job = yaml.safe_load((DOCS / "cluster/kuberay.yaml").read_text())
    schema = yaml.safe_load((Path(__file__).parent / "kuberay_schema.yaml").read_text())
    jsonschema.validate(job, schema)
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"].split(".")[:2] >= ["2", "60"] and cluster["authOptions"] == {"mode": "token"}
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert all(group["minReplicas"] == group["replicas"] == group["maxReplicas"] for group in groups[1:])
    for group in groups:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_a_session_refuses_whoever_has_no_token(ray_local: None) -> None:
    """Ray's default for a session of one machine since 2.59; the commands start no other kind."""
    token = (Path.home() / ".ray/auth_token").read_text()
    with grpc.insecure_channel(ray.get_runtime_context().gcs_address) as channel:
        ask = channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")
        for wrong in ([], [("authorization", f"Bearer {token[::-1]}")]):
            with pytest.raises(grpc.RpcError) as refused:
                ask(b"", metadata=wrong, timeout=20)
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        ask(b"", metadata=[("authorization", f"Bearer {token}")], timeout=20)


def test_the_slurm_script_is_one_that_bash_reads() -> None:
    script = DOCS / "cluster/slurm.sh"
    subprocess.run(["bash", "-n", script], check=True)
    if shellcheck := shutil.which("shellcheck"):
        subprocess.run([shellcheck, script], check=True)
    assert "ray symmetric-run" in script.read_text()
    ray_command = Path(sys.executable).with_name("ray")
    known = subprocess.run([ray_command, "symmetric-run", "--help"], capture_output=True, text=True, check=True).stdout
    assert {"--address", "--min-nodes"} <= set(re.findall(r"--[a-z-]+", known))


def test_the_command_lines_of_the_page_and_its_files_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (DOCS / "cluster.md").read_text()
    lines = re.findall(r"lfm-ray (tune .*)", text)
    job = yaml.safe_load((DOCS / "cluster/kuberay.yaml").read_text())["spec"]["entrypoint"]
    slurm = (DOCS / "cluster/slurm.sh").read_text()
    again, first = re.findall(r"sweep=\((.*?)\)", slurm)
    rest = slurm.partition('"${sweep[@]}"')[2].strip()
    lines += [job.removeprefix("python -m "), f"lfm_ray.tune {first} {rest}", f"lfm_ray.tune {again} {rest}"]
    assert len(lines) >= 6
    for line in lines:
        monkeypatch.setattr("sys.argv", shlex.split(line))
        arguments()
