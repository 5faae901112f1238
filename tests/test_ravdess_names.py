"""RAVDESS's file names: what each says, what breaks the grammar, and what is found in a folder of them."""

import os
import pathlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_emotion import corpora
from fusion_emotion.corpora import ravdess
from fusion_emotion.errors import UserError

EMOTIONS = {
    "01": "neutral",
    "02": "calm",
    "03": "happy",
    "04": "sad",
    "05": "angry",
    "06": "fearful",
    "07": "disgust",
    "08": "surprised",
}
FIELDS = ("modality", "vocal channel", "emotion", "intensity", "statement", "repetition", "actor")
HIGHEST = {
    "modality": 3,
    "vocal channel": 2,
    "emotion": 8,
    "intensity": 2,
    "statement": 2,
    "repetition": 2,
    "actor": 24,
}


def is_a_take(codes: dict[str, str]) -> bool:
    """Neutral has no strong intensity; song has neither disgust nor surprised."""
    return (codes["emotion"], codes["intensity"]) != ("01", "02") and not (
        codes["vocal channel"] == "02" and codes["emotion"] in ("07", "08")
    )


valid_codes = st.fixed_dictionaries(
    {field: st.integers(1, HIGHEST[field]).map("{:02d}".format) for field in FIELDS}
).filter(is_a_take)


def name_of(codes: dict[str, str], fields: tuple[str, ...] = FIELDS) -> str:
    return "-".join(codes[field] for field in fields)


def path_of(codes: dict[str, str]) -> pathlib.Path:
    return pathlib.Path("anywhere", name_of(codes) + (".wav" if codes["modality"] == "03" else ".mp4"))


@settings(deadline=None)
@given(valid_codes)
def test_every_valid_name_says_what_it_should(codes: dict[str, str]) -> None:
    path = path_of(codes)
    clip = ravdess.parse_name(path)
    assert clip.path == path
    assert clip.corpus == "ravdess"
    assert clip.clip_id == name_of(codes)
    assert clip.take_id == name_of(codes, FIELDS[1:])
    assert clip.modality == {"01": "av", "02": "v", "03": "a"}[codes["modality"]]
    assert clip.channel == {"01": "speech", "02": "song"}[codes["vocal channel"]]
    assert clip.emotion == corpora.label_names("ravdess")[clip.label] == EMOTIONS[codes["emotion"]]
    assert clip.intensity == {"01": "normal", "02": "strong"}[codes["intensity"]]
    assert (clip.statement, clip.repetition, clip.speaker) == (codes["statement"], codes["repetition"], codes["actor"])
    assert clip.sex == ("male" if codes["actor"][-1] in "13579" else "female")


def test_the_grammar_holds_all_takes_of_the_corpus() -> None:
    takes = []
    for number in range(2 * 8 * 2 * 2 * 2 * 24):
        codes = {"modality": "01"}
        for field in FIELDS[1:]:
            number, code = divmod(number, HIGHEST[field])
            codes[field] = f"{code + 1:02d}"
        if is_a_take(codes):
            takes.append(ravdess.parse_name(path_of(codes)))
    speech = [take for take in takes if take.channel == "speech"]
    song = [take for take in takes if take.channel == "song" and take.speaker != "18"]  # who sang nothing
    assert len({take.take_id for take in takes}) == len(takes)
    assert (len(speech), len(song)) == (1440, 1012)
    assert sum(take.emotion == "neutral" for take in speech) == 96
    assert all(sum(take.emotion == name for take in speech) == 192 for name in list(EMOTIONS.values())[1:])


@settings(deadline=None)
@given(valid_codes, st.sampled_from(FIELDS), st.integers(0, 99))
def test_every_code_out_of_range_is_refused_by_the_name_of_its_field(
    codes: dict[str, str], field: str, number: int
) -> None:
    if 1 <= number <= HIGHEST[field]:
        number = number + HIGHEST[field] if number + HIGHEST[field] < 100 else 0
    with pytest.raises(ValueError, match=rf"^{field} {number:02d} is not one of 01, .*{HIGHEST[field]:02d}$"):
        ravdess.parse_name(path_of({**codes, field: f"{number:02d}"}))


@settings(deadline=None)
@given(valid_codes)
def test_what_was_never_recorded_is_refused(codes: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"neutral .* no strong intensity"):
        ravdess.parse_name(path_of({**codes, "emotion": "01", "intensity": "02"}))
    for emotion in ("07", "08"):
        with pytest.raises(ValueError, match=f"song .* no emotion {emotion}"):
            ravdess.parse_name(path_of({**codes, "vocal channel": "02", "emotion": emotion}))


