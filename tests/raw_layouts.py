"""The raw layouts of the field's datasets, made small."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
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


def ave(root: Path) -> None:
    (root / "AVE").mkdir(parents=True)
    for split in ("train", "val", "test"):
        lines = ["Category&VideoID&Quality&StartTime&EndTime"] if split == "train" else []
        for number in range(6):
            name = f"-{split}{number}"
            lines.append(f"{('Church bell', 'Male speech, man speaking')[number % 2]}&{name}&good&0&10")
            video(root / "AVE" / f"{name}.mp4", frames=4, sound=True, seed=number)
        write(root / f"{split}Set.txt", *lines, f"Bark&-{split}0&good&2&7")


def ucf101(root: Path) -> None:
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for index, label in enumerate(("ApplyEyeMakeup", "Archery"), start=1):
        for group in range(1, 8):
            name = f"v_{label}_g{group:02d}_c01"
            (root / "UCF-101" / label).mkdir(parents=True, exist_ok=True)
            video(root / "UCF-101" / label / f"{name}.avi", frames=4, seed=group)
            for part in "uv":
                (root / "tvl1_flow" / part / name).mkdir(parents=True)
                for frame in range(3):
                    png(root / "tvl1_flow" / part / name / f"frame{frame:06d}.jpg", seed=frame)
            lines["test" if group < 3 else "train"].append(f"{label}/{name}.avi{'' if group < 3 else f' {index}'}")
    for split, listed in lines.items():
        write(root / "ucfTrainTestlist" / f"{split}list01.txt", *listed)


def food101(root: Path) -> None:
    for split in ("train", "test"):
        lines = []
        for label in ("apple_pie", "baklava"):
            (root / "images" / split / label).mkdir(parents=True)
            for number in range(4):
                lines.append(f'{label}_{number}.jpg,"Easy {label}, with sugar",{label}')
                png(root / "images" / split / label / f"{label}_{number}.jpg", mode="RGB", seed=number)
        write(root / "texts" / f"{split}_titles.csv", *lines)


def _mvsa(root: Path, votes: int) -> None:
    (root / "data").mkdir(parents=True)
    lines = ["ID\t" + "\t".join(["text,image"] * votes)]
    for number in range(36):
        sentiment = ("positive", "neutral", "negative")[number % 3]
        pairs = [f"{sentiment},neutral", f"{sentiment},{sentiment}", f"neutral,{sentiment}"][:votes]
        lines.append("\t".join([str(number), *pairs]))
        write(root / "data" / f"{number}.txt", f"tweet {number}")
        png(root / "data" / f"{number}.jpg", mode="RGB", seed=number)
    write(root / "labelResultAll.txt", *lines)


def mvsa_single(root: Path) -> None:
    _mvsa(root, 1)


def mvsa_multiple(root: Path) -> None:
    _mvsa(root, 3)


def iemocap(root: Path) -> None:
    for session in (1, 5):
        dialogue = f"Ses0{session}F_impro01"
        folder = root / f"Session{session}"
        turns, said = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""], []
        (folder / "sentences" / "wav" / dialogue).mkdir(parents=True)
        (folder / "dialog" / "avi" / "DivX").mkdir(parents=True)
        video(folder / "dialog" / "avi" / "DivX" / f"{dialogue}.avi", frames=20)
        for number in range(12):
            name, emotion = f"{dialogue}_F{number:03d}", ("neu", "exc", "hap", "ang", "sad", "xxx")[number % 6]
            start, end = 0.1 * number, 0.1 * number + 0.5
            turns.append(f"[{start:.4f} - {end:.4f}]\t{name}\t{emotion}\t[2.5000, 2.5000, 2.5000]")
            turns.append("C-E2:\tNeutral;\t()")
            said.append(f"{name} [{start:08.4f}-{end:08.4f}]: Excuse me: {number}.")
            wav(folder / "sentences" / "wav" / dialogue / f"{name}.wav", seconds=0.4, rate=16000, seed=number)
        write(folder / "dialog" / "EmoEvaluation" / f"{dialogue}.txt", *turns)
        write(folder / "dialog" / "EmoEvaluation" / f"._{dialogue}.txt", "Mac OS X")
        write(folder / "dialog" / "transcriptions" / f"{dialogue}.txt", *said)


def ur_funny(root: Path) -> None:
    (root / "urfunny2_videos").mkdir(parents=True)
    for index, split in enumerate(("train", "valid", "test")):
        names = range(10 * index, 10 * index + 6)
        lines = [f"{name}, {('FUNNY', 'NOTFUNNY')[name % 2]}, ### it's, well ### {name}" for name in names]
        write(root / f"ur_funny_{split}.txt", *lines)
        for name in names:
            video(root / "urfunny2_videos" / f"{name}.mp4", frames=4, sound=True, seed=name)


def cmu_mosi(root: Path) -> None:
    lines = ["video_id,clip_id,text,label,annotation,mode,label_T,label_A,label_V"]
    for mode in ("train", "valid", "test"):
        (root / "Raw" / f"-{mode}").mkdir(parents=True)
        for clip in range(6):
            label = clip % 3 - 1
            words = f'"IT WAS, ""GOOD"" {clip}"'
            lines.append(f"-{mode},{clip},{words},{label}.0,{('Negative', 'Neutral', 'Positive')[label + 1]},{mode},,,")
            video(root / "Raw" / f"-{mode}" / f"{clip}.mp4", frames=4, sound=True, seed=clip)
    write(root / "label.csv", *lines)


def cmu_mosei(root: Path) -> None:
    cmu_mosi(root)


def cmu_mosi_features(root: Path) -> None:
    """In the layout of MMSA's aligned_50.pkl: sequences of 2 to 7 steps, padded with zeros to 9."""
    content = {}
    for number, mode in enumerate(("train", "valid", "test")):
        random = np.random.default_rng(number)
        steps = np.array([2 + clip % 6 for clip in range(6)])
        there = np.arange(9) < steps[:, None]
        part = {name: random.normal(size=(6, 9, width)) for name, width in (("text", 30), ("audio", 7), ("vision", 5))}
        content[mode] = {name: (value * there[:, :, None]).astype(np.float32) for name, value in part.items()} | {
            "raw_text": [f"words {clip}" for clip in range(6)],
            "text_bert": np.stack([there, there, ~there], axis=1).astype(np.int64),
            "id": [f"-{mode}$_${clip}" for clip in range(6)],
            "annotations": ["Negative", "Neutral", "Positive"] * 2,
            "classification_labels": np.arange(6) % 3,
            "regression_labels": np.array([-1.4, 0.0, 2.2] * 2, np.float32),
        }
    root.mkdir(parents=True)
    (root / "aligned_50.pkl").write_bytes(pickle.dumps(content, protocol=4))


