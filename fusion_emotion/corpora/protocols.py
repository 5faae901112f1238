"""Named protocols: the clips that train, the clips that choose the checkpoint, the clips that test.

A split is drawn from (speaker, sex, take, label) alone, so a new protocol needs no new preparation. The test part is
never used for a choice: every protocol takes the validation part, which chooses the checkpoint, from the training part.
"""

import dataclasses
import re
import typing
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from fusion_emotion.errors import UserError, unknown_name

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")
Unit = Literal["segment", "take", "speaker"]


@typing.runtime_checkable  # the tests check types at run time
class Item(typing.Protocol):
    """The fields that a protocol may use of one unit that it places: a clip (a row of the manifest) or a segment."""

    take_id: str
    speaker: str
    sex: str
    label: int
    corpus: str
    split: str  # the part that the corpus or a table names


# The held-out takes or speakers of each fold, from the items, the number of folds and a seed.
Folds = Callable[[Sequence[Item], int, int], list[set[str]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """The rule that draws the parts of a split; the unit that it places decides what is on both sides."""

    name: str
    unit: Unit  # what is placed; larger units are then on both sides
    meaning: str
    folds: Folds | None = None  # None: one split a seed
    validation: frozenset[str] | None = None  # published speakers; None: drawn
    corpora: frozenset[str] = frozenset()  # the only ones that are used; (): all
    by_corpus: bool = False  # sides are of different corpora, so speakers need no names
    everything: bool = False  # all parts are all clips, for a model to be released
    given: bool = False  # the parts are those that the corpus or a table names

    @property
    def shared(self) -> tuple[str, ...]:
        """The units that may be on both sides."""
        if self.everything:
            return ("speaker", "take", "clip", "segment")
        return {"speaker": (), "take": ("speaker",), "segment": ("speaker", "take", "clip")}[self.unit]

    @property
    def speaker_independent(self) -> bool:
        """True if no speaker is on both sides."""
        return not self.shared

    @property
    def with_folds(self) -> bool:
        """True if the protocol has folds."""
        return self.folds is not None

    @property
    def on_both_sides(self) -> str:
        """A note beside each number; "" for a speaker-independent protocol."""
        if self.everything:
            return "tested on the training clips"
        return {"take": "speakers on both sides", "segment": "segments of one clip on both sides"}.get(self.unit, "")

    @property
    def warning(self) -> str:
        """The claim that the numbers do not support; "" for a speaker-independent protocol."""
        if self.everything:
            return "The test part is the training part: these numbers say nothing of clips the model has never seen."
        return {
            "take": "The same speakers are in the training and the test part: these numbers do not say how well the "
            "model does on people it has never seen.",
            "segment": "Segments of the same clips are in the training and the test part: these numbers do not say how "
            "well the model does on clips, or on people, it has never seen.",
        }.get(self.unit, "")

    def keys(self, items: Sequence[Item]) -> list[str]:
        """Return the id of the unit that each item belongs to."""
        if self.unit == "segment":
            return [str(index) for index in range(len(items))]
        # Of corpora that name no speaker, each take counts as one.
        return [item.speaker or item.take_id if self.unit == "speaker" else item.take_id for item in items]


def _speakers(items: Sequence[Item], corpora: Collection[str]) -> set[str]:
    """The speakers of some corpora; of corpora that name no speaker, each take counts as one."""
    return {item.speaker or item.take_id for item in items if item.corpus in corpora}


def _shuffled(values: Iterable[str], *seed: int) -> list[str]:
    ordered = sorted(dict.fromkeys(values))  # keeps the order of the clips, so that sorting is fast
    order = np.random.default_rng(seed).permutation(len(ordered))
    return [ordered[i] for i in order]


def _first(values: Sequence[str], fraction: float) -> set[str]:
    """The first `fraction` of `values`: at least one, and never all of them."""
    return set(values[: min(max(1, round(len(values) * fraction)), max(0, len(values) - 1))])


def _alternating(values: Sequence[str], group_of: Mapping[str, Any]) -> list[str]:
    """The first value of every group in the order of `values`, then the second of every group, and so on."""
    seen = Counter[Any]()
    rank = {}
    for value in values:
        rank[value] = seen[group_of[value]]
        seen[group_of[value]] += 1
    return sorted(values, key=rank.__getitem__)


def _actors(*numbers: int) -> frozenset[str]:
    """The ids of RAVDESS's actors, and of the sample corpus, which keeps their numbers."""
    return frozenset(f"{corpus}/{number:02d}" for corpus in ("ravdess", "sample") for number in numbers)


def _published(*folds: Iterable[int]) -> Folds:
    """Folds of actors by their numbers; a fold keeps its place even if none of its actors is there."""
    return lambda items, n_folds, seed: [{item.speaker for item in items} & _actors(*fold) for fold in folds]


def _dealt(group_of: Mapping[str, Any], n_folds: int, seed: int, units: str) -> list[set[str]]:
    """Folds over the keys of `group_of`, with an even share of each group."""
    lowest = 3 if len(group_of) == 3 else 2  # a fold of two of three would leave one for two parts
    if not lowest <= n_folds <= len(group_of):
        some = f"{lowest} to {len(group_of)}" if lowest < len(group_of) else str(lowest)
        raise UserError(f"split.n_folds={n_folds} does not suit {len(group_of)} {units}: choose {some}")
    # One group after the other: dealt in turn from an alternating row, two folds of two groups would be of one each.
    row = sorted(_shuffled(group_of, seed), key=group_of.__getitem__)
    return [set(row[fold::n_folds]) for fold in range(n_folds)]


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="random",
            unit="take",
            meaning="the shuffled takes, 80/20 by default; the same speakers are on both sides",
        ),
        Protocol(
            name="random_windows",
            unit="segment",
            meaning="the shuffled segments, 80/20 by default; segments of one clip are on both sides",
        ),
        Protocol(
            name="takes",
            unit="take",
            meaning="folds over the takes, of each emotion alike; the same speakers are on both sides",
            folds=lambda items, n, seed: _dealt({item.take_id: item.label for item in items}, n, seed, "takes"),
        ),
        Protocol(
            name="luna5",
            unit="speaker",
            meaning="speaker-independent, 5 folds (Luna-Jiménez et al. 2021)",
            folds=_published(
                (2, 5, 14, 15, 16), (3, 6, 7, 13, 18), (10, 11, 12, 19, 20), (8, 17, 21, 23, 24), (1, 4, 9, 22)
            ),
        ),
        Protocol(  # MSAF, CFN-SR, HiCMAE
            name="contiguous6",
            unit="speaker",
            meaning="speaker-independent, 6 folds of 4 consecutive actors",
            folds=_published(*(range(first, first + 4) for first in range(1, 25, 4))),
        ),
        Protocol(
            name="emobox6",
            unit="speaker",
            meaning="speaker-independent, 6 folds (EmoBox)",
            folds=_published(
                *((1, 11, 20, 21), (4, 10, 12, 14), (8, 9, 19, 23)),
                *((3, 5, 7, 24), (2, 15, 16, 18), (6, 13, 17, 22)),
            ),
        ),
        Protocol(
            name="chumachenko",
            unit="speaker",
            meaning="speaker-independent, one split (Chumachenko et al. 2022)",
            folds=_published((5, 10, 16, 19)),
            validation=_actors(11, 13, 18, 22),
        ),
        Protocol(
            name="loso",
            unit="speaker",
            meaning="speaker-independent, one speaker a fold",
            folds=lambda items, n_folds, seed: [{name} for name in sorted({item.speaker for item in items})],
        ),
        Protocol(
            name="leave_one_corpus_out",
            unit="speaker",
            meaning="one corpus a fold, which no other part has speakers of",
            folds=lambda items, n_folds, seed: [
                _speakers(items, {name}) for name in sorted({item.corpus for item in items})
            ],
            by_corpus=True,
        ),
        Protocol(
            name="everything",
            unit="take",
            meaning="every clip trains; validation and test are the same clips, so their numbers say nothing",
            everything=True,
        ),
        Protocol(
            name="given",
            unit="speaker",
            meaning="speaker-independent, the parts that the corpus's owners or a table name",
            given=True,
        ),
        Protocol(
            name="given_takes",
            unit="take",
            meaning="the parts that the corpus's owners or a table name; the same people may be on both sides",
            given=True,
        ),
        Protocol(
            name="kfold",
            unit="speaker",
            meaning="speaker-independent, folds over all speakers of the data",
            folds=lambda items, n, seed: _dealt({item.speaker: item.sex for item in items}, n, seed, "speakers"),
        ),
    )
}


