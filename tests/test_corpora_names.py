"""The readers of CREMA-D, SAVEE, TESS and EmoDB: their grammars, their folders, and real files of theirs."""

import collections
import csv
import importlib
import pathlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import put
from fusion_emotion.corpora import catalogue, cremad, emodb
from fusion_emotion.corpora.catalogue import Wanted
from fusion_emotion.corpora.corpus import Found
from fusion_emotion.errors import UserError

# A word of all corpora for each emotion, in this order.
WORDS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised", "bored")
OWN_WORDS = {
    "ravdess": WORDS[:8],
    "sample": WORDS[:8],
    "cremad": ("neutral", "happy", "sad", "angry", "fearful", "disgust"),
    "savee": ("neutral", "happy", "sad", "angry", "fearful", "disgust", "surprised"),
    "tess": ("neutral", "happy", "sad", "angry", "fearful", "disgust", "surprised"),
    "emodb": ("neutral", "happy", "sad", "angry", "fearful", "disgust", "bored"),
}


def find(name: str, root: pathlib.Path, *, audio_alone: bool = False, **wanted: object) -> Found:
    """The clips of a corpus, by the door that all others use."""
    return catalogue.find_clips(
        catalogue.corpus(name), root, Wanted(audio_alone=audio_alone, channel="speech", **wanted)
    )


def used(found: Found, root: pathlib.Path) -> list[str]:
    return [clip.path.relative_to(root).as_posix() for clip in found.clips]


@pytest.mark.parametrize("name", OWN_WORDS)
def test_a_corpus_has_the_texts_and_functions_that_others_use(name: str) -> None:
    corpus = catalogue.corpus(name)
    assert (corpus.name, corpus.label_names) == (name, OWN_WORDS[name])
    assert all((corpus.title, corpus.credit, corpus.licence, corpus.expects))
    assert set(corpus.value_titles) <= set(corpus.groups)
    assert bool(corpus.human) == bool(corpus.human_caveat)
    assert corpus.make or corpus.get.startswith("http")


# Names

CODES = {"NEU": "neutral", "HAP": "happy", "SAD": "sad", "ANG": "angry", "FEA": "fearful", "DIS": "disgust"}
LEVELS = {"LO": "low", "MD": "medium", "HI": "high", "XX": ""}


@given(
    st.integers(1001, 1091),
    st.sampled_from(["IEO", "TIE", "IOM", "IWW", "TAI", "MTI", "IWL", "ITH", "DFA", "ITS", "TSI", "WSI"]),
    st.sampled_from(list(CODES)),
    st.sampled_from(list(LEVELS)),
    st.sampled_from((".flv", ".mp4", ".wav", ".MP3")),
)
def test_a_name_of_cremad(actor: int, sentence: str, emotion: str, level: str, suffix: str) -> None:
    stem = f"{actor}_{sentence}_{emotion}_{level}"
    clip = cremad.parse_name(pathlib.Path("AudioWAV", stem + suffix))
    assert (clip.take_id, clip.speaker) == (f"cremad/{stem}", f"cremad/{actor}")
    assert (clip.emotion, clip.intensity, clip.statement) == (CODES[emotion], LEVELS[level], sentence)
    assert (clip.modality, clip.channel) == ("av" if suffix in (".flv", ".mp4") else "a", "speech")


@given(
    st.sampled_from(("03", "08", "09", "10", "11", "12", "13", "14", "15", "16")),
    st.sampled_from(["a01", "a02", "a04", "a05", "a07", "b01", "b02", "b03", "b09", "b10"]),
    st.sampled_from("NFTWAEL"),
    st.sampled_from("abcdef"),
)
def test_a_name_of_emodb(speaker: str, sentence: str, emotion: str, version: str) -> None:
    stem = speaker + sentence + emotion + version
    clip = emodb.parse_name(pathlib.Path(f"{stem}.wav"))
    assert (clip.clip_id, clip.take_id, clip.speaker) == (f"emodb/{stem}", f"emodb/{stem}", f"emodb/{speaker}")
    word = dict(zip("NFTWAEL", OWN_WORDS["emodb"], strict=True))[emotion]
    assert (clip.emotion, clip.statement, clip.repetition, clip.modality) == (word, sentence, version, "a")
    assert clip.sex == ("male" if speaker in ("03", "10", "11", "12", "15") else "female")


