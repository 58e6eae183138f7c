"""What a folder of sweeps holds, in a line each. Nothing is written, and nothing of other packages is run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lfm_ray.errors import UserError
from lfm_ray.search.selection import best_of
from lfm_ray.search.spaces.objective import FUSED_ACCURACY, metric_name
from lfm_ray.search.sweep import JOURNAL, SWEEP, Sweep
from lfm_ray.storage import bytes_in, exists, fetch, folders_in, is_held


@dataclass(frozen=True)
class Listed:
    """A sweep as it is listed.

    data: its shards. state: what has become of its trials. best: the objective's value of the best finished trial, its
    strategy and number; empty if none has finished. size: bytes of all its files. trouble: why it cannot be opened.
    """

    name: str
    data: str = ""
    state: str = ""
    best: str = ""
    size: int = 0
    trouble: str = ""


def list_sweeps(where: Path) -> list[Listed]:
    """The sweeps in a folder, by name."""
    names = [name for name in folders_in(where) if not name.startswith(".") and exists(where / name / SWEEP)]
    return [_listed(where / name) for name in names]


def _listed(folder: Path) -> Listed:
    size = bytes_in(folder)
    try:
        for name in (SWEEP, JOURNAL):
            fetch(folder / name)
        sweep = Sweep.read(folder)
        trials = sweep.trials()
    except UserError as error:
        return Listed(folder.name, state="cannot be opened", size=size, trouble=str(error))
    planned, ended = sweep.space.trials, sum(trial.frozen.state.is_finished() for trial in trials)
    best, name = best_of(trials), next(iter(sweep.space.objective))
    found = "" if best is None else f"{best.rows[-1][name]:.3f} {best.strategy} (trial {best.number})"
    if found and name != FUSED_ACCURACY:
        found = f"{metric_name(name)} {found}"
    if is_held(folder):
        state = f"running, {ended} of {planned}"
    else:
        state = f"finished, {planned}" if ended >= planned else f"stopped, {ended} of {planned}"
    return Listed(folder.name, sweep.space.base.data.path, state, found, size)
