"""The report against runs whose every number, clip and window the test knows."""

import collections
import contextlib
import dataclasses
import html
import html.parser
import json
import pathlib
import re
import subprocess
import sys
import types
from collections.abc import Callable
from typing import Any
from unittest import mock

import matplotlib
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from configs import ravdess
from fusion_emotion.corpora import protocols
from fusion_emotion.corpora.ravdess import LABEL_NAMES
from fusion_emotion.errors import UserError
from fusion_emotion.evaluate import metrics
from fusion_emotion.evaluate.results import PREDICTIONS, RESULTS, _measures
from fusion_emotion.evaluate.table import percent
from fusion_emotion.input.segments import windows_of
from fusion_emotion.models.fusion import create_model
from fusion_emotion.pages import figures, pictures
from fusion_emotion.pages import run as report
from fusion_emotion.prepare.records import MANIFEST, SHARDS, Record, encode, write_rows
from fusion_emotion.train.loop import Setup
from fusion_emotion.train.writer import METRICS

FACE_PX = 8
CHOSEN_BY = "The checkpoint has the highest clip-level validation UAR on speakers 07, 08."
# Of the eight emotions, two clips each but for the last, which the test part lacks; three are mistaken.
LABELS = [label for label in range(7) for _ in range(2)]
PREDICTED = [0, 1, 1, 1, 2, 2, 3, 0, 4, 4, 5, 5, 6, 7]

NO_SOUND = {"waveform": np.zeros(0, np.int16)}
NO_PICTURE = {
    "faces": np.zeros((0, FACE_PX, FACE_PX, 3), np.uint8),
    "face_found": np.zeros(0, bool),
    "box": np.zeros((0, 4), np.float32),
}


@dataclasses.dataclass
class Run:
    setup: Setup
    workdir: pathlib.Path
    results: dict[str, Any]

    def report(self, *, notes: "NoPictures | None" = None, drawn: bool = False) -> str:
        """The report's source, without pictures unless they are to be drawn."""
        path = self.workdir / "report.html"
        with contextlib.nullcontext() if drawn else (notes or NoPictures()).within(report):
            report.write_report(self.setup, self.workdir, path)
        return path.read_text(encoding="utf-8")


