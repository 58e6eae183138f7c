from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from lfm_ray.errors import UserError
from lfm_ray.schedules import Constant, Learned, Polynomial
from lfm_ray.search.space import Space, load_space

SPACES = sorted((Path(__file__).parents[2] / "search_spaces").glob("*.yaml"))

TEXT = """\
question: which?
run: {epochs: 5}
search:
  alpha.strategy: {choice: [constant, polynomial, learned]}
  alpha.value: {uniform: [0, 1], when: {alpha.strategy: constant}}
  alpha.coefficients: {uniform: [0, 1], length: 3, when: {alpha.strategy: polynomial}}
  alpha.inner_iters: {integer: [2, 4], when: {alpha.strategy: learned}}
  loss.matching: {choice: [infonce, js]}
  loss.tau: {loguniform: [0.05, 1], when: {loss.matching: infonce}}
points:
  joint: {alpha.strategy: constant, alpha.value: 0, loss.matching: js}
  learned: {alpha.strategy: learned, alpha.inner_iters: 3}
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "space.yaml"
    file.write_text(text)
    return file


@pytest.fixture
def space(tmp_path: Path) -> Space:
    return load_space(write(tmp_path, TEXT))


@pytest.mark.parametrize("file", SPACES, ids=lambda file: file.stem)
def test_the_shipped_spaces_are_valid_and_say_what_they_answer(file: Path) -> None:
    space = load_space(file)
    assert space.question.endswith("?")
    for point in space.points.values():
        space.config(point)


def test_a_setting_exists_only_under_its_condition(space: Space) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    kinds = set()
    for _ in range(60):
        drawn = space.suggest(study.ask())
        strategy = drawn["alpha.strategy"]
        assert ("alpha.value" in drawn) == (strategy == "constant")
        assert ("alpha.coefficients" in drawn) == (strategy == "polynomial")
        assert ("alpha.inner_iters" in drawn) == (strategy == "learned")
        assert ("loss.tau" in drawn) == (drawn["loss.matching"] == "infonce")
        config = space.config(drawn)
        assert config.epochs == 5
        kinds.add(type(config.alpha))
        if isinstance(config.alpha, Polynomial):
            assert len(config.alpha.coefficients) == 3
    assert kinds == {Constant, Polynomial, Learned}


def test_known_points_take_defaults_for_what_they_leave_open(space: Space) -> None:
    points = space.known_points()
    assert points["joint"] == {"alpha.strategy": "constant", "alpha.value": 0.0, "loss.matching": "js"}
    assert points["learned"]["alpha.inner_iters"] == 3
    assert points["learned"]["loss.tau"] == space.base.loss.tau


def test_a_fixed_setting_is_no_longer_searched_and_contradicting_points_go(tmp_path: Path) -> None:
    space = load_space(write(tmp_path, TEXT), ["alpha.strategy=constant", "alpha.value=0"], trials=3)
    assert set(space.search) == {
        "alpha.coefficients",
        "alpha.inner_iters",
        "loss.matching",
        "loss.tau",
    }
    assert list(space.points) == ["joint"]
    assert space.trials == 3
    drawn = space.suggest(optuna.create_study().ask())
    assert set(drawn) <= {"loss.matching", "loss.tau"}  # what depends on another strategy cannot be drawn
    assert space.config(drawn).alpha == Constant(value=0.0)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("question:", "qestion:", ["qestion", "line 1", "did you mean question"]),
        ("loss.tau:", "loss.tua:", ["loss.tua", "did you mean tau"]),
        ("run: {epochs: 5}", "run: {epoch: 5}", ["run", "epoch", "did you mean epochs"]),
        ("{uniform: [0, 1], when: {alpha.strategy: constant}}", "{uniform: [0, 2]}", ["alpha.value"]),
        ("loguniform: [0.05, 1]", "loguniform: [0, 1]", ["loss.tau", "above 0"]),
        ("loguniform: [0.05, 1]", "loguniform: [1, 0.05]", ["loss.tau", "below"]),
        ("loguniform: [0.05, 1]", "loguniform: [0.05, 100]", ["loss.tau", "less than or equal to 10"]),
        ("loguniform: [0.05, 1]", "loguniform: [0.05, x]", ["loss.tau", "valid number"]),
        ("loguniform: [0.05, 1]", "normal: [0.05, 1]", ["loss.tau", "normal"]),
        ("integer: [2, 4]", "integer: [2.5, 4]", ["alpha.inner_iters", "integer"]),
        ("choice: [infonce, js]", "choice: [infonce, kl]", ["loss.matching", "'infonce' or 'js'"]),
        ("{loss.matching: infonce}", "{loss.matcing: infonce}", ["loss.matcing", "did you mean loss.matching"]),
        ("alpha.inner_iters: 3}", "alpha.inner_iters: 0}", ["points, learned", "alpha.inner_iters"]),
    ],
)
def test_a_wrong_space_is_one_line_that_names_the_place(tmp_path: Path, old: str, new: str, said: list[str]) -> None:
    assert old in TEXT
    with pytest.raises(UserError) as caught:
        load_space(write(tmp_path, TEXT.replace(old, new)))
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in ["space.yaml", *said]), message


def test_a_condition_must_stand_before_what_depends_on_it(tmp_path: Path) -> None:
    text = "search:\n  loss.tau: {uniform: [0.1, 1], when: {loss.matching: js}}\n  loss.matching: {choice: [js]}\n"
    with pytest.raises(UserError, match=r"loss\.matching must stand before loss\.tau"):
        load_space(write(tmp_path, text))