@pytest.mark.parametrize(
    ("corpus", "path", "take", "speaker", "emotion", "modality"),
    [
        ("savee", "AudioData/DC/a01.wav", "DC_a01", "DC", "angry", "a"),
        ("savee", "AudioVisualClip/DC/a1.avi", "DC_a01", "DC", "angry", "av"),
        ("savee", "AudioData/JE/sa15.wav", "JE_sa15", "JE", "sad", "a"),
        ("savee", "ALL/KL_su07.wav", "KL_su07", "KL", "surprised", "a"),
        ("savee", "JK/n30.wav", "JK_n30", "JK", "neutral", "a"),
        ("savee", "DC/d02.wav", "DC_d02", "DC", "disgust", "a"),
        ("savee", "DC/f02.wav", "DC_f02", "DC", "fearful", "a"),
        ("savee", "DC/h02.wav", "DC_h02", "DC", "happy", "a"),
        ("tess", "OAF_angry/OAF_back_angry.wav", "OAF_back_angry", "OAF", "angry", "a"),
        ("tess", "yaf_youth_ps.WAV", "YAF_youth_ps", "YAF", "surprised", "a"),
        ("tess", "OAF_Fear/OAF_bar_fear.wav", "OAF_bar_fear", "OAF", "fearful", "a"),
        ("tess", "OAF_neutral/OA_bite_neutral.wav", "OAF_bite_neutral", "OAF", "neutral", "a"),
        ("tess", "YAF_sad/YAF_base_sad.wav", "YAF_base_sad", "YAF", "sad", "a"),
    ],
)
def test_names_of_savee_and_tess(corpus: str, path: str, take: str, speaker: str, emotion: str, modality: str) -> None:
    clip = importlib.import_module(f"fusion_emotion.corpora.{corpus}").parse_name(pathlib.Path(path))
    assert (clip.take_id, clip.speaker) == (f"{corpus}/{take}", f"{corpus}/{speaker}")
    assert (clip.emotion, clip.modality) == (emotion, modality)
    assert clip.sex == ("male" if corpus == "savee" else "female")


@pytest.mark.parametrize(
    ("corpus", "path", "word"),
    [
        ("cremad", "1001_DFA_ANG.wav", "1001_DFA_ANG_XX"),
        ("cremad", "1001_DFA_ANG_XX (1).wav", "1001_DFA_ANG_XX"),
        ("cremad", "1092_DFA_ANG_XX.wav", "actor 1092"),
        ("cremad", "1001_DFB_ANG_XX.wav", "sentence DFB"),
        ("cremad", "1001_DFA_SUR_XX.wav", "emotion SUR"),
        ("cremad", "1001_DFA_ANG_VH.wav", "level VH"),
        ("savee", "somewhere/a01.wav", "speaker somewhere"),
        ("savee", "DC/b01.wav", "emotion b "),
        ("savee", "DC/a16.wav", "1 to 15"),
        ("savee", "DC/n00.wav", "1 to 30"),
        ("savee", "DC/Info.wav", "DC_a01"),
        ("tess", "OAF_back_bored.wav", "emotion bored"),
        ("tess", "XAF_back_sad.wav", "speaker XAF"),
        ("tess", "OAF_back_angry.mp4", "OAF_back_angry.wav"),
        ("tess", "OAF_angry.wav", "SPEAKER_WORD_EMOTION"),
        ("emodb", "04a01Fa.wav", "speaker 04"),
        ("emodb", "03a03Fa.wav", "sentence a03"),
        ("emodb", "03a01Xa.wav", "emotion X"),
        ("emodb", "03a01F.wav", "03a01Fa"),
        ("emodb", "٠3a01Fa.wav", "03a01Fa"),
    ],
)
def test_any_other_name_is_refused_with_the_reason(corpus: str, path: str, word: str) -> None:
    with pytest.raises(ValueError, match=word.replace("(", r"\(")):
        importlib.import_module(f"fusion_emotion.corpora.{corpus}").parse_name(pathlib.Path(path))


