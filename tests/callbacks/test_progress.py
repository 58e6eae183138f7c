"""What a running sweep says of the time that it will take."""

from __future__ import annotations

import pytest

from lfm_ray.callbacks.progress import outlook


@pytest.mark.parametrize(
    ("each", "done", "left", "time_left", "said"),
    [
        (5.0, 1, 23, None, "about 2 min for the other 23 trials"),
        (20.0, 1, 23, None, "about 8 min for the other 23 trials; --trials 9 takes about 3 min"),
        (900.0, 1, 23, None, "about 345 min for the other 23 trials"),
        (5.0, 2, 22, 40.0, "about 2 min for the other 22 trials; the time allows --trials 10"),
        (5.0, 2, 22, 3600.0, "about 2 min for the other 22 trials; the time allows --trials 722"),
    ],
)
def test_how_long_the_other_trials_take_and_how_many_fit(
    each: float, done: int, left: int, time_left: float | None, said: str
) -> None:
    assert outlook(each, done, left, time_left) == said
