"""Named protocols: which clips train, which choose the checkpoint, which are read once.

A split is drawn from (speaker, sex, take) alone, so that a new protocol needs no new preparation. The test part is
never used for a choice: every protocol takes the validation part, which chooses the checkpoint, from the training part.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from fusion_emotion.errors import UserError, did_you_mean

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")

# Held-out RAVDESS actors of each fold, as published.
_FOLDS: dict[str, tuple[tuple[int, ...], ...]] = {
    # Luna-Jiménez et al. 2021, 2022
    "luna5": (
        (2, 5, 14, 15, 16),
        (3, 6, 7, 13, 18),
        (10, 11, 12, 19, 20),
        (8, 17, 21, 23, 24),
        (1, 4, 9, 22),
    ),
    # MSAF, CFN-SR, HiCMAE
    "contiguous6": tuple(tuple(range(first, first + 4)) for first in range(1, 25, 4)),
    # EmoBox
    "emobox6": (
        (1, 11, 20, 21),
        (4, 10, 12, 14),
        (8, 9, 19, 23),
        (3, 5, 7, 24),
        (2, 15, 16, 18),
        (6, 13, 17, 22),
    ),
    # Chumachenko et al. 2022
    "chumachenko": ((5, 10, 16, 19),),
}
_CHUMACHENKO_VALIDATION = (11, 13, 18, 22)

SPEAKER_INDEPENDENT = (*_FOLDS, "loso", "kfold")
PROTOCOLS = ("random", "random_windows", *SPEAKER_INDEPENDENT)

MEANING = {
    "random": "80/20 of the shuffled takes; the same speakers are on both sides",
    "random_windows": "80/20 of the shuffled one-second windows; windows of one clip are on both sides",
    "luna5": "speaker-independent, 5 folds (Luna-Jiménez et al. 2021)",
    "contiguous6": "speaker-independent, 6 folds of 4 consecutive actors",
    "emobox6": "speaker-independent, 6 folds (EmoBox)",
    "chumachenko": "speaker-independent, one split (Chumachenko et al. 2022)",
    "loso": "speaker-independent, one speaker a fold",
    "kfold": "speaker-independent, folds over the speakers there are",
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """What a protocol may know of one unit it places: a clip or, with `random_windows`, a window."""

    take_id: str
    speaker: str
    sex: str


def _shuffled(values: Iterable[str], *seed: int) -> list[str]:
    ordered = sorted(dict.fromkeys(values))  # which keeps the clips' order, and what is almost sorted sorts fast
    order = np.random.default_rng(seed).permutation(len(ordered))
    return [ordered[i] for i in order]


def _fraction(values: Sequence[str], share: float) -> set[str]:
    """The first `share` of `values`: at least one, and never all of them."""
    return set(values[: min(max(1, round(len(values) * share)), max(0, len(values) - 1))])


def _by_sex(sex_of: dict[str, str], *seed: int) -> list[str]:
    """The speakers shuffled, then dealt alternately from each sex, so that any run of them is balanced."""
    shuffled = _shuffled(sex_of, *seed)
    groups = [[s for s in shuffled if sex_of[s] == sex] for sex in sorted(set(sex_of.values()))]
    longest = max(map(len, groups), default=0)
    return [group[i] for i in range(longest) for group in groups if i < len(group)]


def speaker_folds(protocol: str, sex_of: dict[str, str], *, n_folds: int, seed: int) -> list[set[str]]:
    """The held-out speakers of each fold of a speaker-independent protocol, among the speakers there are.

    `sex_of` maps each speaker to its sex. A fold of a published protocol keeps its number, also where none of its
    actors is there.
    """
    if protocol in _FOLDS:
        return [{f"{actor:02d}" for actor in fold} & set(sex_of) for fold in _FOLDS[protocol]]
    if protocol == "loso":
        return [{speaker} for speaker in sorted(sex_of)]
    if not 2 <= n_folds <= len(sex_of):
        raise UserError(
            f"split.n_folds={n_folds} does not suit {len(sex_of)} speakers: choose 2 to {len(sex_of)}, "
            "or --config.split.protocol=random for a corpus of one speaker"
        )
    # One sex after the other: dealt in turn from an alternating row, an even number of folds would be of one sex each.
    dealt = sorted(_shuffled(sex_of, seed), key=sex_of.__getitem__)
    return [set(dealt[fold::n_folds]) for fold in range(n_folds)]


def check_settings(protocol: str, *, test_fraction: float, validation_fraction: float) -> None:
    """Raise UserError for a protocol that is none or a fraction out of range: what can be said before any data."""
    if protocol not in PROTOCOLS:
        raise did_you_mean("split.protocol", protocol, PROTOCOLS)
    for name, share in (("test_fraction", test_fraction), ("validation_fraction", validation_fraction)):
        if not 0 < share < 1:
            raise UserError(f"split.{name}={share} is out of range: expected a number between 0 and 1")


def draw(
    items: Sequence[Item],
    protocol: str,
    *,
    fold: int,
    n_folds: int,
    test_fraction: float,
    validation_fraction: float,
    seed: int,
) -> list[Part]:
    """The part of each item under a protocol; linear in the number of items.

    The fractions are of the takes (`random`), windows (`random_windows`) or training speakers (all others); the
    validation fraction is of what is left to train on. Raises UserError for a fold that is not there.
    """
    check_settings(protocol, test_fraction=test_fraction, validation_fraction=validation_fraction)
    if protocol == "random_windows":
        keys = [str(i) for i in range(len(items))]
    elif protocol == "random":
        keys = [item.take_id for item in items]
    else:
        keys = [item.speaker for item in items]
    if protocol in SPEAKER_INDEPENDENT:
        sex_of = {item.speaker: item.sex for item in items}
        folds = speaker_folds(protocol, sex_of, n_folds=n_folds, seed=seed)
        if not 0 <= fold < len(folds):
            raise UserError(f"split.fold={fold} is out of range: {protocol} has folds 0 to {len(folds) - 1}")
        test = folds[fold]
        rest = {speaker: sex for speaker, sex in sex_of.items() if speaker not in test}
        if protocol == "chumachenko":
            validation = {f"{actor:02d}" for actor in _CHUMACHENKO_VALIDATION} & set(rest)
        else:
            validation = _fraction(_by_sex(rest, seed, fold, 1), validation_fraction)
    else:
        shuffled = _shuffled(keys, seed)
        test = _fraction(shuffled, test_fraction)
        validation = _fraction([key for key in shuffled if key not in test], validation_fraction)
    parts: list[Part] = ["test" if key in test else "validation" if key in validation else "train" for key in keys]
    empty = [part for part in PARTS if part not in parts]
    if empty:
        raise UserError(
            f"split.protocol={protocol}, fold {fold}, leaves nothing to the {' and '.join(empty)} part "
            f"({len(items)} clips or windows of {len({item.speaker for item in items})} speakers): use more data, "
            "another --config.split.fold, or --config.split.protocol=kfold or random"
        )
    check(items, parts, protocol)
    return parts


def check(items: Sequence[Item], parts: Sequence[Part], protocol: str) -> None:
    """Raise AssertionError if a speaker or a take is on two sides of a split that promises otherwise."""
    promises = []
    if protocol in SPEAKER_INDEPENDENT:
        promises.append(("speaker", [item.speaker for item in items]))
    if protocol != "random_windows":
        promises.append(("take", [item.take_id for item in items]))
    for what, keys in promises:
        side: dict[str, Part] = {}
        for key, part in zip(keys, parts, strict=True):
            if side.setdefault(key, part) != part:
                raise AssertionError(f"protocol {protocol}: {what} {key} is in {side[key]} and in {part}")
