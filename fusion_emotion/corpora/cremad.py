"""CREMA-D (Cao et al. 2014, IEEE Trans. Affective Computing 5(4) 377-390): file names to clips, and raters' votes."""

import csv
import dataclasses
import importlib.resources
import lzma
import pathlib
import re

from fusion_emotion.corpora.clip import Clip
from fusion_emotion.corpora.corpus import Corpus, Found, Remote, Wanted
from fusion_emotion.corpora.walk import choose, find_all, is_film
from fusion_emotion.errors import UserError

STATEMENTS = {
    "IEO": "It's eleven o'clock",
    "TIE": "That is exactly what happened",
    "IOM": "I'm on my way to the meeting",
    "IWW": "I wonder what this is about",
    "TAI": "The airplane is almost full",
    "MTI": "Maybe tomorrow it will be cold",
    "IWL": "I would like a new alarm clock",
    "ITH": "I think I have a doctor's appointment",
    "DFA": "Don't forget a jacket",
    "ITS": "I think I've seen this before",
    "TSI": "The surface is slick",
    "WSI": "We'll stop in a couple of minutes",
}
_EMOTIONS = {"NEU": "neutral", "HAP": "happy", "SAD": "sad", "ANG": "angry", "FEA": "fearful", "DIS": "disgust"}
_INTENSITIES = {"LO": "low", "MD": "medium", "HI": "high", "XX": ""}
# Of the actors 1001 to 1091, in this order: VideoDemographics.csv of the owners.
_SEXES = "MFFFMFFFFFMFFMMMMFMFFMMFFMMFFFMMMMMMFMMMMMFMMFFMFMMFFFFFMFMFFMFMMMMMMMMFFFFFMFFMMFMFMMMMFMF"
_NAME = re.compile(r"([0-9]{4})_([A-Z]{3})_([A-Z]{3})_([A-Z]{2})")
_VOTES = "summaryTable.csv"
_REPOSITORY = "CheyneyComputerScience/CREMA-D"
_POINTER = b"version https://git-lfs"
_POINTER_BYTES = 200


def parse_name(path: pathlib.Path) -> Clip:
    """Parse a file name as 1001_DFA_ANG_XX. Raises ValueError, which names the fault."""
    match = _NAME.fullmatch(path.stem)
    if not match:
        raise ValueError("not of the form ACTOR_SENTENCE_EMOTION_LEVEL, as 1001_DFA_ANG_XX")
    actor, sentence, emotion, intensity = match.groups()
    if not 1001 <= int(actor) <= 1091:
        raise ValueError(f"actor {actor} is not one of 1001 to 1091")
    for field, code, codes in (
        ("sentence", sentence, STATEMENTS),
        ("emotion", emotion, _EMOTIONS),
        ("level", intensity, _INTENSITIES),
    ):
        if code not in codes:
            raise ValueError(f"{field} {code} is not one of {', '.join(codes)}")
    modality = "av" if is_film(path) else "a"
    return Clip(
        path=path,
        corpus="cremad",
        clip_id=f"cremad/{path.stem}" + ("-audio" if modality == "a" else ""),
        take_id=f"cremad/{path.stem}",
        speaker=f"cremad/{actor}",
        sex="male" if _SEXES[int(actor) - 1001] == "M" else "female",
        emotion=_EMOTIONS[emotion],
        intensity=_INTENSITIES[intensity],
        statement=sentence,
        repetition="",
        modality=modality,
        channel="speech",
    )


def find(root: pathlib.Path, wanted: Wanted) -> Found:
    """Find the clips of some actors, flat or in the owners' folders. Raises UserError if no clip is as wanted."""
    found = choose(find_all(root, parse_name), root, wanted, films="VideoFlash/*.flv")
    found = _without_pointers(found)
    return _by_votes(found, root) if wanted.labels_by == "votes" else found


def _without_pointers(found: Found) -> Found:
    """Pass over what a clone without Git LFS has in place of the media."""
    small = [clip for clip in found.clips if clip.path.stat().st_size < _POINTER_BYTES]
    pointers = {clip.path for clip in small if clip.path.read_bytes().startswith(_POINTER)}
    reason = "a pointer of Git LFS, not the media: run `git lfs pull`"
    return Found(
        clips=[clip for clip in found.clips if clip.path not in pointers],
        passed_over=[*((str(path), reason) for path in sorted(pointers)), *found.passed_over],
    )


