"""The named protocols are the published ones, and keep what they promise about speakers and takes."""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_emotion.corpora import protocols
from fusion_emotion.corpora.protocols import PARTS, PROTOCOLS, SPEAKER_INDEPENDENT, Item, Part
from fusion_emotion.errors import UserError

# Held-out actors, written out from the publications.
PUBLISHED = {
    "luna5": [
        {"02", "05", "14", "15", "16"},
        {"03", "06", "07", "13", "18"},
        {"10", "11", "12", "19", "20"},
        {"08", "17", "21", "23", "24"},
        {"01", "04", "09", "22"},
    ],
    "contiguous6": [
        {"01", "02", "03", "04"},
        {"05", "06", "07", "08"},
        {"09", "10", "11", "12"},
        {"13", "14", "15", "16"},
        {"17", "18", "19", "20"},
        {"21", "22", "23", "24"},
    ],
    "emobox6": [
        {"01", "11", "20", "21"},
        {"04", "10", "12", "14"},
        {"08", "09", "19", "23"},
        {"03", "05", "07", "24"},
        {"02", "15", "16", "18"},
        {"06", "13", "17", "22"},
    ],
    "chumachenko": [{"05", "10", "16", "19"}],
}
CHUMACHENKO_VALIDATION = {"11", "13", "18", "22"}
SETTINGS = {"fold": 0, "n_folds": 5, "test_fraction": 0.2, "validation_fraction": 0.125, "seed": 0}
ACTORS = range(1, 25)
FOLDS = {"luna5": 5, "contiguous6": 6, "emobox6": 6, "chumachenko": 1, "loso": 24, "kfold": 5}


def sex_of(actors: Sequence[int] = ACTORS) -> dict[str, str]:
    return {f"{actor:02d}": "male" if actor % 2 else "female" for actor in actors}


def corpus(actors: Sequence[int] = ACTORS, *, takes: int = 60, modalities: int = 1) -> list[Item]:
    """RAVDESS in small: every actor's takes, each as often as there are modalities."""
    return [
        Item(take_id=f"01-{take:02d}-{speaker}", speaker=speaker, sex=sex, label=take % 8)
        for _ in range(modalities)
        for speaker, sex in sex_of(actors).items()
        for take in range(takes)
    ]


def draw(items: Sequence[Item], protocol: str, **changed: Any) -> list[Part]:
    return protocols.draw(items, protocol, **{**SETTINGS, **changed})


def sides(items: Sequence[Item], parts: Sequence[Part], what: str) -> dict[Part, set[str]]:
    """The speakers or takes of each part."""
    return {
        side: {getattr(item, what) for item, part in zip(items, parts, strict=True) if part == side} for side in PARTS
    }


def assert_disjoint(there: dict[Part, set[str]]) -> None:
    assert sum(map(len, there.values())) == len(set.union(*there.values()))


@pytest.mark.parametrize(("protocol", "fold"), [(name, fold) for name in PUBLISHED for fold in range(FOLDS[name])])
def test_the_test_part_is_the_published_actors(protocol: str, fold: int) -> None:
    items = corpus(takes=3)
    there = sides(items, draw(items, protocol, fold=fold), "speaker")
    assert there["test"] == PUBLISHED[protocol][fold]
    assert set.union(*there.values()) == set(sex_of())
    assert_disjoint(there)


def test_chumachenko_validates_on_the_published_actors() -> None:
    items = corpus(takes=3)
    assert sides(items, draw(items, "chumachenko"), "speaker")["validation"] == CHUMACHENKO_VALIDATION


@pytest.mark.parametrize("protocol", ["luna5", "contiguous6", "emobox6", "loso", "kfold"])
def test_every_speaker_is_tested_once(protocol: str) -> None:
    folds = protocols.speaker_folds(protocol, sex_of(), n_folds=5, seed=3)
    assert len(folds) == FOLDS[protocol]
    assert Counter(speaker for fold in folds for speaker in fold) == Counter(list(sex_of()))


