"""The report of a run, of results and clips that the test knows."""

import collections
import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

import page_kit
import run_tiny
from fusion_emotion.corpora import catalogue, protocols
from fusion_emotion.corpora.ravdess import LABEL_NAMES
from fusion_emotion.errors import UserError
from fusion_emotion.evaluate import answers as answers_
from fusion_emotion.evaluate import metrics
from fusion_emotion.evaluate.answers import PREDICTIONS, RESULTS, Answers
from fusion_emotion.evaluate.results import protocol_of
from fusion_emotion.input.data import Data
from fusion_emotion.input.segments import Cutting, segments_of, usable_rows
from fusion_emotion.pages.run import choose, write_report
from page_kit import EVIL, NO_PICTURE, NO_SOUND, PROVENANCE, Page

# A clip of each emotion, and a second one of the first two; the second neutral one is taken for calm.
PREDICTED = [0, 1, 2, 3, 4, 5, 6, 7, 1, 1]
CLIPS = len(PREDICTED)


def measures(confusion: np.ndarray) -> dict[str, Any]:
    return {
        "uar": metrics.uar(confusion),
        "war": metrics.war(confusion),
        "macro_f1": metrics.macro_f1(confusion),
        "chance_uar": metrics.chance_level(confusion),
        "recalls": [None if np.isnan(recall) else float(recall) for recall in metrics.recalls(confusion)],
        "confusion": confusion.tolist(),
        "count": int(confusion.sum()),
    }


@dataclasses.dataclass
class Run:
    data: Data
    workdir: pathlib.Path
    results: dict[str, Any]
    log: list[dict[str, Any]]

    def page(self) -> Page:
        self.workdir.joinpath(RESULTS).write_text(json.dumps(self.results))
        write_report(self.workdir, self.workdir / "report.html", data=self.data, log=self.log)
        return page_kit.read(self.workdir / "report.html")


