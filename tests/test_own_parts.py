"""A part of somebody's own package that fails is one line that names it: what it raised, and where."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_run
from commands import SMALL_FLAGS, Completed, completed, run, start
from synthetic import write_dataset
from tiny_run import small_config

from lfm_ray import own_parts, trust
from lfm_ray.datasets.shards import Shards
from lfm_ray.errors import TrainingFailed, UserError
from lfm_ray.methods import METHODS
from lfm_ray.models.encoders import ENCODERS
from lfm_ray.models.evaluation import METRICS
from lfm_ray.models.fusion import FUSION_HEADS
from lfm_ray.optimization.schedules import SCHEDULES
from lfm_ray.own_parts import blamed, one_line
from lfm_ray.search.spaces.space import SAMPLERS
from lfm_ray.training.execution import Launch, run_in_process
from lfm_ray.training.failures import Unforeseen
from lfm_ray.training.packing import Packed
from lfm_ray.training.ray_train import _reason_of, first_reason
from lfm_ray.training.source import DataSource

PARTS = '''
import os
import torch
from pydantic import BaseModel
from torch import nn
from lfm_ray.methods import Method
from lfm_ray.models.encoders import Encoder, EncoderSettings
from lfm_ray.models.fusion import Head, Sum
from lfm_ray.optimization.schedules import Schedule


class Number(BaseModel):
    number: int


class Flat(nn.Module):
    """An encoder that works."""
    def __init__(self, card, settings, size):
        super().__init__()
        self.project = nn.LazyLinear(size)
        self.project(torch.zeros(1, *card.shape).flatten(1))
    def forward(self, value):
        return self.project(value.flatten(1).float())

class NoWeights(Flat):
    def __init__(self, card, settings, size):
        raise OSError(2, "no weights of mine", "weights.bin")

class Narrow(Flat):
    def forward(self, value):
        return super().forward(value)[:, :3]

class Pair(Flat):
    def forward(self, value):
        return super().forward(value), None

class Asks(Flat):
    def forward(self, value):
        return nn.Linear(3, 5)(value.flatten(1).float())

class Pydantic(Flat):
    def forward(self, value):
        return Number(number="three")

class Interrupts(Flat):
    def forward(self, value):
        raise UnpicklableError("odd", 1)

class UnpicklableError(Exception):
    def __init__(self, text, number):
        super().__init__(text)
        self.function = lambda: number

class Whole(Flat):
    def forward(self, value):
        return super().forward(value).long()

class Exits(Flat):
    def forward(self, value):
        raise SystemExit

def encoder(build):
    return Encoder(build, kinds=("audio", "image", "feature"))

NO_WEIGHTS, NARROW, PAIR, ASKS = map(encoder, (NoWeights, Narrow, Pair, Asks))
PYDANTIC, INTERRUPTS = map(encoder, (Pydantic, Interrupts))
NO_MODULE = encoder(lambda card, settings, size: torch.zeros(3))
FEWER_ARGUMENTS = encoder(lambda card: Flat(card, None, 3))
WORKS = encoder(Flat)
WHOLE, EXITS = map(encoder, (Whole, Exits))
LAZY = encoder(lambda card, settings, size: nn.Sequential(nn.Flatten(), nn.LazyLinear(size)))

def refuses(card, settings):
    raise KeyError("depth")
CHECKS = Encoder(Flat, kinds=("audio", "image"), check=refuses)


class Raises(Method):
    def loss(self, outputs, labels, state):
        return self.helper(labels)
    def helper(self, labels):
        raise IndexError("of mine\\nand more")

class Forgets(Method):
    def loss(self, outputs, labels, state):
        super().loss(outputs, labels, state)

class EachSample(Method):
    def classification(self, outputs, labels, state):
        return nn.functional.cross_entropy(outputs.fused, labels, reduction="none")

class FewArguments(Method):
    def loss(self, outputs, labels):
        return None

class Text(Method):
    def on_epoch_end(self, state, metrics):
        return {"mine": "much"}

class Overwrites(Method):
    def on_epoch_end(self, state, metrics):
        return {"val/fused/accuracy": 1.0}

class Measured(Method):
    def measures(self, outputs, labels):
        return {"fused/accuracy": 1.0}

class Remembers(Method):
    def on_epoch_end(self, state, metrics):
        state.memory["mine"] = object()
        return {}

class Measures(Method):
    def measures(self, outputs, labels):
        return [1.0]

class Predicts(Method):
    def predict(self, outputs):
        return outputs.fused.argmax(dim=1)

class Other(Method):
    apart = True
    def gradient(self, terms, state):
        return {"mine": torch.zeros(3)}

class Misspelled(Method):
    def forward(self, network, inputs, state):
        return network(inputs).fused


class Wide(Head):
    def __init__(self, modalities, embedding_size, classes):
        super().__init__(modalities, embedding_size, classes)
        self.layer = nn.Linear(embedding_size, classes + 1)
    def forward(self, embeddings):
        logits = {name: self.layer(one) for name, one in embeddings.items()}
        return sum(logits.values()), logits

class FusedAlone(Sum):
    def forward(self, embeddings):
        return super().forward(embeddings)[0]

class OneModality(Sum):
    def forward(self, embeddings):
        fused, unimodal = super().forward(embeddings)
        return fused, dict(list(unimodal.items())[:1])

class Built(Head):
    def __init__(self, modalities, size):
        pass

class Late(Schedule):
    def alpha(self, t, T):
        return [0.0][t - 1]

class Nothing(Schedule):
    def alpha(self, t, T):
        pass

def each(logits, labels, outputs):
    return logits

def exits(logits, labels, outputs):
    raise SystemExit(3)

def divides(logits, labels, outputs):
    return 1 / 0

def no_sampler(seed, space):
    return "tpe"

def no_seed(seed, space):
    raise LookupError

def reader(root):
    return [1, 2]

def raising(root):
    return root["folder"]
'''

# What is set -> what the line says; "FILE" stands for the place.
FAILURES = {
    "model.encoders.audio=lab:NO_WEIGHTS": "encoder lab:NO_WEIGHTS.* raised FileNotFoundError: .*no weights of.*FILE",
    "model.encoders.audio=lab:NARROW": r"encoder lab:NARROW \(model.encoders.audio\) returned Tensor of shape \(16, 3\)"
    r"; it must return a tensor of shape \(16, 8\), a row for each sample",
    "model.encoders.image=lab:PAIR": r"encoder lab:PAIR \(model.encoders.image\) returned a tuple; it must",
    "model.encoders.audio=lab:ASKS": r"encoder lab:\w+.* raised RuntimeError: mat1 and mat2 shapes cannot be.*FILE",
    "model.encoders.audio=lab:PYDANTIC": r"encoder lab:\w+.* raised ValidationError: number: Input should be a.*FILE",
    "model.encoders.audio=lab:INTERRUPTS": r"encoder lab:\w+.* raised UnpicklableError: odd FILE",
    "model.encoders.audio=lab:NO_MODULE": "encoder lab:NO_MODULE .* returned Tensor of shape .* a torch.nn.Module",
    "model.encoders.audio=lab:FEWER_ARGUMENTS": "encoder lab:FEWER_ARGUMENTS .* cannot be called: .*takes 1 positional",
    "model.encoders.audio=lab:CHECKS": "encoder lab:CHECKS.* raised KeyError: 'depth' FILE",
    "method=lab:Raises": "method lab:Raises raised IndexError: of mine FILE",
    "method=lab:Forgets": "method lab:Forgets: loss returned None; it must return lfm_ray.methods.base.Losses",
    "method=lab:EachSample": r"method lab:EachSample: loss, as total, returned Tensor of shape \(16,\); .*a scalar",
    "method=lab:FewArguments": "method lab:FewArguments cannot be called: .*takes 3 positional arguments but 4",
    "method=lab:Text": "method lab:Text: on_epoch_end, as 'mine', returned 'much'; it must return a number",
    "method=lab:Measures": "method lab:Measures: measures returned a list; it must return a dict",
    "method=lab:Predicts": r"method lab:Predicts: predict returned Tensor of shape \(\d+,\); .* logits of shape",
    "method=lab:Other": "method lab:Other: gradient, for 'mine', returned .*; it must return no such parameter",
    "method=lab:Misspelled": "method lab:Misspelled: forward returned Tensor .*Outputs",
    "method=lab:Overwrites": "method lab:Overwrites: on_epoch_end returned the name 'val/fused/accuracy'; give it",
    "method=lab:Measured": "method lab:Measured: measures returned the name 'fused/accuracy'; give it another",
    "method=lab:Remembers": "method lab:Remembers: state.memory, as 'mine', returned an object; it must",
    "model.encoders.audio=lab:WHOLE": "encoder lab:WHOLE .* must return .* of floating-point numbers",
    "model.encoders.audio=lab:LAZY": r"encoder lab:LAZY \(model.encoders.audio\): its 1.weight has no shape yet",
    "model.encoders.audio=lab:EXITS": "encoder lab:.* raised SystemExit FILE",
    "metrics=[lab:exits]": "metric lab:exits raised SystemExit: 3 FILE",
    "model.fusion=lab:Wide": r"fusion head lab:Wide returned Tensor of shape \(16, (\d+)\); .*logits of shape \(16,",
    "model.fusion=lab:FusedAlone": "fusion head lab:FusedAlone returned Tensor of shape .*; .* a mapping from each",
    "model.fusion=lab:OneModality": "fusion head lab:OneModality returned a list; it must return logits of each of",
    "model.fusion=lab:Built": "fusion head lab:Built cannot be called: .*takes 3 positional arguments but 4",
    "alpha.strategy=lab:Late": "alpha.strategy lab:Late raised IndexError: list index out of range FILE",
    "alpha.strategy=lab:Nothing": r"alpha\(1, 4\) of alpha.strategy lab:Nothing returned None; it must return a number",
    "metrics=[lab:each]": r"metric lab:each returned Tensor of shape .*; it must return a number",
    "metrics=[lab:divides]": "metric lab:divides raised ZeroDivisionError: division by zero FILE",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a module of broken parts, from which Python imports."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "lab.py").write_text(PARTS, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trust, "_asked", {"*"})
        patch.setattr(own_parts, "_imported", {})
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        yield folder
    sys.modules.pop("lab", None)
    for registry in (METHODS, ENCODERS, FUSION_HEADS, METRICS, SCHEDULES, SAMPLERS):
        for name in [name for name in registry._found if name.startswith("lab:")]:
            del registry._found[name]


def one_line_of(done: Completed, status: int = 2) -> str:
    assert done.returncode == status, done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    return line.removeprefix("error: ")


@pytest.mark.parametrize("setting", FAILURES)
def test_a_part_that_fails_is_named_in_one_line(shards: Shards, tmp_path: Path, setting: str) -> None:
    launch = Launch(small_config(setting), DataSource(shards, {}), tmp_path / "run")
    with pytest.raises(UserError) as raised:
        run_in_process(launch, lambda row: None)
    said = str(raised.value)
    assert "\n" not in said
    assert "errors.pydantic.dev" not in said
    assert re.search(FAILURES[setting].replace("FILE", r"\(lab\.py, line \d+\); correct it there"), said), said
    if "raised" in said:
        assert said.endswith("(all of it: run/error.txt)")
        assert "lab.py" in (tmp_path / "run/error.txt").read_text()


def test_a_part_that_works_is_not_in_the_way(shards: Shards) -> None:
    assert tiny_run.train(shards, "model.encoders.audio=lab:WORKS").history


def test_memory_that_does_not_suffice_and_our_own_faults_are_blamed_on_nobody() -> None:
    own_parts.note("method", "lab:Raises")
    for error in (
        MemoryError(),
        UserError("said"),
        ValueError("ours"),
        type("OutOfMemoryError", (RuntimeError,), {})(),
    ):
        assert not blamed(error)


def test_an_exception_that_nobody_foresaw_is_one_line_with_its_traceback_in_a_file(
    shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(*_: object) -> None:
        raise ValueError("first line\nsecond")

    monkeypatch.setattr("lfm_ray.training.execution.fit", fit)
    with pytest.raises(TrainingFailed, match=r"^ValueError: first line \(see run/error.txt\)$"):
        run_in_process(Launch(small_config(), DataSource(shards, {}), tmp_path / "run"), lambda row: None)
    assert "second" in (tmp_path / "run/error.txt").read_text()


def test_what_one_rank_says_counts_more_than_that_others_missed_it() -> None:
    said, missed = UserError("encoder lab:X raised"), Unforeseen("RuntimeError: connection closed by peer")
    assert _reason_of([missed, TrainingFailed("NaN"), said], ValueError()) is said
    assert str(_reason_of([missed, TrainingFailed("NaN")], ValueError())) == "NaN"
    quoted = "Traceback\nValidationError: 1 error\n  For further information visit https://errors.pydantic.dev/2"
    assert first_reason(RuntimeError(quoted)) == "ValidationError: 1 error"
    assert one_line(ValueError("\n a \n b")) == "ValueError: a"


def test_a_worker_that_cannot_import_a_part_says_so(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_parts, "_imported", {"lab:Forgets": "method"})
    packed = Packed.of(small_config("method=lab:Forgets"))
    assert packed.open().method.name == "lab:Forgets"
    monkeypatch.delitem(sys.modules, "lab")
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one != str(lab)])
    with pytest.raises(UserError, match=r"^on a worker of Ray \(node \S+\) method lab:Forgets cannot be imported: Mod"):
        packed.open()


@pytest.mark.usefixtures("without_workers")
@pytest.mark.parametrize(
    ("sampler", "said"),
    [
        ("no_sampler", "sampler lab:no_sampler returned 'tpe'; it must"),
        ("no_seed", "sampler lab:no_seed raised Lookup"),
    ],
)
def test_a_sampler_that_fails_is_one_line(shards: Shards, tmp_path: Path, sampler: str, said: str) -> None:
    words = ["cubic", "--data", str(shards.path), "--sampler", f"lab:{sampler}", "--trials", "9", "--epochs", "1"]
    assert one_line_of(run(tmp_path, "tune", *words, *SMALL_FLAGS)).startswith(said)


@pytest.mark.parametrize(
    ("reader", "said"),
    [("reader", "reader lab:reader returned a list; it must"), ("raising", "reader lab:raising raised TypeError")],
)
def test_a_reader_that_fails_is_one_line(tmp_path: Path, reader: str, said: str) -> None:
    card = "title: T\npaper: ours\ndownload: x\nlicence: x\nlayout: x\nlayout_source: x\nsplits: x\nclasses: [a, b]\n"
    (tmp_path / "card.yaml").write_text(f"{card}modalities: {{audio: audio}}\nreader: lab:{reader}\n")
    assert one_line_of(run(tmp_path, "prepare", "--dataset", "card.yaml", "--root", ".", "--out", "s")).startswith(said)


@pytest.mark.long
def test_the_commands_say_it_where_workers_train(tmp_path: Path) -> None:
    write_dataset(tmp_path / "shards")
    flags = ["--data", "shards", "--epochs", "1", *SMALL_FLAGS]
    (tmp_path / "run.yaml").write_text("{}\n")
    (tmp_path / "only_here.py").write_text(
        "import sys\nfrom lfm_ray.methods import Method\n"
        "if 'ray._private.workers.default_worker' in sys.modules or 'default_worker' in sys.argv[0]:\n"
        "    raise ImportError('not on workers')\nclass Mine(Method):\n    pass\n"
    )
    path = f"{tmp_path}:{os.environ['PYTHONPATH']}"

    def said(*words: str, status: int) -> str:
        return one_line_of(completed(start(tmp_path, *words, *flags, PYTHONPATH=path)), status)

    raising = ["--set", "model.encoders.audio=lab:INTERRUPTS"]
    assert "raised UnpicklableError: odd (lab.py" in said("train", "run.yaml", "--workers", "2", *raising, status=2)
    elsewhere = ["--set", "method=only_here:Mine"]
    lines = [said("train", "run.yaml", *elsewhere, status=2), said("tune", "optimiser", "--trials", "2", *elsewhere,
                                                                   status=1)]  # fmt: skip
    for line in lines:
        assert "method only_here:Mine cannot be imported: ImportError: not on workers" in line