@settings(deadline=None)
@given(valid_codes)
def test_an_extension_that_its_modality_cannot_have_is_refused(codes: dict[str, str]) -> None:
    path = path_of(codes)
    wrong = path.with_suffix(".mp4" if path.suffix == ".wav" else ".wav")
    with pytest.raises(ValueError, match=rf"modality {codes['modality']} .* extension {wrong.suffix}"):
        ravdess.parse_name(wrong)
    assert ravdess.parse_name(path.with_suffix(path.suffix.upper())).clip_id == path.stem


@settings(deadline=None)
@given(valid_codes, st.data())
def test_every_other_form_is_refused(codes: dict[str, str], data: st.DataObject) -> None:
    name = name_of(codes)
    place = data.draw(st.integers(0, len(name) - 1))
    other = data.draw(st.sampled_from(["", "a", "_", " ", "--", "é", "٣", "\n", "-0", "1-"]))
    for broken in (name[:place] + other + name[place + 1 :], name + other, other + name):
        if broken != name:
            with pytest.raises(ValueError, match=r"not of the form MM-VV-EE-II-SS-RR-AA|is not one of"):
                ravdess.parse_name(pathlib.Path(broken + path_of(codes).suffix))


# What is found below a folder

NAME = AV = "01-01-03-01-01-01-01.mp4"
V, A = "02-01-03-01-01-01-01.mp4", "03-01-03-01-01-01-01.wav"
SONG, SONG_A = "01-02-03-01-01-01-01.mp4", "03-02-03-01-01-01-01.wav"


def put(root: pathlib.Path, *names: str) -> pathlib.Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def found(root: pathlib.Path) -> list[str]:
    """Paths of the clips below `root`, in the order they come."""
    return [clip.path.relative_to(root).as_posix() for clip in ravdess.find_clips(root)[0]]


@pytest.mark.parametrize("folder", ["", "Actor_01/", "deep/er/Actor 01 (copie) é/", "Actor_07/"])
def test_clips_are_found_wherever_they_lie(tmp_path: pathlib.Path, folder: str) -> None:
    names = ("01-01-01-01-01-01-02.mp4", "02-01-01-01-01-01-02.mp4", "03-01-01-01-01-01-02.wav")
    root = tmp_path / "a folder with spaces, é and ü"
    assert found(put(root, *(folder + name for name in names))) == [folder + name for name in names]


def test_clips_come_by_name_whatever_their_folders_are_called(tmp_path: pathlib.Path) -> None:
    names = ("b/01-01-01-01-01-01-01.mp4", "a/01-01-02-01-01-01-01.mp4", "01-01-03-01-01-01-01.MP4")
    assert found(put(tmp_path, *names)) == list(names)


def test_other_files_are_no_news(tmp_path: pathlib.Path) -> None:
    put(tmp_path, "README.txt", "Actor_01/.DS_Store", "Actor_01/._" + NAME, "Actor_01/" + NAME + ".part", ".mp4")
    (tmp_path / "01-01-05-01-01-01-01.mp4").mkdir()
    assert ravdess.find_clips(tmp_path) == ([], [])


def test_media_with_a_broken_name_is_passed_over_with_the_reason(tmp_path: pathlib.Path) -> None:
    put(tmp_path, NAME, "Actor_01/holiday é.mp4", "Actor_01/01-01-09-01-01-01-01.mp4")
    clips, passed_over = ravdess.find_clips(tmp_path)
    assert [clip.path for clip in clips] == [tmp_path / NAME]
    assert passed_over == [
        (
            str(tmp_path / "Actor_01/01-01-09-01-01-01-01.mp4"),
            "emotion 09 is not one of 01, 02, 03, 04, 05, 06, 07, 08",
        ),
        (str(tmp_path / "Actor_01/holiday é.mp4"), "not of the form MM-VV-EE-II-SS-RR-AA"),
    ]


def test_a_clip_that_is_there_twice_counts_once(tmp_path: pathlib.Path) -> None:
    put(tmp_path, NAME, "Actor_01/" + NAME, "03-01-03-01-01-01-01.wav", "03-01-03-01-01-01-01.flac")
    clips, passed_over = ravdess.find_clips(tmp_path)
    assert [clip.clip_id for clip in clips] == ["01-01-03-01-01-01-01", "03-01-03-01-01-01-01"]
    assert passed_over == [
        (str(tmp_path / "03-01-03-01-01-01-01.wav"), f"the same clip as {tmp_path / '03-01-03-01-01-01-01.flac'}"),
        (str(tmp_path / "Actor_01" / NAME), f"the same clip as {tmp_path / NAME}"),
    ]


def test_a_loop_of_links_ends(tmp_path: pathlib.Path) -> None:
    put(tmp_path, "Actor_01/" + NAME, SONG)
    (tmp_path / "Actor_01" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "Actor_01" / "here").symlink_to(".", target_is_directory=True)
    clips, passed_over = ravdess.find_clips(tmp_path)
    assert [clip.path for clip in clips] == [tmp_path / "Actor_01" / NAME, tmp_path / SONG]
    assert passed_over == []


