"""Recordings in, timelines out: the same numbers as evaluation, people, what is missing, and what is written."""

import csv
import dataclasses
import json
import math
import shutil
import subprocess
from typing import Any

import av
import jax
import numpy as np
import pysubs2
import pytest
from pympi import Elan, Praat
from scipy.ndimage import gaussian_filter1d

import predict_kit
from conftest import clips_of, settings_of
from films import OneFace, box, ffmpeg, film
from fusion_emotion import Recognizer
from fusion_emotion.corpora import labels
from fusion_emotion.errors import UserError
from fusion_emotion.input.batches import cut
from fusion_emotion.models.weights import load_model
from fusion_emotion.predict.prediction import Person, Prediction, smoothed, softmax
from fusion_emotion.prepare.clip import prepare_clip
from fusion_emotion.prepare.detectors import create_detector
from fusion_emotion.prepare.settings import Settings
from predict_kit import Detects

LABELS = predict_kit.ABOUT["label_names"]
FORMATS = ("csv", "json", "html", "eaf", "textgrid", "vtt", "srt", "png", "mp4")


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    """Three seconds; the picture is black from 1.4 s on."""
    return film(
        tmp_path_factory.mktemp("talk") / "talk.mp4",
        seconds=3,
        picture=lambda time: np.full((120, 160, 3), 90 if time < 1.39 else 0, np.uint8),
    )


def test_the_windows_of_a_clip_are_those_of_evaluation(sample_corpus, tmp_path, workdir):
    """The record that preparation makes, cut as evaluation does, through the network."""
    clip = clips_of(sample_corpus)[0]
    settings = settings_of(
        tmp_path, face_size=32, detector_sizes=(192, 512), missing="quarantine", decoder="cpu", provider="cpu"
    )
    detector = create_detector(settings)
    row, record = prepare_clip(clip, settings, detector)
    assert row.status == "ok"
    loaded = load_model(workdir)
    starts = range(row.n_frames - 4)
    examples = [cut(record, start, 5, pad_to=5) | {"n_frames": np.int32(5), "mask": np.bool_(True)} for start in starts]
    batch = {name: jax.numpy.stack([example[name] for example in examples]) for name in examples[0]}
    variables = jax.tree.map(jax.numpy.asarray, dict(loaded.variables))
    expected = jax.nn.softmax(loaded.net.apply(variables, batch, train=False) / 0.5)
    told = predict_kit.recognizer(workdir, detector)(clip.path)
    assert told.main.modalities == ["audio+video"] * len(starts)
    np.testing.assert_allclose(told.main.probability, expected, atol=2e-5)
    assert np.ptp(told.main.probability, axis=0).max() > 0.01


def test_a_face_that_is_away_leaves_the_voice(hearing, talk):
    told = hearing(talk)
    assert told.n_steps == 15
    assert len(told.main.step) == 11
    assert told.main.name == "face_0"
    # Frames of 0.1 to 1.3 s show the face; the window of the seventh step on has none.
    assert told.main.modalities == ["audio+video"] * 7 + ["audio"] * 4
    np.testing.assert_allclose(told.main.found[:8], [1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0])
    assert np.isnan(told.main.box[7:]).all()
    assert not np.isnan(told.main.probability).any()


@pytest.mark.parametrize(
    ("options", "arguments", "person", "modalities"),
    [
        ({"sound_s": 0}, (), "face_0", {"video"}),
        ({}, ("-af", "volume=0"), "face_0", {"video"}),
        ({}, ("-vn",), "voice", {"audio"}),
        ({"sound_s": 0.9}, (), "face_0", {"audio+video", "video"}),
    ],
    ids=["no sound", "silent", "sound alone", "short sound"],
)
def test_what_is_missing_is_said(hearing, tmp_path, options, arguments, person, modalities):
    source = film(tmp_path / "a.mp4", seconds=2, **options)
    if arguments:
        source = ffmpeg(source, tmp_path / f"b.{'wav' if person == 'voice' else 'mp4'}", *arguments)
    told = hearing(source)
    assert told.main.name == person
    assert set(told.main.modalities) == modalities
    np.testing.assert_allclose(told.main.probability.sum(axis=1), 1)
    assert (told.label, told.confidence) != ("", 0)


def test_a_still_is_one_row(hearing, tmp_path):
    told = hearing(ffmpeg(film(tmp_path / "a.mp4"), tmp_path / "$a_$ x$^$.png", "-frames:v", "1"))
    told.save(tmp_path, formats=("png",))
    assert told.columns()["start"] == [0.0]
    assert told.columns()["end"] == [0.2]
    assert told.main.modalities == ["video"]


