"""RAVDESS (Livingstone & Russo 2018, PLoS ONE 13(5) e0196391): file names to clips."""

import functools
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from fusion_emotion.corpora.clip import Clip
from fusion_emotion.corpora.corpus import Corpus, Found, Wanted
from fusion_emotion.corpora.walk import choose, find_all, is_film

LABEL_NAMES = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
STATEMENTS = ("Kids are talking by the door", "Dogs are sitting by the door")

_MODALITIES = {"01": "av", "02": "v", "03": "a"}
_CHANNELS = {"01": "speech", "02": "song"}
_INTENSITIES = {"01": "normal", "02": "strong"}
_NAME = re.compile(r"(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)")


def parse_name(path: pathlib.Path, *, corpus: str = "ravdess") -> Clip:
    """Parse a file name of the form MM-VV-EE-II-SS-RR-AA. Raises ValueError, which names the fault."""
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
    if (modality == "03") == is_film(path):
        raise ValueError(f"modality {modality} does not go with the extension {path.suffix}")
    return Clip(
        path=path,
        corpus=corpus,
        clip_id=f"{corpus}/{path.stem}",
        take_id=f"{corpus}/{path.stem[3:]}",
        speaker=f"{corpus}/{actor}",
        sex="male" if int(actor) % 2 else "female",
        emotion=LABEL_NAMES[int(emotion) - 1],
        intensity=_INTENSITIES[intensity],
        statement=statement,
        repetition=repetition,
        modality=_MODALITIES[modality],
        channel=_CHANNELS[channel],
    )


def find(root: pathlib.Path, wanted: Wanted, *, corpus: str = "ravdess") -> Found:
    """Find the clips of a channel and of some actors, flat or in folders. Raises UserError if no clip is as wanted."""
    below = find_all(root, functools.partial(parse_name, corpus=corpus))
    return choose(below, root, wanted, films="01-*.mp4")


def _download(root: pathlib.Path, config: Mapping[str, Any]) -> None:
    from fusion_emotion.corpora.zenodo import install, select

    wanted = Wanted.from_config(config)
    archives = select(
        channel=wanted.channel,
        modality="a" if wanted.audio_alone else "av",
        actors=wanted.actors or range(1, 25),
    )
    run = config["run"]
    install(root, archives, base_url=run["download_url"], keep_archives=run["keep_archives"])


CORPUS = Corpus(
    name="ravdess",
    title="RAVDESS",
    licence="CC BY-NC-SA 4.0",
    credit=(
        "Pictures and sound are of RAVDESS (Livingstone & Russo 2018, PLoS ONE 13(5) e0196391), cropped and resampled, "
        "under its licence CC BY-NC-SA 4.0; share them under the same licence."
    ),
    label_names=LABEL_NAMES,
    expects="films or sounds named MM-VV-EE-II-SS-RR-AA (.mp4, .wav, ...), flat or in Actor_*/ folders",
    get="https://zenodo.org/records/1188976",
    find=find,
    groups=("speaker", "sex", "intensity", "statement"),
    value_titles={"statement": dict(zip(("01", "02"), STATEMENTS, strict=True))},
    human={"audio": 0.624, "video": 0.75, "audio+video": 0.80},
    human_caveat=(
        "Human raters, of RAVDESS speech (Livingstone & Russo 2018): 62.4 % from sound, 75 % from pictures, about 80 % "
        "from both (this last figure is unconfirmed). They were asked in another way: neutral and calm count as one "
        "answer for them and as two here, they had no training on takes like these, and theirs is a share of ratings "
        "rather than a UAR. No figure for each emotion is known, so one line stands for all."
    ),
    download=_download,
)
