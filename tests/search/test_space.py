from __future__ import annotations

import io
from pathlib import Path

import optuna
import pytest
from rich.console import Console

from lfm_ray.errors import UserError
from lfm_ray.optimization.schedules import Constant, Learned, Polynomial
from lfm_ray.report.describe import describe
from lfm_ray.search.spaces.space import Space
from lfm_ray.search.spaces.space_file import load_space

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
    assert set(space.search) == {"loss.matching", "loss.tau"}  # not what depends on another strategy
    assert list(space.points) == ["joint"]
    assert space.trials == 3
    drawn = space.suggest(optuna.create_study().ask())
    assert set(drawn) <= {"loss.matching", "loss.tau"}
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
        ("choice: [infonce, js]", "choice: [infonce, kl]", ["loss.matching", "'infonce', 'js' or 'kl_to_mean'"]),
        ("{loss.matching: infonce}", "{loss.matching: []}", ["line 9", "loss.tau", "at least one value"]),
        ("{loss.matching: infonce}", "{loss.matcing: infonce}", ["loss.matcing", "did you mean loss.matching"]),
        ("alpha.inner_iters: 3}", "alpha.inner_iters: 0}", ["points, learned", "alpha.inner_iters"]),
        ("alpha.inner_iters: 3}", "alpha.inner_iters: 9}", ["line 12", "points, learned", "9", "integer 2 ... 4"]),
        (
            "alpha.inner_iters: 3}",
            "epochs: 3}",
            ["learned", "epochs is not searched; allowed: alpha.strategy"],
        ),
        ("length: 3", "order: increasing", ["line 6", "alpha.coefficients", "order goes with length"]),
        ("length: 3", "length: 3, order: up", ["alpha.coefficients.order", "'decreasing' or 'increasing'"]),
        ("{choice: [infonce, js]}", "{same_as: loss.tau}", ["line 9", "loss.matching itself depends on loss.tau"]),
        ("{choice: [infonce, js]}", "{same_as: loss.tua}", ["same_as", "loss.tua", "did you mean loss.tau"]),
        ("points:", "constraints: [loss.tua <= 1]\npoints:", ["constraints", "loss.tua", "did you mean loss.tau"]),
        ("points:", "constraints: [loss.tau = 1]\npoints:", ["line 10", "constraints", "write it as `left <= right`"]),
        ("points:", "constraints: [alpha.value > 0.5]\npoints:", ["points, joint", "breaks", "alpha.value > 0.5"]),
        ("points:", "from_learned: {alpha: {eta_alhpa: 1}}\npoints:", ["from_learned", "did you mean eta_alpha"]),
        ("points:", "objective: {val/fused/map: up}\npoints:", ["line 10", "'maximize' or 'minimize'"]),
        ("points:", "objective: [a, b]\npruning: {by: fused/accuracy}\npoints:", ["pruning: {by: none}"]),
        ("points:", "extends: 3\npoints:", ["line 10, extends", "a file, or a list of files"]),
        ("points:", "extends: other.yaml\npoints:", ["line 10, extends", "other.yaml: there is no such file"]),
        ("points:", "extends: space.yaml\npoints:", ["space.yaml: extends itself"]),
    ],
)
def test_a_wrong_space_is_one_line_that_names_the_place(tmp_path: Path, old: str, new: str, said: list[str]) -> None:
    assert old in TEXT
    with pytest.raises(UserError) as caught:
        load_space(write(tmp_path, TEXT.replace(old, new)))
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in ["space.yaml", *said]), message


def test_a_wrong_override_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, TEXT)
    with pytest.raises(UserError, match=r"^--set model\.widht: unknown setting; did you mean width\?"):
        load_space(file, ["model.widht=8"])


def test_the_method_is_searched_with_the_settings_of_each(tmp_path: Path) -> None:
    """`method` is short for `method.name`, in a space as in --set."""
    file = write(
        tmp_path,
        "run: {epochs: 3}\n"
        "search:\n"
        "  method: {choice: [lfm, ogm_ge, pmr]}\n"
        "  method.modulation: {uniform: [0, 1], when: {method: ogm_ge}}\n"
        "points:\n"
        "  held back: {method: ogm_ge, method.modulation: 0.5}\n",
    )
    space, study = load_space(file), optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    found = set()
    for _ in range(30):
        drawn = space.suggest(study.ask())
        found.add(space.config(drawn).method.name)
        assert ("method.modulation" in drawn) == (drawn["method.name"] == "ogm_ge")
    assert found == {"lfm", "ogm_ge", "pmr"}
    assert space.known_points()["held back"] == {"method.name": "ogm_ge", "method.modulation": 0.5}
    fixed = load_space(file, ["method=ogm_ge"])
    assert list(fixed.search) == ["method.modulation"]
    assert set(fixed.suggest(study.ask())) == {"method.modulation"}
    assert not load_space(file, ["method=lfm"]).points


