"""Emotions: one vocabulary for all corpora, and label sets that map its words to the classes of a model.

A label set is written as `label=word+word, label, …`: the label, and the words that count as it; a label alone is its
own only word. `data.labels` is the name of a set, or a set written out.
"""

import dataclasses
import functools
import re
from collections.abc import Collection, Mapping, Sequence

from fusion_emotion.errors import UserError, unknown_name

# The words that readers of corpora use. The first eight are RAVDESS's, in its order.
EMOTIONS = (
    *("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"),
    *("bored", "contempt", "excited", "frustrated"),
)

# Spellings of tables that people make, to the words above.
_SYNONYMS = {
    synonym: word
    for word, synonyms in {
        "neutral": "neu",
        "calm": "calmness",
        "happy": "happiness hap joy joyful",
        "sad": "sadness",
        "angry": "anger ang",
        "fearful": "fear fea afraid",
        "disgust": "disgusted dis",
        "surprised": "surprise sur pleasant_surprise",
        "bored": "boredom",
        "contempt": "contemptuous",
        "excited": "excitement exc",
        "frustrated": "frustration fru",
    }.items()
    for synonym in synonyms.split()
}

LABEL_SETS = {
    "ravdess8": "neutral, calm, happy, sad, angry, fearful, disgust, surprised",
    # Ekman's six (1992) with neutral, as CREMA-D, FER+ and most papers across corpora use them.
    "basic7": "neutral=neutral+calm, happy, sad, angry, fearful, disgust, surprised",
    "basic6": "happy, sad, angry, fearful, disgust, surprised",
    # Excitement counts as happiness, as in most work on IEMOCAP.
    "iemocap4": "neutral, happy=happy+excited, sad, angry",
    # Surprise may be pleasant or not, so it has no place.
    "valence3": "negative=sad+angry+fearful+disgust+bored+contempt+frustrated, neutral=neutral+calm, "
    "positive=happy+excited",
}

# The other columns of a prediction's table: a label with such a name would fall on them.
COLUMNS = (
    *("file", "start", "end", "person", "modalities", "face_found", "face_score", "box_x", "box_y", "box_w", "box_h"),
    *("speech", "label", "confidence", "lag_s"),
)

_PLAIN = re.compile(r"[\w -]+")


@dataclasses.dataclass(frozen=True)
class Labels:
    """The classes of a model, and the class of each word of a corpus."""

    names: tuple[str, ...]
    label_of: Mapping[str, int]  # by word

    def of(self, word: str) -> int | None:
        """Return the class of a word, or of its spelling in the vocabulary; None if it has no place."""
        return self.label_of.get(word, self.label_of.get(known_word(word)))


@functools.cache
def parse(text: str) -> Labels:
    """Parse the name of a label set, or a set written out. Raises UserError."""
    if "," not in text and "=" not in text and text not in LABEL_SETS:
        raise unknown_name("data.labels", text, (*LABEL_SETS, "a set as 'negative=sad+angry, positive=happy'"))
    names: list[str] = []
    label_of: dict[str, int] = {}
    for entry in LABEL_SETS.get(text, text).split(","):
        name, _, words = (part.strip() for part in entry.partition("="))
        for word in (words or name).split("+"):
            if not _PLAIN.fullmatch(name) or not _PLAIN.fullmatch(word.strip()):
                raise UserError(f"data.labels={text!r}: {entry.strip()!r} is not of the form label=word+word")
            # Corpora give the words of the vocabulary.
            for spelt in (word.strip(), known_word(word)):
                if label_of.setdefault(spelt, len(names)) != len(names):
                    raise UserError(f"data.labels={text!r}: {spelt!r} counts as two labels: name it once")
        names.append(name)
    if len(set(names)) < len(names) or len(names) < 2:
        raise UserError(f"data.labels={text!r}: expected two or more labels, each once")
    _check_names(names)
    return Labels(tuple(names), label_of)


def _check_names(names: Sequence[str]) -> None:
    """Raise UserError for a label that is the name of a column of predictions."""
    if taken := [name for name in names if name in COLUMNS or name.startswith("smooth_")]:
        raise UserError(f"the label {taken[0]!r} is the name of a column in tables of predictions: call it otherwise")


def known_word(word: str) -> str:
    """Return the word of the vocabulary for another spelling of it; any other word as it is."""
    plain = re.sub(r"[\s-]+", "_", word.strip().lower())
    return plain if plain in EMOTIONS else _SYNONYMS.get(plain, word.strip())


def own_labels(words: Collection[str]) -> Labels:
    """Return a label for each word: those of the vocabulary in its order, then the others by the alphabet."""
    names = in_order(words)
    _check_names(names)
    return Labels(names, {name: label for label, name in enumerate(names)})


def in_order(words: Collection[str]) -> tuple[str, ...]:
    """Return words in the order of the vocabulary, then the others by the alphabet; each once."""
    return (*(word for word in EMOTIONS if word in words), *sorted(set(words) - set(EMOTIONS)))


def share_of_votes(votes: str, labels: Labels) -> Sequence[float] | None:
    """Return the share of each label among votes as `happy=7+neutral=2`; None if no vote has a place."""
    shares = [0.0] * len(labels.names)
    for vote in votes.split("+"):
        word, _, count = vote.partition("=")
        if (label := labels.of(word)) is not None:
            shares[label] += float(count)
    total = sum(shares)
    return [share / total for share in shares] if total else None