@pytest.mark.parametrize("name", ["nothing.mp4", "black.mp4", "text.mp4"])
def test_nothing_to_read_is_an_error_that_says_why(hearing, tmp_path, name):
    if name == "black.mp4":
        film(tmp_path / name, sound_s=0, picture=lambda time: np.zeros((120, 160, 3), np.uint8))
    if name == "text.mp4":
        (tmp_path / name).write_text("not a film, whatever its name says")
    words = {"nothing.mp4": "no such file", "black.mp4": "no audio track; no face", "text.mp4": "cannot be opened"}
    with pytest.raises(UserError, match=words[name]):
        hearing(tmp_path / name)


@pytest.fixture(scope="module")
def panel(workdir, tmp_path_factory):
    """Two people; the small one is there from 1 s to 2 s only. And a recogniser that keeps all."""
    path = film(
        tmp_path_factory.mktemp("panel") / "panel.mp4",
        seconds=3,
        size=(320, 240),
        picture=lambda time: np.full((240, 320, 3), 150 if 0.99 < time < 1.99 else 60, np.uint8),
    )
    detector = Detects(lambda brightness: [box(200, 120, 90), *([box(60, 60, 40)] if brightness > 100 else [])])
    return path, predict_kit.recognizer(workdir, detector, people="all")


def test_the_voice_is_the_main_persons(panel, workdir):
    path, everyone = panel
    told = everyone(path)
    assert [(person.name, person.main) for person in told.people] == [("face_0", True), ("face_1", False)]
    main, other = told.people
    assert set(main.modalities) == {"audio+video"}
    assert set(other.modalities) == {"video"}
    # Windows that hold a part of the second from 1.0 to 2.0 s.
    assert other.step.tolist() == list(range(1, 10))
    assert any("2 people" in warning for warning in told.warnings)
    alone = predict_kit.recognizer(workdir, everyone._detector)(path)
    assert [person.name for person in alone.people] == ["face_0"]
    np.testing.assert_allclose(alone.main.probability, main.probability, atol=1e-6)


def test_a_person_who_was_long_away_is_another(workdir, tmp_path):
    path = film(
        tmp_path / "a.mp4",
        seconds=7,
        picture=lambda time: np.full((120, 160, 3), 20 if 1 < time < 5.5 else 90, np.uint8),
    )
    detector = Detects(lambda brightness: [box(80, 60, 50)] if brightness > 50 else [])
    told = predict_kit.recognizer(workdir, detector, people="all")(path)
    assert sorted(person.name for person in told.people) == ["face_0", "face_1"]


def test_a_model_of_one_modality_reads_that_one(talk, tmp_path):
    for modality in ("audio", "video"):
        loaded = predict_kit.model(tmp_path / modality, model__modalities=modality)
        told = predict_kit.recognizer(loaded, OneFace())(talk)
        assert set(told.main.modalities) <= {modality, "none"}
        assert ("none" in told.main.modalities) == (modality == "video")
        none = np.array(told.main.modalities) == "none"
        assert np.isnan(told.main.probability[none]).all()


def test_longer_segments_and_short_films(talk, tmp_path):
    loaded = predict_kit.model(tmp_path, segment__seconds=4.0)
    told = predict_kit.recognizer(loaded, OneFace())(talk)
    assert told.columns()["end"] == [3.0]
    assert told.main.found.tolist() == [pytest.approx(7 / 15, abs=1e-3)]


def person_of(log_prob: np.ndarray, width: float = 0.0) -> Person:
    n = len(log_prob)
    steps = np.arange(n)
    known = softmax(log_prob)
    return Person(
        "face_0", True, steps, np.full(n, 5), ["audio"] * n, *(np.zeros(n) for _ in range(2)), np.zeros((n, 4)),
        np.ones(n), known, softmax(smoothed(log_prob, steps, width)), np.nanmean(known, axis=0),
    )  # fmt: skip


def prediction_of(person: Person, **settings: Any) -> Prediction:
    return Prediction(
        "a.wav",
        ("calm", "happy"),
        (person,),
        len(person.step) + 4,
        {},
        {},
        {"uncertain_below": 0.6, **settings},
        (),
        "",
    )


def test_smoothing_is_gaussian():
    log_prob = np.random.default_rng(0).normal(size=(60, 8))
    expected = gaussian_filter1d(log_prob, 2.0, axis=0, truncate=4.0)
    np.testing.assert_allclose(smoothed(log_prob, np.arange(60), 2.0)[8:-8], expected[8:-8], atol=1e-12)


