"""RAVDESS's file names: the grammar, the clips of a folder, and the clips of a run."""

import itertools
import pathlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import put
from fusion_emotion.corpora import catalogue, ravdess
from fusion_emotion.corpora.catalogue import Wanted
from fusion_emotion.corpora.walk import find_all
from fusion_emotion.errors import UserError

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
FIELDS = ("modality", "vocal channel", "emotion", "intensity", "statement", "repetition", "actor")
HIGHEST = (3, 2, 8, 2, 2, 2, 24)


def is_a_take(codes: tuple[int, ...]) -> bool:
    """Neutral has no strong intensity; song has neither disgust nor surprised."""
    return codes[2:4] != (1, 2) and not (codes[1] == 2 and codes[2] > 6)


def path_of(codes: tuple[int, ...]) -> pathlib.Path:
    return pathlib.Path("anywhere", "-".join(f"{code:02d}" for code in codes) + (".wav" if codes[0] == 3 else ".mp4"))


valid = st.tuples(*(st.integers(1, highest) for highest in HIGHEST)).filter(is_a_take)


@given(valid)
def test_a_name_is_parsed_into_its_codes(codes: tuple[int, ...]) -> None:
    path = path_of(codes)
    clip = ravdess.parse_name(path)
    assert (clip.path, clip.corpus, clip.clip_id) == (path, "ravdess", f"ravdess/{path.stem}")
    assert (clip.take_id, clip.speaker) == (f"ravdess/{path.stem[3:]}", f"ravdess/{codes[6]:02d}")
    assert clip.sex == ("female", "male")[codes[6] % 2]
    assert (clip.modality, clip.channel) == (("av", "v", "a")[codes[0] - 1], ("speech", "song")[codes[1] - 1])
    assert (clip.emotion, clip.intensity) == (EMOTIONS[codes[2] - 1], ("normal", "strong")[codes[3] - 1])
    assert (clip.statement, clip.repetition) == (f"{codes[4]:02d}", f"{codes[5]:02d}")
    assert ravdess.parse_name(path.with_suffix(path.suffix.upper())).clip_id == clip.clip_id


def test_the_grammar_holds_all_takes_of_the_corpus() -> None:
    every = itertools.product((1,), *(range(1, highest + 1) for highest in HIGHEST[1:]))
    takes = [ravdess.parse_name(path_of(codes)) for codes in every if is_a_take(codes)]
    assert sum(take.channel == "speech" for take in takes) == 1440
    assert sum(take.channel == "song" and take.speaker != "ravdess/18" for take in takes) == 1012  # 18 sang nothing


