"""The segments of a prepared corpus, and their split into parts."""

import dataclasses
import pathlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from fusion_emotion.corpora import protocols
from fusion_emotion.corpora.catalogue import corpus_of
from fusion_emotion.corpora.labels import Labels, own_labels, parse
from fusion_emotion.corpora.protocols import Part
from fusion_emotion.errors import UserError
from fusion_emotion.prepare.records import MANIFEST, Row, read_rows
from fusion_emotion.units import FRAME_RATE_HZ, SAMPLES_PER_FRAME


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cutting:
    """The `segment` section of a config, in frames of 0.2 s."""

    longest: int = FRAME_RATE_HZ
    hop: int = FRAME_RATE_HZ  # between segments in evaluation
    buckets: tuple[int, ...] = (FRAME_RATE_HZ,)  # padded lengths, ascending; the last is `longest`
    random_start: bool = True  # in training

    @classmethod
    def from_config(cls, section: Mapping[str, Any]) -> "Cutting":
        """Convert the section's seconds to frames."""
        longest = round(section["seconds"] * FRAME_RATE_HZ)
        return cls(
            longest=longest,
            hop=round(section["hop_s"] * FRAME_RATE_HZ),
            buckets=tuple(round(seconds * FRAME_RATE_HZ) for seconds in section["pad_to_s"]) or (longest,),
            random_start=section["random_start"],
        )

    def padded(self, lengths: Int[np.ndarray, "n"]) -> int:
        """Return the smallest bucket that holds every segment of a batch."""
        return next(bucket for bucket in self.buckets if bucket >= lengths.max())


