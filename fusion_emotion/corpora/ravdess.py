"""RAVDESS: file names to clips (Livingstone & Russo 2018, PLoS ONE 13(5) e0196391)."""

import os
import pathlib
import re

from fusion_emotion.corpora.clip import Clip

LABEL_NAMES = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
STATEMENTS = ("Kids are talking by the door", "Dogs are sitting by the door")
EXTENSIONS = (".mp4", ".wav", ".flac")

_MODALITIES = {"01": "av", "02": "v", "03": "a"}
_CHANNELS = {"01": "speech", "02": "song"}
_INTENSITIES = {"01": "normal", "02": "strong"}
_NAME = re.compile(r"(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)")


def parse_name(path: pathlib.Path, *, corpus: str = "ravdess") -> Clip:
    """The clip that a file name of the form MM-VV-EE-II-SS-RR-AA describes.

    Raises ValueError, which says what breaks the grammar; nothing is guessed.
    """
    match = _NAME.fullmatch(path.stem)
    if not match:
        raise ValueError("not of the form MM-VV-EE-II-SS-RR-AA")
    modality, channel, emotion, intensity, statement, repetition, actor = match.groups()
    for field, code, codes in (
        ("modality", modality, _MODALITIES),
        ("vocal channel", channel, _CHANNELS),
        ("emotion", emotion, tuple(f"{i:02d}" for i in range(1, len(LABEL_NAMES) + 1))),
        ("intensity", intensity, _INTENSITIES),
        ("statement", statement, ("01", "02")),
        ("repetition", repetition, ("01", "02")),
        ("actor", actor, tuple(f"{i:02d}" for i in range(1, 25))),
    ):
        if code not in codes:
            raise ValueError(f"{field} {code} is not one of {', '.join(codes)}")
    if emotion == "01" and intensity == "02":
        raise ValueError("neutral (emotion 01) has no strong intensity (02)")
    if channel == "02" and emotion in ("07", "08"):
        raise ValueError(f"song (vocal channel 02) has no emotion {emotion}")
    if (modality == "03") == (path.suffix.lower() == ".mp4"):
        raise ValueError(f"modality {modality} does not go with the extension {path.suffix}")
    label = int(emotion) - 1
    return Clip(
        path=path,
        corpus=corpus,
        clip_id=path.stem,
        take_id=path.stem[3:],
        speaker=actor,
        sex="male" if int(actor) % 2 else "female",
        label=label,
        emotion=LABEL_NAMES[label],
        intensity=_INTENSITIES[intensity],
        statement=statement,
        repetition=repetition,
        modality=_MODALITIES[modality],
        channel=_CHANNELS[channel],
    )


def find_clips(root: pathlib.Path, *, corpus: str = "ravdess") -> tuple[list[Clip], list[tuple[str, str]]]:
    """Every clip below `root` (`Actor_*/` folders or flat), by name, and the (path, reason) of what broke the grammar.

    Symbolic links are followed, but no folder is entered twice, so a loop of them cannot trap the walk.
    """
    clips: dict[str, Clip] = {}
    passed_over: list[tuple[str, str]] = []
    entered = {os.path.realpath(root)}

    def unreadable(error: OSError) -> None:
        passed_over.append((str(error.filename), f"the folder cannot be read: {error.strerror}"))

    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=unreadable):
        fresh = []
        for name in sorted(subfolders):
            real = os.path.realpath(os.path.join(folder, name))
            if real not in entered:
                entered.add(real)
                fresh.append(name)
        subfolders[:] = fresh
        for name in sorted(names):
            path = pathlib.Path(folder, name)
            if path.suffix.lower() not in EXTENSIONS or name.startswith("."):
                continue
            try:
                clip = parse_name(path, corpus=corpus)
            except ValueError as error:
                passed_over.append((str(path), str(error)))
                continue
            if clip.clip_id in clips:
                passed_over.append((str(path), f"the same clip as {clips[clip.clip_id].path}"))
            else:
                clips[clip.clip_id] = clip
    return sorted(clips.values(), key=lambda clip: clip.clip_id), passed_over
