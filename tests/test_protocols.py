"""The named protocols are the published ones, and keep what they promise about speakers and takes."""

import contextlib
import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_emotion.corpora import protocols
from fusion_emotion.corpora.protocols import PARTS, PROTOCOLS, Item, Part, Protocol, protocol
from fusion_emotion.errors import UserError
from fusion_emotion.input.leaks import KINDS, severity
from tiny import Placed

# Held-out actors, written out from the publications.
PUBLISHED = {
    "luna5": ["02 05 14 15 16", "03 06 07 13 18", "10 11 12 19 20", "08 17 21 23 24", "01 04 09 22"],
    "contiguous6": ["01 02 03 04", "05 06 07 08", "09 10 11 12", "13 14 15 16", "17 18 19 20", "21 22 23 24"],
    "emobox6": ["01 11 20 21", "04 10 12 14", "08 09 19 23", "03 05 07 24", "02 15 16 18", "06 13 17 22"],
    "chumachenko": ["05 10 16 19"],
}
# Of the letters of each part under `SETTINGS`, as drawn since the first release: published numbers depend on them.
# Protocols of several corpora, and of parts that the clips name, are tested in test_several_corpora.py.
GOLDEN = {
    "random": "9a45323e",
    "random_windows": "5ed1d06a",
    "takes": "de5b2da6",
    "luna5": "54056e6f",
    "contiguous6": "03e2c147",
    "emobox6": "2b736d6e",
    "chumachenko": "402f8297",
    "loso": "890d9f34",
    "kfold": "ec0cd638",
}
SETTINGS = {"fold": 0, "n_folds": 5, "test_fraction": 0.2, "validation_fraction": 0.125, "seed": 0}
ACTORS = range(1, 25)
SPEAKER_INDEPENDENT = [name for name, value in PROTOCOLS.items() if value.speaker_independent]
speakers = st.lists(st.sampled_from(ACTORS), unique=True, min_size=4)
seeds = st.integers(0, 2**32)


def sex_of(actors: Sequence[int] = ACTORS, *, name: str = "ravdess") -> dict[str, str]:
    return {f"{name}/{actor:02d}": "male" if actor % 2 else "female" for actor in actors}


def corpus(
    actors: Sequence[int] = ACTORS, *, takes: int = 60, modalities: int = 1, name: str = "ravdess"
) -> list[Placed]:
    """RAVDESS in small: every actor's takes, each as often as there are modalities."""
    return [
        Placed(take_id=f"{name}/01-{take:02d}-{speaker[-2:]}", speaker=speaker, sex=sex, label=take % 8)
        for _ in range(modalities)
        for speaker, sex in sex_of(actors, name=name).items()
        for take in range(takes)
    ]


def draw(items: Sequence[Item], name: str, **changed: Any) -> list[Part]:
    return protocols.draw(items, protocol(name), **{**SETTINGS, **changed})


def held_out(items: Sequence[Item], name: str, *, n_folds: int = 5, seed: int = 0) -> list[set[str]]:
    folds = protocol(name).folds
    assert folds is not None
    return folds(items, n_folds, seed)


def sides(items: Sequence[Item], parts: Sequence[Part], field: str, *, disjoint: bool = False) -> dict[Part, set[str]]:
    """The speakers or takes of each part; `disjoint` says that none may be empty or share one."""
    keys = {
        side: {getattr(item, field) for item, part in zip(items, parts, strict=True) if part == side} for side in PARTS
    }
    if disjoint:
        assert all(keys.values())
        assert sum(map(len, keys.values())) == len({getattr(item, field) for item in items})
    return keys


@pytest.mark.parametrize("name", GOLDEN)
def test_the_split_is_that_of_the_published_numbers(name: str) -> None:
    letters = "".join(part[1] for part in draw(corpus(takes=4), name))
    assert hashlib.sha256(letters.encode()).hexdigest()[:8] == GOLDEN[name]


@pytest.mark.parametrize(("name", "fold"), [(name, fold) for name in PUBLISHED for fold in range(len(PUBLISHED[name]))])
def test_the_test_part_is_the_published_actors_of_ravdess_and_the_sample_corpus(name: str, fold: int) -> None:
    """The actors of the same numbers in another corpus are other people."""
    for corpus_name in ("ravdess", "sample"):
        others = corpus(takes=3, name="savee")
        items = corpus(takes=3, name=corpus_name) + others
        keys = sides(items, draw(items, name, fold=fold), "speaker", disjoint=True)
        assert keys["test"] == {f"{corpus_name}/{actor}" for actor in PUBLISHED[name][fold].split()}
        if name == "chumachenko":
            assert keys["validation"] == {f"{corpus_name}/{actor}" for actor in (11, 13, 18, 22)}
        assert held_out(others, name)[fold] == set()