# Trees

CREMAD = (
    *(f"AudioMP3/1001_DFA_{code}_XX.mp3" for code in ("ANG", "SAD")),
    *(f"AudioWAV/1001_DFA_{code}_XX.wav" for code in ("ANG", "SAD", "FEA")),
    *(f"VideoFlash/1001_DFA_{code}_XX.flv" for code in ("ANG", "SAD")),
)
SAVEE = (
    *(f"AudioData/{speaker}/{name}.wav" for speaker in ("DC", "KL") for name in ("a01", "sa02")),
    *(f"AudioVisualClip/{speaker}/a1.avi" for speaker in ("DC", "KL")),
    "AudioData/Info.txt",
)


@pytest.mark.parametrize(
    ("corpus", "names", "audio_alone", "expected"),
    [
        ("cremad", CREMAD, False, CREMAD[-2:]),
        ("cremad", CREMAD, True, CREMAD[2:5]),
        ("cremad", CREMAD[:2], True, CREMAD[:2]),
        ("cremad", CREMAD[-2:], True, CREMAD[-2:]),
        ("cremad", ("1001_DFA_ANG_XX.flv", "1001_DFA_ANG_XX.mp4"), False, ("1001_DFA_ANG_XX.mp4",)),
        ("cremad", CREMAD[:5], False, r"modalities=audio"),
        ("savee", SAVEE, False, SAVEE[4:6]),
        ("savee", SAVEE, True, SAVEE[:4]),
        ("savee", SAVEE[:4], False, r"modalities=audio"),
        ("savee", ("a01.wav",), True, r"DC_a01\.wav"),
        ("tess", ("OAF_angry/OAF_back_angry.wav",), False, ("OAF_angry/OAF_back_angry.wav",)),
        ("tess", ("OAF_angry/OAF_back_angry.wav", "TESS/OAF_back_angry.wav"), True, ("OAF_angry/OAF_back_angry.wav",)),
        ("emodb", ("wav/03a01Fa.wav", "lablaut/03a01Fa.lablaut"), True, ("wav/03a01Fa.wav",)),
        ("emodb", ("notes.wav",), True, "03a01Fa"),
    ],
)
def test_each_take_is_found_once_or_a_line_names_the_remedy(
    tmp_path: pathlib.Path, corpus: str, names: Sequence[str], audio_alone: bool, expected: Sequence[str] | str
) -> None:
    put(tmp_path, *names)
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected) as raised:
            find(corpus, tmp_path, audio_alone=audio_alone)
        assert "\n" not in str(raised.value)
        return
    found = find(corpus, tmp_path, audio_alone=audio_alone)
    assert sorted(used(found, tmp_path)) == sorted(expected)
    assert len({clip.clip_id for clip in found.clips}) == len(expected)
    assert all((clip.modality == "a") == (audio_alone or corpus in ("tess", "emodb")) for clip in found.clips)


def test_the_film_and_the_sound_of_a_take_share_its_id_and_no_clip_id(tmp_path: pathlib.Path) -> None:
    put(tmp_path, *CREMAD)
    films = {clip.take_id: clip.clip_id for clip in find("cremad", tmp_path).clips}
    sounds = {clip.take_id: clip.clip_id for clip in find("cremad", tmp_path, audio_alone=True).clips}
    assert films.keys() < sounds.keys()
    assert not set(films.values()) & set(sounds.values())
    reasons = dict(find("cremad", tmp_path).passed_over)
    assert reasons == {str(tmp_path / name): "the .wav file of the same take is used" for name in CREMAD[:2]}


def test_actors_are_chosen_by_their_numbers(tmp_path: pathlib.Path) -> None:
    put(tmp_path, "1001_DFA_ANG_XX.wav", "1002_DFA_ANG_XX.wav")
    assert used(find("cremad", tmp_path, audio_alone=True, actors=(1002,)), tmp_path) == ["1002_DFA_ANG_XX.wav"]
    put(tmp_path, *SAVEE)
    with pytest.raises(UserError, match=r"data\.actors"):
        find("savee", tmp_path, actors=(1,))


