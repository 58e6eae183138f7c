from __future__ import annotations

import math

import numpy as np
import pandas as pd

from lfm_ray.report.statistics import paired
from lfm_ray.report.verdict import seeds_needed, simplicity, verdict

NOISE = np.array([-0.01, 0.0, 0.01])


def frame_of(**strategies: tuple[float, float, float]) -> pd.DataFrame:
    """strategy -> mean on the validation split, mean on the test split, size of the noise, which is the same on both.

    Each strategy's noise runs over the seeds in another order, so that differences vary.
    """
    rows = []
    for number, (name, (val, test, noise)) in enumerate(strategies.items()):
        moved = noise * np.roll(NOISE, number) / 0.01
        for seed, (by, measured) in enumerate(zip(val + moved, test + moved, strict=True), 1):
            rows.append(
                {"sweep": "one", "trial": number, "strategy": name.replace("_", " ").replace("joint", "alpha = 0")}
                | {"seed": seed, "val/fused/accuracy": by, "test/fused/accuracy": measured}
            )
    return pd.DataFrame(rows)


def test_a_clear_winner_is_named_with_its_interval() -> None:
    found = verdict(frame_of(joint=(0.70, 0.71, 0.002), polynomial=(0.80, 0.79, 0.002)), "test")
    assert found is not None and found.best.strategy == found.simplest.strategy == "polynomial"
    (said,) = found.sentences
    # differences 0.08 + (0.004, -0.002, -0.002): mean 8.0, std 0.346, t_2 = 4.3027, so +- 0.86
    assert said == (
        "use polynomial (trial 1): +8.0 points (95 % +7.1 to +8.9) on the test split, 3 seeds, against tuned"
        " alpha = 0: best.yaml"
    )


def test_the_choice_is_made_on_the_validation_split_alone() -> None:
    found = verdict(frame_of(joint=(0.6, 0.6, 0.001), learned=(0.8, 0.7, 0.001), constant=(0.7, 0.9, 0.001)), "test")
    assert found is not None and found.best.strategy == found.simplest.strategy == "learned"


def test_a_simpler_strategy_within_a_standard_error_is_as_good_and_one_beyond_is_not() -> None:
    # differences of noise 0.01 (3 rolled values): std 0.01732, standard error 0.01
    near = verdict(frame_of(joint=(0.5, 0.5, 0.01), learned=(0.80, 0.8, 0.01), constant=(0.791, 0.78, 0.01)), "test")
    far = verdict(frame_of(joint=(0.5, 0.5, 0.01), learned=(0.80, 0.8, 0.01), constant=(0.789, 0.78, 0.01)), "test")
    assert near is not None and far is not None
    assert near.simplest.strategy == "constant" and far.simplest.strategy == "learned"
    assert "constant (trial 2) is simpler and as good" in near.sentences[1] and "simplest.yaml" in near.sentences[1]
    # a more complicated one that is as good is no alternative
    other = verdict(frame_of(joint=(0.5, 0.5, 0.01), constant=(0.80, 0.8, 0.01), learned=(0.799, 0.8, 0.01)), "test")
    assert other is not None and other.simplest.strategy == "constant" and len(other.sentences) == 1


def test_when_joint_training_wins_it_says_so() -> None:
    found = verdict(frame_of(joint=(0.8, 0.8, 0.001), learned=(0.7, 0.75, 0.001)), "test")
    assert found is not None and found.best.strategy == "alpha = 0" and found.against_joint is None
    assert "use joint training (alpha = 0, trial 0)" in found.sentences[0] and "-5.0 points" in found.sentences[0]
    worse = verdict(frame_of(joint=(0.7, 0.8, 0.001), learned=(0.8, 0.75, 0.001)), "test")
    assert worse is not None and worse.sentences[0].startswith("use joint training")


def test_an_open_question_says_how_many_seeds_would_close_it() -> None:
    found = verdict(frame_of(joint=(0.70, 0.70, 0.01), learned=(0.71, 0.71, 0.01)), "test")
    assert found is not None and found.sentences[0].startswith("open: learned")
    assert found.against_joint is not None
    needed = seeds_needed(found.against_joint)
    # std 0.01732 and difference 0.01: t_{n-1} 0.01732 / sqrt n < 0.01 first holds at n = 15 (2.1448 * 0.4472 = 0.959)
    assert needed == 15 and "--seeds 15" in found.sentences[-1]
    assert seeds_needed(paired([0.001, 1.0, -1.0], [0, 0, 0])) is None


def test_losses_count_downwards() -> None:
    frame = frame_of(joint=(0.9, 0.9, 0.001), learned=(0.5, 0.5, 0.001))
    frame = frame.rename(columns=lambda name: name.replace("accuracy", "loss"))
    found = verdict(frame, "test", "val/fused/loss", "minimize")
    assert found is not None and found.best.strategy == "learned"
    assert "+0.400 of fused loss" in found.sentences[0]


def test_one_seed_gives_no_verdict_and_other_strategies_are_not_simple() -> None:
    frame = frame_of(joint=(0.7, 0.7, 0.01))
    assert verdict(frame[frame["seed"] == 1], "test") is None
    assert verdict(frame, "test", "val/fused/map") is None
    assert [simplicity(name) for name in ("alpha = 0", "constant", "learned", "mla", "mla + learned")] == [
        0,
        1,
        5,
        6,
        6,
    ]
    assert not math.isnan(paired([1.0, 2.0], [0.0, 0.5]).std)