@given(speakers, st.sampled_from(SPEAKER_INDEPENDENT), st.integers(0, 23), seeds, st.integers(2, 6))
def test_no_speaker_and_no_take_is_on_two_sides(
    actors: list[int], name: str, fold: int, seed: int, n_folds: int
) -> None:
    items = corpus(actors, takes=3, modalities=2)
    try:
        parts = draw(items, name, fold=fold, seed=seed, n_folds=n_folds)
    except UserError:
        # A published fold may hold none of these speakers; a fold or their number may be too large for them.
        return
    for field in ("speaker", "take_id"):
        sides(items, parts, field, disjoint=True)


@given(speakers, st.integers(2, 9), seeds, st.floats(0.01, 0.5), st.floats(0.01, 0.5))
def test_random_puts_every_modality_of_a_take_together(
    actors: list[int], takes: int, seed: int, test_fraction: float, validation_fraction: float
) -> None:
    items = corpus(actors, takes=takes, modalities=3)
    parts = draw(items, "random", seed=seed, test_fraction=test_fraction, validation_fraction=validation_fraction)
    keys, n_takes = sides(items, parts, "take_id", disjoint=True), len(actors) * takes
    assert abs(len(keys["test"]) - n_takes * test_fraction) <= 1
    assert abs(len(keys["validation"]) - (n_takes - len(keys["test"])) * validation_fraction) <= 1


@given(st.lists(st.sampled_from(ACTORS), unique=True, min_size=1), seeds, st.integers(10, 24), st.integers(2, 5))
def test_takes_are_tested_once_in_even_shares_of_each_emotion(
    actors: list[int], seed: int, takes: int, n_folds: int
) -> None:
    items = corpus(actors, takes=takes, modalities=2)
    label_of = {item.take_id: item.label for item in items}
    tested: list[set[str]] = []
    for fold in range(n_folds):
        keys = sides(items, draw(items, "takes", fold=fold, n_folds=n_folds, seed=seed), "take_id", disjoint=True)
        tested.append(keys["test"])
        chosen = Counter(label_of[take] for take in keys["validation"])
        # Before an emotion has two validation takes, each has one where there are enough of it.
        assert max(chosen.values()) <= 1 or len(chosen) == 8 or len(actors) == 1
    assert Counter(take for fold in tested for take in fold) == Counter(list(label_of))
    for label in range(8):
        counts = [sum(label_of[take] == label for take in fold) for fold in tested]
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(
    ("actors", "name", "expected"),
    [
        ([1, 5, 6, 9, 20], "contiguous6", [0, 1, 2, 4]),
        ([5], "takes", [0, 1, 2, 3]),
        (ACTORS, "random_windows", [0]),
    ],
)
def test_folds_are_those_that_have_something_to_test(actors: Sequence[int], name: str, expected: list[int]) -> None:
    assert protocols.folds(corpus(actors, takes=4), protocol(name), n_folds=4, seed=0) == expected


@pytest.mark.parametrize("name", GOLDEN)
def test_the_seed_decides_the_split_and_the_order_of_the_clips_does_not(name: str) -> None:
    items = corpus(takes=4)
    parts = draw(items, name)
    assert parts == draw(items, name)
    if name != "random_windows":  # whose segments have no other name than their place
        assert parts == draw(items[::-1], name)[::-1]
    if name != "chumachenko":
        assert len({tuple(draw(items, name, seed=seed)) for seed in range(5)}) > 1


