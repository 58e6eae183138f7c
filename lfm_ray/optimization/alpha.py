"""alpha while a run trains: its value, when it is due to move, and how it moves."""

from __future__ import annotations

from lfm_ray.errors import TrainingFailed
from lfm_ray.optimization.schedules import Adaptive, AlphaGradient, Learned, Schedule
from lfm_ray.own_parts import is_number, returned


class AlphaController:
    """Owns alpha, the weight of L_MM in eq. (1).

    A schedule sets it at the beginning of every epoch. A strategy that follows a gradient moves it
    after steps on theta, by what `lfm_ray.training.trainer.Trainer.alpha_gradient` gives, or before
    every epoch, by what `alpha_gradient_before_epoch` gives.

    schedule: the section `alpha` of a run; epochs: T. `updates` are those of the current epoch: the
    number of the step on theta that came before, over all epochs, and alpha after it.
    """

    def __init__(self, schedule: Schedule, epochs: int) -> None:
        self.schedule, self.epochs, self.t = schedule, epochs, 0
        initial = schedule.initial if isinstance(schedule, Adaptive) else 0.0
        self.value = 0.0 if initial == "balanced" else initial
        self.updates: list[tuple[int, float]] = []

    def begin_epoch(self, t: int) -> None:
        """Epoch t of T begins, t from 1.

        Raises:
            UserError: the schedule gives what is no number.
            TrainingFailed: the number is no weight.
        """
        self.t, self.updates = t, []
        if not isinstance(self.schedule, Adaptive):
            value = self.schedule.alpha(t, self.epochs)
            where = f"alpha({t}, {self.epochs}) of alpha.strategy {self.schedule.strategy}"
            returned(where, value, is_number(value), "a number between 0 and 1")
            if not 0 <= value <= 1:
                raise TrainingFailed(f"{where} is {value:g}; it must lie between 0 and 1")
            self.value = float(value)

    @property
    def starts_balanced(self) -> bool:
        """Whether the gradients of the first batch say where alpha starts."""
        return isinstance(self.schedule, Learned) and self.schedule.initial == "balanced"

    def balance(self, matching: float, classification: float) -> None:
        """A balanced start, before the first step on theta; the norms of the gradients of L_MM and L_CLS."""
        assert isinstance(self.schedule, Learned)
        self.value = self.schedule.balanced(matching, classification)

    @property
    def due_before_epochs(self) -> bool:
        """Whether alpha moves before every epoch."""
        return isinstance(self.schedule, Adaptive) and self.schedule.before_epochs

    def due(self, step: int, steps_an_epoch: int) -> bool:
        """Whether alpha moves after this step on theta, counted from 1 over all epochs."""
        return isinstance(self.schedule, Adaptive) and self.schedule.due(step, steps_an_epoch * self.epochs)

    def move(self, gradient: AlphaGradient, step: int) -> None:
        """One update by the gradient, after a step on theta."""
        assert isinstance(self.schedule, Adaptive)
        self.value = self.schedule.updated(self.value, gradient, self.t)
        self.updates.append((step, self.value))