def cmu_mosei_features(root: Path) -> None:
    """In the layout of MulT's mosei_senti_data_noalign.pkl: padding in front, minus infinity in sound, float64."""
    content = {}
    for number, mode in enumerate(("train", "valid", "test")):
        random = np.random.default_rng(number)
        there = np.arange(9) >= 4
        part = {name: random.normal(size=(6, 9, width)) for name, width in (("text", 30), ("audio", 7), ("vision", 5))}
        content[mode] = {name: value * there[:, None] for name, value in part.items()}
        content[mode]["audio"][:, 5, 2] = -np.inf
        content[mode]["labels"] = np.array([-1.4, 0.0, 2.2] * 2)[:, None, None]
        content[mode]["id"] = np.array([[f"{mode}{clip}".encode(), b"1.0", b"2.5"] for clip in range(6)], dtype=object)
    root.mkdir(parents=True)
    (root / "mosei_senti_data_noalign.pkl").write_bytes(pickle.dumps(content, protocol=3))


OF_THE_PAPER = (crema_d, kinetics_sounds, vggsound, sarcasm, twitter2015, nvgesture)
OTHERS = (ave, ucf101, food101, mvsa_single, mvsa_multiple, iemocap, ur_funny, cmu_mosi, cmu_mosei,
          cmu_mosi_features, cmu_mosei_features)  # fmt: skip
LAYOUTS: dict[str, Callable[[Path], None]] = {maker.__name__: maker for maker in (*OF_THE_PAPER, *OTHERS)}
