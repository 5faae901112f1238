"""The speaker's face over a clip: one identity, steady boxes, square crops."""

import dataclasses
from collections.abc import Iterable

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8

from fusion_emotion.prepare.detectors import Detector, Faces

# A face is the same one if its centre moved by less than this share of its size, times the root of the 0.2 s since.
_REACH = 0.6
# Width of the Gaussian that smooths boxes in time, in samples of 0.2 s.
_SMOOTHING = 1.0
# Between two detections that overlap by more than this (intersection over union), boxes are interpolated.
_STEADY_OVERLAP = 0.8


@dataclasses.dataclass(frozen=True)
class Track:
    """One face over the T sample times of a clip; where it was not found, its box and roll are 0."""

    box: Float32[np.ndarray, "T 4"]
    roll: Float32[np.ndarray, "T"]  # of the line through the eyes, radians, clockwise as seen
    found: Bool[np.ndarray, "T"]


def detect(frames: Iterable[UInt8[np.ndarray, "H W 3"]], detector: Detector, *, every: int) -> list[Faces]:
    """The faces of each frame, looked for in every `every`-th one and, where the face is steady, interpolated between.

    A frame between two detections is looked at itself unless each has one face and the two overlap.
    """
    faces: list[Faces] = []
    waiting: list[np.ndarray] = []
    for time, frame in enumerate(frames):
        if time % every:
            waiting.append(frame)
            continue
        now = detector(frame)
        if waiting:
            steady = _between(faces[-1], now, len(waiting))
            faces += steady or [detector(frame) for frame in waiting]
            waiting = []
        faces.append(now)
    return faces + [detector(frame) for frame in waiting]


def _between(one: Faces, other: Faces, count: int) -> list[Faces]:
    """`count` faces on the way from one to the other, or none if they are not steadily one face."""
    if len(one.box) != 1 or len(other.box) != 1 or _overlap(one.box[0], other.box[0]) < _STEADY_OVERLAP:
        return []
    shares = [(i + 1) / (count + 1) for i in range(count)]
    return [
        Faces(
            (1 - s) * one.box + s * other.box,
            np.minimum(one.score, other.score),
            (1 - s) * one.landmarks + s * other.landmarks,
        )
        for s in shares
    ]


def track(frames: list[Faces], *, width: int, height: int) -> Track:
    """One person over a clip.

    Detections are chained to the nearest earlier one of like size; of the chains, the one is kept that is largest and
    most central, summed over the clip. So the choice is stable: a passer-by who fills one frame does not win it.
    """
    chains: list[dict[int, int]] = []  # time to the index of a face of that time

    def box_of(time: int, index: int) -> np.ndarray:
        return frames[time].box[index]

    for time, faces in enumerate(frames):
        pairs = []
        for number, chain in enumerate(chains):
            last = max(chain)
            before = box_of(last, chain[last])
            size = _size(before)
            for index, box in enumerate(faces.box):
                distance = _distance(before, box) / size
                if distance < _REACH * (time - last) ** 0.5 and 0.5 < _size(box) / size < 2:
                    pairs.append((distance, number, index))
        # The nearest pair first, so that a chain long unseen does not take another's face.
        taken: set[int] = set()
        for _, number, index in sorted(pairs):
            if time not in chains[number] and index not in taken:
                chains[number][time] = index
                taken.add(index)
        chains.extend({time: index} for index in range(len(faces.box)) if index not in taken)
    found = np.zeros(len(frames), bool)
    box = np.zeros((len(frames), 4), np.float32)
    roll = np.zeros(len(frames), np.float32)
    if chains:
        chain = max(chains, key=lambda chain: sum(_weight(box_of(t, i), width, height) for t, i in chain.items()))
        for time, index in chain.items():
            found[time] = True
            box[time] = box_of(time, index)
            right_eye, left_eye = frames[time].landmarks[index, :2]
            roll[time] = np.arctan2(*(left_eye - right_eye)[::-1])
    return Track(box, roll, found)


def nearest_found(found: Bool[np.ndarray, "T"]) -> Int[np.ndarray, "T"]:
    """For each time the index of the nearest time at which the face was found (the earlier of two)."""
    there = np.flatnonzero(found)
    right = np.clip(np.searchsorted(there, np.arange(len(found))), 0, len(there) - 1)
    left = np.maximum(right - 1, 0)
    times = np.arange(len(found))
    return np.where(np.abs(times - there[left]) <= np.abs(there[right] - times), there[left], there[right])


def smooth(track: Track) -> Track:
    """The track averaged in time by a Gaussian over the found times, filled with the nearest of them elsewhere.

    A strip shows the motion of the face in its crop, so the crop itself must not jitter.
    """
    time = np.flatnonzero(track.found).astype(np.float32)
    reach = np.arange(-4, 5)  # the Gaussian is nil beyond
    box, roll = np.zeros_like(track.box), np.zeros_like(track.roll)
    seen, angle = track.box[track.found], track.roll[track.found]
    for i, now in enumerate(time):
        near = np.clip(i + reach, 0, len(time) - 1)
        near = np.unique(near)
        weight = np.exp(-0.5 * ((time[near] - now) / _SMOOTHING) ** 2)
        weight /= weight.sum()
        box[int(now)], roll[int(now)] = weight @ seen[near], weight @ angle[near]
    source = nearest_found(track.found)
    return Track(box[source], roll[source], track.found)


def jitter(track: Track) -> float:
    """The median absolute second difference of the box's centre, in shares of the face's width: shaking, not moving."""
    box = track.box[track.found]
    if len(box) < 3:
        return 0.0
    centre = (box[:, :2] + box[:, 2:]) / 2
    second = np.hypot(*np.diff(centre, n=2, axis=0).T)
    return float(np.median(second) / np.median(box[:, 2] - box[:, 0]))


def squares(box: Float32[np.ndarray, "T 4"], *, margin: float) -> Float32[np.ndarray, "T 4"]:
    """Square crops around boxes, wider by `margin` of the longer side on each side."""
    centre = (box[:, :2] + box[:, 2:]) / 2
    half = (box[:, 2:] - box[:, :2]).max(axis=1, keepdims=True) * np.float32(0.5 + margin)
    return np.concatenate([centre - half, centre + half], axis=1)


def crop(
    frame: UInt8[np.ndarray, "H W 3"], square: Float32[np.ndarray, "4"], *, size: int, roll: float = 0.0
) -> UInt8[np.ndarray, "S S 3"]:
    """The square of a frame at `size` px, turned upright by `roll`; what lies outside the frame repeats its edge."""
    if roll:
        # A larger square that holds the turned one, so that its corners are picture too.
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
    # Area averaging does not alias where a face is made smaller; it does not interpolate where it is made larger.
    how = cv2.INTER_AREA if side >= size else cv2.INTER_LINEAR
    return cv2.resize(inside, (size, size), interpolation=how)


def _size(box: np.ndarray) -> float:
    return float(max(box[2] - box[0], box[3] - box[1], 1))


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.hypot(*(one[:2] + one[2:] - other[:2] - other[2:]) / 2))


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    shared = np.prod(np.maximum(0, np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])))
    return float(shared / (np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - shared))


def _weight(box: np.ndarray, width: int, height: int) -> float:
    """Size of a face, halved at the frame's edge: the speaker is large and central."""
    off_centre = np.abs((box[:2] + box[2:]) / (width, height) - 1).max()
    return _size(box) * float(1 - 0.5 * np.clip(off_centre, 0, 1))
