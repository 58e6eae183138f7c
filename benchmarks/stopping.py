"""Do commands stop in good order, whenever Ctrl-C or SIGTERM comes? Every command, at moments drawn at random.

    python benchmarks/stopping.py                       50 tries of each of 6 commands, an hour or two on 2 cores
    python benchmarks/stopping.py --tries 5 --only tune train

A try starts the command, waits a random part of the time that it takes when it is left alone, and sends one signal
(every fourth time a second one a second later). It is in order if the command ends within --limit seconds with status
130 or 143 - or with 0, where it had finished - and prints neither a traceback, nor a C++ stack, nor a segmentation
fault, and leaves no process of its own. What was not in order is printed whole. After the tries of `tune` the last
sweep is resumed, and has to end as it should.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from progress import begin
from rich.console import Console

from lfm_ray.datasets.preparing.demo import write_raw_demo

UGLY = re.compile(r"Traceback|Segmentation|SIGSEGV|SIGABRT|Stack trace|core dumped|terminate called|std::|\.cc:\d+")
COMMANDS = {  # with {n}: the number of the try
    "prepare": "prepare media/manifest.csv --audio audio --image image --allow-outside --out shards/try{n}",
    "tune": "tune --trials 4 --epochs 3 --name tune{n}",
    "train": "train --set data.path=shards/demo --epochs 6 --name train{n}",
    "confirm": "confirm sweeps/whole --seeds {seeds}",
    "report": "report sweeps/whole --to report{n}.html",
    "export": "export sweeps/whole --out exported{n}",
}


def command(text: str) -> list[str]:
    """The command line."""
    return [sys.executable, "-m", "lfm_ray", *text.split()]


def one(text: str, wait: float, number: int, twice: bool, limit: float, folder: Path) -> tuple[str, float]:
    """One try: what was not in order, empty if all was, and the seconds from the signal to the end."""
    output = folder / "output.txt"
    with output.open("w") as out:
        process = subprocess.Popen(command(text), cwd=folder, stdout=out, stderr=out, start_new_session=True)
        time.sleep(wait)
        started = time.monotonic()
        if process.poll() is None:
            process.send_signal(number)
        if twice:
            time.sleep(1)
            if process.poll() is None:
                process.send_signal(number)
        try:
            status: int | str = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = "none"
    took, said = time.monotonic() - started, output.read_text(errors="replace")
    wrong = [] if status in (0, 128 + number) else [f"status {status}"]
    if found := UGLY.search(said):
        wrong.append(f"prints {found[0]}")
    time.sleep(1)
    if left := of_session(process.pid):
        wrong.append(f"leaves {', '.join(left)}")
    if status == "none" or left:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return (f"{'; '.join(wrong)}\n{said}" if wrong else ""), took


def of_session(session: int) -> list[str]:
    """The processes of a session, by /proc; Ray's daemons make sessions of their own and end with their driver."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split() if entry.name.isdigit() else []
        except OSError:
            continue
        if fields and int(fields[3]) == session and fields[0] != "Z":
            found.append((entry / "cmdline").read_text().replace("\0", " ")[:60])
    return found


def main() -> None:
    """Prints a line for each command, and what was not in order."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--tries", type=int, default=50, help="of each command; default 50")
    arguments.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    arguments.add_argument(
        "--limit", type=float, default=20, help="seconds that a command may take to stop; default 20"
    )
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    begin("an hour or two on 2 cores for 50 tries of each command")
    console, drawn = Console(highlight=False, width=100), random.Random(given.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(command("tune --trials 4 --epochs 3 --name whole"), cwd=folder, check=True, capture_output=True)
        write_raw_demo(folder / "media")
        for what in given.only:
            text = COMMANDS[what]
            started = time.monotonic()
            subprocess.run(command(text.format(n="whole", seeds=1)), cwd=folder, check=True, capture_output=True)
            whole = time.monotonic() - started
            wrong, times = [], []
            for n in range(given.tries):
                number = drawn.choice([signal.SIGINT, signal.SIGTERM])
                line = text.format(n=n, seeds=n + 2)
                found, took = one(line, drawn.uniform(0, whole), number, n % 4 == 3, given.limit, folder)
                times.append(took)
                if found:
                    wrong.append(f"try {n}, {signal.Signals(number).name}: {found}")
            ended = (
                f"{given.tries} tries, {len(wrong)} not in order, stopped in {sum(times) / len(times):.1f} s on average"
            )
            console.print(f"{what:<8} takes {whole:.0f} s; {ended}, {max(times):.1f} s at most", soft_wrap=True)
            for found in wrong:
                console.print(found, markup=False)
        if "tune" in given.only:
            last = max((folder / "sweeps").glob("tune*"), key=lambda path: path.stat().st_mtime).name
            done = subprocess.run(command(f"tune --resume {last}"), cwd=folder, capture_output=True, text=True)
            console.print(f"the last sweep, {last}, resumed: status {done.returncode}")


if __name__ == "__main__":
    main()