# train:A+B test:C
_ACROSS = re.compile(r"train:([\w+]+) test:([\w+]+)")


def protocol(name: str, *, field: str = "split.protocol") -> Protocol:
    """Return a protocol by its name, which `field` of the config holds. Raises UserError for an unknown one."""
    if match := _ACROSS.fullmatch(name):
        trained, tested = (frozenset(names.split("+")) for names in match.groups())
        if both := sorted(trained & tested):
            raise UserError(f"{field}={name!r} trains and tests on {both[0]}: name each corpus on one side")
        return Protocol(
            name=name,
            unit="speaker",
            meaning=f"trained on {match[1]}, tested on {match[2]}",
            folds=lambda items, n_folds, seed: [_speakers(items, tested)],
            corpora=trained | tested,
            by_corpus=True,
        )
    if name not in PROTOCOLS:
        raise unknown_name(field, name, (*PROTOCOLS, "'train:A+B test:C' of corpora"))
    return PROTOCOLS[name]


def folds(items: Sequence[Item], protocol: Protocol, *, n_folds: int, seed: int) -> list[int]:
    """Return the folds of a protocol that test some of `items`; [0] for one without folds.

    Raises UserError for an impossible number of folds, or fewer units than parts.
    """
    _check_enough(items, protocol)
    if protocol.folds is None:
        return [0]
    return [fold for fold, held_out in enumerate(protocol.folds(items, n_folds, seed)) if held_out]