def test_smoothing_leaves_gaps_and_does_not_take_from_them():
    log_prob = np.zeros((5, 2))
    log_prob[2], log_prob[4] = np.nan, 9.0
    smooth = smoothed(log_prob, np.array([0, 1, 2, 3, 30]), 1.0)
    assert np.isnan(smooth[2]).all()
    assert (smooth[:2] == 0).all()
    assert (smooth[4] == 9).all()


def test_segments_cover_the_recording_and_name_what_is_uncertain():
    logits = np.zeros((10, 2))
    logits[:4, 0], logits[7:, 1] = 2.0, 2.0
    told = prediction_of(person_of(logits))
    assert [(s.start, s.end, s.label) for s in told.segments] == [
        (0.0, 1.2, "calm"),
        (1.2, 1.8, "uncertain"),
        (1.8, 2.8, "happy"),
    ]
    assert told.segments[0].confidence == pytest.approx(1 / (1 + math.exp(-2)))


@pytest.fixture(scope="module")
def saved(panel, tmp_path_factory):
    path, everyone = panel
    folder = tmp_path_factory.mktemp("saved")
    told = everyone(path)
    return told, {written.name.removeprefix("panel."): written for written in told.save(folder, FORMATS)}


def test_the_table_has_every_step_and_person(saved):
    told, files = saved
    with files["csv"].open() as file:
        rows = list(csv.DictReader(file))
    assert [row["person"] for row in rows] == ["face_0"] * 11 + ["face_1"] * 9
    assert (rows[0]["start"], rows[0]["end"]) == ("0.0", "1.0")
    for row in rows:
        for prefix in ("", "smooth_"):
            assert sum(float(row[prefix + label]) for label in LABELS) == pytest.approx(1, abs=1e-3)
    columns = told.columns()
    assert [float(row["box_x"]) for row in rows] == columns["box_x"]
    assert float(rows[0]["box_w"]) == pytest.approx(72, abs=1)


def test_the_json_describes_the_recording_the_model_and_the_people(saved):
    told, files = saved
    content = json.loads(files["json"].read_text())
    assert content["schema"] == "fusion_emotion.prediction/1"
    assert (content["source"]["width"], content["source"]["audio_rate_hz"]) == (320, 48_000)
    assert content["model"]["numbers"] == predict_kit.ABOUT["numbers"]
    assert content["label"] == told.label
    assert [person["id"] for person in content["people"]] == ["face_0", "face_1"]
    assert sum(content["summary"]["face_0"]["share_of_time"].values()) == pytest.approx(1, abs=1e-3)
    assert len(content["timeline"]["start"]) == 20


def test_the_notice_is_in_every_description(saved):
    told, files = saved
    assert "50.0% UAR" in told.notice
    assert "32 clips of 2 people it had not met" in told.notice
    for name in ("json", "html", "eaf"):
        assert "do not say what a person feels" in files[name].read_text(), name


def test_annotations_are_read_back_by_their_own_libraries(saved):
    told, files = saved
    expected = [(round(1000 * s.start), round(1000 * s.end), s.label) for s in told.segments if s.person == "face_0"]
    elan = Elan.Eaf(str(files["eaf"]))
    assert sorted(annotation[:3] for annotation in elan.get_annotation_data_for_tier("face_0")) == expected
    assert elan.media_descriptors[0]["MIME_TYPE"] == "video/mp4"
    grid = Praat.TextGrid(str(files["TextGrid"]))
    tier = grid.get_tier("face_1")
    assert [text for *_, text in tier.get_intervals() if text] == [
        s.label for s in told.segments if s.person == "face_1"
    ]
    for form in ("vtt", "srt"):
        captions = pysubs2.load(str(files[form]))
        assert len(captions) == len(told.segments)
        assert captions[0].text.startswith("face_0: ")


def packets(path: Any, track: int = 0) -> list[bytes]:
    with av.open(str(path)) as file:
        return [bytes(packet) for packet in file.demux(file.streams.audio[track]) if packet.size]


def test_the_film_shows_the_boxes_and_keeps_the_sound(saved, panel):
    _, files = saved
    assert packets(files["emotions.mp4"]) == packets(panel[0])
    with av.open(str(files["emotions.mp4"])) as file:
        frames = {round(frame.time, 2): frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)}
    assert len(frames) == 75
    left = frames[1.48][120, 160:170].astype(int)  # across the left edge of the larger face, at 164
    assert np.ptp(left[:, 1]) > 15