def _by_votes(found: Found, root: pathlib.Path) -> Found:
    """Give each clip the emotion that most raters saw and heard in it; clips with a tie are passed over.

    Raises UserError if the owners' table of votes is missing or is another table.
    """
    table = next((path for path in (root / "processedResults" / _VOTES, root / _VOTES) if path.is_file()), None)
    if table is None:
        raise UserError(
            f"data.labels_by='votes' needs {root / 'processedResults' / _VOTES}: get it at {CORPUS.get}, or set "
            "--config.data.labels_by=acted"
        )
    with table.open(encoding="utf-8-sig", newline="") as lines:
        votes = {row.get("FileName", ""): row for row in csv.DictReader(lines)}
    emotion_of = {code[0]: word for code, word in _EMOTIONS.items()}
    clips, passed_over = [], [*found.passed_over]
    for clip in found.clips:
        # Raters judged the voice alone, the face alone, and both.
        column = "VoiceVote" if clip.modality == "a" else "MultiModalVote"
        vote = (votes.get(clip.path.stem, {}).get(column) or "").strip()
        if vote in emotion_of:
            clips.append(dataclasses.replace(clip, emotion=emotion_of[vote]))
        else:
            passed_over.append((str(clip.path), "raters' votes tie" if ":" in vote else f"no vote in {_VOTES}"))
    if found.clips and not clips:
        raise UserError(f"{table} has no vote for any clip: expected the owners' table, with FileName and {column}")
    return Found(clips=clips, passed_over=passed_over)


def remotes(wanted: Wanted, mirror: str = "") -> list[Remote]:
    """Return the films, or for audio alone the wav files, of some actors, and the table of votes if it is asked for.

    `cremad_files.tsv.xz` has the size and the sha256 of each, from the pointers of Git LFS in the owners' repository.
    The table of votes is checked by its length alone. Raises UserError for an unknown actor.
    """
    if wrong := [actor for actor in wanted.actors if not 1001 <= actor <= 1091]:
        raise UserError(f"data.actors: {wrong[0]!r} is no actor of CREMA-D: expected numbers from 1001 to 1091")
    folder = "AudioWAV" if wanted.audio_alone else "VideoFlash"
    packed = (importlib.resources.files("fusion_emotion.corpora") / "cremad_files.tsv.xz").read_bytes()
    rows = (line.split("\t") for line in lzma.decompress(packed).decode().splitlines())
    media = [
        Remote(
            name=name,
            host="https://media.githubusercontent.com",  # the content of what Git LFS holds
            path=f"/media/{_REPOSITORY}/master/{name}",
            size_bytes=int(size),
            digest=f"sha256:{sha256}",
        )
        for name, size, sha256 in rows
        if name.startswith(folder) and (not wanted.actors or int(name.partition("/")[2][:4]) in wanted.actors)
    ]
    name = f"processedResults/{_VOTES}"
    path = f"/{_REPOSITORY}/master/{name}"
    votes = Remote(name=name, host="https://raw.githubusercontent.com", path=path, guess_bytes=1_000_000)
    return [*media, votes] if wanted.labels_by == "votes" else media


CORPUS = Corpus(
    name="cremad",
    title="CREMA-D",
    licence="ODbL 1.0",
    credit=(
        "Pictures and sound are of CREMA-D (Cao et al. 2014, IEEE Transactions on Affective Computing 5(4) 377-390), "
        "cropped and resampled, under the Open Database License 1.0."
    ),
    label_names=tuple(_EMOTIONS.values()),
    expects="films or sounds named 1001_DFA_ANG_XX (.flv, .mp4, .wav, .mp3), flat or in VideoFlash/, AudioWAV/, ...",
    get="https://github.com/CheyneyComputerScience/CREMA-D",
    find=find,
    remotes=remotes,
    groups=("speaker", "sex", "intensity", "statement"),
    value_titles={"statement": STATEMENTS},
    human={"audio": 0.409, "video": 0.582, "audio+video": 0.636},
    human_caveat=(
        "Human raters (Cao et al. 2014): 40.9 % from sound, 58.2 % from pictures, 63.6 % from both, of the emotion "
        "that the actor was asked for. They had no training on takes like these, and theirs is a share of ratings "
        "rather than a UAR."
    ),
)
