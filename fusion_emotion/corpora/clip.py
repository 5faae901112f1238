"""A clip of a corpus: one media file and what is known of it before it is opened."""

import dataclasses
import pathlib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """One media file of a corpus.

    `take_id` is the same for every modality of one performance, so that a split by take keeps them together.
    `label` indexes the corpus's `label_names`. Fields a corpus does not know are empty strings.
    """

    path: pathlib.Path
    corpus: str
    clip_id: str
    take_id: str
    speaker: str
    sex: str  # "male", "female"
    label: int
    emotion: str
    intensity: str  # "normal", "strong"
    statement: str
    repetition: str
    modality: str  # "av", "v", "a"
    channel: str  # "speech", "song"