@pytest.mark.parametrize("name", ["a.avi", "a.mkv"])
def test_sound_that_an_mp4_cannot_hold_is_encoded(hearing, tmp_path, name):
    path = ffmpeg(film(tmp_path / "a.mp4"), tmp_path / name, "-c:v", "mpeg4", "-c:a", "pcm_s16le")
    written, _ = hearing(path).save(tmp_path / "out", ("mp4", "json"))
    with av.open(str(written)) as file:
        assert file.streams.audio[0].codec_context.name == "aac"
        sound = np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)])
    assert len(sound) / 48_000 == pytest.approx(1, abs=0.1)
    assert np.abs(sound).max() == pytest.approx(0.3, abs=0.05)


def test_a_label_is_no_column_of_the_table(saved):
    told, _ = saved
    own = {*told.label_names, *(f"smooth_{name}" for name in told.label_names)}
    assert {*told.columns()} - own == {*labels.COLUMNS} - {"lag_s"}
    for text in ("confidence, happy", "smooth_happy, sad"):
        with pytest.raises(UserError, match="is the name of a column"):
            labels.parse(text)


@pytest.mark.parametrize("n_steps", [6, 14, 20])
def test_the_textgrid_has_no_interval_without_length(n_steps, tmp_path):
    told = dataclasses.replace(prediction_of(person_of(np.zeros((n_steps - 4, 8)))), n_steps=n_steps)
    [path] = told.save(tmp_path, ("textgrid",))
    for begin, end, _ in Praat.TextGrid(str(path)).get_tier("face_0").get_all_intervals():
        assert end > begin


def test_a_name_as_long_as_a_name_can_be(saved, tmp_path):
    told, _ = saved
    [path] = dataclasses.replace(told, source=f"{'я' * 125}.mp4").save(tmp_path, ("csv",))
    assert path.stat().st_size > 1000


def test_the_film_has_the_track_that_was_judged(hearing, tmp_path):
    """Of two audio tracks the first is silent."""
    silent, heard = film(tmp_path / "a.mp4", level=0), film(tmp_path / "b.mp4")
    tracks = ("-i", str(heard), "-map", "0:v", "-map", "0:a", "-map", "1:a", "-c", "copy")
    path = ffmpeg(silent, tmp_path / "c.mp4", *tracks)
    told = hearing(path)
    assert told.about["audio_track"] == 1
    assert set(told.main.modalities) == {"audio+video"}
    assert any("first 1 of 2 audio tracks" in warning for warning in told.warnings)
    [written] = told.save(tmp_path / "out", ("mp4",))
    assert packets(written) == packets(path, 1) != packets(path, 0)


def test_a_page_that_holds_a_name_with_markup_stays_whole(hearing, tmp_path):
    path = film(tmp_path / "a<script>alert(1)<'\".mp4", seconds=1)
    [html] = hearing(path).save(tmp_path, ("html",))
    assert html.read_text().count("<script>") == 1
    assert hearing(path)._repr_html_().startswith("<iframe srcdoc=")


def test_pandas_is_asked_for_by_name_only(saved):
    pandas = pytest.importorskip("pandas")
    table = saved[0].to_pandas()
    assert isinstance(table, pandas.DataFrame)
    assert list(table.columns[:5]) == ["file", "start", "end", "person", "modalities"]


def test_an_unknown_setting_or_model_names_those_there_are(workdir):
    with pytest.raises(UserError, match="smoothing_s"):
        Recognizer.load(workdir, smothing_s=1.0)
    with pytest.raises(UserError, match=r"nothing-base.*workdir"):
        Recognizer.load("nothing-base")
    with pytest.raises(UserError, match="uncertain_below"):
        Recognizer.load(workdir, uncertain_below=7.0)


def test_the_detector_of_the_model_is_set_up_as_in_its_preparation(workdir):
    settings = predict_kit.recognizer(workdir)._preparation
    assert (settings.detector, settings.face_size) == ("centerface", 32)
    other = predict_kit.recognizer(workdir, detector="insightface")._preparation
    assert isinstance(other, Settings)
    assert (other.detector, other.detector_sizes) == ("insightface", (192, 512))


def test_a_browser_draws_the_viewer(saved):
    """Headless Chromium fills in the page; nothing is loaded from elsewhere."""
    browser = shutil.which("chromium")
    if not browser:
        pytest.skip("no Chromium: the package chromium of the system")
    told, files = saved
    quiet = "--disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update"
    command = [browser, "--headless", "--no-sandbox", *quiet.split(), "--disable-sync", "--virtual-time-budget=3000"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={files['html'].parent / 'browser'}"]
    command += ["--dump-dom", files["html"].as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert f"panel.mp4: {told.label}" in dom
    assert dom.count("<tr>") == 1 + len(told.segments)
    assert "do not say what a person feels" in dom
