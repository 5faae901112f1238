"""A talking head: the made-up portrait in front of a backdrop, moved by action units.

All warps are backward: they hold, for each pixel, the place to read. Displacements are defined at the landmarks'
destinations, so that a raised brow does not move the eye.
"""

import dataclasses

import cv2
import numpy as np
from jaxtyping import Float32

from fusion_emotion.corpora.sample import portrait, warps
from fusion_emotion.corpora.sample.looks import Look
from fusion_emotion.corpora.sample.portrait import LANDMARKS
from fusion_emotion.corpora.sample.warps import Array, Image, Rectangle, xy

WIDTH, HEIGHT, FRAME_RATE = 640, 360, 25

# Displacements of landmarks by each unit, in portrait pixels. `_l` means both sides, mirrored.
_UNITS: dict[str, dict[str, tuple[float, float]]] = {
    "brow_raise": {
        "brow_outer_l": (0, -5), "brow_mid_l": (0, -6.5), "brow_inner_l": (0.5, -6), "fringe_l": (0, -1.5),
        "lid_mid_l": (0, -1),
    },
    "inner_brow_raise": {
        "brow_outer_l": (-0.5, 2.5), "brow_mid_l": (0, -0.5), "brow_inner_l": (1.5, -5.5), "lid_inner_l": (0.5, -1.5),
        "lid_outer_l": (0, 0.7),
    },
    "brow_lower": {
        "brow_outer_l": (0, -1.5), "brow_mid_l": (1, 3), "brow_inner_l": (3.2, 6), "nose_bridge": (0, 1),
        "lid_mid_l": (0.5, 1.5), "lid_inner_l": (1.5, 3),
    },
    "nose_wrinkle": {
        "nose_wing_l": (-0.8, -4), "nose_tip": (0, -2), "nose_base": (0, -2), "cheek_l": (1, -4), "lip_upper": (0, -2),
    },
    "corners_up": {
        "mouth_corner_l": (-6, -5), "lip_upper": (0, 0.5), "lip_seam": (0, 1), "lip_lower": (0, -0.5),
        "cheek_l": (-1, -3.5), "nose_wing_l": (-1, -0.5), "eye_lower_l": (0, -1),
    },
    "corners_down": {
        "mouth_corner_l": (0.5, 5.5), "lip_seam": (0, -1.5), "lip_lower": (0, -1), "chin_boss": (0, -1.5),
    },
    "lips_press": {
        "lip_upper": (0, 2.8), "lip_lower": (0, -4), "mouth_corner_l": (1.5, 1.5), "chin_boss": (0, -1.5),
    },
    "jaw_drop": {
        "chin": (0, 5.5), "chin_boss": (0, 4.5), "jaw_l": (0.5, 2.5), "lip_lower": (0, 1.5), "lip_upper": (0, -0.5),
        "mouth_corner_l": (3, 1), "cheek_l": (0.5, 1),
    },
}  # fmt: skip
# The action units of `Head.frame`, in order. The last three move lids and lips, where thin-plate splines would fold.
UNITS = (*_UNITS, "lids_close", "lids_tighten", "lips_part")


@dataclasses.dataclass(frozen=True)
class _Crease:
    """A stroke that darkens the skin with a unit; a point is a landmark and an offset in portrait pixels."""

    points: tuple[tuple[str, float, float], ...]
    thickness: float  # portrait pixels
    darkening: float  # 0 to 1


