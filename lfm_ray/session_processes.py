"""The processes of a Ray session that this process has started; some outlive the session now and then."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

Process = tuple[int, int]  # its number, and when it was started: no other process has both


def processes_of(folder: Path) -> list[Process]:
    """Those that live now: children of this process whose command lines name the session's folder, and all of theirs.

    Parents come before their children. There are none to be seen where there is no /proc, as on a Mac.
    """
    children: dict[int, list[Process]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            state, parent, started = _fields(entry)
            if state != "Z":
                children.setdefault(parent, []).append((int(entry.parent.name), started))
    found = [one for one in children.get(os.getpid(), []) if _names(one, folder)]
    for number, _ in found:  # grows meanwhile
        found += children.get(number, [])
    return found


def end(processes: list[Process]) -> None:
    """Ends at once those that still live."""
    for number, started in processes:
        with suppress(OSError):
            if _fields(Path(f"/proc/{number}/stat"))[2] == started:
                os.kill(number, signal.SIGKILL)


def _names(process: Process, folder: Path) -> bool:
    with suppress(OSError):
        return os.fsencode(folder) in Path(f"/proc/{process[0]}/cmdline").read_bytes()
    return False


def _fields(stat: Path) -> tuple[str, int, int]:
    """State, parent, and time of start in ticks of the clock."""
    fields = stat.read_text(errors="replace").rpartition(")")[2].split()  # the name before it may hold anything
    return fields[0], int(fields[1]), int(fields[19])
