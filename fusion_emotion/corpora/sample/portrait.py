"""scikit-image's public-domain portrait (NASA's, of Eileen Collins) with a closed mouth, recoloured for each actor.

All places are given by landmarks in pixels of the portrait, read off by hand. Left is the viewer's left.
"""

import functools
import importlib.util
import pathlib
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float32

from fusion_emotion.corpora.sample import warps
from fusion_emotion.corpora.sample.looks import Look
from fusion_emotion.corpora.sample.warps import Array, Image, Points, xy
from fusion_emotion.errors import UserError

# The part of the portrait that is used, and its magnification before the warps, so that they do not blur it.
_LEFT, _TOP, _WIDE, _HIGH = 130, 0, 200, 210
_MAGNIFY = 3
WIDTH, HEIGHT = _WIDE * _MAGNIFY, _HIGH * _MAGNIFY

CENTRE = xy(223, 125)
LEANING_RAD = 0.055  # clockwise

# The portrait smiles with open lips. Two warps close them, one above the seam of the lips and one below. Each pair is
# (place in the portrait, destination).
_Pair = tuple[tuple[float, float], tuple[float, float]]
_RELAX: list[_Pair] = [
    ((202, 140), (206, 145.2)), ((246, 140.5), (241.5, 145.7)), ((222, 131), (222, 132.5)),
    ((211, 128), (211.5, 129.5)), ((235, 129), (234.5, 130.5)), ((198, 118), (198, 120)), ((249, 120), (249, 122)),
    ((222, 178), (222, 177)), ((222, 165), (222, 166)),
]  # fmt: skip
_RELAX_UPPER: list[_Pair] = [
    ((212, 140.5), (213, 141.9)), ((223, 140.2), (223, 141)), ((234, 140.5), (233.5, 142.2)),
    ((206.5, 141.3), (208.5, 145.5)), ((212, 142.6), (213, 146)), ((223, 143.7), (223, 146.6)),
    ((234, 142.9), (234, 146.3)), ((241.5, 141.3), (239.5, 145.9)),
]  # fmt: skip
_RELAX_LOWER: list[_Pair] = [
    ((207, 146), (208.5, 145.5)), ((212, 149), (213, 146)), ((223, 150.5), (223, 146.6)), ((234, 149), (234, 146.3)),
    ((241, 145.8), (239.5, 145.9)), ((212, 152.5), (213, 150.8)), ((223, 156), (223, 154.5)),
    ((234, 153), (233.5, 151)),
]  # fmt: skip
_STILL: list[tuple[float, float]] = [
    (190, 160), (256, 161), (182, 125), (268, 130), (205, 165), (240, 166), (202, 105), (246, 108), (223, 105),
    (186, 105), (264, 106), (185, 145), (264, 145), (150, 60), (300, 60), (222, 20), (150, 150), (300, 150), (200, 205),
    (250, 205), (201, 96.5), (247, 99), (201, 90), (249, 92),
]  # fmt: skip
_SEAM = [(200, 144.3), (206, 145.2), (213, 146), (223, 146.6), (234, 146.3), (241.5, 145.7), (247, 144.8)]
_SMILE_FOLDS = (
    [(212, 123), (205, 129), (198.5, 135), (197.5, 140)],
    [(239, 124), (244, 131), (249.5, 138), (250, 143)],
)
_DARK_LIP = xy(92, 42, 40)

