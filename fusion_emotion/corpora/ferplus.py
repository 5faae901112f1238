"""FER+ (Barsoum et al. 2016, ICMI): pictures of faces of 48x48 px, each named by ten raters.

The owners' layout is FER2013Train, FER2013Valid and FER2013Test, each with label.csv and its pictures. Where the root
holds fer2013.csv (the pixels, of Kaggle) and fer2013new.csv (the votes) instead, `make` writes that layout.
"""

import csv
import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

from fusion_emotion.corpora.clip import Clip, by_id
from fusion_emotion.corpora.corpus import Corpus, Found, Remote, Wanted
from fusion_emotion.errors import UserError
from fusion_emotion.files import atomic

# The order of the votes in label.csv and fer2013new.csv; the last two are no emotions.
VOTED = ("neutral", "happy", "surprised", "sad", "angry", "disgust", "fearful", "contempt", "unknown", "not a face")
_FOLDERS = {"FER2013Test": "test", "FER2013Valid": "validation", "FER2013Train": "train"}
_USAGES = {"Training": "FER2013Train", "PublicTest": "FER2013Valid", "PrivateTest": "FER2013Test"}
_SIDE = 48  # px


def find(root: pathlib.Path, wanted: Wanted) -> Found:
    """Find the pictures that the paper's protocol uses, with their votes. Raises UserError for a table that is damaged.

    As in the owners' code, a single vote counts as a mistake. A picture whose most frequent vote is no emotion is left
    out, and in the validation and the test part one without a majority too. Pictures that are in several parts stay in
    the part that tests, since a copy in training would give the answer away.
    """
    if wanted.audio_alone:
        raise UserError("data.corpus='ferplus' has pictures alone: set --config.model.modalities=video")
    clips: list[Clip] = []
    passed_over: list[tuple[str, str]] = []
    seen: dict[bytes, str] = {}
    for folder, part in _FOLDERS.items():
        table = root / folder / "label.csv"
        if not table.is_file():
            continue
        for number, (name, votes) in enumerate(_rows(table), start=1):
            path = root / folder / name
            if not path.is_file():
                raise UserError(f"{table}, row {number}: {name} is not beside it: unpack the pictures again")
            counted = {word: n for word, n in zip(VOTED, votes, strict=True) if n > 1}
            first = max(counted, key=counted.__getitem__, default="unknown")
            picture = hashlib.md5(path.read_bytes(), usedforsecurity=False).digest()
            if first in VOTED[-2:]:
                reason = "most votes are for no emotion"
            elif part != "train" and 2 * counted[first] <= sum(counted.values()):
                reason = "no emotion has a majority of the votes"
            elif seen.setdefault(picture, part) != part:
                reason = f"the same picture is in the {seen[picture]} part"
            else:
                clips.append(_clip(path, part, first, {word: n for word, n in counted.items() if word in VOTED[:-2]}))
                continue
            passed_over.append((str(path), reason))
    return Found(clips=sorted(clips, key=by_id), passed_over=passed_over)


def _rows(table: pathlib.Path) -> list[tuple[str, list[int]]]:
    """The name and the votes of each picture in a label.csv, whose columns are name, box, and the ten votes."""
    try:
        with table.open(encoding="utf-8", newline="") as lines:
            rows = [(name, [int(float(vote)) for vote in votes]) for name, _, *votes in csv.reader(lines)]
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{table} cannot be read ({error}): expected rows of a name, a box and ten votes") from error
    if wrong := next((number for number, (_, votes) in enumerate(rows, start=1) if len(votes) != len(VOTED)), 0):
        raise UserError(f"{table}, row {wrong}: expected a name, a box and {len(VOTED)} votes")
    return rows


def _clip(path: pathlib.Path, part: str, emotion: str, votes: Mapping[str, int]) -> Clip:
    return Clip(
        path=path,
        corpus="ferplus",
        clip_id=f"ferplus/{path.stem}",
        take_id=f"ferplus/{path.stem}",
        speaker="",
        sex="",
        emotion=emotion,
        intensity="",
        statement="",
        repetition="",
        modality="v",
        channel="",
        split=part,
        votes="+".join(f"{word}={n}" for word, n in votes.items()),
    )


def remotes(wanted: Wanted, mirror: str = "") -> list[Remote]:
    """Return the votes. The pixels, fer2013.csv, are Kaggle's to give, to who has signed in."""
    return [
        Remote(
            name="fer2013new.csv",
            host="https://raw.githubusercontent.com",
            path="/microsoft/FERPlus/master/fer2013new.csv",
            size_bytes=1_602_762,
            digest="sha256:9206e20d62f56475939f516847d61753e4860caeac9718b560129541b776fc2c",
        )
    ]


def make(root: pathlib.Path, config: Mapping[str, Any]) -> None:
    """Write the owners' layout from fer2013.csv and fer2013new.csv, if `root` holds these and not yet that."""
    pixels, votes = root / "fer2013.csv", root / "fer2013new.csv"
    if not (pixels.is_file() and votes.is_file()) or all((root / name / "label.csv").exists() for name in _FOLDERS):
        return
    import cv2
    import numpy as np

    tables: dict[str, list[list[str]]] = {name: [] for name in _FOLDERS}
    for name in _FOLDERS:
        (root / name).mkdir(exist_ok=True)
    try:
        with pixels.open(newline="") as pictures, votes.open(newline="") as labels:
            for picture, label in zip(csv.DictReader(pictures), csv.DictReader(labels), strict=True):
                if not label["Image name"]:  # the owners found no face
                    continue
                name, folder = label["Image name"], _USAGES[label["Usage"]]
                values = np.array(picture["pixels"].split(), np.uint8).reshape(_SIDE, _SIDE)
                cv2.imwrite(str(root / folder / name), values)
                tables[folder].append([name, f"(0, 0, {_SIDE}, {_SIDE})", *list(label.values())[2:]])
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{pixels} and {votes} do not go together ({type(error).__name__}: {error}): fetch both again"
        ) from error
    for folder, rows in tables.items():
        with atomic(root / folder / "label.csv") as partial, partial.open("w", newline="") as out:
            csv.writer(out).writerows(rows)


CORPUS = Corpus(
    name="ferplus",
    title="FER+",
    licence="labels MIT; pictures of the web, for research only",
    credit="Pictures are of FER2013 (Goodfellow et al. 2013), from the web, for research only.",
    label_names=("neutral", "happy", "sad", "angry", "fearful", "disgust", "surprised", "contempt"),
    expects="the folders FER2013Train, FER2013Valid and FER2013Test with label.csv, or fer2013.csv and fer2013new.csv",
    get="https://github.com/microsoft/FERPlus (votes) and https://www.kaggle.com/c/3364 (fer2013.csv)",
    find=find,
    remotes=remotes,
    groups=(),
    make=make,
)
