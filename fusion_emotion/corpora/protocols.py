"""Named protocols: which clips train, which choose the checkpoint, which are read once.

A split is drawn from (speaker, sex, take) alone, so that a new protocol needs no new preparation. The test part is
never used for a choice: every protocol takes the validation part, which chooses the checkpoint, from the training part.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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
WITH_FOLDS = ("takes", *SPEAKER_INDEPENDENT)
PROTOCOLS = ("random", "random_windows", *WITH_FOLDS)

# What a protocol that is not speaker-independent has on both sides; it is said beside each of its numbers.
ON_BOTH_SIDES = {
    "random": "speakers on both sides",
    "random_windows": "windows of one clip on both sides",
    "takes": "speakers on both sides",
}

MEANING = {
    "random": "80/20 of the shuffled takes; the same speakers are on both sides",
    "random_windows": "80/20 of the shuffled one-second windows; windows of one clip are on both sides",
    "takes": "folds over the takes, of each emotion alike; the same speakers are on both sides",
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
    label: int


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


def _alternating(values: Sequence[str], group_of: Mapping[str, int]) -> list[str]:
    """The first value of every group in the order of `values`, then the second of every group, and so on."""
    seen = Counter[int]()
    rank = {}
    for value in values:
        rank[value] = seen[group_of[value]]
        seen[group_of[value]] += 1
    return sorted(values, key=rank.__getitem__)


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
            "or --config.split.protocol=takes for a corpus of one speaker"
        )
    return _dealt(sex_of, n_folds, seed)


def _dealt(group_of: Mapping[str, str | int], n_folds: int, seed: int) -> list[set[str]]:
    """Folds over what `group_of` maps to its group, with an even share of each group."""
    # One group after the other: dealt in turn from an alternating row, two folds of two groups would be of one each.
    row = sorted(_shuffled(group_of, seed), key=group_of.__getitem__)
    return [set(row[fold::n_folds]) for fold in range(n_folds)]


def _take_folds(label_of: dict[str, int], *, n_folds: int, seed: int) -> list[set[str]]:
    """The held-out takes of each fold of the protocol `takes`; `label_of` maps each take to its label."""
    if not 2 <= n_folds <= len(label_of):
        raise UserError(
            f"split.n_folds={n_folds} does not suit {len(label_of)} takes: choose 2 to {max(2, len(label_of))}"
        )
    return _dealt(label_of, n_folds, seed)


def folds(items: Sequence[Item], protocol: str, *, n_folds: int, seed: int) -> list[int]:
    """The folds of a protocol that have something to test among `items`; [0] for one without folds.

    A published fold none of whose actors is there has nothing. Raises UserError for a number of folds that cannot be.
    """
    if protocol not in PROTOCOLS:
        raise did_you_mean("split.protocol", protocol, PROTOCOLS)
    if protocol not in WITH_FOLDS:
        return [0]
    return [fold for fold, held_out in enumerate(_held_out(items, protocol, n_folds, seed)) if held_out]


def _held_out(items: Sequence[Item], protocol: str, n_folds: int, seed: int) -> list[set[str]]:
    """The takes (of the protocol `takes`) or speakers that each fold tests."""
    if protocol == "takes":
        return _take_folds({item.take_id: item.label for item in items}, n_folds=n_folds, seed=seed)
    return speaker_folds(protocol, {item.speaker: item.sex for item in items}, n_folds=n_folds, seed=seed)


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

    The fractions are of the takes (`random`, `takes`), windows (`random_windows`) or training speakers (all others);
    the validation fraction is of what is left to train on. Raises UserError for a fold that is not there.
    """
    check_settings(protocol, test_fraction=test_fraction, validation_fraction=validation_fraction)
    if protocol == "random_windows":
        keys = [str(i) for i in range(len(items))]
    elif protocol in ("random", "takes"):
        keys = [item.take_id for item in items]
    else:
        keys = [item.speaker for item in items]
    if protocol in WITH_FOLDS:
        held_out = _held_out(items, protocol, n_folds, seed)
        if not 0 <= fold < len(held_out):
            raise UserError(f"split.fold={fold} is out of range: {protocol} has folds 0 to {len(held_out) - 1}")
        test = held_out[fold]
        rest = {key: item.sex for key, item in zip(keys, items, strict=True) if key not in test}
        if protocol == "chumachenko":
            validation = {f"{actor:02d}" for actor in _CHUMACHENKO_VALIDATION} & set(rest)
        elif protocol == "takes":
            label_of = {item.take_id: item.label for item in items}
            validation = _fraction(_alternating(_shuffled(rest, seed, fold, 1), label_of), validation_fraction)
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
            "another --config.split.fold, or --config.split.protocol=kfold, takes or random"
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