# Landmarks of the portrait with a closed mouth.
LANDMARKS: dict[str, tuple[float, float]] = {
    "brow_outer_l": (189, 91), "brow_mid_l": (199, 88.5), "brow_inner_l": (212, 92.5),
    "brow_outer_r": (263, 96), "brow_mid_r": (249, 92), "brow_inner_r": (237, 93.5),
    "lid_outer_l": (193, 97.5), "lid_mid_l": (201.5, 94), "lid_inner_l": (210, 98.5),
    "lid_outer_r": (257, 101.5), "lid_mid_r": (247.5, 96.5), "lid_inner_r": (238, 100.5),
    "eye_outer_l": (191.5, 101), "eye_upper_l": (201.5, 97), "eye_lower_l": (202, 105), "eye_inner_l": (211.5, 103),
    "eye_outer_r": (258.5, 104.5), "eye_upper_r": (247.5, 99.5), "eye_lower_r": (246.5, 108), "eye_inner_r": (236, 105),
    "nose_bridge": (223, 106), "nose_tip": (222, 128), "nose_base": (222, 133),
    "nose_wing_l": (211.5, 129.5), "nose_wing_r": (234.5, 130.5), "cheek_l": (197, 121), "cheek_r": (250, 123),
    "mouth_corner_l": (206, 145.2), "mouth_corner_r": (241.5, 145.7),
    "lip_upper": (223, 141), "lip_seam": (223, 146.6), "lip_lower": (223, 154.5),
    "chin_boss": (222, 166), "chin": (222, 177.5), "jaw_l": (190, 160), "jaw_r": (256, 161),
    "side_l": (182, 125), "side_r": (268, 130), "temple_l": (184, 100), "temple_r": (269, 104),
    "fringe_l": (195, 77), "fringe_mid": (222, 81), "fringe_r": (255, 87),
    "hair_low_l": (158, 105), "hair_side_l": (153, 75), "hair_upper_l": (174, 43), "hair_top": (229, 16),
    "hair_upper_r": (280, 35), "hair_side_r": (301, 85), "hair_low_r": (290, 117),
    "collar_l": (186, 176), "collar_mid": (222, 187.5), "collar_r": (255, 174),
}  # fmt: skip
_HEAD_OUTLINE = [
    (248, 18), (241, 18), (237, 16), (227, 16), (212, 21.5), (204, 22), (189, 35), (174, 43), (156, 58), (153, 68),
    (155, 98), (157, 104), (170, 116), (174, 128), (182, 131.5), (184.5, 145), (187, 152), (188, 176), (190, 205),
    (252, 205), (255.5, 173), (256, 163), (264, 149), (266, 137), (275, 134), (290, 117), (296, 107), (300, 92),
    (299, 75), (296, 58), (286, 40), (276, 31),
]  # fmt: skip
_SKIN_OUTLINE = [
    (174, 128), (171, 119), (178, 119), (180, 108), (183, 92), (186, 78), (195, 77), (207, 80), (222, 80.5), (238, 83),
    (250, 86.5), (262, 90), (266, 97), (269, 112), (269, 124), (279, 124), (285, 134), (275, 215), (180, 215),
    (172, 140),
]  # fmt: skip


def magnified(points: Sequence[tuple[float, float]]) -> Points:
    """Convert pixels of the portrait to pixels of the magnified pictures that this module returns."""
    return (np.array(points, np.float32) - xy(_LEFT, _TOP)) * _MAGNIFY + (_MAGNIFY - 1) / 2


@functools.cache
def head_mask() -> Float32[np.ndarray, "H W"]:
    """Return a mask of head and neck; it ends slightly inside the outline, to exclude the portrait's backdrop."""
    outline = warps.polygon(magnified(_HEAD_OUTLINE), width=WIDTH, height=HEIGHT, softness=0.9 * _MAGNIFY)
    return np.clip((outline - 0.35) / 0.55, 0, 1)