@given(speakers, st.data(), seeds)
def test_kfold_is_a_partition_in_even_shares_of_each_sex(actors: list[int], data: st.DataObject, seed: int) -> None:
    n_folds = data.draw(st.integers(2, len(actors)))
    sexes = sex_of(actors)
    folds = held_out(corpus(actors, takes=1), "kfold", n_folds=n_folds, seed=seed)
    assert len(folds) == n_folds
    assert Counter(speaker for fold in folds for speaker in fold) == Counter(list(sexes))
    for kind in ({"male"}, {"female"}, {"male", "female"}):
        counts = [sum(sexes[speaker] in kind for speaker in fold) for fold in folds]
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(
    ("name", "field", "n_held_out"), [("loso", "speaker", 1), ("kfold", "speaker", 2), ("takes", "take_id", 16)]
)
def test_two_corpora_with_the_same_numbers_have_no_speaker_and_no_take_in_common(
    name: str, field: str, n_held_out: int
) -> None:
    items = corpus([1, 2, 3, 4, 5], takes=8) + corpus([1, 2, 3, 4, 5], takes=8, name="sample")
    assert len(sides(items, draw(items, name), field, disjoint=True)["test"]) == n_held_out


@pytest.mark.parametrize(
    ("actors", "name", "changed", "word"),
    [
        (ACTORS, "rnd", {}, "choose one of random, .*kfold"),
        (ACTORS, "luna5", {"fold": 5}, r"split\.fold"),
        ([7, 8], "takes", {"fold": 5, "n_folds": 4}, r"split\.fold"),
        ([1, 2, 3], "kfold", {"n_folds": 4}, r"split\.n_folds"),
        ([7, 8, 9], "kfold", {"n_folds": 2}, "choose 3$"),
        ([7, 8, 9, 10], "kfold", {"n_folds": 9}, "choose 2 to 4$"),
        ([7], "kfold", {}, r"needs 3 speakers, .* there is 1: use more data$"),
        ([7, 8], "loso", {}, r"needs 3 speakers, .* there are 2: .* --config\.split\.protocol=takes or random$"),
        ([7], "random", {}, r"needs 3 takes, .* there are 2: use more data$"),
        ([7], "takes", {}, r"needs 3 takes, .* there are 2: use more data$"),
        ([7, 8], "random", {"test_fraction": 0.9}, r"validation part of 4 takes: lower --config\.split\.test_fraction"),
        ([7, 8, 9], "luna5", {"fold": 2}, r"test|validation"),
        ([1, 5, 6, 9, 20], "contiguous6", {"fold": 3}, "test part"),
        *(([], name, {}, "split") for name in PROTOCOLS),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_the_remedy(
    actors: Sequence[int], name: str, changed: dict[str, Any], word: str
) -> None:
    with pytest.raises(UserError, match=word) as raised:
        draw(corpus(actors, takes=2), name, **changed)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", GOLDEN)
def test_a_planted_leak_is_caught(name: str) -> None:
    items = corpus(takes=5, modalities=2)
    parts = draw(items, name)
    protocols.check(items, parts, protocol(name))
    leak = parts.index("test")
    parts[leak] = "train"
    shared = protocol(name).shared
    key = items[leak].take_id if "speaker" in shared else items[leak].speaker
    with pytest.raises(AssertionError, match=key) if "take" not in shared else contextlib.nullcontext():
        protocols.check(items, parts, protocol(name))


def test_a_take_that_leaks_from_one_speaker_to_another_is_caught() -> None:
    """Two speakers in one take: no speaker is on two sides, but the take is."""
    items = [Placed(take_id="duet", speaker=name, sex="male", label=0) for name in ("ravdess/01", "ravdess/03")]
    with pytest.raises(AssertionError, match="duet"):
        protocols.check(items, ["train", "test"], protocol("loso"))


@pytest.mark.parametrize("unit", ["segment", "take", "speaker"])
def test_a_new_protocol_is_one_object(unit: Any) -> None:
    """Its split, the severity of its leaks and the notes beside its numbers follow from the unit that it places."""
    odd = Protocol(name="odd", unit=unit, meaning="drawn for a test")
    items = corpus(takes=8)
    parts = protocols.draw(items, odd, **SETTINGS)
    keys = {field: sides(items, parts, field) for field in ("speaker", "take_id")}
    assert keys["speaker"]["test"].isdisjoint(keys["speaker"]["train"]) == (unit == "speaker")
    assert keys["take_id"]["test"].isdisjoint(keys["take_id"]["train"])
    severities = {kind: severity(odd, kind) for kind in KINDS}
    assert [kind for kind, value in severities.items() if value == "inherent"] == list(odd.shared)
    assert ("warning" in severities.values()) == (unit != "speaker")
    assert bool(odd.warning) == bool(odd.on_both_sides) == (unit != "speaker") != odd.speaker_independent
    assert not odd.with_folds
    assert protocols.folds(items, odd, n_folds=5, seed=0) == [0]
