"""The page of a cross-validation, of made-up answers."""

import json
import pathlib
from typing import Any

import numpy as np
import pytest

import page_kit
import run_tiny
import tiny
from fusion_emotion.corpora.catalogue import corpus
from fusion_emotion.corpora.protocols import protocol
from fusion_emotion.corpora.ravdess import LABEL_NAMES
from fusion_emotion.evaluate.answers import Answers
from fusion_emotion.evaluate.baselines import MEANING
from fusion_emotion.evaluate.table import NETWORK
from fusion_emotion.experiments import summary
from fusion_emotion.experiments.crossval import Run
from fusion_emotion.input.segments import Cutting, segments_of
from fusion_emotion.pages.crossval import write_report
from fusion_emotion.prepare.records import Row
from page_kit import EVIL, PROVENANCE


def rows_of(n_speakers: int) -> list[Row]:
    rows = [tiny.row_of(record, index=i) for i, record in enumerate(page_kit.records_of(24))]
    for i, row in enumerate(rows):
        row.speaker, row.statement = f"ravdess/{i % n_speakers + 1:02d}", f"0{i % 2 + 1}"
    return rows


def results_of(name: str, corpus_name: str = "ravdess", *, named: bool = True) -> dict[str, Any]:
    """The numbers of a protocol with two folds (or none) and one seed; the network is right in three of four clips."""
    rows, drawn = rows_of(6), protocol(name)
    for row in rows:
        row.speaker = row.speaker if named else ""
    folds = [rows[::2], rows[1::2]] if drawn.with_folds else [rows]
    runs = [
        Run(
            protocol=drawn,
            fold=fold,
            seed=0,
            config={},
            workdir=pathlib.Path(),
            label_names=LABEL_NAMES,
            parts={"test": segments_of(part, Cutting())},
        )
        for fold, part in enumerate(folds)
    ]

    def answers(part: list[Row], right_every: int) -> Answers:
        predicted = [row.label if i % 4 < right_every else (row.label + 1) % 8 for i, row in enumerate(part)]
        return Answers.of(part, np.log(np.where(np.eye(8)[predicted] > 0, 0.65, 0.05)))

    systems = {
        NETWORK: {summary.Key(run.fold, 0, 1.5): answers(list(run.test_rows), 3) for run in runs},
        **{name: {summary.Key(run.fold, 0): answers(list(run.test_rows), 2) for run in runs} for name in MEANING},
    }
    return {
        "corpus": corpus_name,
        "modalities": "audio",
        "label_names": list(corpus(corpus_name).label_names),
        "protocols": {name: summary.describe(drawn, runs, systems, corpus(corpus_name).groups)},
        "inflation": [],
        **PROVENANCE,
        "commit": EVIL,
        "times": {"train_seconds": {name: 5000.0}, "date": "2030-01-02T03:04:05+00:00"},
        "config": run_tiny.settings(),
    }


def page_of(results: dict[str, Any], folder: pathlib.Path) -> page_kit.Page:
    as_read, path = json.loads(json.dumps(results)), folder / "crossval.html"
    write_report(as_read, path, corpus=corpus(results["corpus"]), caveats=["Beware of <b>this</b>."])
    return page_kit.read(path)


def test_the_page(tmp_path: pathlib.Path) -> None:
    page = page_of(results_of("kfold"), tmp_path)
    assert page.tags["img"] == len(page.loads) == 1 + 5
    assert page.row("kfold (speaker-independent)", "network, audio")[2] == "75.0"
    assert page.row("kfold (speaker-independent)", "baseline mfcc")[2] == "50.0"
    assert page.row("training time")[1] == "83 min 20 s over 2 runs"
    assert "Kids are talking by the door" in page.text
    assert "Human raters" in page.text
    assert "Beware of <b>this</b>." in page.text
    assert page.row("commit")[1] == EVIL
    assert "Note." not in page.text


def test_clips_without_speakers(tmp_path: pathlib.Path) -> None:
    page = page_of(results_of("takes", named=False), tmp_path)
    assert page.tags["img"] == 1 + 4
    assert "test clips of speakers who are not named" in page.text


@pytest.mark.parametrize("name", ["random", "takes"])
def test_a_leaky_protocol_of_the_sample_corpus(tmp_path: pathlib.Path, name: str) -> None:
    page = page_of(results_of(name, "sample"), tmp_path)
    assert page.text.count("Note.") == 2
    assert page.row(f"{name} (speakers on both sides)", "network, audio")
    assert page.tags["img"] == 1 + 4 + (name == "takes")
    assert "Human raters" not in page.text