def test_loso_holds_out_one_speaker_in_order() -> None:
    assert protocols.speaker_folds("loso", sex_of(), n_folds=5, seed=0) == [{f"{actor:02d}"} for actor in ACTORS]


speakers = st.lists(st.sampled_from(ACTORS), unique=True, min_size=4)


@settings(deadline=None)
@given(speakers, st.sampled_from(SPEAKER_INDEPENDENT), st.integers(0, 23), st.integers(0, 2**32), st.integers(2, 6))
def test_no_speaker_and_no_take_is_on_two_sides(
    actors: list[int], protocol: str, fold: int, seed: int, n_folds: int
) -> None:
    items = corpus(actors, takes=3, modalities=2)
    try:
        parts = draw(items, protocol, fold=fold, seed=seed, n_folds=n_folds)
    except UserError:
        # A published fold may hold none of these speakers; a fold or their number may be too large for them.
        return
    for what in ("speaker", "take_id"):
        there = sides(items, parts, what)
        assert all(there.values())
        assert_disjoint(there)


@settings(deadline=None)
@given(speakers, st.integers(2, 9), st.integers(0, 2**32), st.floats(0.01, 0.5), st.floats(0.01, 0.5))
def test_random_puts_every_modality_of_a_take_together(
    actors: list[int], takes: int, seed: int, test_fraction: float, validation_fraction: float
) -> None:
    items = corpus(actors, takes=takes, modalities=3)
    parts = draw(items, "random", seed=seed, test_fraction=test_fraction, validation_fraction=validation_fraction)
    there = sides(items, parts, "take_id")
    assert all(there.values())
    assert_disjoint(there)
    n_takes = len(actors) * takes
    assert abs(len(there["test"]) - n_takes * test_fraction) <= 1
    assert abs(len(there["validation"]) - (n_takes - len(there["test"])) * validation_fraction) <= 1


def test_random_is_80_to_20_of_the_takes_with_speakers_on_both_sides() -> None:
    items = corpus()
    parts = draw(items, "random")
    assert Counter(parts) == {"test": 288, "validation": 144, "train": 1008}  # of 1,440
    assert sides(items, parts, "speaker")["test"] == set(sex_of())


def test_random_windows_is_80_to_20_of_the_windows_with_clips_on_both_sides() -> None:
    clips = corpus()
    windows = [clip for clip in clips for _ in range(3)]
    parts = draw(windows, "random_windows")
    assert Counter(parts) == {"test": 864, "validation": 432, "train": 3024}  # of 4,320
    there = sides(windows, parts, "take_id")
    assert len(there["test"] & there["train"]) > 400


@settings(deadline=None)
@given(st.lists(st.sampled_from(ACTORS), unique=True, min_size=1), st.integers(0, 2**32), st.data())
def test_takes_are_tested_once_in_even_shares_of_each_emotion(
    actors: list[int], seed: int, data: st.DataObject
) -> None:
    items = corpus(actors, takes=data.draw(st.integers(10, 24)), modalities=2)
    n_folds = data.draw(st.integers(2, 5))
    label_of = {item.take_id: item.label for item in items}
    tested: list[set[str]] = []
    for fold in range(n_folds):
        there = sides(items, draw(items, "takes", fold=fold, n_folds=n_folds, seed=seed), "take_id")
        assert_disjoint(there)
        assert set.union(*there.values()) == set(label_of)
        tested.append(there["test"])
        chosen = Counter(label_of[take] for take in there["validation"])
        # Before an emotion has two validation takes, each has one where there are enough of it.
        assert max(chosen.values()) <= 1 or len(chosen) == 8 or len(actors) == 1
    assert Counter(take for fold in tested for take in fold) == Counter(list(label_of))
    for label in range(8):
        counts = [sum(label_of[take] == label for take in fold) for fold in tested]
        assert max(counts) - min(counts) <= 1


def test_60_takes_of_one_speaker_make_5_folds_of_12() -> None:
    items = corpus([5])
    for fold in range(5):
        assert Counter(draw(items, "takes", fold=fold)) == {"test": 12, "validation": 6, "train": 42}


