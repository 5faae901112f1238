"""The looks of the actors' heads and pictures, drawn from the seed."""

import colorsys
import dataclasses

import numpy as np

from fusion_emotion.corpora.sample import script

Colour = tuple[float, float, float]  # red, green, blue, 0 to 1

_GOLDEN = 0.618034  # its multiples modulo 1 are spread evenly for any number of actors
_HAIRS: tuple[Colour, ...] = (
    (0.30, 0.20, 0.14),
    (0.80, 0.66, 0.44),
    (0.17, 0.14, 0.13),
    (0.52, 0.29, 0.18),
    (0.66, 0.66, 0.68),
    (0.48, 0.35, 0.23),
)

# Landmarks of `portrait` that move together, and the ranges of their displacement to the right and down, in portrait
# pixels. `_l` means both sides, mirrored, so a negative first range widens.
_Range = tuple[float, float]
_BROWS = "brow_outer_l brow_mid_l brow_inner_l"
_EYES = "eye_outer_l eye_upper_l eye_lower_l eye_inner_l lid_outer_l lid_mid_l lid_inner_l"
_SHAPES: tuple[tuple[str, _Range, _Range], ...] = (
    ("side_l temple_l", (-3, 0.5), (0, 0)),
    ("jaw_l", (-2, 2), (-1, 2)),
    ("chin chin_boss", (0, 0), (-1.5, 2.5)),
    (f"{_BROWS} {_EYES}", (-1.5, 1.5), (-1.5, 1)),
    (_BROWS, (0, 0), (-1, 0.8)),
    ("eye_upper_l lid_mid_l", (0, 0), (-0.9, 0.3)),
    ("nose_wing_l", (-1.5, 1.2), (0, 0)),
    ("nose_wing_l nose_tip nose_base", (0, 0), (-1.5, 1.5)),
    ("mouth_corner_l", (-2, 1.5), (0, 0)),
    ("mouth_corner_l lip_upper lip_seam lip_lower", (0, 0), (-1, 1)),
    ("lip_upper", (0, 0), (-0.8, 0.2)),
    ("lip_lower", (0, 0), (-0.3, 0.9)),
    ("hair_low_l hair_side_l hair_upper_l", (-4, 2), (-2, 2)),
    ("hair_top", (0, 0), (-3, 4)),
    ("fringe_l fringe_mid", (0, 0), (-7, -3)),
    ("collar_l collar_mid", (0, 0), (6, 9)),
)
_MALE = (
    ("jaw_l", -2.0, 1.5),
    ("chin", 0.0, 1.5),
    (_BROWS, 0.0, 1.0),
    ("eye_upper_l lid_mid_l", 0.0, 0.5),
    ("hair_low_l", 5.0, 0.0),
    ("hair_side_l", 4.0, 2.0),
    ("hair_upper_l", 3.0, 3.0),
    ("hair_top", 0.0, 4.0),
    ("fringe_l fringe_mid", 0.0, -1.5),
    ("collar_l", -3.0, 0.0),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Look:
    """An actor's head and picture."""

    scale: float  # frame pixels per portrait pixel
    centre: tuple[float, float]  # of the face, in frame pixels
    moves: dict[str, tuple[float, float]]  # displacement of landmarks, in portrait pixels
    mirrored: bool
    skin: Colour  # gains
    skin_gamma: float
    hair: Colour
    brows: float  # darkness, 0 to 1
    beard: float  # darkness, 0 to 1
    lips: float  # redness, 0 to 1
    light: tuple[float, float]  # direction, its length the strength
    contrast: float
    clothes: Colour
    backdrop: tuple[Colour, Colour]
    texture_seed: int  # of backdrop and beard


def look_of(actor: int, *, seed: int) -> Look:
    """Draw the look of an actor: the sex shifts hair, jaw and brows, the rest is random."""
    rng = script.actor_rng(seed, actor, script.Stream.LOOK)
    male = script.sex_of(actor) == "male"
    start = np.random.default_rng(seed).uniform()
    skin = (start + actor * _GOLDEN) % 1 * rng.uniform(0.85, 1)
    hair = _HAIRS[2] if skin > 0.7 else _HAIRS[actor % len(_HAIRS)]

    def colour(value: float) -> Colour:
        return colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.1, 0.55), value)

    first, second = colour(rng.uniform(0.35, 0.85)), colour(rng.uniform(0.25, 0.75))
    return Look(
        scale=rng.uniform(1.3, 1.5),
        centre=(320 + rng.uniform(-45, 45), 190 + rng.uniform(-8, 8)),
        moves=_moves(rng, male=male),
        mirrored=bool(rng.integers(2)),
        skin=(1.03 - 0.23 * skin, 1 - 0.3 * skin, 0.98 - 0.35 * skin),
        skin_gamma=0.9 + 0.75 * skin,
        hair=hair,
        brows=rng.uniform(0.6, 0.8) if male else rng.uniform(0.4, 0.6),
        beard=rng.uniform(0, 0.55) if male else 0.0,
        lips=rng.uniform(0, 0.2) if male else rng.uniform(0.3, 0.8),
        light=(rng.uniform(-0.22, 0.22), rng.uniform(-0.12, 0.06)),
        contrast=rng.uniform(0.85, 1.1),
        clothes=colour(rng.uniform(0.25, 0.8)),
        backdrop=(first, second),
        texture_seed=int(rng.integers(2**31)),
    )


def _moves(rng: np.random.Generator, *, male: bool) -> dict[str, tuple[float, float]]:
    moves: dict[str, tuple[float, float]] = {}

    def move(names: str, dx: float, dy: float) -> None:
        for name in names.split():
            for landmark, sign in ((name, 1), (name[:-1] + "r", -1)) if name.endswith("_l") else ((name, 1),):
                x, y = moves.get(landmark, (0.0, 0.0))
                moves[landmark] = x + sign * dx, y + dy

    for names, dx, dy in _SHAPES:
        move(names, rng.uniform(*dx), rng.uniform(*dy))
    for names, x, y in _MALE if male else ():
        move(names, x, y)
    return moves
