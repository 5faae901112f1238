"""Label sets, soft labels, stills, and several corpora at once."""

import collections
import dataclasses
import pathlib

import cv2
import numpy as np
import pytest

import run_tiny
import tiny
from conftest import settings_of
from films import contents
from fusion_emotion import config
from fusion_emotion.corpora import catalogue, ferplus, labels, protocols
from fusion_emotion.corpora.corpus import Wanted
from fusion_emotion.errors import UserError
from fusion_emotion.input.batches import training_batches
from fusion_emotion.input.data import Data
from fusion_emotion.prepare import run
from fusion_emotion.prepare.records import decode

PICTURES = Wanted(audio_alone=False, channel="both")


def test_every_word_of_a_corpus_is_in_the_vocabulary() -> None:
    for name in catalogue.MODULES:
        assert set(catalogue.corpus(name).label_names) <= set(labels.EMOTIONS), name
    for name in labels.LABEL_SETS:
        assert set(labels.parse(name).label_of) <= set(labels.EMOTIONS), name


def test_a_label_set_places_words_and_their_spellings() -> None:
    basic = labels.parse("basic7")
    assert [basic.of(word) for word in ("calm", "neutral", "Happiness", "pleasant surprise", "ANG", "bored")] == [
        *(0, 0, 1, 6, 3),
        None,
    ]
    spelt = labels.parse("negative=anger+sadness, positive=joy")
    assert [spelt.of(word) for word in ("anger", "angry", "sad", "Happiness", "calm")] == [0, 0, 0, 1, None]
    own = labels.parse("low=sad+bored, high = angry+excited")
    assert (own.names, own.of("boredom"), own.of("excited"), own.of("happy")) == (("low", "high"), 0, 1, None)
    for wrong, said in (
        ("basic9", "choose one of ravdess8"),
        ("a=happy, b=happy", "'happy' counts as two"),
        ("a=happy, a=sad", "each once"),
        ("a=happy", "two or more"),
        ("a=, b!", "not of the form"),
    ):
        with pytest.raises(UserError, match=said):
            labels.parse(wrong)


def test_votes_become_shares() -> None:
    assert labels.share_of_votes("happy=6+surprised=2+contempt=9", labels.parse("basic6")) == [0.75, 0, 0, 0, 0, 0.25]
    assert labels.share_of_votes("contempt=9", labels.parse("basic6")) is None


def ferplus_tree(root: pathlib.Path) -> pathlib.Path:
    """Six pictures in the owners' layout, one of them in two parts, one without a majority, one that is no face."""
    rng = np.random.default_rng(0)
    pictures = {number: rng.integers(0, 256, (48, 48), np.uint8) for number in range(5)}
    for folder, rows in {
        "FER2013Train": [(0, [8, 1, 1, 0, 0, 0, 0, 0, 0, 0]), (1, [0, 5, 4, 0, 0, 0, 0, 0, 1, 0])],
        "FER2013Valid": [(2, [0, 0, 0, 9, 0, 0, 0, 0, 1, 0]), (3, [3, 3, 3, 0, 0, 0, 0, 0, 1, 0])],
        "FER2013Test": [(4, [0, 0, 0, 0, 9, 0, 0, 0, 1, 0]), (0, [9, 0, 0, 0, 0, 0, 0, 0, 1, 0])],
    }.items():
        (root / folder).mkdir(parents=True)
        lines = []
        for picture, votes in rows:
            name = f"fer{len(list(root.glob('*/*.png'))):07d}.png"
            cv2.imwrite(str(root / folder / name), pictures[picture])
            lines.append(f'{name},"(0, 0, 48, 48)",{",".join(map(str, votes))}\n')
        (root / folder / "label.csv").write_text("".join(lines))
    return root


def test_ferplus_follows_the_protocol_of_its_paper(tmp_path: pathlib.Path) -> None:
    found = ferplus.find(ferplus_tree(tmp_path), PICTURES)
    assert [(clip.split, clip.emotion, clip.votes) for clip in found.clips] == [
        ("train", "happy", "happy=5+surprised=4"),
        ("validation", "sad", "sad=9"),
        ("test", "angry", "angry=9"),
        ("test", "neutral", "neutral=9"),
    ]
    assert sorted(found.passed_over_by_reason()) == [
        "no emotion has a majority of the votes",
        "the same picture is in the test part",
    ]
    (tmp_path / "FER2013Test" / "label.csv").write_text("fer0000004.png,box,1,2\n")
    with pytest.raises(UserError, match=r"label\.csv, row 1: expected a name, a box and 10 votes"):
        ferplus.find(tmp_path, PICTURES)