def draw(
    items: Sequence[Item],
    protocol: Protocol,
    *,
    fold: int,
    n_folds: int,
    test_fraction: float,
    validation_fraction: float,
    seed: int,
) -> list[Part]:
    """Return the part of each item under a protocol, in time linear in the number of items.

    Without folds both fractions are of the units that are placed; with folds the validation fraction is of the units
    left to train on. Raises UserError for a fold that does not exist, or a part without a clip.
    """
    keys = protocol.keys(items)
    _check_enough(items, protocol)
    if protocol.given:
        test = _given_test(items, keys, protocol)
        rest = {key: item for key, item in zip(keys, items, strict=True) if key not in test}
        validation = {key for key, item in rest.items() if item.split == "validation"}
        validation = validation or _validation(rest, protocol, validation_fraction, seed, fold)
    elif protocol.folds is None:
        shuffled = _shuffled(keys, seed)
        test = _first(shuffled, test_fraction)
        validation = _first([key for key in shuffled if key not in test], validation_fraction)
    else:
        held_out = protocol.folds(items, n_folds, seed)
        if not 0 <= fold < len(held_out):
            raise UserError(f"split.fold={fold} is out of range: {protocol.name} has folds 0 to {len(held_out) - 1}")
        test = held_out[fold]
        rest = {key: item for key, item in zip(keys, items, strict=True) if key not in test}
        validation = _validation(rest, protocol, validation_fraction, seed, fold)
    parts: list[Part] = ["test" if key in test else "validation" if key in validation else "train" for key in keys]
    if empty := [part for part in PARTS if part not in parts]:
        if protocol.given:
            remedy = f"name clips of the {' and the '.join(empty)} part in the table's column split"
        elif protocol.folds is None:
            remedy = "lower --config.split.test_fraction"
        else:
            remedy = f"use more data{_other_protocols(items, protocol)}"
        raise UserError(
            f"split.protocol={protocol.name}, fold {fold}, leaves nothing in the {' and '.join(empty)} part of "
            f"{len(set(keys))} {protocol.unit}s: {remedy}"
        )
    if "take" not in protocol.shared:
        _check_dialogues(items, parts, protocol)
    check(items, parts, protocol)
    return parts