@functools.cache
def _closed() -> Image:
    """Return the magnified portrait with a closed mouth and without the folds of the smile."""
    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None:
        raise UserError("the sample corpus is drawn from a picture of scikit-image: pip install -r requirements.txt")
    path = pathlib.Path(package.origin).with_name("data") / "astronaut.png"
    picture = cv2.imread(str(path)) if path.is_file() else None
    if picture is None:
        raise UserError(f"{path} cannot be read: the sample corpus is drawn from it; install scikit-image anew")
    crop = picture[_TOP : _TOP + _HIGH, _LEFT : _LEFT + _WIDE, ::-1]
    smiling = np.asarray(cv2.resize(crop, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC))

    folds = np.zeros((HEIGHT, WIDTH), np.uint8)
    for fold in _SMILE_FOLDS:
        cv2.polylines(folds, [np.round(magnified(fold)).astype(np.int32)], False, (255,), 5 * _MAGNIFY)
    smooth = cv2.inpaint(smiling, folds, 3 * _MAGNIFY, cv2.INPAINT_TELEA)
    share = np.asarray(cv2.GaussianBlur(folds.astype(np.float32) / 255, (0, 0), 1.2 * _MAGNIFY))[..., None]
    smiling = (smiling * (1 - share) + smooth * share).astype(np.uint8)

    halves = []
    for lips in (_RELAX_UPPER, _RELAX_LOWER):
        pairs = [*_RELAX, *lips, *((point, point) for point in _STILL)]
        source, target = (magnified([pair[side] for pair in pairs]) for side in (0, 1))
        where = warps.spline(target, source - target, width=WIDTH, height=HEIGHT, step=8)
        where += warps.grid((slice(0, HEIGHT), slice(0, WIDTH)))
        halves.append(warps.read_at(smiling, where, cubic=True))
    seam = magnified(_SEAM)
    seam_y = np.interp(np.arange(WIDTH), seam[:, 0], seam[:, 1])
    below = np.clip((np.arange(HEIGHT)[:, None] - seam_y) / 2 + 0.5, 0, 1)[..., None]
    shut = 0.75 * warps.stroke(magnified(_SEAM[1:-1]), thickness=1.1 * _MAGNIFY, width=WIDTH, height=HEIGHT)[..., None]
    closed = (halves[0] * (1 - below) + halves[1] * below) * (1 - shut) + _DARK_LIP * shut
    return np.clip(closed, 0, 255).astype(np.uint8)


def made_up(look: Look) -> Image:
    """Return the magnified portrait in the actor's colours: skin, lips, brows, beard and hair."""
    at = {name: magnified([point])[0] for name, point in LANDMARKS.items()}
    picture: Array = _closed().astype(np.float32) / 255

    def drawn(*points: Array, thickness: float) -> Array:
        return warps.stroke(np.stack(points), thickness=thickness, width=WIDTH, height=HEIGHT)[..., None]

    def filled(*points: Array, softness: float) -> Array:
        return warps.polygon(np.stack(points), width=WIDTH, height=HEIGHT, softness=softness)[..., None]

    skin: Array = picture**look.skin_gamma * xy(*look.skin)
    lips = drawn(at["mouth_corner_l"], at["lip_seam"] + xy(0, 6), at["mouth_corner_r"], thickness=20)
    skin *= 1 - look.lips * lips * xy(0.15, 0.5, 0.45)
    for side in "lr":
        brow = drawn(*(at[f"brow_{part}_{side}"] for part in ("outer", "mid", "inner")), thickness=2.5 + 6 * look.brows)
        skin *= 1 - look.brows * np.minimum(1.4 * brow, 1) * xy(0.75, 0.8, 0.85)
        edge = at[f"eye_outer_{side}"], at[f"eye_upper_{side}"] + xy(0, -1.5), at[f"eye_inner_{side}"]
        skin *= 1 - 0.45 * drawn(*edge, thickness=3)

    corners = at["mouth_corner_l"], at["mouth_corner_r"]
    jaw = filled(
        *(at["side_l"] + xy(6, 40), at["jaw_l"] + xy(-6, 0), at["chin"] + xy(-40, 4), at["chin"] + xy(40, 4)),
        *(at["jaw_r"] + xy(6, 0), at["side_r"] + xy(-6, 40)),
        *(corners[1] + xy(10, -22), at["lip_upper"] + xy(0, -18), corners[0] + xy(-10, -22)),
        softness=12,
    )
    jaw *= 1 - filled(corners[0], at["lip_upper"], corners[1], at["lip_lower"], softness=4)
    hairs = np.random.default_rng(look.texture_seed).standard_normal((HEIGHT, WIDTH), np.float32)
    hairs = np.asarray(cv2.GaussianBlur(hairs, (0, 0), 1.5), np.float32)
    beard = look.beard * np.clip(jaw * (1 + 1.2 * hairs[..., None]), 0, 1)
    skin = skin * (1 - beard) + beard * xy(*look.hair) * 0.35

    hair = 1 - filled(*magnified(_SKIN_OUTLINE), softness=_MAGNIFY)
    grey = picture @ xy(0.3, 0.59, 0.11)
    painted = skin * (1 - hair) + np.minimum(1.9 * grey, 1.5)[..., None] * xy(*look.hair) * hair
    return np.clip(painted * 255, 0, 255).astype(np.uint8)