@dataclasses.dataclass(frozen=True)
class Segments:
    """Segments of the clips in `rows`: `clip` indexes the rows, `start` and `length` count frames of 0.2 s."""

    rows: Sequence[Row]
    clip: Int[np.ndarray, "n"]
    start: Int[np.ndarray, "n"]
    length: Int[np.ndarray, "n"]
    cutting: Cutting = Cutting()

    def __len__(self) -> int:
        return len(self.clip)

    @property
    def n_clips(self) -> int:
        """The number of clips that have segments."""
        return len(np.unique(self.clip))

    @property
    def labels(self) -> Int[np.ndarray, "clips"]:
        """The label of every row."""
        return np.array([row.label for row in self.rows], int)

    @property
    def speakers(self) -> list[str]:
        """The speaker of every row."""
        return [row.speaker for row in self.rows]

    def part(self, chosen: np.ndarray) -> "Segments":
        """Return the segments where `chosen` is True, with only their clips as rows."""
        kept, clip = np.unique(self.clip[chosen], return_inverse=True)
        rows = [self.rows[i] for i in kept]
        return Segments(rows, clip, self.start[chosen], self.length[chosen], self.cutting)

    def middle(self, clip: int) -> int:
        """Return the index of the middle segment of a clip."""
        of_clip = np.flatnonzero(self.clip == clip)
        return int(of_clip[len(of_clip) // 2])


def n_times(row: Row) -> int:
    """Return the number of frames (0.2 s) of a clip: of its picture, or of its sound if it has no picture."""
    return row.n_frames or max(1, round(row.n_samples / SAMPLES_PER_FRAME))


def segments_of(rows: Sequence[Row], cutting: Cutting) -> Segments:
    """Cut each clip into segments of the longest length, a hop apart; a shorter clip is one segment.

    The remainder behind the last segment of full length is left out.
    """
    lasts = np.array([n_times(row) for row in rows], int)
    counts = 1 + np.maximum(lasts - cutting.longest, 0) // cutting.hop
    clip = np.repeat(np.arange(len(rows)), counts)
    first = np.cumsum(counts) - counts
    start = cutting.hop * (np.arange(len(clip)) - first[clip])
    return Segments(rows, clip, start, np.minimum(lasts[clip], cutting.longest), cutting)


class Usable(NamedTuple):
    """The rows of a prepared corpus that a model can use, the names of their labels, and the number of others."""

    rows: list[Row]
    labels: Labels
    set_aside: Counter[str]  # by reason


def usable_rows(folder: pathlib.Path, config: Mapping[str, Any]) -> Usable:
    """Return the rows that have a modality of the config's model and a label, labelled. Raises UserError for none."""
    modalities, rows, others = config["model"]["modalities"], list[Row](), Counter[str]()
    every = list(read_rows(folder / MANIFEST))
    if config["data"]["labels"]:
        labels = parse(config["data"]["labels"])
    else:
        words = corpus_of(config).label_names or {row.emotion for row in every if row.status == "ok"}
        labels = own_labels(words)
    for row in every:
        if row.status != "ok":
            others["quarantined"] += 1
        elif not (("audio" in modalities and row.n_samples) or ("video" in modalities and row.n_frames)):
            others[f"no {modalities}"] += 1
        elif (label := labels.of(row.emotion)) is None:
            others[f"{row.emotion}, which is not among the labels"] += 1
        else:
            row.label = label
            rows.append(row)
    if not rows:
        why = ", ".join(f"{count} {reason}" for reason, count in others.items())
        raise UserError(f"no prepared clip can be used ({why}): see the reasons in {folder / MANIFEST}")
    if len(labels.names) < 2:
        raise UserError(f"all clips are of one emotion, {labels.names[0]}: add clips of another to tell it from")
    return Usable(rows, labels, others)


def rows_for(protocol: protocols.Protocol, rows: Sequence[Row]) -> list[Row]:
    """Return the rows of the corpora that a protocol uses. Raises UserError for a corpus that is not there."""
    _check_names(f"protocol {protocol.name}", protocol.corpora, rows)
    return [row for row in rows if not protocol.corpora or row.corpus in protocol.corpora]


def is_placed(row: Row, split: Mapping[str, Any]) -> bool:
    """True for a clip that a protocol places; those of corpora that are not in `split.corpora` only train."""
    return row.corpus in (split.get("corpora") or {row.corpus})


def _check_names(field: str, names: Collection[str], rows: Sequence[Row]) -> None:
    there = {row.corpus for row in rows}
    if lacking := sorted({*names} - there):
        raise UserError(
            f"{field} names {lacking[0]}, and the usable clips are of {', '.join(sorted(there))}: spell it as "
            "data.corpora does, and list it there"
        )


def cutting_for(protocol: protocols.Protocol, cutting: Cutting) -> Cutting:
    """Return the cutting under a protocol: one that places segments switches `random_start` off."""
    # Training segments that start anywhere would reach into those of the other parts.
    return dataclasses.replace(cutting, random_start=cutting.random_start and protocol.unit != "segment")


def split_segments(rows: Sequence[Row], split: Mapping[str, Any], cutting: Cutting) -> dict[Part, Segments]:
    """Return the segments of each part under the protocol of a config's `split` section.

    Raises UserError if the segments that a protocol places overlap or are whole clips.
    """
    protocol = protocols.protocol(split["protocol"])
    by_segment = protocol.unit == "segment"
    cutting = cutting_for(protocol, cutting)
    segments = segments_of(rows, cutting)
    if protocol.everything:
        return dict.fromkeys(protocols.PARTS, segments)
    _check_names("split.corpora", split.get("corpora") or (), rows)
    placed = np.array([is_placed(row, split) for row in rows], bool)
    items = [row for row, is_one in zip(rows, placed, strict=True) if is_one]
    overlap = cutting.hop < cutting.longest
    if by_segment and (overlap or len(segments) == len(rows)):
        raise UserError(
            f"split.protocol={protocol.name} places segments, and these {'overlap' if overlap else 'are whole clips'}: "
            "set segment.hop_s to segment.seconds, and segment.seconds below the length of the clips; or choose "
            "another protocol"
        )
    if by_segment and not placed.all():
        raise UserError(f"split.protocol={protocol.name} places segments: set split.corpora=()")
    if by_segment:
        items = [items[i] for i in segments.clip]
    settings = {name: split[name] for name in ("fold", "n_folds", "test_fraction", "validation_fraction", "seed")}
    drawn = np.array(protocols.draw(items, protocol, **settings), object)
    if not by_segment:
        of_placed, drawn = drawn, np.full(len(rows), "train", object)
        drawn[placed] = of_placed
    # Compare before spreading over the segments, of which a clip has several.
    chosen = {part: drawn == part for part in protocols.PARTS}
    return {part: segments.part(mask if by_segment else mask[segments.clip]) for part, mask in chosen.items()}
