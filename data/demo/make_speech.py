"""Makes the speech of the demo data: the digits 0 to 9, spoken by 75 voices of eSpeak NG.

You do not need this script to use the demo: its output is in the repository. To make it again, with
eSpeak NG 1.51 on the PATH (Debian and Ubuntu: `apt-get install espeak-ng`), from the repository root:

    python data/demo/make_speech.py            # writes data/demo/speech/*.ogg and data/demo/utterances.csv
    python data/demo/make_speech.py --folder /tmp/speech

A speaker is an accent of English with a voice variant (`en-us+f3`). Every variant is used once, so the
speakers of the three splits do not overlap, and nearly identical variants (`iven`, `iven3`) stand in the
same split. A speaker says each digit twice, with pitch and speed drawn anew each time, in random order.

Each utterance is resampled to 8 kHz, cut to where it is heard, and brought to the same peak. A speaker's
utterances follow one another in one OGG Vorbis file, with silence between them. Starts and ends lie on
multiples of 10 ms, which are whole samples, so reading a segment gives precisely the utterance.

All choices are drawn from one seed, and eSpeak NG itself is deterministic. Made twice, the tables are
equal and the files decode to the same samples; their bytes differ in the serial number of the OGG stream.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import resample_poly

HERE = Path(__file__).resolve().parent
SEED = 2024
SAMPLE_RATE = 8_000  # Hz
TICK = SAMPLE_RATE // 100  # samples in 10 ms; every start and end is a multiple of it
GAP_TICKS = 10  # silence before each utterance: 100 ms
BLOCK = 2_048  # samples; a file's length is a multiple of it, see `write_ogg`
AUDIBLE = 0.02  # share of the peak from which on an utterance counts as heard
PEAK = 0.7
COMPRESSION = 0.7  # of Vorbis, 0 (best sound) to 1 (smallest file)
TAKES = 2  # times that a speaker says each digit

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

# Not `en-gb` (eSpeak NG 1.51 ignores variants there; `en` is the same accent) and not `en-us-nyc` (sounds as en-us).
ACCENTS = ("en", "en-us", "en-029", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd")

# The variants of each split, one speaker each.
VARIANTS = {
    "train": "m1 m2 m5 m7 f1 f3 f5 Alex Alicia Andrea Andy Annie Denis Diogo Gene Gene2 Henrique Lee Marco Mario"
    " Michael Mike UniRobot aunty antonio benjamin caleb david ed grandma john klatt2 klatt4 miguel norbert robosoft"
    " robosoft3 robosoft6 steph whisper",
    "val": "m4 m8 f4 Hugo Jacky Nguyen RicishayMax edward grandpa kaukovalta paul sandro shelby travis zac",
    "test": "m3 m6 f2 Demonic Storm anika announcer belinda boris croak gustave iven iven3 linda max michel pablo"
    " quincy victor whisperf",
}


def main() -> None:
    """Writes the speech files and their table."""
    parser = argparse.ArgumentParser(description="Makes the speech of the demo data; needs espeak-ng.")
    parser.add_argument("--folder", type=Path, default=HERE, help="where to write (default: beside this script)")
    folder: Path = parser.parse_args().folder
    if shutil.which("espeak-ng") is None:
        raise SystemExit("make_speech.py: espeak-ng is not on the PATH; on Debian: apt-get install espeak-ng")
    speech = folder / "speech"
    shutil.rmtree(speech, ignore_errors=True)
    speech.mkdir(parents=True)
    generator = np.random.default_rng(SEED)
    rows: list[dict[str, object]] = []
    for split, variants in VARIANTS.items():
        for number, variant in enumerate(variants.split()):
            voice = f"{ACCENTS[number % len(ACCENTS)]}+{variant}"
            rows += make_speaker(speech, split, voice, generator)
    with (folder / "utterances.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    size = sum(path.stat().st_size for path in speech.iterdir())
    speakers = len({row["voice"] for row in rows})
    print(f"{len(rows)} utterances of {speakers} speakers, {size / 1e6:.2f} MB in {speech}")


def make_speaker(speech: Path, split: str, voice: str, generator: np.random.Generator) -> list[dict[str, object]]:
    """Writes the file of one speaker; returns its rows of the table."""
    path = speech / f"{split}_{voice.replace('+', '_')}.ogg"
    usual_pitch = int(generator.integers(20, 81))  # eSpeak NG: 0 to 99
    usual_speed = int(generator.integers(120, 201))  # words a minute
    pieces, rows, tick = [], [], 0
    for digit in generator.permutation(np.repeat(np.arange(10), TAKES)):
        pitch = int(np.clip(usual_pitch + generator.integers(-10, 11), 0, 99))
        speed = int(usual_speed + generator.integers(-20, 21))
        wave = trim(synthesise(WORDS[digit], voice, pitch, speed))
        start = tick + GAP_TICKS
        tick = start + len(wave) // TICK
        pieces += [np.zeros(GAP_TICKS * TICK), wave]
        rows.append(
            {
                "file": f"speech/{path.name}",
                "start": f"{start / 100:.2f}",
                "end": f"{tick / 100:.2f}",
                "digit": int(digit),
                "voice": voice,
                "pitch": pitch,
                "speed": speed,
                "split": split,
            }
        )
    write_ogg(path, np.concatenate([*pieces, np.zeros(GAP_TICKS * TICK)]))
    return rows


def write_ogg(path: Path, wave: np.ndarray) -> None:
    """Writes the wave, filled up with silence to a multiple of `BLOCK`, and checks that seeking in it is exact.

    Vorbis codes blocks of samples. Where the last block is cut short, libsndfile 1.2.2 seeks wrongly within
    the last page of the file (the last second or two): it lands up to a block too late.
    """
    wave = np.pad(wave, (0, -len(wave) % BLOCK))
    soundfile.write(path, wave, SAMPLE_RATE, format="OGG", subtype="VORBIS", compression_level=COMPRESSION)
    whole, _ = soundfile.read(path)
    for start in range(0, len(whole), 10 * TICK):
        part, _ = soundfile.read(path, start=start, stop=start + 10 * TICK)
        if not np.array_equal(part, whole[start : start + 10 * TICK]):
            raise SystemExit(f"make_speech.py: {path}: reading from sample {start} does not give what is there")


def synthesise(word: str, voice: str, pitch: int, speed: int) -> np.ndarray:
    """One word by eSpeak NG, at 8 kHz."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "word.wav"
        command = ["espeak-ng", "-v", voice, "-p", str(pitch), "-s", str(speed), "-w", str(path), word]
        subprocess.run(command, check=True)
        wave, rate = soundfile.read(path)
    return np.asarray(resample_poly(wave, SAMPLE_RATE, rate))


def trim(wave: np.ndarray) -> np.ndarray:
    """The heard part with 20 ms around it, as a multiple of 10 ms, at peak `PEAK`."""
    wave = wave - wave.mean()
    peak = np.abs(wave).max()
    heard = np.flatnonzero(np.abs(wave) > AUDIBLE * peak)
    wave = wave[max(heard[0] - 2 * TICK, 0) : heard[-1] + 2 * TICK]
    wave = np.pad(wave, (0, -len(wave) % TICK))
    return np.asarray(wave * (PEAK / peak))


if __name__ == "__main__":
    main()