def _check_dialogues(items: Sequence[Item], parts: Sequence[Part], protocol: Protocol) -> None:
    """Raise UserError if a recording of several speakers is on two sides."""
    firsts: dict[str, int] = {}
    for i, item in enumerate(items):
        first = firsts.setdefault(item.take_id, i)
        if item.take_id and parts[i] != parts[first] and item.speaker != items[first].speaker:
            both = " and ".join(sorted({item.speaker, items[first].speaker}))
            raise UserError(
                f"{item.take_id} has the speakers {both}, whom split.protocol={protocol.name} puts on two sides: cut "
                "it into a file for each, or choose --config.split.protocol=takes"
            )


def _check_enough(items: Sequence[Item], protocol: Protocol) -> None:
    """Raise UserError if there are fewer units than parts, or a protocol of speakers that are not known."""
    unknown = sum(not item.speaker for item in items)
    if unknown and protocol.unit == "speaker" and not protocol.by_corpus:
        raise UserError(
            f"split.protocol={protocol.name} needs the speaker of each clip, and {unknown} of {len(items)} have none: "
            f"name the speakers{_other_protocols(items, protocol)}"
        )
    if (n := len(set(protocol.keys(items)))) < len(PARTS):
        raise UserError(
            f"split.protocol={protocol.name} needs {len(PARTS)} {protocol.unit}s, one for each part, and there "
            f"{'is' if n == 1 else 'are'} {n}: use more data{_other_protocols(items, protocol)}"
        )


def _other_protocols(items: Sequence[Item], protocol: Protocol) -> str:
    """The protocols without published speakers that the clips are enough for, as an end of a remedy."""
    named = all(item.speaker for item in items)
    others = (PROTOCOLS[name] for name in ("loso", "takes", "random")[0 if named else 1 :])
    names = [o.name for o in others if o is not protocol and len(set(o.keys(items))) >= len(PARTS)]
    return f", or --config.split.protocol={' or '.join(names)}" if names else ""


def _given_test(items: Sequence[Item], keys: Sequence[str], protocol: Protocol) -> set[str]:
    """The units of the test part that the items name. Raises UserError if some name none, or a unit two."""
    if unnamed := sum(not item.split for item in items):
        raise UserError(
            f"split.protocol={protocol.name} takes the part that each clip names, and {unnamed} of {len(items)} name "
            "none: fill the column split (train, validation, test), or choose another protocol"
        )
    part_of: dict[str, str] = {}
    for key, item in zip(keys, items, strict=True):
        if part_of.setdefault(key, item.split) != item.split:
            remedy = "give it one" + ", or choose given_takes" * (protocol.unit == "speaker")
            raise UserError(
                f"split.protocol={protocol.name}: {protocol.unit} {key} is in the parts {part_of[key]} and "
                f"{item.split}: {remedy}"
            )
    return {key for key, part in part_of.items() if part == "test"}


def _validation(rest: Mapping[str, Item], protocol: Protocol, fraction: float, seed: int, fold: int) -> set[str]:
    """The units of the validation part, among those that a fold does not test."""
    if protocol.validation is not None:
        return rest.keys() & protocol.validation
    order = _shuffled(rest, seed, fold, 1)
    if protocol.unit != "speaker":
        return _first(_alternating(order, {key: item.label for key, item in rest.items()}), fraction)
    sex_of = {key: item.sex for key, item in rest.items()}
    return _first(_alternating(sorted(order, key=sex_of.__getitem__), sex_of), fraction)


def check(items: Sequence[Item], parts: Sequence[Part], protocol: Protocol) -> None:
    """Raise AssertionError if a speaker or a take is on two sides of a split that rules it out."""
    for unit, keys in (("speaker", [item.speaker for item in items]), ("take", [item.take_id for item in items])):
        if unit in protocol.shared:
            continue
        side: dict[str, Part] = {}
        for key, part in zip(keys, parts, strict=True):
            if key and side.setdefault(key, part) != part:
                raise AssertionError(f"protocol {protocol.name}: {unit} {key} is in {side[key]} and in {part}")