def test_a_linked_actor_folder_is_entered(tmp_path: pathlib.Path) -> None:
    put(tmp_path / "elsewhere", NAME)
    (root := tmp_path / "root").mkdir()
    (root / "Actor_01").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert found(root) == ["Actor_01/" + NAME]
    (tmp_path / "linked root").symlink_to(root, target_is_directory=True)
    assert found(tmp_path / "linked root") == ["Actor_01/" + NAME]


def test_two_links_to_one_folder_are_one_folder(tmp_path: pathlib.Path) -> None:
    put(tmp_path / "elsewhere", NAME)
    (root := tmp_path / "root").mkdir()
    for link in ("Actor_01", "Actor_01 again"):
        (root / link).symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    clips, passed_over = ravdess.find_clips(root)
    assert [clip.path for clip in clips] == [root / "Actor_01" / NAME]
    assert passed_over == []


# What a run takes of it


def taken(root: pathlib.Path, *, audio_alone: bool = False, channel: str = "speech") -> list[str]:
    clips, _ = corpora.find_clips("ravdess", root, audio_alone=audio_alone, channel=channel)
    return [clip.clip_id for clip in clips]


def stem(*names: str) -> list[str]:
    return [os.path.splitext(name)[0] for name in names]


@pytest.mark.parametrize(
    ("there", "audio_alone", "channel", "expected"),
    [
        ([AV, V, A], False, "speech", [AV]),
        ([AV, V, A], True, "speech", [A]),
        ([AV, V], True, "speech", [AV]),
        ([AV, SONG], False, "speech", [AV]),
        ([AV, SONG], False, "song", [SONG]),
        ([AV, SONG], False, "both", [AV, SONG]),
        ([AV, A, SONG, SONG_A], True, "both", [A, SONG_A]),
    ],
)
def test_a_take_is_taken_once(
    tmp_path: pathlib.Path, there: list[str], audio_alone: bool, channel: str, expected: list[str]
) -> None:
    assert taken(put(tmp_path, *there), audio_alone=audio_alone, channel=channel) == stem(*expected)


def test_what_was_passed_over_is_handed_on(tmp_path: pathlib.Path) -> None:
    put(tmp_path, AV, "x.mp4")
    _, passed_over = corpora.find_clips("ravdess", tmp_path, audio_alone=False, channel="speech")
    assert passed_over == [(str(tmp_path / "x.mp4"), "not of the form MM-VV-EE-II-SS-RR-AA")]


@pytest.mark.parametrize(
    ("there", "audio_alone", "channel", "message"),
    [
        ([], False, "speech", r"holds no ravdess clip: expected .* named MM-VV-EE-II-SS-RR-AA"),
        (["b.mp4", "a.mp4"], False, "speech", r"\(2 names break its grammar, the first: .*a\.mp4\)"),
        ([V], False, "speech", r"no speech clip with both sound and picture .* modality v; get the audio-video files"),
        ([V], True, "speech", r"no speech clip with both sound and picture .* get the audio-video files"),
        ([A, V], False, "speech", r"modalities=audio uses the audio-only files"),
        ([AV], False, "song", r"holds no song clip: set --config.data.channel=both"),
        ([SONG], False, "speech", r"holds no speech clip: set --config.data.channel=both"),
        ([SONG_A], True, "speech", r"holds no speech clip: set --config.data.channel=both"),
        ([AV], False, "choir", r"data.channel='choir' is unknown: choose one of speech, song, both"),
    ],
)
def test_a_folder_without_what_is_wanted_is_refused_with_the_remedy(
    tmp_path: pathlib.Path, there: list[str], audio_alone: bool, channel: str, message: str
) -> None:
    with pytest.raises(UserError, match=message) as raised:
        taken(put(tmp_path, *there), audio_alone=audio_alone, channel=channel)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("root", ["nowhere", "a file"])
def test_a_root_that_is_no_folder_is_refused_by_name(tmp_path: pathlib.Path, root: str) -> None:
    put(tmp_path, "a file")
    with pytest.raises(UserError, match=rf"data.root='.*{root}' is not a folder: set --config.data.root"):
        taken(tmp_path / root)


def test_an_unknown_corpus_is_refused_by_name(tmp_path: pathlib.Path) -> None:
    message = "data.corpus='iemocap' is unknown: choose one of ravdess, sample"
    with pytest.raises(UserError, match=message):
        corpora.find_clips("iemocap", tmp_path, audio_alone=False, channel="speech")
    with pytest.raises(UserError, match=message):
        corpora.label_names("iemocap")


def test_labels_are_ravdess_codes_less_one() -> None:
    assert corpora.label_names("ravdess") == corpora.label_names("sample") == tuple(EMOTIONS.values())