_CREASES = {
    "brow_raise": (_Crease((("brow_mid_l", -4, -6), ("brow_mid_l", 4, -7), ("brow_inner_l", 2, -6)), 1.2, 0.2),),
    "inner_brow_raise": (
        _Crease((("brow_inner_l", 4, -6), ("nose_bridge", 0, -21), ("brow_inner_r", -4, -6)), 1.2, 0.2),
    ),
    "brow_lower": (
        _Crease((("brow_inner_l", 6, -3), ("brow_inner_l", 6.5, 1), ("brow_inner_l", 5, 6)), 2, 0.3),
        _Crease((("brow_inner_l", 2, 3), ("eye_inner_l", 0, -3), ("eye_upper_l", 2, -3)), 3, 0.3),
    ),
    "nose_wrinkle": (
        _Crease((("nose_bridge", -7, -2), ("nose_bridge", 0, 1), ("nose_bridge", 7, -2)), 1.2, 0.25),
        _Crease((("nose_wing_l", -1, -8), ("nose_wing_l", -4, -3), ("nose_wing_l", -8, 5)), 2, 0.4),
    ),
    "corners_up": (
        _Crease(
            (("nose_wing_l", -1, -3), ("nose_wing_l", -8, 3), ("mouth_corner_l", -7, -4), ("mouth_corner_l", -6, 2)),
            2,
            0.35,
        ),
        _Crease((("eye_outer_l", 3, 6), ("eye_lower_l", 0, 4), ("eye_inner_l", -3, 3)), 1.2, 0.2),
    ),
    "corners_down": (
        _Crease((("mouth_corner_l", -1, 0), ("mouth_corner_l", -3, 5), ("mouth_corner_l", -3, 10)), 2, 0.3),
    ),
    "lips_press": (_Crease((("lip_lower", -8, 3), ("lip_lower", 0, 4), ("lip_lower", 8, 3)), 1.5, 0.25),),
}
_SHADED_SKIN = xy(0.8, 1.05, 1.1)  # shade darkens red less

# The widest opening of the mouth: its height, the fraction of it by which the upper lip rises, the distance from the
# seam over which skin is stretched, and the height of the teeth. Lengths are in portrait pixels.
_GAPE, _UPPER_SHARE, _LIP_REACH, _TEETH = 16.0, 0.22, 26.0, 4.5
_MOUTH_INSIDE, _TEETH_ABOVE_INSIDE = xy(58, 18, 20), xy(160, 185, 172)
_LID_REACH = 6.0  # distance from the eye over which the lids stretch skin, in portrait pixels
_FIELD_EDGE = 14  # width in pixels of the border over which displacements fade out


def _both_sides(landmark: str) -> tuple[tuple[str, int], ...]:
    """Return the landmarks of a name in the tables above, each with the sign of its horizontal displacement."""
    return ((landmark, 1), (f"{landmark[:-1]}r", -1)) if landmark.endswith("_l") else ((landmark, 1),)


@dataclasses.dataclass(frozen=True)
class _Slit:
    """An opening of the face: the rectangle around it within the face's, and its edges."""

    where: Rectangle
    edges: tuple[tuple[float, float, float], ...]  # parabolas
    middle: float
    half_width: float

    def edge(self, index: int, x: Array) -> Array:
        """Return the y of an edge at x."""
        square, linear, constant = self.edges[index]
        return (square * x + linear) * x + constant


