"""TESS (Pichora-Fuller & Dupuis 2020, doi:10.5683/SP2/E8H2MF): file names to clips."""

import pathlib
import re

from fusion_emotion.corpora.clip import Clip
from fusion_emotion.corpora.corpus import Corpus, Found, Remote, Wanted
from fusion_emotion.corpora.walk import choose, find_all, is_film
from fusion_emotion.errors import UserError

_EMOTIONS = {
    "neutral": "neutral",
    "happy": "happy",
    "sad": "sad",
    "angry": "angry",
    "fear": "fearful",
    "disgust": "disgust",
    "ps": "surprised",  # pleasant surprise
}
# The owners' OA_bite_neutral.wav lacks a letter.
_SPEAKERS = {"OAF": "OAF", "OA": "OAF", "YAF": "YAF"}
_HOST = "https://borealisdata.ca"
_DOI = "doi:10.5683/SP2/E8H2MF"
_SOUNDS = r"(?:[\w -]+/)*\w+\.wav"
_FILES = re.compile(rf"{_SOUNDS}|[\w -]+\.zip", re.ASCII)  # no path that leaves the folder
_NAME = re.compile(r"([A-Za-z]+)_([A-Za-z]+)_([A-Za-z]+)")


def parse_name(path: pathlib.Path) -> Clip:
    """Parse a file name as OAF_back_angry.wav. Raises ValueError, which names the fault."""
    match = _NAME.fullmatch(path.stem)
    if not match or is_film(path):
        raise ValueError("not of the form SPEAKER_WORD_EMOTION.wav, as OAF_back_angry.wav")
    speaker, word, emotion = match[1].upper(), match[2].lower(), match[3].lower()
    for field, code, codes in (("speaker", speaker, _SPEAKERS), ("emotion", emotion, _EMOTIONS)):
        if code not in codes:
            raise ValueError(f"{field} {code} is not one of {', '.join(codes)}")
    take = f"tess/{_SPEAKERS[speaker]}_{word}_{emotion}"
    return Clip(
        path=path,
        corpus="tess",
        clip_id=take,
        take_id=take,
        speaker=f"tess/{_SPEAKERS[speaker]}",
        sex="female",
        emotion=_EMOTIONS[emotion],
        intensity="",
        statement=word,
        repetition="",
        modality="a",
        channel="speech",
    )


def find(root: pathlib.Path, wanted: Wanted) -> Found:
    """Find the clips, flat or in folders. Raises UserError if no clip is as wanted."""
    return choose(find_all(root, parse_name), root, wanted, films="")


def remotes(wanted: Wanted, mirror: str = "") -> list[Remote]:
    """Return the sounds and archives that the owners' Dataverse lists, with size and checksum. Raises UserError."""
    from fusion_emotion.corpora.download import listed

    # https://guides.dataverse.org/en/latest/api/native-api.html, "List Files in a Dataset"
    path = f"/api/datasets/:persistentId/versions/:latest/files?persistentId={_DOI}"
    found = []
    try:
        for entry in listed(_HOST, path, mirror=mirror)["data"]:
            file = entry["dataFile"]
            name = "/".join(filter(None, (entry.get("directoryLabel"), entry["label"])))
            if _FILES.fullmatch(name):
                algorithm = file["checksum"]["type"].replace("-", "").lower()  # "SHA-1" is hashlib's "sha1"
                found.append(
                    Remote(
                        name=name,
                        host=_HOST,
                        path=f"/api/access/datafile/{int(file['id'])}",
                        size_bytes=int(file["filesize"]),
                        digest=f"{algorithm}:{file['checksum']['value']}",
                        members=_SOUNDS if name.endswith(".zip") else "",
                        expansion=2.0 if name.endswith(".zip") else 0.0,
                    )
                )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{mirror or _HOST}{path} is no list of files ({error!r}): get TESS at {CORPUS.get}") from error
    if not found:
        raise UserError(f"{mirror or _HOST}{path} lists no sound: get TESS at {CORPUS.get}")
    return found


CORPUS = Corpus(
    name="tess",
    title="TESS",
    licence="CC BY-NC-ND 4.0",
    credit=(
        "Sound is of the Toronto emotional speech set (Pichora-Fuller & Dupuis 2020, doi:10.5683/SP2/E8H2MF), under "
        "its licence CC BY-NC-ND 4.0, which allows no changed copy to be passed on."
    ),
    label_names=tuple(_EMOTIONS.values()),
    expects="sounds named OAF_back_angry.wav, ..., flat or in folders",
    get="https://doi.org/10.5683/SP2/E8H2MF",
    find=find,
    remotes=remotes,
    groups=("speaker",),
    note="Two women, too few for a speaker-independent test on TESS alone.",
)
