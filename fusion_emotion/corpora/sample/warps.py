"""Splines, masks and strokes on pictures. Points are (x, y), to the right and down; pictures are [row, column]."""

import cv2
import numpy as np
from jaxtyping import Float32, Shaped, UInt8

Array = Float32[np.ndarray, "..."]
Points = Float32[np.ndarray, "_ 2"]
Image = UInt8[np.ndarray, "H W 3"]
Rectangle = tuple[slice, slice]  # rows, columns

_SUBPIXELS = 4  # fractional bits of OpenCV's fixed-point coordinates


def xy(*values: float) -> Array:
    """Return numbers as a float32 array."""
    return np.array(values, np.float32)


def read_at(
    picture: Shaped[np.ndarray, "..."], where: Float32[np.ndarray, "h w 2"], *, cubic: bool = False
) -> Shaped[np.ndarray, "..."]:
    """Read the picture at the places of `where` (a backward warp); places outside read the nearest edge."""
    kind = cv2.INTER_CUBIC if cubic else cv2.INTER_LINEAR
    # OpenCV's stubs do not allow None, but an empty array instead leaves the result uninitialised.
    return cv2.remap(picture, where, None, kind, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]


def rectangle(low: Array, high: Array, *, width: int, height: int) -> Rectangle:
    """Return the rows and columns between two corners, clipped to the picture."""
    left, top = (max(int(value), 0) for value in low)
    right, bottom = (min(int(value), size) for value, size in zip(high, (width, height), strict=True))
    return slice(top, bottom), slice(left, right)


def grid(where: Rectangle) -> Float32[np.ndarray, "h w 2"]:
    """Return the place of each pixel of a rectangle."""
    rows, columns = np.mgrid[where].astype(np.float32)
    return np.stack([columns, rows], axis=-1)


def spline(
    points: Points, values: Float32[np.ndarray, "_ C"], *, width: int, height: int, step: int = 4
) -> Float32[np.ndarray, "height width C"]:
    """Evaluate the thin-plate spline through `values` at `points` (Bookstein 1989, IEEE PAMI 11(6)) at every pixel.

    It is computed at every `step`th pixel and interpolated linearly between.
    """
    xs, ys = ((np.arange(0, size + step, step) + (step - 1) / 2).astype(np.float32) for size in (width, height))
    query = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
    system = np.block([[_kernel(points, points), _affine(points)], [_affine(points).T, np.zeros((3, 3))]])
    weights = np.linalg.solve(system, np.concatenate([values, np.zeros((3, values.shape[1]))]))
    coarse = np.concatenate([_kernel(query, points), _affine(query)], axis=1) @ weights
    coarse = coarse.reshape(len(ys), len(xs), -1).astype(np.float32)
    fine = np.asarray(cv2.resize(coarse, (len(xs) * step, len(ys) * step), interpolation=cv2.INTER_LINEAR))
    return fine.reshape(len(ys) * step, len(xs) * step, -1)[:height, :width]


def _kernel(a: Points, b: Points) -> np.ndarray:
    squared = np.sum((a[:, None].astype(np.float64) - b[None]) ** 2, axis=-1)
    return squared * np.log(np.maximum(squared, 1e-9))


def _affine(a: Points) -> np.ndarray:
    return np.concatenate([np.ones((len(a), 1)), a], axis=1)


def half_cosine(distance: Array, *, inner: float, outer: float) -> Array:
    """Return 1 up to `inner`, 0 from `outer`, and a half cosine between."""
    return (0.5 + 0.5 * np.cos(np.pi * np.clip((distance - inner) / (outer - inner), 0, 1))).astype(np.float32)


def smooth_curve(points: Points) -> Float32[np.ndarray, "32 2"]:
    """Return 32 points of the polynomial of degree 3 or less through (or nearest to) the points."""
    at, where = np.linspace(0, 1, len(points)), np.linspace(0, 1, 32)
    degree = min(3, len(points) - 1)
    return np.stack([np.polyval(np.polyfit(at, axis, degree), where) for axis in points.T], axis=1).astype(np.float32)


def parabola(points: Float32[np.ndarray, "3 2"]) -> tuple[float, float, float]:
    """Return the coefficients of the parabola y(x) through three points, highest degree first."""
    square, linear, constant = np.polyfit(points[:, 0], points[:, 1], 2).tolist()
    return square, linear, constant


def polygon(points: Points, *, width: int, height: int, softness: float) -> Float32[np.ndarray, "height width"]:
    """Return the mask of a polygon, blurred by a Gaussian of `softness` pixels."""
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [_fixed(points)], (255,), cv2.LINE_AA, shift=_SUBPIXELS)
    return np.asarray(cv2.GaussianBlur(mask.astype(np.float32) / 255, (0, 0), softness))


def stroke(points: Points, *, thickness: float, width: int, height: int) -> Float32[np.ndarray, "height width"]:
    """Return the mask of a soft stroke along the points, 1 at most."""
    mask = np.zeros((height, width), np.uint8)
    line = _fixed(smooth_curve(points))
    cv2.polylines(mask, [line], False, (255,), max(1, round(thickness)), cv2.LINE_AA, _SUBPIXELS)
    soft = np.asarray(cv2.GaussianBlur(mask.astype(np.float32), (0, 0), thickness / 2))
    return soft / max(float(soft.max()), 1.0)


def _fixed(points: Points) -> np.ndarray:
    return np.round(points * 2**_SUBPIXELS).astype(np.int32)