@pytest.mark.parametrize(
    ("name", "word"),
    [
        *(
            ("-".join(["01"] * place + [code] + ["01"] * (6 - place)) + ".mp4", f"{field} {code}")
            for place, field in enumerate(FIELDS)
            for code in ("00", f"{HIGHEST[place] + 1:02d}", "99")
        ),
        ("01-01-01-02-01-01-01.mp4", "neutral"),
        ("01-02-07-01-01-01-01.mp4", "song"),
        ("01-01-03-01-01-01-01.wav", "extension"),
        ("03-01-03-01-01-01-01.mp4", "extension"),
        ("01-01-03-01-01-01-0٣.mp4", "actor"),
        ("01-01-03-01-01-01.mp4", "MM-VV"),
        ("1-01-03-01-01-01-01.mp4", "MM-VV"),
        ("01-01-03-01-01-01-01\n.mp4", "MM-VV"),
    ],
)
def test_any_other_name_is_refused_with_the_reason(name: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        ravdess.parse_name(pathlib.Path(name))


# The clips of a folder

AV, V, A = "01-01-03-01-01-01-01.mp4", "02-01-03-01-01-01-01.mp4", "03-01-03-01-01-01-01.wav"
OTHER_AV = "01-01-03-01-01-02-01.mkv"
WEBM, OPUS = "01-01-04-01-01-01-01.webm", "03-01-04-01-01-01-01.opus"
SONG, SONG_A = "01-02-03-01-01-01-02.mp4", "03-02-03-01-01-01-02.wav"


def test_clips_come_by_name_and_other_files_are_passed_over_with_the_reason(tmp_path: pathlib.Path) -> None:
    names = ["b/01-01-01-01-01-01-01.mp4", "Actor 01 (copie) é/deep/01-01-02-01-01-01-01.MP4", AV]
    wrong = "Actor_01/01-01-09-01-01-01-01.mp4"
    put(tmp_path, *names, "README.txt", "b/._" + AV, "b/" + AV + ".part", ".mp4", "Actor_01/" + AV, wrong)
    (tmp_path / "01-01-05-01-01-01-01.mp4").mkdir()
    found = find_all(tmp_path, ravdess.parse_name)
    assert [clip.path.relative_to(tmp_path).as_posix() for clip in found.clips] == names
    reasons = dict(found.passed_over)
    assert reasons.keys() == {str(tmp_path / wrong), str(tmp_path / "Actor_01" / AV)}
    assert "copy" in reasons[str(tmp_path / "Actor_01" / AV)]
    assert "emotion 09" in reasons[str(tmp_path / wrong)]


def test_a_doubled_corpus_is_told_in_one_line(tmp_path: pathlib.Path) -> None:
    for folder in ("", "copy/"):
        put(tmp_path, *(f"{folder}01-01-0{n}-01-01-01-01.mp4" for n in range(1, 9)))
    found = find_all(tmp_path, ravdess.parse_name)
    assert len(found.clips) == 8
    [paths] = found.passed_over_by_reason().values()
    assert len(paths) == 8


def test_links_are_followed_and_a_loop_of_them_ends(tmp_path: pathlib.Path) -> None:
    put(tmp_path / "elsewhere", AV)
    root = put(tmp_path / "root", SONG)
    for link, target in {"Actor_01": tmp_path / "elsewhere", "again": tmp_path / "elsewhere", "up": root}.items():
        (root / link).symlink_to(target, target_is_directory=True)
    found = find_all(root, ravdess.parse_name)
    assert [clip.path for clip in found.clips] == [root / "Actor_01" / AV, root / SONG]
    assert not found.passed_over


# The clips of a run


@pytest.mark.parametrize(
    ("names", "wanted", "expected"),
    [
        ([AV, V, A], {}, [AV]),
        ([AV, V, A], {"audio_alone": True}, [A]),
        ([AV, V], {"audio_alone": True}, [AV]),
        ([AV, OTHER_AV, A], {"audio_alone": True}, [OTHER_AV, A]),
        ([WEBM, OPUS], {}, [WEBM]),
        ([WEBM, OPUS], {"audio_alone": True}, [OPUS]),
        ([AV, SONG], {"channel": "song"}, [SONG]),
        ([AV, SONG], {"channel": "both"}, [AV, SONG]),
        ([AV, A, SONG, SONG_A], {"audio_alone": True, "channel": "both"}, [A, SONG_A]),
        ([AV, SONG], {"channel": "both", "actors": (2,)}, [SONG]),
        ([], {}, "MM-VV-EE-II-SS-RR-AA"),
        (["b.mp4", "a.mp4"], {}, r"a\.mp4"),
        ([V], {"audio_alone": True}, "get the audio-video files"),
        ([A, V], {}, "modalities=audio"),
        ([SONG_A], {"audio_alone": True}, "data.channel=both"),
        ([AV], {"actors": (2, 3)}, "data.actors"),
        (None, {}, r"data\.root"),
    ],
)
def test_each_take_is_found_once_or_a_line_names_the_remedy(
    tmp_path: pathlib.Path, names: list[str] | None, wanted: dict[str, Any], expected: list[str] | str
) -> None:
    root = tmp_path / "nowhere" if names is None else put(tmp_path, *names)
    arguments = catalogue.corpus("ravdess"), root, Wanted(**{"audio_alone": False, "channel": "speech", **wanted})
    if isinstance(expected, list):
        assert [clip.path.name for clip in catalogue.find_clips(*arguments).clips] == expected
        return
    with pytest.raises(UserError, match=expected) as raised:
        catalogue.find_clips(*arguments)
    assert "\n" not in str(raised.value)


def test_an_unknown_corpus_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.corpus.*ravdess, sample, cremad"):
        catalogue.corpus("iemocap")