def test_folds_are_those_that_have_something_to_test() -> None:
    def of(actors: Sequence[int], protocol: str, n_folds: int = 5) -> list[int]:
        return protocols.folds(corpus(actors, takes=3), protocol, n_folds=n_folds, seed=0)

    assert of([1, 5, 6, 9, 20], "contiguous6") == [0, 1, 2, 4]
    assert of([7, 8, 9], "loso") == [0, 1, 2]
    assert of(ACTORS, "kfold", n_folds=6) == [*range(6)]
    assert of([5], "takes", n_folds=3) == [0, 1, 2]
    assert of(ACTORS, "random") == of(ACTORS, "random_windows") == [0]
    with pytest.raises(UserError, match="'k' is unknown"):
        of(ACTORS, "k")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_same_seed_gives_the_same_split_in_any_order_of_the_clips(protocol: str) -> None:
    items = corpus(takes=4)
    parts = draw(items, protocol)
    assert parts == draw(items, protocol)
    if protocol != "random_windows":  # whose windows have no other name than their place
        assert parts == draw(items[::-1], protocol)[::-1]


@pytest.mark.parametrize("protocol", sorted(set(PROTOCOLS) - {"chumachenko"}))
def test_another_seed_gives_another_split(protocol: str) -> None:
    items = corpus(takes=4)
    assert len({tuple(draw(items, protocol, seed=seed)) for seed in range(5)}) > 1


@pytest.mark.parametrize("protocol", ["luna5", "loso", "kfold"])
def test_folds_do_not_all_choose_the_same_validation_speakers(protocol: str) -> None:
    items = corpus(takes=2)
    chosen = [
        frozenset(sides(items, draw(items, protocol, fold=fold), "speaker")["validation"])
        for fold in range(FOLDS[protocol])
    ]
    assert len(set(chosen)) > 1


@settings(deadline=None)
@given(speakers, st.data(), st.integers(0, 2**32))
def test_kfold_is_a_partition_in_even_shares_of_each_sex(actors: list[int], data: st.DataObject, seed: int) -> None:
    n_folds = data.draw(st.integers(2, len(actors)))
    sexes = sex_of(actors)
    folds = protocols.speaker_folds("kfold", sexes, n_folds=n_folds, seed=seed)
    assert len(folds) == n_folds
    assert Counter(speaker for fold in folds for speaker in fold) == Counter(list(sexes))
    for kind in ({"male"}, {"female"}, {"male", "female"}):
        counts = [sum(sexes[speaker] in kind for speaker in fold) for fold in folds]
        assert max(counts) - min(counts) <= 1


@settings(deadline=None)
@given(st.sampled_from(["luna5", "contiguous6", "emobox6", "loso", "kfold"]), st.integers(0, 2**32), st.integers(0, 4))
def test_the_validation_speakers_are_balanced_by_sex(protocol: str, seed: int, fold: int) -> None:
    items = corpus(takes=1)
    chosen = sides(items, draw(items, protocol, fold=fold, seed=seed, validation_fraction=0.3), "speaker")["validation"]
    assert abs(sum(sex_of()[speaker] == "male" for speaker in chosen) - len(chosen) / 2) <= 0.5


def test_a_published_fold_keeps_its_number_without_some_of_its_actors() -> None:
    items = corpus([1, 5, 6, 9, 20], takes=2)
    assert sides(items, draw(items, "contiguous6", fold=1), "speaker")["test"] == {"05", "06"}
    with pytest.raises(UserError, match="fold 3, leaves nothing to the test part"):
        draw(items, "contiguous6", fold=3)


