"""CMA-ES (Hansen and Ostermeier, Evolutionary Computation 2001), from the package cmaes.

For numbers that every trial has, and many trials: it starts to adapt after a generation of 4 + 3 ln(n).
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from typing import Any

from optuna.samplers import BaseSampler, CmaEsSampler
from optuna.trial import FrozenTrial

from lfm_ray.errors import UserError
from lfm_ray.search.spaces.space import Space


def sampler(seed: int, space: Space) -> BaseSampler:
    """The sampler of one trial, with this seed."""
    return SafeCmaEsSampler(seed=seed, warn_independent_sampling=False)


# All that the state of cmaes.CMA consists of: arrays, numbers, a random generator, and the class itself.
PARTS = {
    ("cmaes._cma", "CMA"), ("numpy", "ndarray"), ("numpy", "dtype"), ("numpy.random._pickle", "__randomstate_ctor"),
    ("numpy.random._pickle", "__bit_generator_ctor"), ("numpy.random._mt19937", "MT19937"),
    ("copyreg", "_reconstructor"), ("builtins", "object"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
}  # fmt: skip


class StateReader(pickle.Unpickler):
    """Reads the state of CMA-ES from the journal, and nothing else: a pickle of somebody else's could run code."""

    def find_class(self, module: str, name: str) -> Any:
        """A part of the state.

        Raises:
            pickle.UnpicklingError: it is none.
        """
        if (module, name) not in PARTS:
            raise pickle.UnpicklingError(f"names {module}.{name}")
        return super().find_class(module, name)


class SafeCmaEsSampler(CmaEsSampler):
    """Optuna's, which keeps its state as a pickle in the journal of the study, read without running code."""

    def _restore_optimizer(self, completed_trials: Sequence[FrozenTrial]) -> Any:
        for trial in reversed(completed_trials):
            prefix = self._attr_key_optimizer
            parts = {key: value for key, value in trial.system_attrs.items() if key.startswith(prefix)}
            if parts:
                try:
                    content = bytes.fromhex(self._concat_optimizer_attrs(parts))
                    return StateReader(io.BytesIO(content)).load()
                except Exception as error:  # whatever a pickle of somebody else's brings about
                    raise UserError(
                        f"study.journal: the state of sampler cmaes in trial {trial.number} is not one of CMA-ES"
                        f" ({error}), and could run code; it is not read"
                    ) from None
        return None
