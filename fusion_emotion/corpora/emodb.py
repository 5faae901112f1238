"""EmoDB (Burkhardt et al. 2005, Interspeech, 1517-1520): file names to clips."""

import pathlib
import re

from fusion_emotion.corpora.clip import Clip
from fusion_emotion.corpora.corpus import Corpus, Found, Remote, Wanted
from fusion_emotion.corpora.walk import choose, find_all, is_film

STATEMENTS = {
    "a01": "Der Lappen liegt auf dem Eisschrank",
    "a02": "Das will sie am Mittwoch abgeben",
    "a04": "Heute abend könnte ich es ihm sagen",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück",
    "a07": "In sieben Stunden wird es soweit sein",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen",
}
_EMOTIONS = {
    "N": "neutral",
    "F": "happy",  # Freude
    "T": "sad",  # Trauer
    "W": "angry",  # Wut
    "A": "fearful",  # Angst
    "E": "disgust",  # Ekel
    "L": "bored",  # Langeweile
}
_SEXES = {
    **dict.fromkeys(("03", "10", "11", "12", "15"), "male"),
    **dict.fromkeys(("08", "09", "13", "14", "16"), "female"),
}
_NAME = re.compile(r"([0-9]{2})([a-z][0-9]{2})([A-Z])([a-z])")


def parse_name(path: pathlib.Path) -> Clip:
    """Parse a file name as 03a01Fa.wav. Raises ValueError, which names the fault."""
    match = _NAME.fullmatch(path.stem)
    if not match or is_film(path):
        raise ValueError("not of the form SPEAKER SENTENCE EMOTION VERSION, as 03a01Fa.wav")
    speaker, sentence, emotion, version = match.groups()
    for field, code, codes in (
        ("speaker", speaker, sorted(_SEXES)),
        ("sentence", sentence, STATEMENTS),
        ("emotion", emotion, _EMOTIONS),
    ):
        if code not in codes:
            raise ValueError(f"{field} {code} is not one of {', '.join(codes)}")
    return Clip(
        path=path,
        corpus="emodb",
        clip_id=f"emodb/{path.stem}",
        take_id=f"emodb/{path.stem}",
        speaker=f"emodb/{speaker}",
        sex=_SEXES[speaker],
        emotion=_EMOTIONS[emotion],
        intensity="",
        statement=sentence,
        repetition=version,
        modality="a",
        channel="speech",
    )


def find(root: pathlib.Path, wanted: Wanted) -> Found:
    """Find the clips of some speakers, flat or in wav/. Raises UserError if no clip is as wanted."""
    return choose(find_all(root, parse_name), root, wanted, films="")


def remotes(wanted: Wanted, mirror: str = "") -> list[Remote]:
    """Return the one archive, whose wav files are unpacked. Its owners publish no checksum."""
    return [
        Remote(
            name="download.zip",
            host="http://emodb.bilderbar.info",
            path="/download/download.zip",
            members=r"wav/\w+\.wav",
            expansion=2.0,
            guess_bytes=50_000_000,
        )
    ]


CORPUS = Corpus(
    name="emodb",
    title="EmoDB",
    licence="free for research, of Technische Universität Berlin",
    credit=(
        "Sound is of the Berlin Database of Emotional Speech (Burkhardt, Paeschke, Rolfes, Sendlmeier & Weiss 2005, "
        "Interspeech, 1517-1520)."
    ),
    label_names=tuple(_EMOTIONS.values()),
    expects="sounds named 03a01Fa.wav, ..., flat or in wav/",
    get="http://emodb.bilderbar.info",
    find=find,
    remotes=remotes,
    groups=("speaker", "sex", "statement"),
    value_titles={"statement": STATEMENTS},
    note="Its owners kept the takes that listeners named right most often, so they are clearer than speech at large.",
)