class NoPictures:
    """Stands for `figures` and `pictures`, whose drawing takes seconds, and notes what was to be drawn."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def within(self, module: types.ModuleType) -> contextlib.AbstractContextManager:
        """Meanwhile `module` draws nothing."""
        drawing = [name for name in ("figures", "pictures") if hasattr(module, name)]
        return mock.patch.multiple(module, **dict.fromkeys(drawing, self))

    def __getattr__(self, name: str) -> Callable[..., str]:
        def note(*args: Any, **kwargs: Any) -> str:
            self.calls.append((name, args, kwargs))
            return "data:image/png;base64,"

        return note


def record_of(index: int, rng: np.random.Generator, **changes: Any) -> Record:
    """A clip of three seconds of noise."""
    fields: dict[str, Any] = {
        "clip_id": f"clip-{index:02d}",
        "take_id": f"take-{index:02d}",
        "speaker": f"{index % 3 + 1:02d}",
        "corpus": "ravdess",
        "label": LABELS[index],
        "faces": rng.integers(0, 256, (15, FACE_PX, FACE_PX, 3)).astype(np.uint8),
        "face_found": np.ones(15, bool),
        "box": np.zeros((15, 4), np.float32),
        "waveform": rng.integers(-9000, 9000, 48_000).astype(np.int16),
    }
    return Record(**{**fields, **changes})


def make_run(
    folder: pathlib.Path,
    *,
    corpus: str = "ravdess",
    modalities: str = "audio+video",
    protocol: str = "contiguous6",
    log_rows: int = 4,
    changes: dict[int, dict[str, Any]] | None = None,
) -> Run:
    """A finished run of fourteen test clips of three windows in `folder`."""
    rng = np.random.default_rng(0)
    records = [record_of(i, rng, **(changes or {}).get(i, {})) for i in range(len(LABELS))]
    rows = [tiny.row_of(record, index=i) for i, record in enumerate(records)]
    prepared = folder / "prepared"
    (prepared / SHARDS).mkdir(parents=True)
    writer = ArrayRecordWriter(str(prepared / SHARDS / "00000.arrayrecord"), "group_size:1")
    for record in records:
        writer.write(encode(record))
    writer.close()
    lost = dataclasses.replace(rows[0], clip_id="lost-clip", status="quarantined", reason="no face in it", record=-1)
    write_rows(prepared / MANIFEST, [*rows, lost])

    test = windows_of(rows)
    config = ravdess.get_config().to_dict()
    config["data"] |= {"corpus": corpus, "root": "/home/someone/corpora/faces"}
    config["model"]["modalities"] = modalities
    config["split"] |= {"protocol": protocol, "fold": 1, "seed": 5}
    setup = Setup(
        config=config,
        folder=prepared,
        label_names=LABEL_NAMES,
        windows={"train": test, "validation": test, "test": test},
        set_aside=collections.Counter(quarantined=1),
        model=create_model(config["model"], n_classes=8),
    )
    clip_confusion = metrics.confusion_matrix(np.array(LABELS), np.array(PREDICTED), 8)
    window_confusion = 3 * clip_confusion
    window_confusion[0, 5] += 1
    independent = protocol in protocols.SPEAKER_INDEPENDENT
    results = {
        "corpus": corpus,
        "modalities": modalities,
        "label_names": list(LABEL_NAMES),
        "protocol": {
            "name": protocol,
            "meaning": protocols.MEANING[protocol],
            "speaker_independent": independent,
            "fold": 1 if independent else None,
            "split_seed": 5,
        },
        "parts": {
            "train": {"clips": 531, "windows": 1607, "speakers": ["04", "05", "06"]},
            "validation": {"clips": 61, "windows": 183, "speakers": ["07", "08"]},
            "test": {"clips": 14, "windows": 42, "speakers": ["01", "02", "03"]},
        },
        "set_aside": {"quarantined": 1},
        "checkpoint": {"step": 20, "of_steps": 40, "chosen_by": CHOSEN_BY, "validation_uar": 0.4321},
        "test": {
            "loss": 1.2345,
            "clip": _measures(clip_confusion),
            "window": _measures(window_confusion),
            "calibration": {
                "temperature": 1.5,
                "validation_clips": 61,
                **{
                    when: {"ece": ece, "count": [4, 10], "confidence": [None, 0.75], "accuracy": [None, 0.5]}
                    for when, ece in (("before", 0.25), ("after", 0.125))
                },
            },
        },
        "parameters": 1025536,
        "train_seconds": 4000.0,
        "seed": 0,
        "config": config,
        "versions": {"python": "3.11.7", "jax": "0.10.2"},
        "commit": "0123456789ab+",
        "devices": ["cpu: cpu"],
        "machine": "a machine, 2 cores",
        "date": "2030-01-02T03:04:05+00:00",
    }
    workdir = folder / "my run"
    workdir.mkdir()
    (workdir / RESULTS).write_text(json.dumps(results))
    log_prob = np.log(np.full((14, 8), 0.05))
    log_prob[np.arange(14), PREDICTED] = np.log(0.45)
    lines = [
        {"clip_id": r.clip_id, "speaker": r.speaker, "label": r.label, "predicted": p, "log_prob": list(values)}
        for r, p, values in zip(rows, PREDICTED, log_prob, strict=True)
    ]
    (workdir / PREDICTIONS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    log = []
    for i in range(1, log_rows + 1):
        at = {"step": 10 * i, "epoch": 1.5 * i, "seconds": 9.0 * i}
        log.append({**at, "part": "train", "loss": 2 / i})
        uars = {"validation_loss": 3 / i, "validation_uar": 0.2 * i, "validation_window_uar": 0.15 * i}
        log.append({**at, "part": "validation", **uars})
    (workdir / METRICS).write_text("".join(json.dumps(row) + "\n" for row in log))
    return Run(setup, workdir, results)


class Page(html.parser.HTMLParser):
    """The text of a page, the cells of its table rows, and every attribute that could load something."""

    def __init__(self, source: str):
        super().__init__()
        self.loads: list[str] = []
        self.tags: collections.Counter[str] = collections.Counter()
        self.alts: list[str] = []
        self.rows: list[list[str]] = []
        self.tiles: list[str] = []
        self._words: list[str] = []
        self._open: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        named = dict(attrs)
        self.loads += [named[name] or "" for name in ("src", "href", "srcset", "data") if name in named]
        if tag == "img":
            self.alts.append(named["alt"] or "")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "div" and (named.get("class") or "").startswith("tile "):
            self.tiles.append("")
        self._open = [*self._open, tag] if tag not in ("meta", "img", "br") else self._open

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        data = data.replace("\N{NO-BREAK SPACE}", " ")
        if "style" in self._open:
            return
        self._words.append(data)
        if "td" in self._open or "th" in self._open:
            self.rows[-1][-1] += data
        if "dl" in self._open and self.tiles:
            self.tiles[-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self._words).split())

    def row(self, *first: str) -> list[str]:
        """The one table row whose first cells are `first`."""
        [found] = [row for row in self.rows if tuple(row[: len(first)]) == first]
        return found


@pytest.fixture
def run(tmp_path: pathlib.Path) -> Run:
    return make_run(tmp_path)


def test_nothing_is_loaded_from_elsewhere(run: Run) -> None:
    source = run.report(drawn=True)
    page = Page(source)
    assert len(page.loads) == 6 + 14
    assert all(re.match(r"data:image/(svg\+xml|jpeg);base64,[\w+/]{1000}", address) for address in page.loads)
    assert not re.search(
        r"(?:src|href|action)\s*=\s*\W?https?://|url\(|@import|<script|<link|<iframe|javascript:", source
    )
    assert len(source.encode()) < 3_000_000
    assert source.lstrip().startswith("<!doctype html>")
    assert str(run.workdir.parent) not in source
    assert "/home/someone" not in source


def test_only_the_report_is_written(run: Run) -> None:
    before = set(run.workdir.iterdir())
    run.report()
    assert set(run.workdir.iterdir()) - before == {run.workdir / "report.html"}


def test_numbers_are_those_of_the_results(run: Run) -> None:
    page = Page(run.report())
    for level in ("clip", "window"):
        measures = run.results["test"][level]
        wanted = [percent(measures[name]) for name in ("uar", "war", "macro_f1", "chance_uar")]
        assert page.row(level, str(measures["count"]))[2:] == wanted
    for part, counts in run.results["parts"].items():
        cells = [str(counts["clips"]), str(counts["windows"]), str(len(counts["speakers"]))]
        assert page.row(part) == [part, *cells, ", ".join(counts["speakers"])]
    recalls = [run.results["test"][level]["recalls"] for level in ("clip", "window")]
    for name, of_clips, of_windows in zip(LABEL_NAMES, *recalls, strict=True):
        emotion, _, *shown, _ = page.row(name)
        assert shown == [percent(of_clips), percent(of_windows)], emotion
    assert page.row("sad")[-1] == "neutral (1)"
    assert page.row("parameters")[1] == "1,025,536"
    assert page.row("training time")[1] == "66 min 40 s"
    assert "is 25.0 % as trained, and 12.5 % when" in page.text
    assert "a temperature of 1.50" in page.text
    assert "step 20 of 40, with a validation UAR of 43.2 %" in page.text


def test_the_headline_names_its_protocol_beside_each_number(run: Run) -> None:
    page = Page(run.report())
    clip = run.results["test"]["clip"]
    assert len({percent(clip[name]) for name in ("uar", "macro_f1", "chance_uar")}) == 3
    for tile, name in zip(page.tiles, ("uar", "war", "macro_f1", "chance_uar"), strict=True):
        assert percent(clip[name]) in tile
        assert "protocol contiguous6, fold 1" in tile
    assert protocols.MEANING["contiguous6"] in page.text
    assert CHOSEN_BY in page.text


@pytest.mark.parametrize("protocol", protocols.PROTOCOLS)
@pytest.mark.parametrize("corpus", ["ravdess", "sample"])
def test_warnings_appear_exactly_when_they_should(protocol: str, corpus: str) -> None:
    independent = protocol in protocols.SPEAKER_INDEPENDENT
    said = report.notes({"corpus": corpus, "protocol": {"name": protocol, "speaker_independent": independent}})
    assert (report.SYNTHETIC in said) == (corpus == "sample")
    assert [sentence for sentence in said if sentence != report.SYNTHETIC] == (
        [] if independent else [report.OVERLAP[protocol]]
    )


def test_warnings_reach_the_page(tmp_path: pathlib.Path) -> None:
    warned = Page(make_run(tmp_path / "a", corpus="sample", protocol="random_windows").report()).text
    assert report.SYNTHETIC in warned
    assert report.OVERLAP["random_windows"] in warned
    assert "protocol random_windows" in warned
    assert "fold" not in warned.split("Provenance")[0]
    clean = Page(make_run(tmp_path / "b").report()).text
    assert "Note." not in clean
    assert "synthetic" not in clean


def test_every_emotion_is_named_also_one_without_clips(run: Run) -> None:
    page = Page(run.report())
    assert all(name in page.text for name in LABEL_NAMES)
    assert page.row("surprised")[1:4] == ["0", "-", "-"]
    assert "surprised no test clip" in page.text
    assert "sad 1 of 2 test clips right" in page.text


def test_examples_mark_right_and_wrong_in_words(run: Run) -> None:
    text = Page(run.report()).text
    # All 14 clips are shown, for there are two of each emotion.
    assert text.count("✓ right") == sum(a == b for a, b in zip(LABELS, PREDICTED, strict=True)) == 11
    assert text.count("✗ wrong") == 3
    # 0.45 beside seven times 0.05 is 0.45 / 0.8 once normalised.
    assert "true neutral , predicted calm (56 %)" in text


def test_an_example_is_the_middle_window_of_its_clip(run: Run) -> None:
    notes = NoPictures()
    run.report(notes=notes)
    drawn = [(args, kwargs) for name, args, kwargs in notes.calls if name == "example"]
    source = run.setup.source("test")
    middles = [source.window(3 * clip + 1) for clip in range(14)]
    assert len(drawn) == 14
    for (strip, waveform), kwargs in drawn:
        assert kwargs == {"start_s": 1.0, "missing": []}
        [window] = [middle for middle in middles if np.array_equal(middle["strip"], strip)]
        np.testing.assert_array_equal(window["waveform"], waveform)


def test_markup_in_names_is_text(tmp_path: pathlib.Path) -> None:
    evil = "<script>alert('&\"')</script>"
    run = make_run(tmp_path, changes={0: {"clip_id": evil}})
    run.results["commit"] = evil
    run.results["devices"] = ["<b>x</b>"]
    run.results["config"]["data"]["channel"] = "<img src=x>"
    (run.workdir / RESULTS).write_text(json.dumps(run.results))
    source = run.report()
    page = Page(source)
    assert "<script" not in source
    assert "<b>x" not in source
    assert "<img src=x" not in source
    assert page.text.count(evil) == 2
    assert page.tags["script"] == 0
    assert all(address.startswith("data:") for address in page.loads)


@pytest.mark.parametrize(
    ("modalities", "named", "not_named"),
    [("audio", "spectrogram", "face crops"), ("video", "face crops", "spectrogram")],
)
def test_one_modality(tmp_path: pathlib.Path, modalities: str, named: str, not_named: str) -> None:
    # Clips without the other modality at all, as audio-only files are.
    lacking = NO_PICTURE if modalities == "audio" else NO_SOUND
    page = Page(make_run(tmp_path, modalities=modalities, changes=dict.fromkeys(range(14), lacking)).report())
    alts = [alt for alt in page.alts if alt.startswith("Clip ")]
    assert len(alts) == 14
    assert all(named in alt and not_named not in alt for alt in alts)
    assert not any("no face was found" in alt or "no sound" in alt for alt in alts)
    assert not_named not in page.text


def test_a_window_without_face_or_sound_says_so(tmp_path: pathlib.Path) -> None:
    page = Page(make_run(tmp_path, changes={0: {"face_found": np.zeros(15, bool)}, 1: NO_SOUND}).report())
    [faceless] = [alt for alt in page.alts if "clip-00" in alt]
    [silent] = [alt for alt in page.alts if "clip-01" in alt]
    assert "no face was found" in faceless
    assert "face crops" not in faceless
    assert "there is no sound" in silent
    assert "spectrogram" not in silent


@pytest.mark.parametrize("log_rows", [0, 1])
def test_few_metrics(tmp_path: pathlib.Path, log_rows: int) -> None:
    run = make_run(tmp_path, log_rows=log_rows)
    page = Page(run.report())
    assert ("No metrics of the training were kept" in page.text) == (log_rows == 0)
    assert ("Loss of the training and validation parts over epochs" in page.alts) == (log_rows == 1)


def test_what_was_set_aside_is_named_with_its_reason(run: Run) -> None:
    page = Page(run.report())
    assert "Set aside: 1 quarantined." in page.text
    assert page.row("lost-clip") == ["lost-clip", "quarantined", "no face in it"]


def test_the_command_takes_the_name_of_the_run(run: Run) -> None:
    assert "python launch.py --mode=evaluate --workdir='my run'" in Page(run.report()).text


@pytest.mark.parametrize("name", [RESULTS, PREDICTIONS])
@pytest.mark.parametrize("content", [None, "{"])
def test_unreadable_results_are_a_user_error_and_leave_the_old_report(run: Run, name: str, content: str | None) -> None:
    (run.workdir / "report.html").write_text("old")
    (run.workdir / name).unlink() if content is None else (run.workdir / name).write_text(content)
    with pytest.raises(UserError, match=rf"{name}.*--mode=evaluate"):
        run.report()
    assert (run.workdir / "report.html").read_text() == "old"


def test_predictions_of_other_clips_are_a_user_error(run: Run) -> None:
    lines = (run.workdir / PREDICTIONS).read_text().replace("clip-03", "clip-77")
    (run.workdir / PREDICTIONS).write_text(lines)
    with pytest.raises(UserError, match="other clips than the test part"):
        run.report()


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=12), st.randoms())
@settings(max_examples=50, deadline=None)
def test_choice_of_examples(clips: list[tuple[int, bool]], random: Any) -> None:
    rows = [
        {"clip_id": f"clip-{i}", "label": label, "predicted": label if right else (label + 1) % 4}
        for i, (label, right) in enumerate(clips)
    ]
    shuffled = random.sample(rows, len(rows))
    for label in range(4):
        chosen = report.choose(rows, label)
        assert chosen == report.choose(shuffled, label)
        of_label = [row for row in rows if row["label"] == label]
        assert len(chosen) == len({row["clip_id"] for row in chosen}) == min(2, len(of_label))
        assert all(row in of_label for row in chosen)
        if len({row["predicted"] == label for row in of_label}) == 2:
            assert [row["predicted"] == label for row in chosen] == [True, False]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (119.4, "119 s"), (120, "2 min 0 s"), (7199, "119 min 59 s"), (7260, "2 h 1 min")],
)
def test_duration(seconds: float, said: str) -> None:
    assert report.duration(seconds) == said


def texts(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_confusion_cells_hold_counts_and_row_shares() -> None:
    counts = np.array([[3, 1, 0], [0, 0, 0], [2, 0, 6]])
    figure = figures.confusion(counts, ["a", "b", "c"], unit="clips")
    cells = [("3", "75 %"), ("1", "25 %"), ("0", "0 %"), ("2", "25 %"), ("0", "0 %"), ("6", "75 %")]
    assert texts(figure) == [text for cell in cells for text in cell]
    [image] = figure.axes[0].images
    np.testing.assert_allclose(image.get_array()[[0, 2]], [[0.75, 0.25, 0], [0.25, 0, 0.75]])
    assert "true" in figure.axes[0].get_ylabel()
    assert "predicted" in figure.axes[0].get_xlabel()


def test_recall_bars() -> None:
    figure = figures.recalls([0.5, None, 1.0], [4, 0, 2], ["a", "b", "c"], chance=0.5, unit="clips")
    [axes] = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [50, 0, 100]
    assert texts(figure) == ["50 %", "n = 4", "no clips", "n = 0", "100 %", "n = 2"]
    assert axes.lines[0].get_xdata()[0] == 50


def test_curves_hold_the_data_and_the_chosen_epoch() -> None:
    figure = figures.curves(
        {"one": ([1, 2], [30.0, 40.0]), "none": ([], [])}, ylabel="UAR (%)", chosen_epoch=1.5, top=100
    )
    chosen, one, none = figure.axes[0].lines
    assert list(chosen.get_xdata()) == [1.5, 1.5]
    assert (list(one.get_xdata()), list(one.get_ydata())) == ([1, 2], [30.0, 40.0])
    assert len(none.get_xdata()) == 0
    assert figure.axes[0].get_xlabel().endswith("(epochs)")
    assert figure.axes[0].get_ylim() == (0, 100)


def test_an_example_shows_the_strip_as_it_is_above_its_sound() -> None:
    strip = np.random.default_rng(0).integers(0, 256, (8, 40, 3)).astype(np.uint8)
    figure = pictures.example(strip, np.ones(16000, np.int16), start_s=2.0)
    above, below = figure.axes
    assert above.get_position().y0 > below.get_position().y1 - 1e-9
    np.testing.assert_array_equal(above.images[0].get_array(), strip)
    assert above.get_xlim() == below.get_xlim() == (2.0, 3.0)
    # Pixels of a crop stay square, and each crop stands over its 0.2 s.
    box = above.get_position()
    width, height = box.width * figure.get_figwidth(), box.height * figure.get_figheight()
    assert width == pytest.approx(5 * height)
    assert (box.x0, box.x1) == pytest.approx((below.get_position().x0, below.get_position().x1))


def test_spectrogram_of_a_tone_and_of_silence() -> None:
    time_s = np.arange(16000) / 16000
    tone = (8000 * np.sin(2 * np.pi * 1000 * time_s)).astype(np.int16)
    db = pictures.spectrogram_db(tone)
    assert db.shape == (257, 126)
    assert db.max() == 0
    # 32 bins of 31.25 Hz are 1 kHz.
    assert set(db[:, 5:-5].argmax(axis=0)) == {32}
    assert np.isfinite(pictures.spectrogram_db(np.zeros(16000, np.int16))).all()


def test_the_same_data_give_the_same_bytes() -> None:
    def both() -> tuple[str, str]:
        lines = {"one": ([1.0, 2.0], [3.0, 4.0])}
        sound = np.arange(16000, dtype=np.int16)
        return (
            figures.svg_uri(figures.curves(lines, ylabel="loss (nats)", chosen_epoch=1.0)),
            pictures.jpeg_uri(pictures.example(None, sound, start_s=0.0)),
        )

    assert both() == both()


def test_matplotlib_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 23.0)
    monkeypatch.setitem(matplotlib.rcParams, "figure.facecolor", "black")
    before = dict(matplotlib.rcParams)
    figure = figures.recalls([0.5], [4], ["a"], chance=0.5, unit="clips")
    figures.svg_uri(figure)
    assert dict(matplotlib.rcParams) == before
    assert figure.get_facecolor() == (1, 1, 1, 1)
    program = "import sys; from fusion_emotion.pages import pictures; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
