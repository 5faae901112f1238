"""The speaker's face over a clip: one identity, steady boxes, square crops."""

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from fusion_emotion.prepare.detectors import Faces

# A face is the same one if its centre moved by less than this share of its size, per 0.2 s since it was last seen.
_REACH = 0.6
# Width of the Gaussian that smooths boxes in time, in samples of 0.2 s.
_SMOOTHING = 1.0


def track(frames: list[Faces], *, width: int, height: int) -> tuple[Float32[np.ndarray, "T 4"], Bool[np.ndarray, "T"]]:
    """The boxes of one person over a clip and where that person was found; elsewhere a box is 0.

    Detections are chained to the nearest earlier one of like size; of the chains, the one is kept that is largest and
    most central, summed over the clip. So the choice is stable: a passer-by who fills one frame does not win it.
    """
    chains: list[dict[int, np.ndarray]] = []
    for time, faces in enumerate(frames):
        free = list(range(len(faces.box)))
        # Longest chain first, so that an established face claims its detection before a stray one does.
        for chain in sorted(chains, key=len, reverse=True):
            last = max(chain)
            before = chain[last]
            size = _size(before)
            best = min(free, key=lambda i: _distance(before, faces.box[i]), default=None)
            if (
                best is not None
                and _distance(before, faces.box[best]) < _REACH * size * (time - last) ** 0.5
                and 0.5 < _size(faces.box[best]) / size < 2
            ):
                chain[time] = faces.box[best]
                free.remove(best)
        chains.extend({time: faces.box[i]} for i in free)
    found = np.zeros(len(frames), bool)
    boxes = np.zeros((len(frames), 4), np.float32)
    if chains:
        chain = max(chains, key=lambda chain: sum(_weight(box, width, height) for box in chain.values()))
        found[list(chain)] = True
        boxes[found] = np.stack([chain[time] for time in sorted(chain)])
    return boxes, found


def nearest_found(found: Bool[np.ndarray, "T"]) -> np.ndarray:
    """For each time the index of the nearest time at which the face was found (the earlier of two)."""
    there = np.flatnonzero(found)
    return there[np.abs(np.arange(len(found))[:, None] - there[None]).argmin(axis=1)]


def squares(
    boxes: Float32[np.ndarray, "T 4"], found: Bool[np.ndarray, "T"], *, margin: float
) -> Float32[np.ndarray, "T 4"]:
    """Square crops around boxes, wider by `margin` of the longer side on each side, smoothed over the found times.

    A strip shows the motion of the face in its crop, so the crop itself must not jitter: centres and sides are
    averaged in time by a Gaussian. A time without a face has the square of the nearest time with one.
    """
    time = np.flatnonzero(found).astype(np.float32)
    weight = np.exp(-0.5 * ((time[:, None] - time[None]) / _SMOOTHING) ** 2)
    weight /= weight.sum(axis=1, keepdims=True)
    seen = boxes[found]
    centre = weight @ (seen[:, :2] + seen[:, 2:]) / 2
    half = weight @ (seen[:, 2:] - seen[:, :2]).max(axis=1, keepdims=True) * (0.5 + margin)
    steady = np.zeros_like(boxes)
    steady[found] = np.concatenate([centre - half, centre + half], axis=1)
    return steady[nearest_found(found)]


def crop(
    frame: UInt8[np.ndarray, "H W 3"], square: Float32[np.ndarray, "4"], *, size: int
) -> UInt8[np.ndarray, "S S 3"]:
    """The square of a frame at `size` px; what lies outside the frame repeats its edge."""
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


def _weight(box: np.ndarray, width: int, height: int) -> float:
    """Size of a face, halved at the frame's edge: the speaker is large and central."""
    off_centre = np.abs((box[:2] + box[2:]) / (width, height) - 1).max()
    return _size(box) * float(1 - 0.5 * np.clip(off_centre, 0, 1))
