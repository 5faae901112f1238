"""Finds where a film may be cut: the picture of a step is not that of the step before."""

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

_SIDE = 32  # px of the small grey pictures that are compared
_FINE = 96  # px; of a larger picture only every k-th pixel is read, which takes less time
# Structure (1 is the same) below which a step may be a cut. Steps of 0.2 s within 28 takes of RAVDESS, CREMA-D and
# others: 0.95 and more, but 0.64 where an actor bends. Between three actors of RAVDESS, who stand at one place before
# one wall: 0.90 and less.
_CUT = 0.97
_FLAT = (0.03 * 255) ** 2 / 2  # C3 of SSIM (Wang et al. 2004, doi:10.1109/TIP.2003.819861): noise has no structure


class Cuts:
    """Compares each picture with the one before."""

    def __init__(self) -> None:
        self._before: Float32[np.ndarray, "S S"] | None = None

    def __call__(self, frame: UInt8[np.ndarray, "H W 3"]) -> bool:
        """True if there may be a cut before this picture; the motion of somebody who fills it is one too."""
        k = max(1, min(frame.shape[:2]) // _FINE)
        grey = cv2.cvtColor(np.ascontiguousarray(frame[::k, ::k]), cv2.COLOR_RGB2GRAY)
        small = cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
        before, self._before = self._before, small
        return before is not None and _structure(before, small) < _CUT


def _structure(one: Float32[np.ndarray, "S S"], other: Float32[np.ndarray, "S S"]) -> float:
    """Return the structure term of SSIM: the correlation of two pictures, 1 for two without contrast."""
    a, b = one - one.mean(), other - other.mean()
    return float(((a * b).mean() + _FLAT) / (a.std() * b.std() + _FLAT))
