"""Tracks the speaker's face over a clip: one identity, smoothed boxes, square crops."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8

from fusion_emotion.prepare.detectors import Detector, Faces, Recogniser
from fusion_emotion.prepare.likeness import SIDE, likeness, motion
from fusion_emotion.units import FRAME_RATE_HZ

# Two detections may be one face if the centre moved by less than this share of the face's size, times the root of the
# number of sample times between them.
_REACH = 0.6
# Width of the Gaussian that smooths boxes in time, in samples of 0.2 s.
_SMOOTHING = 1.0
# Boxes are interpolated between two detections whose intersection over union is larger than this.
_STEADY_OVERLAP = 0.8
# A track lasts if it has this share of the times of the longest one.
_LASTING = 1 / 3
# A face is still if its `motion` is below the first, and below the second as a share of the largest among the tracks
# that last. On RAVDESS: 0.05 to 0.17 for a speaker; 0.00 for a filmed photograph, 0.02 to 0.05 if the camera shakes.
_STILL, _STILL_SHARE = 0.05, 2 / 3
# Two tracks are one person above this cosine of embeddings: insightface's own demo says "the same person" from there
# (web-demos/src_recognition/main.py). Without embeddings the `likeness` decides: 0.92 to 1.00 for moments of one actor
# in several clips of RAVDESS, at most 0.87 for two of 11 people (insightface's sample pictures and three films).
SAME_EMBEDDING, _SAME_LOOKS = 0.28, 0.92
# Tracks are compared at so many times, and so many of them at most, the longest first.
_LOOKS, _MOST_TRACKS = 3, 100

_Chain = dict[int, int]  # time: index of a face at that time


@dataclasses.dataclass(frozen=True)
class Track:
    """One face over the T sample times of a clip; box and roll are 0 at times without a face."""

    box: Float32[np.ndarray, "T 4"]
    roll: Float32[np.ndarray, "T"]  # angle of the line through the eyes in radians, clockwise in the image
    found: Bool[np.ndarray, "T"]


def detect(
    frames: Iterable[UInt8[np.ndarray, "H W 3"]],
    detector: Detector,
    *,
    every: int,
    recogniser: Recogniser | None = None,
) -> list[Faces]:
    """Return the faces of each frame, as `detections` finds them."""
    return [faces for _, faces in detections(frames, detector, every=every, recogniser=recogniser)]


def detections(
    frames: Iterable[UInt8[np.ndarray, "H W 3"]],
    detector: Detector,
    *,
    every: int,
    recogniser: Recogniser | None = None,
) -> Iterator[tuple[UInt8[np.ndarray, "H W 3"], Faces]]:
    """Yield each frame and its faces with their patches. The detector runs on every `every`-th frame.

    The frames between two detections are interpolated if both have one face and the two overlap; otherwise the detector
    runs on them too. With a recogniser, each face has a portrait once a second.
    """
    count = itertools.count()

    def looked_at(frame: np.ndarray, found: Faces) -> Faces:
        looks: dict[str, Any] = {"patch": [_patch(frame, square) for square in squares(found.box, margin=0.0)]}
        if next(count) % FRAME_RATE_HZ == 0 and recogniser:
            looks["portrait"] = [recogniser.portrait(frame, marks) for marks in found.landmarks]
        return dataclasses.replace(found, **looks)

    last: Faces | None = None
    skipped: list[np.ndarray] = []
    for time, frame in enumerate(frames):
        if time % every:
            skipped.append(frame)
            continue
        detected = detector(frame)
        if skipped and last:
            between = _interpolate(last, detected, len(skipped)) or [detector(each) for each in skipped]
            for each, found in zip(skipped, between, strict=True):
                yield each, looked_at(each, found)
            skipped = []
        last = detected
        yield frame, looked_at(frame, detected)
    for each in skipped:
        yield each, looked_at(each, detector(each))


def _patch(frame: np.ndarray, square: np.ndarray) -> np.ndarray:
    """Return a small grey picture of a square; of a large one only every k-th pixel is read, which takes less time."""
    k = max(1, int(square[2] - square[0]) // (3 * SIDE))
    return cv2.cvtColor(crop(frame[::k, ::k], square / np.float32(k), size=SIDE), cv2.COLOR_RGB2GRAY)


def _interpolate(before: Faces, after: Faces, count: int) -> list[Faces]:
    """Return `count` faces between two, or none unless both are one steady face."""
    if len(before.box) != 1 or len(after.box) != 1 or _overlap(before.box[0], after.box[0]) < _STEADY_OVERLAP:
        return []
    return [
        Faces(
            (1 - s) * before.box + s * after.box,
            np.minimum(before.score, after.score),
            (1 - s) * before.landmarks + s * after.landmarks,
        )
        for s in ((i + 1) / (count + 1) for i in range(count))
    ]


def track(frames: list[Faces], *, width: int, height: int, recogniser: Recogniser | None = None) -> Track:
    """Follow one person over a clip.

    Each detection is linked to the nearest earlier one of similar size; chains of one person are joined. The person
    with the largest sum of size and centrality over the clip is the speaker, so a passer-by who fills one frame is not
    chosen. A face that lasts and does not move is no speaker while another that lasts moves.
    """
    people = _join(_link(frames), frames, recogniser)
    found = np.zeros(len(frames), bool)
    box = np.zeros((len(frames), 4), np.float32)
    roll = np.zeros(len(frames), np.float32)
    if people:
        living = [person for person, still in zip(people, _still(people, frames), strict=True) if not still]
        chain = max(living, key=lambda chain: sum(weight(frames[t].box[i], width, height) for t, i in chain.items()))
        for time, index in chain.items():
            found[time] = True
            box[time] = frames[time].box[index]
            roll[time] = tilt(frames[time].landmarks[index])
    return Track(box, roll, found)


def tilt(landmarks: Float32[np.ndarray, "5 2"]) -> float:
    """Return the angle of the line through the eyes in radians, clockwise in the image."""
    right_eye, left_eye = landmarks[:2]
    return float(np.arctan2(*(left_eye - right_eye)[::-1]))


def _link(frames: list[Faces]) -> list[_Chain]:
    """Return chains of detections of which each is near the one before and of similar size."""
    chains: list[_Chain] = []
    for time, faces in enumerate(frames):
        lasts = [max(chain) for chain in chains]
        boxes = [frames[last].box[chain[last]] for last, chain in zip(lasts, chains, strict=True)]
        for index, number in enumerate(assign(boxes, [time - last for last in lasts], faces.box)):
            if number is None:
                chains.append({time: index})
            else:
                chains[number][time] = index
    return chains


def assign(
    before: Sequence[Float32[np.ndarray, "4"]], steps: Sequence[int], boxes: Float32[np.ndarray, "n 4"]
) -> list[int | None]:
    """Return, for each box, the number of the earlier one that it continues, or None.

    `steps` are the sample times since each of `before`. Nearest pairs come first, so that a chain without recent
    detections does not take the face of another.
    """
    pairs = [
        (distance, number, index)
        for number, (last, gap) in enumerate(zip(before, steps, strict=True))
        for index, box in enumerate(boxes)
        if (distance := _distance(last, box, gap)) < np.inf
    ]
    taken: dict[int, int] = {}
    for _, number, index in sorted(pairs):
        if index not in taken and number not in taken.values():
            taken[index] = number
    return [taken.get(index) for index in range(len(boxes))]


def _join(chains: list[_Chain], frames: list[Faces], recogniser: Recogniser | None) -> list[_Chain]:
    """Join the chains of one person: those that are never there at the same time and are alike."""
    if len(chains) < 2:
        return chains
    chains = sorted(chains, key=len, reverse=True)
    people: list[tuple[_Chain, _Looks]] = []
    for chain in chains[:_MOST_TRACKS]:
        looks = _looks(chain, frames, recogniser)
        apart = [(person, theirs) for person, theirs in people if not person.keys() & chain.keys()]
        alike = [(_alike(theirs, looks), number) for number, (_, theirs) in enumerate(apart)]
        share, number = max(alike, default=(0.0, 0))
        if share >= 1:
            apart[number][0].update(chain)
        else:
            people.append((dict(chain), looks))
    return [person for person, _ in people] + chains[_MOST_TRACKS:]


@dataclasses.dataclass(frozen=True)
class _Looks:
    """What a chain is compared by; lists are empty where there is nothing to see."""

    size: float
    patch: list[np.ndarray]
    embedding: list[np.ndarray]


def _looks(chain: _Chain, frames: list[Faces], recogniser: Recogniser | None) -> _Looks:
    def spread(times: list[int]) -> list[int]:
        return sorted({times[int((k + 0.5) * len(times) / _LOOKS)] for k in range(_LOOKS)}) if times else []

    return _Looks(
        float(np.median([_size(frames[time].box[index]) for time, index in chain.items()])),
        [frames[t].patch[chain[t]] for t in spread([t for t in sorted(chain) if frames[t].patch])],
        [
            recogniser.embed(frames[t].portrait[chain[t]])
            for t in spread([t for t in sorted(chain) if frames[t].portrait])
        ]
        if recogniser
        else [],
    )


def _alike(one: _Looks, other: _Looks) -> float:
    """Return how alike two chains are, as a share of what one person needs."""
    if one.embedding and other.embedding:
        return float(np.mean([a @ b for a in one.embedding for b in other.embedding])) / SAME_EMBEDDING
    if not 0.5 < one.size / other.size < 2:
        return 0.0
    return max((likeness(a, b) for a in one.patch for b in other.patch), default=0.0) / _SAME_LOOKS


def _still(people: list[_Chain], frames: list[Faces]) -> list[bool]:
    """Return, for each person, True if it lasts without motion while another that lasts moves."""

    def moves(chain: _Chain) -> float:
        steps = [(t - 1, t) for t in sorted(chain) if t - 1 in chain and frames[t - 1].patch and frames[t].patch]
        return motion([(frames[a].patch[chain[a]], frames[b].patch[chain[b]]) for a, b in steps])

    return still([len(person) for person in people], lambda number: moves(people[number]))


def still(counts: Sequence[int], motion_of: Callable[[int], float]) -> list[bool]:
    """Return, for each person, True if it lasts without motion while another that lasts moves.

    `counts` are the sample times of each; `motion_of` gives the motion of one by its number.
    """
    lasts = [count >= _LASTING * max(counts) for count in counts]
    if sum(lasts) < 2:
        return [False] * len(counts)
    motions = [motion_of(number) if lasting else np.inf for number, lasting in enumerate(lasts)]
    least = min(_STILL, _STILL_SHARE * max(value for value in motions if value < np.inf))
    return [value < least for value in motions]


def nearest_found(found: Bool[np.ndarray, "T"]) -> Int[np.ndarray, "T"]:
    """Return, for each time, the index of the nearest time with a face (the earlier of two)."""
    times, found_times = np.arange(len(found)), np.flatnonzero(found)
    right = np.clip(np.searchsorted(found_times, times), 0, len(found_times) - 1)
    left = np.maximum(right - 1, 0)
    is_left = np.abs(times - found_times[left]) <= np.abs(found_times[right] - times)
    return np.where(is_left, found_times[left], found_times[right])


def smooth(track: Track) -> Track:
    """Smooth a track in time by a Gaussian over the times with a face; fill the other times with the nearest of them.

    Smoothing stops the crop from jittering: the motion within the crop should be that of the face. Boxes before and
    after a jump, as where a face returns elsewhere, are not averaged.
    """
    times = np.flatnonzero(track.found).astype(np.float32)
    box, roll = np.zeros_like(track.box), np.zeros_like(track.roll)
    found_box, found_roll = track.box[track.found], track.roll[track.found]
    steps = zip(found_box[:-1], found_box[1:], np.diff(times), strict=True)
    part = np.cumsum([0, *(_distance(one, two, float(gap)) == np.inf for one, two, gap in steps)])
    for i, time in enumerate(times):
        near = np.arange(max(0, i - 4), min(i + 5, len(times)))  # the Gaussian is negligible beyond
        near = near[part[near] == part[i]]
        weight = np.exp(-0.5 * ((times[near] - time) / _SMOOTHING) ** 2)
        weight /= weight.sum()
        box[int(time)], roll[int(time)] = weight @ found_box[near], weight @ found_roll[near]
    source = nearest_found(track.found)
    return Track(box[source], roll[source], track.found)


def jitter(track: Track) -> float:
    """Return the median absolute second difference of the box centre, in face widths; 0 for fewer than 3 boxes."""
    box = track.box[track.found]
    if len(box) < 3:
        return 0.0
    centre = (box[:, :2] + box[:, 2:]) / 2
    second = np.hypot(*np.diff(centre, n=2, axis=0).T)
    return float(np.median(second) / np.median(box[:, 2] - box[:, 0]))


def squares(box: Float32[np.ndarray, "T 4"], *, margin: float) -> Float32[np.ndarray, "T 4"]:
    """Return squares around boxes, enlarged on each side by `margin` times the longer side."""
    centre = (box[:, :2] + box[:, 2:]) / 2
    half = (box[:, 2:] - box[:, :2]).max(axis=1, keepdims=True) * np.float32(0.5 + margin)
    return np.concatenate([centre - half, centre + half], axis=1)


def crop(
    frame: UInt8[np.ndarray, "H W 3"], square: Float32[np.ndarray, "4"], *, size: int, roll: float = 0.0
) -> UInt8[np.ndarray, "S S 3"]:
    """Crop a square of a frame, turn it upright by `roll` radians and resize it to `size` px; pad by edge pixels."""
    if roll:
        # Crop a larger square that contains the turned one, so that its corners need no padding.
        grow = (square[2] - square[0]) * np.float32(0.21)
        large = crop(frame, square + np.array([-grow, -grow, grow, grow], np.float32), size=round(1.42 * size))
        middle = (len(large) - 1) / 2
        turn = np.asarray(cv2.getRotationMatrix2D((middle, middle), np.degrees(roll), 1.0), np.float64)
        turn[:, 2] -= middle - (size - 1) / 2
        return cv2.warpAffine(large, turn, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    left, top = np.floor(square[:2]).astype(int)
    side = max(1, round(float(square[2] - square[0])))
    height, width = frame.shape[:2]
    pad = (max(0, -top), max(0, top + side - height), max(0, -left), max(0, left + side - width))
    inside = frame[max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)]
    if any(pad):
        inside = cv2.copyMakeBorder(np.ascontiguousarray(inside), *pad, cv2.BORDER_REPLICATE)
    # Area averaging avoids aliasing when a face shrinks, but does not interpolate when it is enlarged.
    interpolation = cv2.INTER_AREA if side >= size else cv2.INTER_LINEAR
    return cv2.resize(inside, (size, size), interpolation=interpolation)


def _distance(last: np.ndarray, box: np.ndarray, steps: float) -> float:
    """Return how far a face has moved in its sizes, infinity if that is too far or too large a change of size."""
    size = _size(last)
    distance = float(np.hypot(*(last[:2] + last[2:] - box[:2] - box[2:]) / 2)) / size
    return distance if distance < _REACH * steps**0.5 and 0.5 < _size(box) / size < 2 else np.inf


def _size(box: np.ndarray) -> float:
    return float(max(box[2] - box[0], box[3] - box[1], 1))


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Return the intersection over union of two boxes."""
    shared = np.prod(np.maximum(0, np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])))
    return float(shared / (np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - shared))


def weight(box: np.ndarray, width: int, height: int) -> float:
    """Return a face's size, scaled down to half at the frame's edge: the speaker is large and central."""
    off_centre = np.abs((box[:2] + box[2:]) / (width, height) - 1).max()
    return _size(box) * float(1 - 0.5 * np.clip(off_centre, 0, 1))
