"""What ends a run without anybody having foreseen it: one line for the user, and the traceback in a file."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lfm_ray import own_parts
from lfm_ray.errors import TrainingFailed, UserError
from lfm_ray.files import write_atomically
from lfm_ray.storage import push

ERROR = "error.txt"  # in the folder of the run


class Unforeseen(TrainingFailed):
    """An exception that is neither of a part of another package nor one that we raise ourselves."""


@contextmanager
def told(folder: Path) -> Iterator[None]:
    """Within it, whatever a run raises becomes one line, which can be sent to any process.

    Raises:
        UserError: a part of another package raised it, which the line names.
        Unforeseen: anything else that is neither a UserError nor a TrainingFailed.
    """
    try:
        yield
    except (UserError, TrainingFailed):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not own_parts.blamed(error):  # such as what ends a trial of Ray Tune
            raise
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / ERROR, traceback.format_exc())
        push(folder / ERROR)
        see = f"{folder.name}/{ERROR}"
        if said := own_parts.blamed(error):
            raise UserError(f"{said} (all of it: {see})") from None
        raise Unforeseen(f"{own_parts.one_line(error)} (see {see})") from None