def test_the_csv_of_kaggle_becomes_the_layout_of_the_owners(tmp_path: pathlib.Path) -> None:
    values = np.arange(48 * 48, dtype=np.uint8)
    row = f"0,{' '.join(map(str, values))},PrivateTest\n"
    (tmp_path / "fer2013.csv").write_text("emotion,pixels,Usage\n" + 2 * row)
    head = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF\n"
    (tmp_path / "fer2013new.csv").write_text(
        f"{head}PrivateTest,fer0.png,0,9,0,0,0,0,0,0,1,0\nPrivateTest,,{'0,' * 9}10\n"
    )
    ferplus.make(tmp_path, {})
    [clip] = ferplus.find(tmp_path, PICTURES).clips
    assert (clip.emotion, clip.split) == ("happy", "test")
    np.testing.assert_array_equal(cv2.imread(str(clip.path), cv2.IMREAD_GRAYSCALE).ravel(), values)


def test_a_still_is_a_record_of_one_frame(tmp_path: pathlib.Path) -> None:
    root = ferplus_tree(tmp_path / "ferplus")
    clips = list(ferplus.find(root, PICTURES).clips)
    broken = dataclasses.replace(clips[0], path=tmp_path / "broken.png", clip_id="ferplus/broken")
    broken.path.write_bytes(b"no picture")
    settings = settings_of(tmp_path / "cache", detector="none", face_size=48)
    rows, records = contents(run.prepare([*clips, broken], settings))
    assert [row.status for row in rows] == 4 * ["ok"] + ["quarantined"]
    for clip, row in zip(clips, rows, strict=False):
        record = decode(records[row.record])
        assert (row.n_frames, row.n_samples, row.votes, row.split) == (1, 0, clip.votes, clip.split)
        np.testing.assert_array_equal(record.faces[0], cv2.imread(str(clip.path), cv2.IMREAD_COLOR_RGB))


def two_corpora(tmp_path: pathlib.Path) -> pathlib.Path:
    """The tiny corpus as RAVDESS, and four speakers of it, whose calm is boredom, as EmoDB: joined."""
    folders = []
    for corpus, speakers in (("ravdess", 6), ("emodb", 4)):
        records = [
            dataclasses.replace(
                record,
                corpus=corpus,
                emotion="bored" if (corpus, record.emotion) == ("emodb", "calm") else record.emotion,
                **{
                    name: getattr(record, name).replace("ravdess", corpus) for name in ("clip_id", "take_id", "speaker")
                },
            )
            for record in tiny.records_of(speakers=speakers, seed=len(corpus))
        ]
        folders.append(tiny.write_corpus(tmp_path / corpus, records))
    return run.join(folders, settings_of(tmp_path / "cache"))


def settings(**changes: object) -> dict:
    both = {"data__corpora": ["ravdess", "emodb"], "data__roots": ["a", "b"], "data__labels": "basic7"}
    return run_tiny.settings(**both, **changes)


def test_several_corpora_are_read_as_one(tmp_path: pathlib.Path) -> None:
    folder = two_corpora(tmp_path)
    data = Data.open(settings(), folder)
    assert data.set_aside == {"bored, which is not among the labels": 4}
    assert data.corpus.title == "RAVDESS and EmoDB"
    for part in protocols.PARTS:
        source = data.source(part)
        for clip, row in enumerate(source.segments.rows):
            record = source.record(clip)
            assert (record.clip_id, record.speaker, record.corpus) == (row.clip_id, row.speaker, row.corpus)
    assert run.join([tmp_path / "ravdess", tmp_path / "emodb"], settings_of(tmp_path / "cache")) == folder


@pytest.mark.parametrize(
    ("changes", "trained", "tested"),
    [
        ({"split__protocol": "leave_one_corpus_out"}, {"ravdess"}, {"emodb"}),
        ({"split__protocol": "leave_one_corpus_out", "split__fold": 1}, {"emodb"}, {"ravdess"}),
        ({"split__protocol": "train:ravdess test:emodb"}, {"ravdess"}, {"emodb"}),
        ({"split__corpora": ["ravdess"]}, {"ravdess", "emodb"}, {"ravdess"}),
    ],
)
def test_protocols_across_corpora(tmp_path: pathlib.Path, changes: dict, trained: set[str], tested: set[str]) -> None:
    data = Data.open(settings(**changes), two_corpora(tmp_path))
    corpora = {part: {row.corpus for row in segments.rows} for part, segments in data.parts.items()}
    assert (corpora["train"], corpora["test"]) == (trained, tested)
    assert corpora["validation"] <= trained
    assert not set(data.parts["train"].speakers) & set(data.parts["test"].speakers)


