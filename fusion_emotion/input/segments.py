"""The one-second windows of a prepared corpus, and which of them train, validate and test."""

import dataclasses
import pathlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from fusion_emotion.corpora import protocols
from fusion_emotion.corpora.protocols import Part
from fusion_emotion.errors import UserError
from fusion_emotion.prepare.records import MANIFEST, Row, read_rows
from fusion_emotion.units import FRAME_RATE_HZ, SAMPLES_PER_FRAME

WINDOW_SAMPLES = FRAME_RATE_HZ * SAMPLES_PER_FRAME  # of sound: one second


@dataclasses.dataclass(frozen=True)
class Windows:
    """Windows of the clips in `rows`; `clip` indexes them and `start` counts samples of 0.2 s."""

    rows: Sequence[Row]
    clip: Int[np.ndarray, "n"]
    start: Int[np.ndarray, "n"]

    def __len__(self) -> int:
        return len(self.clip)

    @property
    def n_clips(self) -> int:
        """The number of clips that the windows are of."""
        return len(np.unique(self.clip))

    @property
    def labels(self) -> Int[np.ndarray, "clips"]:
        """The label of every row."""
        return np.array([row.label for row in self.rows])

    def part(self, chosen: np.ndarray) -> "Windows":
        """The windows where `chosen` is True, with only their clips as rows."""
        kept, clip = np.unique(self.clip[chosen], return_inverse=True)
        return Windows([self.rows[i] for i in kept], clip, self.start[chosen])


def n_times(row: Row) -> int:
    """The number of sample times (0.2 s) of a clip: its frames, or where it has none its sound."""
    return row.n_frames or max(1, round(row.n_samples / SAMPLES_PER_FRAME))


def windows_of(rows: Sequence[Row]) -> Windows:
    """Consecutive windows of one second from the start of each clip; a shorter clip is one window."""
    counts = np.array([max(1, n_times(row) // FRAME_RATE_HZ) for row in rows], int)
    clip = np.repeat(np.arange(len(rows)), counts)
    first = np.cumsum(counts) - counts
    return Windows(rows, clip, FRAME_RATE_HZ * (np.arange(len(clip)) - first[clip]))


def usable_rows(folder: pathlib.Path, modalities: str) -> tuple[list[Row], Counter[str]]:
    """The rows that have at least one of `modalities`, and why the others are not among them."""
    rows, others = [], Counter[str]()
    for row in read_rows(folder / MANIFEST):
        if row.status != "ok":
            others["quarantined"] += 1
        elif not (("audio" in modalities and row.n_samples) or ("video" in modalities and row.n_frames)):
            others[f"no {modalities}"] += 1
        else:
            rows.append(row)
    if not rows:
        why = ", ".join(f"{count} {reason}" for reason, count in others.items())
        raise UserError(f"no prepared clip can be used ({why}): see the reasons in {folder / MANIFEST}")
    return rows, others


def items_of(rows: Sequence[Row]) -> list[protocols.Item]:
    """What a protocol may know of each clip."""
    return [protocols.Item(take_id=row.take_id, speaker=row.speaker, sex=row.sex, label=row.label) for row in rows]


def split_windows(rows: Sequence[Row], split: Mapping[str, Any]) -> dict[Part, Windows]:
    """The windows of each part under the protocol of a config's `split` section."""
    every = windows_of(rows)
    by_window = split["protocol"] == "random_windows"
    items = items_of(rows)
    drawn = np.array(
        protocols.draw(
            [items[i] for i in every.clip] if by_window else items,
            split["protocol"],
            **{name: split[name] for name in ("fold", "n_folds", "test_fraction", "validation_fraction", "seed")},
        )
    )
    # Compared before it is spread over the windows, of which there are several to a clip.
    chosen = {part: drawn == part for part in protocols.PARTS}
    return {part: every.part(there if by_window else there[every.clip]) for part, there in chosen.items()}
