"""The page docs/adding_a_method.md is true: its method is trained, and its tests are run."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Annotated, Any

import pytest
import tiny_run
import torch.nn.functional as F
import yaml
from pydantic import Field, TypeAdapter

from lfm_ray import methods
from lfm_ray.config import RunConfig
from lfm_ray.datasets.reading.batches import Batch
from lfm_ray.datasets.shards import Shards
from lfm_ray.methods import LFM, Method
from lfm_ray.search.spaces.space import Space
from lfm_ray.settings import build
from lfm_ray.training.loop import fit
from lfm_ray.training.trainer import Trainer

PAGE = (Path(__file__).parents[2] / "docs" / "adding_a_method.md").read_text(encoding="utf-8")
METHOD, TESTS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
(SPACE,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture
def page(shards: Shards, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the page's code defines, beside what its tests use; its method is among `AnyMethod`."""

    def config(method: Method) -> RunConfig:
        return tiny_run.small_config("model.fusion=concat").model_copy(update={"method": method})

    def run_of(method: Method) -> Trainer:
        run = Trainer(config(method), shards.card)
        fit(run, tiny_run.small_splits(shards, run.config))
        return run

    def prepared(method: Method) -> tuple[Trainer, Batch]:
        run, splits = Trainer(config(method), shards.card), tiny_run.small_splits(shards, config(method))
        run.prepare(splits.train.steps)
        run.model.eval()  # without dropout, the same outputs twice
        return run, next(splits.train.epoch(1))

    module = types.ModuleType("lfm_ray.methods.auxiliary")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(METHOD, "auxiliary.py", "exec", dont_inherit=True), vars(module))
    auxiliary = vars(module)["Auxiliary"]
    both: Any = Annotated[LFM | auxiliary, Field(discriminator="name")]
    monkeypatch.setattr(methods, "CHOICE", TypeAdapter(both))
    monkeypatch.setattr(methods, "METHODS", {**methods.METHODS, "auxiliary": auxiliary})
    names = dict(vars(module))
    names |= {"LFM": LFM, "same_weights": tiny_run.same_weights, "run_of": run_of, "prepared": prepared}
    names |= {"cross_entropy": F.cross_entropy, "approx": pytest.approx}
    exec(TESTS, names)
    return names


def test_the_method_is_short() -> None:
    assert len(METHOD.splitlines()) <= 40


@pytest.mark.parametrize("name", re.findall(r"def (test_\w+)", TESTS))
def test_the_tests_of_the_page_pass(page: dict[str, Any], shards: Shards, name: str) -> None:
    page[name](shards)


def test_the_space_of_the_page_draws_its_settings(page: dict[str, Any]) -> None:
    space = build(Space, yaml.safe_load(SPACE))
    config = space.config({"method.name": "auxiliary", "method.weight": 0.3})
    assert config.method == page["Auxiliary"](weight=0.3)
    assert "method.weight" in space.searched_in(config)
    assert "method.weight" not in space.searched_in(space.config({"method.name": "lfm"}))


def test_the_method_learns_and_reports_what_it_remembers(page: dict[str, Any]) -> None:
    run = page["run_of"](page["Auxiliary"]())
    assert run.history[-1]["auxiliary/audio"] == 1 - run.history[-1]["val/audio/accuracy"]
    assert not tiny_run.same_weights(run, page["run_of"](LFM()))