def test_an_unknown_side_is_said() -> None:
    with pytest.raises(UserError, match="trains and tests on a"):
        protocols.protocol("train:a+b test:a")
    with pytest.raises(UserError, match="choose one of random"):
        protocols.protocol("train:a")


def test_corpora_are_drawn_by_their_weights_and_the_order_resumes(tmp_path: pathlib.Path) -> None:
    source = Data.open(settings(), two_corpora(tmp_path)).source("train")
    corpora = [row.corpus for row in source.segments.rows]
    sizes = collections.Counter(corpora[clip] for clip in source.segments.clip)
    weights = {"ravdess": 1.0, "emodb": 3.0}

    def batches():
        return training_batches(source, batch_size=20, seed=0, media=False, weights=weights)

    drawn, stream = collections.Counter(), batches()
    for _ in range(60):
        drawn.update(corpora[clip] for clip in next(stream)["clip"])
    expected = 3 * sizes["emodb"] / (3 * sizes["emodb"] + sizes["ravdess"])
    assert drawn["emodb"] / drawn.total() == pytest.approx(expected, abs=0.01)
    state = stream.get_state()
    after, again = next(stream), batches()
    again.set_state(state)
    np.testing.assert_array_equal(next(again)["clip"], after["clip"])


def test_a_table_with_corpora_of_its_own_has_the_weight_of_the_folder(tmp_path: pathlib.Path) -> None:
    source = Data.open(settings(), two_corpora(tmp_path)).source("train")
    corpora = [row.corpus for row in source.segments.rows]
    weights = {"ravdess": 1.0, "folder": 2.0}  # as if a table had named the second one emodb
    stream = training_batches(source, batch_size=20, seed=0, media=False, weights=weights)
    drawn = collections.Counter(corpora[clip] for _ in range(60) for clip in next(stream)["clip"])
    sizes = collections.Counter(corpora[clip] for clip in source.segments.clip)
    share = 2 * sizes["emodb"] / (2 * sizes["emodb"] + sizes["ravdess"])
    assert drawn["emodb"] / drawn.total() == pytest.approx(share, abs=0.01)


def test_votes_are_trained_on_as_shares(tmp_path: pathlib.Path) -> None:
    folder = two_corpora(tmp_path)
    source = Data.open(settings(), folder).source("train")
    assert source.targets is None
    row = source.segments.rows[0]
    row.votes = "happy=1+sad=3"
    again = type(source).open(folder, source.segments, labels=labels.parse("basic7"))
    np.testing.assert_allclose(again.pick(0)["target"], [0, 0.25, 0.75, 0, 0, 0, 0])
    other = int(np.flatnonzero(source.segments.clip == 1)[0])
    np.testing.assert_array_equal(again.pick(other)["target"], np.eye(7)[source.segments.rows[1].label])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data.corpora": ("ravdess",), "data.roots": ("a",)}, "names one corpus"),
        ({"data.corpora": ("ravdess", "emodb"), "data.roots": ("a",)}, "data.roots"),
        ({"data.corpora": ("ravdess", "emodb"), "data.roots": ("a", "b")}, "set data.labels to one set"),
        ({"data.weights": (1.0,)}, "data.weights"),
    ],
)
def test_corpora_need_roots_and_labels(changes: dict, said: str) -> None:
    fields = config.dotted(config.defaults().to_dict()) | changes
    with pytest.raises(UserError, match=said):
        config.check(config.completed(fields))


def test_given_parts_are_checked() -> None:
    def draw(splits: str, speakers: str) -> list[str]:
        items = [
            tiny.Placed(
                take_id=str(i), speaker=speaker, split={"r": "train", "e": "test", "v": "validation"}.get(s, "")
            )
            for i, (s, speaker) in enumerate(zip(splits, speakers, strict=True))
        ]
        fractions = {"test_fraction": 0.2, "validation_fraction": 0.3, "seed": 0}
        return protocols.draw(items, protocols.protocol("given"), fold=0, n_folds=2, **fractions)

    assert draw("rrve", "abcd") == ["train", "train", "validation", "test"]
    assert sorted(draw("rrre", "abcd")) == ["test", "train", "train", "validation"]
    with pytest.raises(UserError, match="1 of 4 name none"):
        draw("rr-e", "abcd")
    with pytest.raises(UserError, match="speaker b is in the parts train and test: give it one, or choose given_takes"):
        draw("rrve", "abcb")
