from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from synthetic import with_gaps, write_dataset

from lfm_ray.datasets.kinds import TargetKind
from lfm_ray.datasets.shards import DatasetCard, read_card
from lfm_ray.errors import UserError
from lfm_ray.methods import METHODS as METHOD_CLASSES
from lfm_ray.models.directions import LEADING
from lfm_ray.resources import SPACES, shipped_file, shipped_names
from lfm_ray.search.spaces.applicability import for_missing, for_modalities, for_target
from lfm_ray.search.spaces.objective import check_metrics
from lfm_ray.search.spaces.space import Space
from lfm_ray.search.spaces.space_file import load_space
from lfm_ray.settings import merge
from lfm_ray.training.trainer import build_model

METHODS = shipped_file("search_spaces/methods.yaml")
OF_TWO = {"ogm_ge", "pmr", "domfn", "opm", "valuation", "amss", "info_reg", "arl"}


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> DatasetCard:
    return read_card(write_dataset(tmp_path_factory.mktemp("data") / "three", more=("depth",)))


@pytest.fixture(scope="module")
def whole() -> Space:
    return load_space(METHODS)


def test_methods_of_two_modalities_are_left_out_with_all_that_is_theirs(whole: Space, three: DatasetCard) -> None:
    space, lines = for_modalities(whole, three)
    assert lines == [
        "left out of method.name: ogm_ge, pmr, domfn, opm, valuation, amss, info_reg, arl; defined for two modalities,"
        " and there are 3 (audio, image, depth)"
    ]
    left, all_of_them = space.search["method.name"].choice, whole.search["method.name"].choice
    assert left is not None
    assert all_of_them is not None
    assert set(left) == set(all_of_them) - OF_TWO
    gone = {"method.noise", "method.prototype_weight", "method.momentum", "method.eta", "method.gamma",
            "method.strength", "method.squeeze", "method.rate", "method.lead_weight", "method.probability",
            "method.first_epoch", "method.pull_weight", "method.threshold", "method.sharpness", "method.temperature",
            "method.unbiased"}  # fmt: skip
    assert set(whole.search) - set(space.search) == gone
    assert space.search["method.modulation"].when == {"method.name": ["agm"]}
    assert set(whole.points) - set(space.points) == {"OGM-GE"}


def test_what_is_left_is_drawn_and_builds_a_model(whole: Space, three: DatasetCard) -> None:
    space, _ = for_modalities(whole, three)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    left = space.search["method.name"].choice or []
    assert {space.suggest(study.ask())["method.name"] for _ in range(40)} <= set(left)
    for method in left:
        small = {"method.name": method, "model.width": 4, "model.embedding_size": 8}
        assert build_model(space.config(small), three).encoders.keys() == {"audio", "image", "depth"}


def test_two_of_three_modalities_leave_everything(whole: Space, three: DatasetCard) -> None:
    two = Space.model_validate({**whole.model_dump(), "run": merge(whole.run, {"data.modalities": ["audio", "depth"]})})
    assert for_modalities(two, three) == (two, [])


def test_fusion_heads_of_two_modalities_are_left_out_too(tmp_path: Path, three: DatasetCard) -> None:
    file = tmp_path / "heads.yaml"
    file.write_text("run: {model: {fusion: gated}}\nsearch: {model.fusion: {choice: [gated, affine, sum, concat]}}\n")
    space, lines = for_modalities(load_space(file), three)
    assert space.search["model.fusion"].choice == ["sum", "concat"]
    assert space.base.model.fusion == "sum"  # `run` had a head that is left out
    assert "model.fusion: gated, affine" in lines[0]
    file.write_text("search: {model.fusion: {choice: [gated, affine]}}\n")
    with pytest.raises(UserError, match=r"search: model\.fusion: gated, affine: defined for two modalities"):
        for_modalities(load_space(file), three)


@pytest.mark.parametrize("kind", ["multilabel", "regression"])
@pytest.mark.parametrize("name", shipped_names(SPACES))
def test_what_a_shipped_space_draws_can_be_learned_with_other_targets(name: str, kind: TargetKind) -> None:
    whole = load_space(shipped_file(f"{SPACES}/{name}.yaml"))
    if whole.base.method.name == "official":
        with pytest.raises(UserError, match="official matches softmaxed predictions"):
            whole.base.method.check_target(kind)
        return
    space, lines = for_target(whole, kind)
    assert for_target(whole, "classes") == (whole, [])
    assert space.objective == {f"val/fused/{LEADING[kind]}": "maximize"}
    check_metrics(space.objective, [], ["audio"], kind, space.pruning.by)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for drawn in [*space.points.values(), *(space.suggest(study.ask()) for _ in range(20))]:
        config = space.config(drawn)
        config.method.check_target(kind)
        config.loss.check_target(kind, 2)
    if name == "methods":
        assert any(line.startswith("left out of method.strategy: dynamic;") for line in lines)
        assert {"lfm", "mslr", "g_blend", "dgl"} <= set(space.search["method.name"].choice or [])


def test_what_needs_all_modalities_is_left_out_where_rows_lack_some(whole: Space, tmp_path: Path) -> None:
    card = with_gaps(tmp_path / "gaps").card
    space, lines = for_missing(whole, card)
    left = space.search["method.name"].choice
    assert left is not None and all(METHOD_CLASSES[name].takes_missing for name in left) and "lfm" in left
    assert lines[0].startswith("left out of method.name: ogm_ge, ")
    assert lines[0].endswith("; needs every modality of every sample, and some lack audio or image")
    for point in space.points.values():
        build_model(space.config({**point, "model.width": 4, "model.embedding_size": 8}), card)
    assert for_missing(whole, with_nothing_missing(card)) == (whole, [])


def with_nothing_missing(card: DatasetCard) -> DatasetCard:
    full = {name: one.model_copy(update={"missing": {}}) for name, one in card.modalities.items()}
    return card.model_copy(update={"modalities": full})