def make(
    folder: pathlib.Path,
    *,
    corpus: str = "ravdess",
    modalities: str = "audio+video",
    protocol: str = "contiguous6",
    seconds: int = 3,
    fields: Mapping[str, Any] | None = None,
    changes: Mapping[int, Mapping[str, Any]] | None = None,
) -> Run:
    """A finished run; `fields` are of all records, `changes` of those of their indices."""
    records = page_kit.records_of(CLIPS, seconds=seconds, **(fields or {}))
    records = [dataclasses.replace(record, **(changes or {}).get(i, {})) for i, record in enumerate(records)]
    lost = {"clip_id": "ravdess/lost", "status": "quarantined", "reason": "no face in it", "record": -1}
    prepared = page_kit.write_corpus(folder / "prepared", [*records, records[0]], {CLIPS: lost})
    rows, labels, set_aside = usable_rows(prepared, run_tiny.settings(model__modalities=modalities))
    test, drawn = segments_of(rows, Cutting()), protocols.protocol(protocol)
    answers = Answers.of(rows, np.log(np.where(np.eye(8)[PREDICTED] > 0, 0.45, 0.05)))
    reliability = {"ece": 0.25, "count": [4, 6], "confidence": [None, 0.75], "accuracy": [None, 0.5]}
    results = {
        "corpus": corpus,
        "modalities": modalities,
        "label_names": list(LABEL_NAMES),
        "protocol": protocol_of(drawn, {"fold": 1, "seed": 5}),
        "parts": {"test": {"clips": CLIPS, "segments": len(test), "speakers": ["ravdess/01", "ravdess/02"]}},
        "set_aside": {"quarantined": 1},
        "checkpoint": {"step": 20, "of_steps": 40, "chosen_by": "Chosen so.", "validation_uar": 0.4321},
        "test": {
            "loss": 1.2345,
            "clip": measures(answers.confusion),
            "segment": measures(len(test) // CLIPS * answers.confusion),
            "intervals": None,
            "calibration": {"temperature": 1.5, "validation_clips": 61, "before": reliability, "after": reliability},
        },
        "train_seconds": 4000.0,
        "seed": 0,
        "config": run_tiny.settings(data__corpus=corpus, model__modalities=modalities, data__root="/home/someone/a"),
        "date": "2030-01-02T03:04:05+00:00",
        **PROVENANCE,
    }
    workdir = folder / "my run"
    workdir.mkdir()
    answers_.write(workdir / PREDICTIONS, answers)
    log = []
    for i in (1, 2):
        at = {"step": 10 * i, "epoch": 1.5 * i}
        uars = {"validation_loss": 3 / i, "validation_uar": 0.2 * i, "validation_segment_uar": 0.15 * i}
        log += [{**at, "part": "train", "loss": 2 / i}, {**at, "part": "validation", **uars}]
    data = Data(
        folder=prepared,
        corpus=catalogue.corpus(corpus),
        labels=labels,
        protocol=drawn,
        parts={"train": test, "validation": test, "test": test},
        set_aside=collections.Counter(set_aside),
    )
    return Run(data, workdir, results, log)


def test_what_chose_the_checkpoint_and_folders_are_said_in_short(tmp_path: pathlib.Path) -> None:
    run = make(tmp_path)
    run.results["config"]["train"]["choose"] = "last"
    run.results["config"]["data"]["roots"] = ("/home/someone/a", "~/b")
    run.results["parts"]["test"]["speakers"] = []
    page = run.page()
    assert "The checkpoint is the last." in page.text
    assert "UAR of clips chose" not in page.text
    assert page.row("data.roots")[1] == '["…/a", "…/b"]'
    assert page.row("test")[-2:] == ["0", "not named"]


def test_the_page(tmp_path: pathlib.Path) -> None:
    run = make(tmp_path)
    before = set(run.workdir.iterdir())
    page = run.page()
    assert {path.name for path in {*run.workdir.iterdir()} - before} == {RESULTS, "report.html"}
    # Recalls, two confusions, reliability and two curves; then the examples.
    assert page.tags["img"] == len(page.loads) == 6 + CLIPS
    assert page.row("clip", "10")[2:] == ["93.8 %", "90.0 %", "93.3 %", "12.5 %"]
    assert page.row("segment", "30")[2:] == ["93.8 %", "90.0 %", "93.3 %", "12.5 %"]
    assert page.row("test") == ["test", "10", "30", "2", "ravdess/01, ravdess/02"]
    assert page.row("neutral") == ["neutral", "2", "50.0 %", "50.0 %", "calm (1)"]
    assert page.row("ravdess/lost") == ["ravdess/lost", "quarantined", "no face in it"]
    assert page.row("training time")[1] == "66 min 40 s"
    assert (page.text.count("✓ right"), page.text.count("✗ wrong")) == (9, 1)
    assert "predicted neutral (56 %)" in page.text  # 0.45 beside seven times 0.05
    assert "python launch.py --mode=evaluate --workdir='my run'" in page.text
    assert "Clip ravdess/clip-00 from 1.0 s to 2.0 s: face crops, the spectrogram of the sound" in page.alts


def test_sound_alone_of_clips_of_one_segment(tmp_path: pathlib.Path) -> None:
    page = make(tmp_path, modalities="audio", fields=NO_PICTURE, seconds=1).page()
    assert not [row for row in page.rows if row[0] == "segment"]
    assert page.tags["img"] == 5 + CLIPS
    assert "face crops" not in page.text


def test_pictures_alone_under_a_leaky_protocol(tmp_path: pathlib.Path) -> None:
    page = make(tmp_path, corpus="sample", modalities="video", protocol="random_windows", fields=NO_SOUND).page()
    assert page.text.count("Note.") == 2
    assert "segments of the same clips" in page.text.lower()
    assert "fold" not in page.text.split("Provenance")[0]
    assert "spectrogram" not in page.text
    assert page.alts.count("Clip ravdess/clip-03 from 1.0 s to 2.0 s: face crops") == 1


def test_markup_is_text_and_missing_parts_are_named(tmp_path: pathlib.Path) -> None:
    run = make(tmp_path, changes={0: {"clip_id": EVIL, "face_found": np.zeros(15, bool)}, 1: NO_SOUND})
    run.log = []
    run.results["commit"] = EVIL
    run.results["config"]["data"]["channel"] = EVIL
    page = run.page()
    assert page.text.count(EVIL) == 3
    [faceless], [silent] = ([alt for alt in page.alts if name in alt] for name in (EVIL, "clip-01"))
    assert "no face was found" in faceless
    assert "there is no sound" in silent
    assert "No metrics" in page.text


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        (RESULTS, "}", "{"),
        (RESULTS, "segment", "window"),  # of an older version
        (PREDICTIONS, "}", "{"),
        (PREDICTIONS, "clip-03", "clip-77"),  # of other clips
    ],
)
def test_results_that_do_not_fit_are_an_error_and_leave_the_old_report(
    tmp_path: pathlib.Path, name: str, old: str, new: str
) -> None:
    run = make(tmp_path)
    report = run.workdir / "report.html"
    (run.workdir / RESULTS).write_text(json.dumps(run.results))
    report.write_text("old")
    path = run.workdir / name
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UserError, match=rf"{name}.*evaluate again"):
        write_report(run.workdir, report, data=run.data, log=run.log)
    assert report.read_text() == "old"


def test_examples_are_a_right_and_a_wrong_clip_whatever_the_order() -> None:
    predicted = np.array([0, 0, 0, 1, 1, 1, 3, 3, 3])
    true = np.array([0, 0, 1, 1, 1, 1, 2, 2, 3])

    def answers(order: np.ndarray) -> Answers:
        ids, said = [f"clip-{i}" for i in order], predicted[order]
        return Answers(clip_ids=ids, speakers=ids, true=true[order], predicted=said, log_prob=np.zeros((9, 4)))

    plain, reverse = answers(np.arange(9)), answers(np.arange(9)[::-1])
    chosen = [choose(plain, label) for label in range(5)]
    assert chosen == [[8 - i for i in choose(reverse, label)] for label in range(5)]
    right = [sorted((predicted[each] == true[each]).tolist()) for each in chosen]
    assert right == [[True] * 2, [False, True], [False] * 2, [True], []]