def test_a_clone_without_its_media_is_told(tmp_path: pathlib.Path) -> None:
    put(tmp_path, *CREMAD, content=b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(UserError, match="git lfs pull"):
        find("cremad", tmp_path)
    put(tmp_path, CREMAD[-1])
    assert used(find("cremad", tmp_path), tmp_path) == [CREMAD[-1]]


# Votes of CREMA-D's raters, in the owners' format

VOTES = """"","FileName","VoiceVote","VoiceLevel","FaceVote","FaceLevel","MultiModalVote","MultiModalLevel"
"1","1001_DFA_ANG_XX","N","60.1","A","57","A","57.38"
"2","1001_DFA_SAD_XX","A:S","30.67:51.00","S","51","N","63.5"
"""


def test_votes_take_the_place_of_the_acted_emotion(tmp_path: pathlib.Path) -> None:
    put(tmp_path, *CREMAD)
    with pytest.raises(UserError, match=r"labels_by.*summaryTable\.csv.*github"):
        find("cremad", tmp_path, labels_by="votes")
    put(tmp_path, "processedResults/summaryTable.csv", content=VOTES.encode())
    words = {clip.take_id[-6:-3]: clip.emotion for clip in find("cremad", tmp_path, labels_by="votes").clips}
    assert words == {"ANG": "angry", "SAD": "neutral"}
    found = find("cremad", tmp_path, audio_alone=True, labels_by="votes")
    assert [(clip.path.name, clip.emotion) for clip in found.clips] == [("1001_DFA_ANG_XX.wav", "neutral")]
    reasons = dict(found.passed_over)
    assert "tie" in reasons[str(tmp_path / "AudioWAV/1001_DFA_SAD_XX.wav")]
    assert "no vote" in reasons[str(tmp_path / "AudioWAV/1001_DFA_FEA_XX.wav")]
    assert {clip.emotion for clip in find("cremad", tmp_path).clips} == {"angry", "sad"}
    put(tmp_path, "processedResults/summaryTable.csv", content=b"path,emotion\na,b\n")
    with pytest.raises(UserError, match="FileName"):
        find("cremad", tmp_path, labels_by="votes")


# Real files


@pytest.mark.parametrize(
    ("corpus", "audio_alone", "counts", "speakers"),
    [
        ("cremad", False, dict.fromkeys(OWN_WORDS["cremad"], 1), 1),
        ("tess", True, dict.fromkeys(OWN_WORDS["tess"], 6), 2),
        ("emodb", True, None, 5),
        ("ravdess", False, None, 1),
    ],
)
def test_real_files_are_found_whole(
    real_data: pathlib.Path, corpus: str, audio_alone: bool, counts: dict[str, int] | None, speakers: int
) -> None:
    root = real_data / "data" / corpus
    found = find(corpus, root, audio_alone=audio_alone)
    assert not found.passed_over
    files = [path for path in root.rglob("*.*") if path.suffix in (".flv", ".wav", ".mp4")]
    assert len(found.clips) == len(files) - (corpus == "ravdess")  # one is without sound
    assert len({clip.speaker for clip in found.clips}) == speakers
    assert counts is None or collections.Counter(clip.emotion for clip in found.clips) == counts


def test_the_sexes_are_those_of_the_owners_table(real_data: pathlib.Path) -> None:
    with (real_data / "facts" / "cremad" / "VideoDemographics.csv").open(newline="") as lines:
        sex_of = {int(row["ActorID"]): row["Sex"].lower() for row in csv.DictReader(lines)}
    for actor in range(1001, 1092):
        assert cremad.parse_name(pathlib.Path(f"{actor}_DFA_ANG_XX.wav")).sex == sex_of[actor]


def test_every_file_of_the_owners_repository_is_a_clip(real_data: pathlib.Path) -> None:
    lines = (real_data / "facts" / "cremad" / "cremad_lfs_sha256.tsv").read_text().splitlines()[1:]
    clips = [cremad.parse_name(pathlib.Path(line.partition("\t")[0])) for line in lines]
    assert len({clip.take_id for clip in clips}) == 7442
    assert len({clip.clip_id for clip in clips}) == 2 * 7442  # mp3 and wav are one