@pytest.mark.parametrize(
    ("actors", "protocol", "changed", "message"),
    [
        (ACTORS, "rnd", {}, r"split.protocol='rnd' is unknown: choose one of random, .*kfold"),
        (ACTORS, "luna5", {"fold": 5}, r"split.fold=5 is out of range: luna5 has folds 0 to 4"),
        (ACTORS, "loso", {"fold": 24}, r"split.fold=24 .* folds 0 to 23"),
        (ACTORS, "kfold", {"fold": -1}, r"split.fold=-1 .* folds 0 to 4"),
        (ACTORS, "chumachenko", {"fold": 1}, r"split.fold=1 .* folds 0 to 0"),
        (ACTORS, "kfold", {"n_folds": 1}, r"split.n_folds=1 does not suit 24 speakers: choose 2 to 24"),
        ([1, 2, 3], "kfold", {"n_folds": 4}, r"split.n_folds=4 does not suit 3 speakers: choose 2 to 3"),
        ([7], "kfold", {}, r"does not suit 1 speakers.*protocol=takes"),
        ([7], "takes", {"n_folds": 3}, r"split.n_folds=3 does not suit 2 takes: choose 2 to 2"),
        ([7, 8], "takes", {"fold": 5, "n_folds": 4}, r"split.fold=5 .* folds 0 to 3"),
        ([7, 8], "loso", {}, r"leaves nothing to the validation part .* of 2 speakers"),
        ([7], "loso", {}, r"leaves nothing to the train and validation part"),
        (ACTORS, "random", {"test_fraction": 0.0}, r"split.test_fraction=0.0 .* between 0 and 1"),
        (ACTORS, "random", {"test_fraction": 1.0}, r"split.test_fraction=1.0 .* between 0 and 1"),
        (ACTORS, "loso", {"validation_fraction": 1.5}, r"split.validation_fraction=1.5 .* between 0 and 1"),
        (ACTORS, "random", {"validation_fraction": float("nan")}, r"split.validation_fraction=nan"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_the_remedy(
    actors: Sequence[int], protocol: str, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as raised:
        draw(corpus(actors, takes=2), protocol, **changed)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("n_items", [0, 1, 2])
def test_too_few_clips_are_refused(protocol: str, n_items: int) -> None:
    with pytest.raises(UserError):
        draw(corpus(takes=1)[:n_items], protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_planted_leak_is_caught(protocol: str) -> None:
    items = corpus(takes=5, modalities=2)
    parts = draw(items, protocol)
    protocols.check(items, parts, protocol)
    leak = parts.index("test")
    leaking: list[Part] = [*parts[:leak], "train", *parts[leak + 1 :]]
    if protocol == "random_windows":
        protocols.check(items, leaking, protocol)  # which promises nothing
        return
    what = f"take {items[leak].take_id}" if protocol in ("random", "takes") else f"speaker {items[leak].speaker}"
    with pytest.raises(AssertionError, match=f"{protocol}: {what} is in "):
        protocols.check(items, leaking, protocol)


def test_a_take_that_leaks_from_one_speaker_to_another_is_caught() -> None:
    """Two speakers in one take: no speaker is on two sides, but the take is."""
    items = [
        Item(take_id="duet", speaker="01", sex="male", label=0),
        Item(take_id="duet", speaker="02", sex="female", label=0),
    ]
    with pytest.raises(AssertionError, match="take duet is in train and in test"):
        protocols.check(items, ["train", "test"], "loso")


@pytest.fixture(scope="module")
def many() -> list[Item]:
    speakers = 100
    return 10 * [
        Item(take_id=f"{i}", speaker=f"{i % speakers:03d}", sex=("male", "female")[i % 2], label=i % 8)
        for i in range(20_000)
    ]


@pytest.mark.parametrize("protocol", ["random", "random_windows", "takes", "kfold"])
def test_200_000_items_take_seconds(many: list[Item], protocol: str) -> None:
    start = time.process_time()
    draw(many, protocol)
    assert time.process_time() - start < 5


def test_every_protocol_says_what_it_means() -> None:
    assert set(protocols.MEANING) == set(PROTOCOLS)
    assert set(protocols.ON_BOTH_SIDES) == set(PROTOCOLS) - set(SPEAKER_INDEPENDENT)
    assert all("on both sides" in protocols.MEANING[p] for p in protocols.ON_BOTH_SIDES)
    assert all("speaker-independent" in protocols.MEANING[p] for p in SPEAKER_INDEPENDENT)
