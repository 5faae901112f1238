"""SAVEE (Haq & Jackson 2010, in Machine Audition, ch. 17): file names to clips."""

import pathlib
import re

from fusion_emotion.corpora.clip import Clip
from fusion_emotion.corpora.corpus import Corpus, Found, Wanted
from fusion_emotion.corpora.walk import choose, find_all, is_film

_SPEAKERS = ("DC", "JE", "JK", "KL")
_EMOTIONS = {
    "n": "neutral",
    "h": "happy",
    "sa": "sad",
    "a": "angry",
    "f": "fearful",
    "d": "disgust",
    "su": "surprised",
}
# The films are numbered from 1, the sounds from 01.
_NAME = re.compile(r"(?:([A-Z]{2})_)?([a-z]{1,2})([0-9]{1,2})")


def parse_name(path: pathlib.Path) -> Clip:
    """Parse a path as DC/a01.wav, or a file name as DC_a01.wav. Raises ValueError, which names the fault."""
    match = _NAME.fullmatch(path.stem)
    if not match:
        raise ValueError("not of the form EMOTION and number, as DC/a01.wav or DC_a01.wav")
    emotion, number = match[2], int(match[3])
    speaker = match[1] or path.parent.name
    if speaker not in _SPEAKERS:
        raise ValueError(f"speaker {speaker} is not one of {', '.join(_SPEAKERS)}: expected its folder, or DC_a01.wav")
    if emotion not in _EMOTIONS:
        raise ValueError(f"emotion {emotion} is not one of {', '.join(_EMOTIONS)}")
    last = 30 if emotion == "n" else 15
    if not 1 <= number <= last:
        raise ValueError(f"sentence {number} of emotion {emotion} is not one of 1 to {last}")
    modality = "av" if is_film(path) else "a"
    take = f"savee/{speaker}_{emotion}{number:02d}"
    return Clip(
        path=path,
        corpus="savee",
        clip_id=take + ("-audio" if modality == "a" else ""),
        take_id=take,
        speaker=f"savee/{speaker}",
        sex="male",
        emotion=_EMOTIONS[emotion],
        intensity="",
        statement=f"{emotion}{number:02d}",  # sentences differ by emotion
        repetition="",
        modality=modality,
        channel="speech",
    )


def find(root: pathlib.Path, wanted: Wanted) -> Found:
    """Find the clips, in the owners' folders or flat. Raises UserError if no clip is as wanted."""
    return choose(find_all(root, parse_name), root, wanted, films="AudioVisualClip/DC/*.avi")


CORPUS = Corpus(
    name="savee",
    title="SAVEE",
    licence="for research, by agreement with the University of Surrey",
    credit=(
        "Pictures and sound are of SAVEE (Haq & Jackson 2010, Multimodal Emotion Recognition, in Machine Audition), "
        "cropped and resampled; its users agree not to pass them on."
    ),
    label_names=tuple(_EMOTIONS.values()),
    expects="AudioVisualClip/DC/a1.avi, ... or AudioData/DC/a01.wav, ... of the speakers DC, JE, JK, KL",
    get="http://kahlan.eps.surrey.ac.uk/savee/Download.html",
    find=find,
    groups=("speaker",),
)