class Head:
    """An actor in front of a backdrop, drawn at any expression and pose."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._scale = look.scale
        cos, sin = np.cos(portrait.LEANING_RAD), np.sin(portrait.LEANING_RAD)
        upright = np.array([[cos, sin], [-sin, cos]], np.float32)
        self._at = {
            name: xy(*look.centre)
            + look.scale * upright @ (xy(*point) + xy(*look.moves.get(name, (0, 0))) - portrait.CENTRE)
            for name, point in LANDMARKS.items()
        }
        self._plate, self._backdrop, self._actor_mask = self._pictures()
        face = np.stack([point for name, point in self._at.items() if not name.startswith("hair")])
        self._face = self._rectangle(face, xy(14, 24))
        self._face_grid = warps.grid(self._face)
        self._fields, self._creases = self._units()
        self._head, self._motions = self._head_motions()
        self._head_grid = warps.grid(self._head)
        self._eyes = [
            self._slit(f"eye_outer_{side}", f"eye_inner_{side}", (f"eye_upper_{side}", f"eye_lower_{side}"), xy(2, 14))
            for side in "lr"
        ]
        self._mouth = self._slit("mouth_corner_l", "mouth_corner_r", ("lip_seam",), xy(4, 34))

    def frame(self, weights: Float32[np.ndarray, "U"], pose: Float32[np.ndarray, "3"], *, aside: float = 0.0) -> Image:
        """Draw the picture for weights of UNITS and a pose: right and down in pixels, clockwise in radians.

        `aside` moves the actor to the side by that many frame widths; at 1 only the backdrop is visible.
        """
        smooth, (close, tighten, part) = weights[: len(_UNITS)], weights[len(_UNITS) :].tolist()
        read = self.warp(smooth)
        shown, inside = self._part_lips(read, part=part)
        face = warps.read_at(self._plate, read).astype(np.float32)
        self._draw_lids(face, read, close=close, tighten=tighten)
        face -= face * self._sum(smooth, self._creases, face.shape)
        face[self._mouth.where] += shown * (inside - face[self._mouth.where])
        frame = self._plate.copy()
        frame[self._face] = np.clip(face, 0, 255)
        moved = self._head_grid - self._sum(pose, self._motions, self._head_grid.shape)
        frame[self._head] = warps.read_at(frame, moved)
        if aside:
            shift = np.array([[1, 0, aside * WIDTH], [0, 1, 0]], np.float32)
            mask = np.asarray(cv2.warpAffine(self._actor_mask, shift, (WIDTH, HEIGHT)))[..., None]
            actor = np.asarray(cv2.warpAffine(frame, shift, (WIDTH, HEIGHT)))
            frame = (self._backdrop * (1 - mask) + actor * mask).astype(np.uint8)
        return np.asarray(cv2.flip(frame, 1), np.uint8) if self._look.mirrored else frame

    def warp(self, weights: Float32[np.ndarray, "u"]) -> Float32[np.ndarray, "h w 2"]:
        """Return the place that each pixel of the face reads at weights of all UNITS but those of lids and lips."""
        return self._face_grid - self._sum(weights, self._fields, self._face_grid.shape)

    @staticmethod
    def _sum(weights: Array, parts: Array, shape: tuple[int, ...]) -> Array:
        # Not a matrix product: BLAS would start its own threads in every worker.
        return np.einsum("k,kn->n", weights, parts).reshape(shape)

    def _rectangle(self, points: Array, margin: Array) -> Rectangle:
        """Return the part of the frame around points, with a margin in portrait pixels."""
        margin = margin * self._scale
        return warps.rectangle(points.min(axis=0) - margin, points.max(axis=0) + margin, width=WIDTH, height=HEIGHT)

    def _pictures(self) -> tuple[Image, Image, Float32[np.ndarray, "H W"]]:
        """Return the actor in front of the backdrop, the backdrop, and the actor's mask."""
        look, at, scale = self._look, self._at, self._scale
        size = {"width": WIDTH, "height": HEIGHT}
        read = warps.spline(np.stack([*at.values()]), portrait.magnified([*LANDMARKS.values()]), **size)
        head = warps.read_at(portrait.made_up(look), read)
        head_mask = warps.read_at(portrait.head_mask(), read)[..., None]

        rim = [at["collar_l"] + xy(-3, -2), at["collar_mid"] + xy(0, -3), at["collar_r"] + xy(3, -2)]
        slope = [xy(x, 46 * (x / 90) ** 1.3 if x < 77 else 37 + (x - 77) ** 2 / 14) for x in range(0, 125, 4)]
        right = [at["collar_r"] + scale * point for point in slope]
        left = [at["collar_l"] + scale * point * xy(-1, 1) for point in reversed(slope)]
        cloth_mask = warps.polygon(np.stack([*warps.smooth_curve(np.stack(rim)), *right, *left]), softness=1.2, **size)
        cloth_mask = cloth_mask[..., None]
        x, y = np.moveaxis(warps.grid((slice(0, HEIGHT), slice(0, WIDTH))), -1, 0)
        across = (x - at["chin"][0]) / (150 * scale)
        cloth = 255 * xy(*look.clothes) * np.clip(1 - 0.55 * across**2, 0.2, 1)[..., None]
        cloth *= 1 - 0.35 * warps.stroke(np.stack(rim), thickness=3 * scale, **size)[..., None]

        towards = (x - look.centre[0]) / 120 * look.light[0] + (y - look.centre[1]) / 120 * look.light[1]
        lit = np.clip(1 + towards, 0.55, 1.4)[..., None]
        backdrop = _backdrop(look)
        scene = backdrop * (1 - head_mask) + head * lit * head_mask
        scene = scene * (1 - cloth_mask) + cloth * lit * cloth_mask

        def exposed(picture: Array) -> Image:
            return np.clip((picture - 118) * look.contrast + 118, 0, 255).astype(np.uint8)

        return exposed(scene), exposed(backdrop), np.maximum(head_mask, cloth_mask)[..., 0]

    def _units(self) -> tuple[Float32[np.ndarray, "U N"], Float32[np.ndarray, "U M"]]:
        """Return the displacements [h, w, 2] and darkening [h, w, 3] of each unit over the face's rectangle, flat."""
        rows, columns = self._face
        height, width = rows.stop - rows.start, columns.stop - columns.start
        points = {name: point - xy(columns.start, rows.start) for name, point in self._at.items()}
        border = [xy(x, y) for x in (0, width / 2, width) for y in (0, height)]
        border += [xy(x, height / 2) for x in (0, width)]
        still = np.stack([*points.values(), *border])
        index = {name: row for row, name in enumerate(points)}
        x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
        from_edge = np.minimum(np.minimum(x, x[::-1]), np.minimum(y, y[::-1]))
        inside = 1 - warps.half_cosine(from_edge, inner=0, outer=_FIELD_EDGE)[..., None]
        fields = np.zeros((len(_UNITS), height, width, 2), np.float32)
        creases = np.zeros((len(_UNITS), height, width, 3), np.float32)
        for unit, (name, moves) in enumerate(_UNITS.items()):
            moved = np.zeros_like(still)
            for marked, (dx, dy) in moves.items():
                for landmark, sign in _both_sides(marked):
                    moved[index[landmark]] = self._scale * xy(sign * dx, dy)
            fields[unit] = inside * warps.spline(still + moved, moved, width=width, height=height)
            for crease in _CREASES.get(name, ()):
                for side, sign in (("l", 1), ("r", -1)):
                    marks = [
                        points[f"{mark[:-1]}{side}" if mark.endswith("_l") else mark] + self._scale * xy(sign * dx, dy)
                        for mark, dx, dy in crease.points
                    ]
                    thickness = crease.thickness * self._scale
                    drawn = warps.stroke(np.stack(marks), thickness=thickness, width=width, height=height)
                    creases[unit] = np.maximum(creases[unit], crease.darkening * drawn[..., None] * _SHADED_SKIN)
        return fields.reshape(len(_UNITS), -1), creases.reshape(len(_UNITS), -1)

    def _head_motions(self) -> tuple[Rectangle, Float32[np.ndarray, "3 N"]]:
        """Return the rectangle that moves with the head, and its displacements [h, w, 2] for each pose number, flat.

        The head moves rigidly; the motion fades out over the shoulders and the backdrop.
        """
        centre = xy(*self._look.centre)
        middle, neck = centre + xy(0, -25) * self._scale, centre + xy(0, 55) * self._scale
        reach, outer = xy(78, 85) * self._scale, 1.45
        where = warps.rectangle(middle - outer * reach, middle + outer * reach, width=WIDTH, height=HEIGHT)
        grid = warps.grid(where)
        share = warps.half_cosine(np.linalg.norm((grid - middle) / reach, axis=-1), inner=0.95, outer=outer)[..., None]
        turned = (grid - neck)[..., ::-1] * xy(-1, 1)
        return where, np.stack([share * xy(1, 0), share * xy(0, 1), share * turned]).reshape(3, -1)

    def _slit(self, left: str, right: str, middles: tuple[str, ...], margin: Array) -> _Slit:
        """Return the opening between two corners whose edges pass through `middles`."""
        at = self._at
        around = self._rectangle(np.stack([at[name] for name in (left, *middles, right)]), margin)
        rows, columns = (slice(a.start - f.start, a.stop - f.start) for a, f in zip(around, self._face, strict=True))
        edges = tuple(warps.parabola(np.stack([at[left], at[middle], at[right]])) for middle in middles)
        ends = float(at[left][0]), float(at[right][0])
        return _Slit((rows, columns), edges, sum(ends) / 2, abs(ends[1] - ends[0]) / 2)

    def _draw_lids(self, face: Array, read: Array, *, close: float, tighten: float) -> None:
        """Draw the lids over the face, moved by fractions of the eye's opening (close: 1 shuts, below 0 widens).

        The skin between brow and lid, and below the eye, is stretched column by column, so that nothing folds.
        """
        reach = _LID_REACH * self._scale
        for eye in self._eyes:
            x, y = read[eye.where][..., 0], read[eye.where][..., 1]
            upper = eye.edge(0, x)
            lower = np.maximum(eye.edge(1, x), upper)
            opening = lower - upper
            floor = lower - tighten * opening
            edge = np.minimum(upper + close * opening, floor)
            if close < 0:
                stretched = lower - (lower - y) * opening / (lower - edge + 1e-3)
                wide = np.where((y > upper - reach) & (y < lower), stretched, y)
                face[eye.where] = warps.read_at(self._plate, np.stack([x, wide], axis=-1))
            lid = upper - reach + (y - upper + reach) * reach / (edge - upper + reach)
            cheek = lower + reach - (lower + reach - y) * reach / (lower + reach - floor)
            for skin, near, depth in ((cheek, y < lower + reach, y - floor), (lid, y > upper - reach, edge - y)):
                drawn = warps.read_at(self._plate, np.stack([x, np.where(near, skin, y)], axis=-1))
                face[eye.where] += np.clip(depth + 0.5, 0, 1)[..., None] * (drawn - face[eye.where])

    def _part_lips(self, read: Array, *, part: float) -> tuple[Array, Array]:
        """Part the lips in `read` by a fraction of the widest opening; return the mask and colours of the inside."""
        mouth, reach = self._mouth, _LIP_REACH * self._scale
        x, y = read[mouth.where][..., 0], read[mouth.where][..., 1]
        seam = mouth.edge(0, x)
        arch = np.maximum(1 - ((x - mouth.middle) / mouth.half_width) ** 2, 0)
        gap = part * _GAPE * self._scale * arch
        raised, dropped = _UPPER_SHARE * gap, (1 - _UPPER_SHARE) * gap
        above, below = seam - raised - y, y - seam - dropped  # distances within the lips; negative between them
        # A point at distance d from the seam moves to d + raised (1 - d / reach); this is the inverse.
        upper = np.where(seam - y < reach, seam - above / (1 - raised / reach), y)
        lower = np.where(y - seam < reach, seam + below / (1 - dropped / reach), y)
        read[mouth.where][..., 1] = np.where(above > 0, upper, np.where(below > 0, lower, seam))
        shown = np.clip(0.5 - above, 0, 1) * np.clip(0.5 - below, 0, 1) * np.minimum(gap, 1)
        teeth = np.clip((0.75 + above / (_TEETH * self._scale)) * 6, 0, 1) * np.minimum(arch + 0.15, 1)
        return shown[..., None], _MOUTH_INSIDE + teeth[..., None] * _TEETH_ABOVE_INSIDE


def _backdrop(look: Look) -> Float32[np.ndarray, "H W 3"]:
    """Return the backdrop: a cloudy blend of two colours, 0 to 255."""
    rng = np.random.default_rng(look.texture_seed)
    angle = rng.uniform(0, 2 * np.pi)
    x, y = np.meshgrid(np.linspace(-1, 1, WIDTH, dtype=np.float32), np.linspace(-0.6, 0.6, HEIGHT, dtype=np.float32))
    clouds = cv2.resize(rng.standard_normal((9, 16), np.float32), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    clouds = np.asarray(cv2.GaussianBlur(clouds, (0, 0), 12))
    share = np.clip(0.5 + 0.4 * (np.cos(angle) * x + np.sin(angle) * y) + 0.12 * clouds, 0, 1)[..., None]
    first, second = (255 * xy(*colour) for colour in look.backdrop)
    grain = 1.5 * rng.standard_normal((HEIGHT, WIDTH, 1), np.float32)
    return (first * (1 - share) + second * share + grain).astype(np.float32)
