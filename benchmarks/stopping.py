"""Do commands stop in good order, whenever Ctrl-C or SIGTERM comes? Every command, at moments drawn at random.

    python benchmarks/stopping.py                       50 tries of each of 6 commands, about an hour on 2 cores
    python benchmarks/stopping.py --tries 5 --only tune train

Two tries run at once. A try starts the command, waits a random part of the time that it takes when it is left alone,
and sends one signal (every fourth time a second one a second later): Ctrl-C to all of its processes, as a terminal
does, SIGTERM to the first alone. It is in order if the command ends within --limit seconds with status 130 or 143,
having said how to go on - or with 0, where it had finished - and prints neither a traceback, nor a C++ stack, nor a
segmentation fault, and leaves no process and no temporary file. What was not in order is printed whole. In the first
second Python itself is still starting, which the signal then ends without a word. After the tries of `tune` the last
sweep is resumed, and has to end well.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from progress import begin, say

from lfm_ray.datasets.preparing.demo import write_raw_demo

UGLY = re.compile(r"Traceback|Segmentation|SIGSEGV|SIGABRT|Stack trace|core dumped|terminate called|std::|\.cc:\d+")
SAID = re.compile(r"goes on|interrupted")
MARK = "LFM_RAY_TRY"  # a variable of all processes of a try, by which they are found
CACHE = "torchinductor_"  # PyTorch's, which it keeps for later processes
COMMANDS = {  # with {n}: the number of the try
    "prepare": "prepare media/manifest.csv --audio audio --image image --allow-outside --out shards/try{n}",
    "tune": "tune --trials 4 --epochs 3 --name tune{n}",
    "train": "train sweeps/whole/best.yaml --epochs 6 --name train{n}",
    "confirm": "confirm sweeps/copy{n} --seeds 2",
    "report": "report sweeps/whole --to report{n}.html",
    "export": "export sweeps/whole --out exported{n}",
}


def command(text: str) -> list[str]:
    """The command line."""
    return [sys.executable, "-m", "lfm_ray", *text.split()]


def done(text: str, folder: Path) -> str:
    """Runs a command to its end; returns what it said.

    Raises:
        SystemExit: it failed.
    """
    ended = subprocess.run(command(text), cwd=folder, capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(f"{text}: status {ended.returncode}\n{ended.stdout}{ended.stderr}")
    return ended.stdout


def one(text: str, wait: float, number: int, twice: bool, limit: float, temporary: Path) -> tuple[str, float | None]:
    """One try: what was not in order, empty if all was, and the seconds from the signal to the end, None if the command
    had ended before. It runs beside its folder of temporary files, which is made and removed."""
    folder, mark = temporary.parent, f"{os.getpid()}-{time.monotonic_ns()}"
    output = folder / f"{temporary.name}.txt"
    temporary.mkdir()
    environment = os.environ | {"TMPDIR": str(temporary), MARK: mark}
    with output.open("w") as out:
        process = subprocess.Popen(
            command(text), cwd=folder, stdout=out, stderr=out, start_new_session=True, env=environment
        )
        time.sleep(wait)
        started, late = time.monotonic(), process.poll() is not None
        for _ in range(1 + twice):
            if process.poll() is None:
                (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
        try:
            status: int | str = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = "none"
    took, said = time.monotonic() - started, output.read_text(errors="replace")
    starting = wait < 1 and status == -number
    wrong = [] if status in (0, 128 + number) or starting else [f"status {status}"]
    if status == 128 + number and not SAID.search(said):
        wrong.append("does not say how to go on")
    if found := UGLY.search(said):
        wrong.append(f"prints {found[0]}")
    for _ in range(100):  # agents of Ray look every 0.4 s, and end when their raylet has not been there five times
        if not (left := marked(mark)):
            break
        time.sleep(0.1)
    if left:
        wrong.append(f"leaves {', '.join(left.values())}")
    if files := sorted(path.name for path in temporary.iterdir() if not path.name.startswith(CACHE)):
        wrong.append(f"leaves {', '.join(files)} in the folder of temporary files")
    for left_behind in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(left_behind, signal.SIGKILL)
    shutil.rmtree(temporary, ignore_errors=True)
    return (f"{'; '.join(wrong)}\n{said}" if wrong else ""), None if late else took


def marked(mark: str) -> dict[int, str]:
    """The processes of a try, with their command lines: those that have its mark in their environment."""
    found = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and f"{MARK}={mark}".encode() in (entry / "environ").read_bytes():
                found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")[:60]
    return found


def main() -> None:
    """Prints a line for each command, and before it what was not in order."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--tries", type=int, default=50, help="of each command; default 50")
    arguments.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    arguments.add_argument(
        "--limit", type=float, default=20, help="seconds that a command may take to stop; default 20"
    )
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    begin("about an hour on 2 cores for 50 tries of each command")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background a shell ignores it, for its heirs too
    drawn = random.Random(given.seed)
    with tempfile.TemporaryDirectory(prefix="s") as name:
        folder = Path(name)
        done("tune --trials 4 --epochs 3 --name whole", folder)
        say("a sweep is there")
        write_raw_demo(folder / "media")
        for what in given.only:
            text = COMMANDS[what]
            if what == "confirm":  # two would not write into one sweep at once
                for n in ["whole", *range(given.tries)]:
                    shutil.copytree(folder / "sweeps/whole", folder / f"sweeps/copy{n}")
            started = time.monotonic()
            done(text.format(n="whole"), folder)
            whole = time.monotonic() - started
            say(f"{what} takes {whole:.0f} s")
            tries = [
                (drawn.choice([signal.SIGINT, signal.SIGTERM]), drawn.uniform(0, whole)) for _ in range(given.tries)
            ]
            disordered, times = 0, []
            with ThreadPoolExecutor(2) as pool:
                waited = [
                    pool.submit(
                        one, text.format(n=n), wait, number, n % 4 == 3, given.limit, folder / f"t{what[:2]}{n}"
                    )
                    for n, (number, wait) in enumerate(tries)
                ]
                for n, (number, wait) in enumerate(tries):
                    found, took = waited[n].result()
                    how = f"{what}, try {n}, {signal.Signals(number).name}{' twice' * (n % 4 == 3)} after {wait:.1f} s"
                    say(f"{how}: {f'NOT IN ORDER: {found}' if found else 'in order'}")
                    disordered += bool(found)
                    times += [took] if took is not None else []
            mean, longest = (sum(times) / len(times), max(times)) if times else (0.0, 0.0)
            say(
                f"{what}: {given.tries} tries, of which {given.tries - len(times)} had ended before; {disordered} not"
                f" in order; stopped in {mean:.1f} s on average, {longest:.1f} s at most"
            )
        if "tune" in given.only:
            sweeps = [path for path in (folder / "sweeps").glob("tune*") if (path / "sweep.yaml").exists()]
            if sweeps:
                last = max(sweeps, key=lambda path: path.stat().st_mtime).name
                done(f"tune --resume {last}", folder)
                say(f"the last sweep, {last}, resumed, has ended well")


if __name__ == "__main__":
    main()
