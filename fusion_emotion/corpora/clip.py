"""A clip of a corpus: one media file and what is known of it before it is opened."""

import dataclasses
import operator
import pathlib

FILM_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".flv", ".ts")
SOUND_SUFFIXES = (".wav", ".flac", ".m4a", ".mp3", ".ogg", ".opus")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """One media file of a corpus.

    Ids are qualified by the corpus ("ravdess/05"), so that two corpora never share a speaker. `take_id` is the same for
    every modality of one performance, so that a split by take keeps them together. Unknown fields are empty strings.
    """

    path: pathlib.Path
    corpus: str
    clip_id: str
    take_id: str
    speaker: str
    sex: str  # "male", "female"
    emotion: str  # in the words that all corpora share
    intensity: str  # "normal", "strong"; "low", "medium", "high"
    statement: str
    repetition: str
    modality: str  # "av", "v", "a"
    channel: str  # "speech", "song"
    start_s: float = 0.0  # of an excerpt of the file, s
    end_s: float = 0.0  # likewise; 0: the end of the file
    split: str = ""  # "train", "validation", "test": the part that the corpus's owners name
    votes: str = ""  # of several raters, as "happy=7+neutral=2"
    more: tuple[str, ...] = ()  # what else is known, as "age=34"

    @property
    def is_still(self) -> bool:
        """True for a picture that is not a film."""
        return self.path.suffix.lower() in PICTURE_SUFFIXES


by_id = operator.attrgetter("clip_id")  # the order of the clips that are found
