"""The raw layouts of the field's datasets, made small."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from media_files import png, video, wav

EMOTIONS = ("ANG", "HAP")


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def crema_d(root: Path) -> None:
    (root / "AudioWAV").mkdir(parents=True)
    (root / "VideoFlash").mkdir()
    for actor in range(10):
        for emotion in EMOTIONS:
            name = f"10{actor:02d}_DFA_{emotion}_XX"
            wav(root / "AudioWAV" / f"{name}.wav", seconds=0.5, rate=16000, seed=actor)
            video(root / "VideoFlash" / f"{name}.flv", codec="flv1", frames=4, seed=actor)


def kinetics_sounds(root: Path) -> None:
    clips = {split: [f"-{split}_{label}_{i}" for label in "01" for i in range(10)] for split in ("train", "test")}
    for split, stems in clips.items():
        write(root / f"my_{split}.txt", *(f"{stem},10,{stem.split('_')[1]}" for stem in stems))
        for stem in stems:
            folder = root / "clips" / stem.split("_")[1]
            folder.mkdir(parents=True, exist_ok=True)
            video(folder / f"{stem}.mp4", frames=4, sound=True, seed=len(list(folder.iterdir())))


def vggsound(root: Path) -> None:
    lines = []
    for split in ("train", "test"):
        for kind in ("people marching", "people clapping"):
            for i in range(10):
                youtube = f"-{split}_{kind[7]}{i}"
                lines.append(f'{youtube},{i},"{kind}",{split}')
                (root / "video").mkdir(parents=True, exist_ok=True)
                video(root / "video" / f"{youtube}_{i:06d}.mp4", frames=4, sound=True, seed=i)
    write(root / "vggsound.csv", *lines)


def sarcasm(root: Path) -> None:
    (root / "dataset_image").mkdir(parents=True)
    for split, file in (("train", "train"), ("val", "valid2"), ("test", "test2")):
        lines = []
        for i in range(4):
            name = f"{split}{i}"
            extra = "" if split == "train" else f"{1 - i % 2}, "  # the hashtag's label stands before the human one
            lines.append(f"['{name}', 'it\\'s \"fine\" , <user>', {extra}{i % 2}]")
            png(root / "dataset_image" / f"{name}.jpg", mode="RGB", seed=i)
        write(root / "text" / f"{file}.txt", *lines)


def twitter2015(root: Path) -> None:
    (root / "twitter2015_images").mkdir(parents=True)
    for split in ("train", "dev", "test"):
        rows = [f'{i}\t{i % 3}\t{split}{i}.jpg\t" $T$ wins\tAnn Lee' for i in range(6)]
        write(root / "twitter2015" / f"{split}.tsv", "index\t#1 Label\t#2 ImageID\t#3 String\t#3 String", *rows)
        for i in range(6):
            png(root / "twitter2015_images" / f"{split}{i}.jpg", mode="RGB", seed=i)


def nvgesture(root: Path) -> None:
    for split in ("train", "test"):
        lines = []
        for label in (1, 2):
            for subject in range(10):
                folder = f"Video_data/class_{label:02d}/{split}{subject}_r0"
                (root / folder).mkdir(parents=True)
                for name in ("sk_color", "sk_depth", "sk_flow"):
                    video(root / folder / f"{name}.avi", frames=20, seed=subject)
                lines.append(
                    f"path:./{folder} depth:sk_depth:15:45 color:sk_color:15:45 duo_left:duo_left:0:80 label:{label}"
                )
        write(root / f"nvgesture_{split}_correct_cvpr2016_v2.lst", *lines)


LAYOUTS: dict[str, Callable[[Path], None]] = {
    maker.__name__: maker for maker in (crema_d, kinetics_sounds, vggsound, sarcasm, twitter2015, nvgesture)
}
