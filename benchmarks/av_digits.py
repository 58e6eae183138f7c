"""Does the search find a strategy that beats joint training? On real speech and handwriting.

    python benchmarks/av_digits.py PATH/TO/av-digits                     about 10 minutes on 2 cores
    python benchmarks/av_digits.py PATH/TO/av-digits --trials 12 --out /tmp/av-digits

PATH/TO/av-digits holds a manifest.csv of spoken digits (Free Spoken Digit Dataset) and images of
digits (scikit-learn's), with columns audio, image, label, split. It trains on 1,000 of its pairs,
with noise of 0.8 and 1.5 standard deviations of each sample added to the log spectrogram and the
image (--noise). Two sweeps with the same number of trials: one over every alpha(t), one with alpha fixed to
0; the same other settings are searched in both. Then the best of each is trained with 3 seeds and
measured on the test split.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

PREPARE = [
    "limit.train=1000", "audio.n_fft=256", "audio.hop=160", "audio.n_mels=32", "audio.seconds=0.64",
]  # fmt: skip


def main() -> None:
    """Runs the commands, one after the other, as a user would."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("--trials", type=int, default=40)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--noise", type=float, nargs=2, default=[0.8, 1.5], metavar=("AUDIO", "IMAGE"))
    arguments.add_argument("--out", type=Path, default=Path("runs/av-digits"))
    given = arguments.parse_args()
    shards, sweeps = given.out / "shards", given.out / "sweeps"
    media = [given.data / "manifest.csv", "--audio", "audio", "--image", "image", "--out", shards]
    settings = [*PREPARE, f"noise.audio={given.noise[0]}", f"noise.image={given.noise[1]}"]
    command("prepare", *media, *(word for setting in settings for word in ("--set", setting)))
    tune = ["search_spaces/alpha_schedule.yaml", "--data", shards, "--storage", sweeps, "--trials", given.trials]
    joint = ["--set", "alpha.strategy=constant", "--set", "alpha.value=0", "--set", "loss.matching=infonce"]
    command("tune", *tune, "--name", "joint", *joint)
    command("tune", *tune, "--name", "strategies")
    command("confirm", sweeps / "strategies", sweeps / "joint", "--seeds", given.seeds)


def command(name: str, *words: object) -> None:
    """Runs `python -m lfm_ray.NAME` and stops if it fails."""
    print(f"$ python -m lfm_ray.{name} {' '.join(map(str, words))}", flush=True)
    subprocess.run([sys.executable, "-m", f"lfm_ray.{name}", *map(str, words)], check=True)


if __name__ == "__main__":
    main()
