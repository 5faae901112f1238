"""Tracks the speaker's face over a clip: one identity, smoothed boxes, square crops."""

import dataclasses
from collections.abc import Iterable

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8

from fusion_emotion.prepare.detectors import Detector, Faces

# Two detections may be one face if the centre moved by less than this share of the face's size, times the root of the
# number of sample times between them.
_REACH = 0.6
# Width of the Gaussian that smooths boxes in time, in samples of 0.2 s.
_SMOOTHING = 1.0
# Boxes are interpolated between two detections whose intersection over union is larger than this.
_STEADY_OVERLAP = 0.8


@dataclasses.dataclass(frozen=True)
class Track:
    """One face over the T sample times of a clip; box and roll are 0 at times without a face."""

    box: Float32[np.ndarray, "T 4"]
    roll: Float32[np.ndarray, "T"]  # angle of the line through the eyes in radians, clockwise in the image
    found: Bool[np.ndarray, "T"]


def detect(frames: Iterable[UInt8[np.ndarray, "H W 3"]], detector: Detector, *, every: int) -> list[Faces]:
    """Return the faces of each frame. The detector runs on every `every`-th frame.

    The frames between two detections are interpolated if both have one face and the two overlap; otherwise the detector
    runs on them too.
    """
    faces: list[Faces] = []
    skipped: list[np.ndarray] = []
    for time, frame in enumerate(frames):
        if time % every:
            skipped.append(frame)
            continue
        detected = detector(frame)
        if skipped:
            interpolated = _interpolate(faces[-1], detected, len(skipped))
            faces += interpolated or [detector(frame) for frame in skipped]
            skipped = []
        faces.append(detected)
    return faces + [detector(frame) for frame in skipped]


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


def track(frames: list[Faces], *, width: int, height: int) -> Track:
    """Follow one person over a clip.

    Each detection is linked to the nearest earlier one of similar size. The chain with the largest sum of size and
    centrality over the clip is the speaker, so a passer-by who fills one frame is not chosen.
    """
    chains: list[dict[int, int]] = []  # time: index of a face at that time
    for time, faces in enumerate(frames):
        pairs = []
        for number, chain in enumerate(chains):
            last = max(chain)
            last_box = frames[last].box[chain[last]]
            size = _size(last_box)
            for index, box in enumerate(faces.box):
                distance = float(np.hypot(*(last_box[:2] + last_box[2:] - box[:2] - box[2:]) / 2)) / size
                if distance < _REACH * (time - last) ** 0.5 and 0.5 < _size(box) / size < 2:
                    pairs.append((distance, number, index))
        # Nearest pairs first, so that a chain without recent detections does not take the face of another.
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
        chain = max(chains, key=lambda chain: sum(_weight(frames[t].box[i], width, height) for t, i in chain.items()))
        for time, index in chain.items():
            found[time] = True
            box[time] = frames[time].box[index]
            right_eye, left_eye = frames[time].landmarks[index, :2]
            roll[time] = np.arctan2(*(left_eye - right_eye)[::-1])
    return Track(box, roll, found)


def nearest_found(found: Bool[np.ndarray, "T"]) -> Int[np.ndarray, "T"]:
    """Return, for each time, the index of the nearest time with a face (the earlier of two)."""
    times, found_times = np.arange(len(found)), np.flatnonzero(found)
    right = np.clip(np.searchsorted(found_times, times), 0, len(found_times) - 1)
    left = np.maximum(right - 1, 0)
    is_left = np.abs(times - found_times[left]) <= np.abs(found_times[right] - times)
    return np.where(is_left, found_times[left], found_times[right])


def smooth(track: Track) -> Track:
    """Smooth a track in time by a Gaussian over the times with a face; fill the other times with the nearest of them.

    Smoothing stops the crop from jittering: the motion within the crop should be that of the face.
    """
    times = np.flatnonzero(track.found).astype(np.float32)
    box, roll = np.zeros_like(track.box), np.zeros_like(track.roll)
    found_box, found_roll = track.box[track.found], track.roll[track.found]
    for i, time in enumerate(times):
        near = np.arange(max(0, i - 4), min(i + 5, len(times)))  # the Gaussian is negligible beyond
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


def _size(box: np.ndarray) -> float:
    return float(max(box[2] - box[0], box[3] - box[1], 1))


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Return the intersection over union of two boxes."""
    shared = np.prod(np.maximum(0, np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])))
    return float(shared / (np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - shared))


def _weight(box: np.ndarray, width: int, height: int) -> float:
    """Return a face's size, scaled down to half at the frame's edge: the speaker is large and central."""
    off_centre = np.abs((box[:2] + box[2:]) / (width, height) - 1).max()
    return _size(box) * float(1 - 0.5 * np.clip(off_centre, 0, 1))
