"""Does the search find a strategy that beats joint training? On real speech and handwriting.

    python benchmarks/av_digits.py PATH/TO/av-digits                     about 10 minutes on 2 cores
    python benchmarks/av_digits.py PATH/TO/av-digits --time-budget 20s --seeds 3 --out /tmp/av-digits

PATH/TO/av-digits holds a manifest.csv of spoken digits (Free Spoken Digit Dataset) and images of
digits (scikit-learn's), with columns audio, image, label, split. It trains on 1,000 of its pairs,
with noise of 0.8 and 1.5 standard deviations of each sample added to the log spectrogram and the
image (--noise). Three sweeps of the same length: alpha fixed to 0, the heuristic, and every alpha(t);
the same other settings are searched in each. Of the five best of each, the one that is best over two
more seeds on the validation split is trained with other seeds and measured on the test split; the
last lines say by how much the winner beats the other two.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
from progress import begin

PREPARE = [
    "limit.train=1000", "audio.n_fft=256", "audio.hop=160", "audio.n_mels=32", "audio.seconds=0.64",
]  # fmt: skip


GOALS = {"alpha = 0": 7.0, "heuristic": 0.0}  # points that the winner is to be better by


def main() -> None:
    """Runs the commands, one after the other, as a user would."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("--time-budget", default="110s", help="of each sweep; default 110s")
    arguments.add_argument("--trials", type=int, default=400, help="of each sweep, if the time is enough; default 400")
    arguments.add_argument("--seeds", type=int, default=4)
    arguments.add_argument("--noise", type=float, nargs=2, default=[0.8, 1.5], metavar=("AUDIO", "IMAGE"))
    arguments.add_argument("--out", type=Path, default=Path("runs/av-digits"))
    given = arguments.parse_args()
    begin("about 10 minutes on 2 cores with --time-budget 110s, of each sweep")
    started = time.monotonic()
    shards, sweeps = given.out / "shards", given.out / "sweeps"
    media = [given.data / "manifest.csv", "--audio", "audio", "--image", "image", "--out", shards]
    settings = [*PREPARE, f"noise.audio={given.noise[0]}", f"noise.image={given.noise[1]}"]
    command("prepare", *media, *(word for setting in settings for word in ("--set", setting)))
    tune = ["search_spaces/alpha_schedule.yaml", "--data", shards, "--storage", sweeps]
    tune += ["--trials", given.trials, "--time-budget", given.time_budget]
    joint = ["--set", "alpha.strategy=constant", "--set", "alpha.value=0", "--set", "loss.matching=infonce"]
    command("tune", *tune, "--name", "joint", *joint)
    command("tune", *tune, "--name", "heuristic", "--set", "alpha.strategy=heuristic")
    command("tune", *tune, "--name", "strategies")
    confirmed = [sweeps / name for name in ("strategies", "joint", "heuristic")]
    command("confirm", *confirmed, "--seeds", given.seeds, "--select", 5)
    verdict(pd.read_csv(sweeps / "strategies" / "confirm-comparisons.csv"))
    print(f"{time.monotonic() - started:.0f} s in all")


def verdict(compared: pd.DataFrame) -> None:
    """Says whether the goals are reached, by the comparisons of the confirmed winner."""
    compared = compared[compared["metric"] == "fused/accuracy"]
    winner = compared[(compared["sweep"] == "strategies") & ~compared["strategy"].isin(list(GOALS))]
    if winner.empty:
        print("the best trial of the sweep over all strategies is alpha = 0 or the heuristic itself")
    for row in winner.itertuples():
        reached = "reached" if row.difference >= GOALS[row.minus] and row.low > 0 else "missed"
        print(
            f"{row.strategy} minus tuned {row.minus}: {row.difference:+.1f} points, 95 % interval {row.low:+.1f} to"
            f" {row.high:+.1f}; goal {GOALS[row.minus]:+.1f} and an interval above 0: {reached}"
        )


def command(name: str, *words: object) -> None:
    """Runs `python -m lfm_ray.NAME` and stops if it fails."""
    print(f"$ python -m lfm_ray.{name} {' '.join(map(str, words))}", flush=True)
    subprocess.run([sys.executable, "-m", f"lfm_ray.{name}", *map(str, words)], check=True)


if __name__ == "__main__":
    main()
