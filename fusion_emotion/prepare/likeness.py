"""Compares small grey patches of faces: how alike two faces look, and how much one face moves within itself."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

SIDE = 32  # px of a patch, a square around a face
# Patches are blurred by a Gaussian of this width in px, so that the noise of the sensor does not count.
_BLUR = 1.0
# Motion is measured on so many steps at most, evenly spaced, so that its time does not grow with the film.
_MOST_STEPS = 200
_STOP = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 1e-3)
_ROW, _COLUMN = (np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2) / (SIDE / 2)
# An ellipse of the proportions of a face leaves the background out.
_FACE = (_ROW / 0.9) ** 2 + (_COLUMN / 0.7) ** 2 < 1
_MOUTH = _FACE & (_ROW > 0)
_WHOLE = np.full((SIDE, SIDE), 255, np.uint8)

Patch = UInt8[np.ndarray, "P P"]


def likeness(one: Patch, other: Patch) -> float:
    """Return the correlation of two patches after alignment, -1 if they cannot be aligned."""
    # Both ways, because a patch can be stretched until one flat spot of it fits anything.
    pairs = [_aligned(one, other), _aligned(other, one)]
    return min(float(np.mean(pair[0] * pair[1])) if pair else -1.0 for pair in pairs)


def motion(steps: Sequence[tuple[Patch, Patch]]) -> float:
    """Return the mean absolute change of the mouth region over pairs of consecutive patches; 0 without a pair.

    Each pair is aligned by an affine map and normalised by its contrast: neither the motion of the camera or of a whole
    picture counts, nor a change of light. The unit is the standard deviation of the face's grey levels.
    """
    chosen = steps[:: 1 + (len(steps) - 1) // _MOST_STEPS] if steps else []
    pairs = [pair for pair in (_aligned(*step) for step in chosen) if pair]
    return float(np.mean([np.abs(before - after)[_MOUTH[_FACE]].mean() for before, after in pairs])) if pairs else 0.0


def _aligned(one: Patch, other: Patch) -> tuple[Float32[np.ndarray, "n"], Float32[np.ndarray, "n"]] | None:
    """Return the face's pixels of two patches, the second aligned with the first, of mean 0 and deviation 1."""
    first, second = (cv2.GaussianBlur(patch.astype(np.float32), (0, 0), _BLUR) for patch in (one, other))
    start = np.eye(2, 3, dtype=np.float32)
    try:
        warp = cv2.findTransformECC(first, second, start, cv2.MOTION_AFFINE, _STOP, _WHOLE, 1)[1]
    except cv2.error:  # no map is found: the patches are too different, or flat
        return None
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    second = cv2.warpAffine(second, warp, (SIDE, SIDE), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    normalised = [(pixels - pixels.mean()) / (pixels.std() + 1e-3) for pixels in (first[_FACE], second[_FACE])]
    return normalised[0], normalised[1]
