"""RAVDESS (Livingstone & Russo 2018, PLoS ONE 13(5) e0196391): file names to clips."""

import functools
import importlib.resources
import pathlib
import re

from fusion_emotion.corpora.clip import Clip
from fusion_emotion.corpora.corpus import Corpus, Found, Remote, Wanted
from fusion_emotion.corpora.walk import choose, find_all, is_film
from fusion_emotion.errors import UserError

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


def remotes(wanted: Wanted, mirror: str = "") -> list[Remote]:
    """Return the archives of a channel and of some actors, from the packaged table.

    The wav archives hold all actors; the film archives one each. The table lacks the sizes and md5 sums of the 23
    archives of sung films. Raises UserError for an unknown actor.
    """
    if wrong := [actor for actor in wanted.actors if actor not in range(1, 25)]:
        raise UserError(f"data.actors: {wrong[0]!r} is no actor of RAVDESS: expected numbers from 1 to 24")
    media = "Audio" if wanted.audio_alone else "Video"
    chosen = sorted(set(wanted.actors)) or range(1, 25)
    contents = ["Actors_01-24"] if wanted.audio_alone else [f"Actor_{actor:02d}" for actor in chosen]
    kinds = ["Speech", "Song"] if wanted.channel == "both" else [wanted.channel.capitalize()]
    text = (importlib.resources.files("fusion_emotion.corpora") / "ravdess_archives.tsv").read_text("utf-8")
    table = {row[0]: row for row in (line.split("\t") for line in text.splitlines())}
    names = [f"{media}_{kind}_{content}.zip" for kind in kinds for content in contents]
    rows = [table[name] for name in names if name in table]
    if not rows:
        raise UserError("data.actors: actor 18 sang nothing: name at least one other actor")
    return [
        Remote(
            name=name,
            host="https://zenodo.org",
            path=f"/records/1188976/files/{name}?download=1",
            size_bytes=int(size) if size else None,
            digest=f"md5:{md5}" if md5 else None,
            members=r"Actor_\d\d/[\w-]+\.(?:mp4|wav)",
            # 1,440 wavs of 3.7 s at 96 kB/s come in 208 MB.
            expansion=3.0 if wanted.audio_alone else 1.05,
            guess_bytes=600_000_000,  # the largest archive has 596 MB
        )
        for name, size, md5 in rows
    ]


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
    remotes=remotes,
)