def test_a_condition_is_drawn_before_what_depends_on_it_and_a_circle_is_refused(tmp_path: Path) -> None:
    text = "search:\n  loss.tau: {uniform: [0.1, 1], when: {loss.matching: js}}\n  loss.matching: {choice: [js]}\n"
    assert list(load_space(write(tmp_path, text)).search) == ["loss.matching", "loss.tau"]
    circle = text.replace("choice: [js]", "choice: [js], when: {loss.tau: 0.5}")
    with pytest.raises(UserError, match=r"line \d, search, loss\.\w+: when: loss\.\w+ itself depends on loss\.\w+"):
        load_space(write(tmp_path, circle))


def test_a_constraint_that_no_draw_satisfies_is_refused(tmp_path: Path) -> None:
    text = "search: {loss.tau: {uniform: [0.1, 1]}}\nconstraints: [loss.tau > 1]\n"
    with pytest.raises(UserError, match=r"none of 1000 random draws satisfies loss\.tau > 1"):
        load_space(write(tmp_path, text))


def test_what_a_run_refuses_or_a_relation_forbids_is_told_by_how_much(tmp_path: Path) -> None:
    text = "run: {alpha: {strategy: learned}}\nsearch: {alpha.low: {uniform: [0, 1]}, alpha.high: {uniform: [0, 1]}}\n"
    drawn = {"alpha.low": 0.75, "alpha.high": 0.5}
    ((reason, amount),) = load_space(write(tmp_path, text)).broken(drawn).items()
    assert "low must not be above high" in reason and amount == 1
    space = load_space(write(tmp_path, text + "constraints: [alpha.low <= alpha.high, val/fused/map > 0.5]\n"))
    assert space.broken(drawn) == {"alpha.low <= alpha.high": 0.25}
    assert space.broken({"alpha.low": 0.5, "alpha.high": 0.5}) == {}
    assert space.outcomes(space.base, {"val/fused/map": 0.25}) == {"val/fused/map > 0.5": 0.25}


def test_a_setting_can_take_the_value_of_another(tmp_path: Path) -> None:
    text = (
        "search:\n  model.embedding_size: {choice: [8, 16]}\n  model.width: {same_as: model.embedding_size}\n"
        "  model.projection_size: {same_as: epochs}\n"
    )
    space = load_space(write(tmp_path, text), ["epochs=7"])
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    configs = [space.config(space.suggest(study.ask())) for _ in range(12)]
    assert {config.model.embedding_size for config in configs} == {8, 16}
    assert all(config.model.width == config.model.embedding_size for config in configs)
    assert all(config.model.projection_size == 7 for config in configs)


def test_a_space_extends_others(tmp_path: Path) -> None:
    write(tmp_path, TEXT)
    (tmp_path / "tau.yaml").write_text(
        "run: {loss: {matching: js}}\nsearch: {loss.tau: {uniform: [1, 2]}}\ntrials: 3\nconstraints: [loss.tau < 1.9]\n"
    )
    (tmp_path / "own.yaml").write_text(
        "extends: [space.yaml, tau.yaml]\nquestion: own?\n"
        "run: {alpha: {strategy: heuristic}, loss: {uniform_labels: 0.5}}\n"
        "search: {alpha.value: null, loss.matching: {choice: [js, infonce]}}\npoints: {joint: null, new: {}}\n"
        "constraints: [loss.tau > 1.1]\n"
    )
    space = load_space(tmp_path / "own.yaml")
    assert (space.question, space.trials) == ("own?", 3)
    assert list(space.search) == [
        "alpha.strategy",
        "alpha.coefficients",
        "alpha.inner_iters",
        "loss.matching",
        "loss.tau",
    ]
    assert space.search["loss.tau"].uniform == [1, 2]
    assert space.search["loss.matching"].choice == ["js", "infonce"]
    assert list(space.points) == ["learned", "new"]
    assert space.constraints == ["loss.tau < 1.9", "loss.tau > 1.1"]
    assert (space.base.epochs, space.base.alpha.strategy) == (5, "heuristic")
    assert (space.base.loss.matching, space.base.loss.uniform_labels) == ("js", 0.5)


def test_an_error_in_an_extended_file_names_that_file(tmp_path: Path) -> None:
    write(tmp_path, TEXT.replace("uniform: [0, 1], length: 3", "uniform: [0, 2], length: 3"))
    (tmp_path / "own.yaml").write_text("extends: space.yaml\n")
    with pytest.raises(UserError, match=r"space\.yaml, line 6, search, alpha\.coefficients: alpha"):
        load_space(tmp_path / "own.yaml")


@pytest.mark.parametrize("file", SPACES, ids=lambda file: file.stem)
def test_a_description_names_every_searched_setting_in_100_columns(file: Path) -> None:
    space = load_space(file)
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(describe(space))
    text = console.export_text()
    assert all(f"{name} " in text for name in [*space.search, *space.points])
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100


def test_several_objectives_are_not_pruned(tmp_path: Path) -> None:
    text = TEXT + "objective: [val/fused/accuracy, val/accuracy_gap]\n"
    space = load_space(write(tmp_path, text))
    assert space.objective == {"val/fused/accuracy": "maximize", "val/accuracy_gap": "minimize"}
    assert space.pruning.by == "none"
    assert load_space(write(tmp_path, TEXT), objective=["val/fused/map"]).objective == {"val/fused/map": "maximize"}
