"""Cross-validation of several corpora, and of clips without speakers: which clips and folds its runs have."""

import dataclasses
import pathlib

import pytest

import tiny
from fusion_emotion.experiments import summary
from fusion_emotion.experiments.crossval import Run
from fusion_emotion.input import membership
from fusion_emotion.prepare.records import MANIFEST, write_rows
from test_crossval import Quick


def test_speakers_who_are_not_named_are_not_counted(tmp_path: pathlib.Path) -> None:
    rows = tiny.write_records(tmp_path / "tiny", tiny.records_of(speakers=4, takes=2))
    write_rows(tmp_path / "tiny" / MANIFEST, [dataclasses.replace(row, speaker="") for row in rows])
    results, _ = Quick(tmp_path, tmp_path / "tiny").finished(protocols=("takes",))
    assert results["protocols"]["takes"]["speakers"] == []
    [note] = summary.notes(results)
    assert note.startswith("takes tests clips of speakers who are not named: there is no interval over people")


def test_protocols_of_other_corpora_go_on_with_their_own_clips(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = several_corpora(tmp_path)
    protocols = ("train:ravdess test:emodb", "train:ravdess test:tess")
    first = quick.plan(protocols=protocols[:1])
    for run in first:
        run.workdir.mkdir(parents=True)
        membership.save(run.workdir, run.parts, label_names=run.label_names)
    more = quick.plan(protocols=(*protocols, "leave_one_corpus_out"))
    assert "set aside" not in capsys.readouterr().out
    assert [clip_ids_of(run) for run in more[:1]] == [clip_ids_of(run) for run in first]
    assert {row.corpus for row in more[1].test_rows} == {"tess"}
    assert {row.corpus for run in more[2:] for row in run.test_rows} == {"ravdess", "emodb", "tess"}


def test_folds_are_of_the_corpora_that_are_placed(tmp_path: pathlib.Path) -> None:
    quick = several_corpora(tmp_path)
    quick.config["split"]["corpora"] = ("emodb",)
    runs = quick.plan(protocols=("loso",))
    assert [{row.speaker for row in run.test_rows} for run in runs] == [{f"emodb/0{n}"} for n in range(1, 5)]
    assert all({row.corpus for row in run.parts["train"].rows} == {"ravdess", "emodb", "tess"} for run in runs)


def several_corpora(folder: pathlib.Path) -> Quick:
    """A cross-validation of three corpora of four speakers each."""
    records = [
        dataclasses.replace(
            record,
            corpus=corpus,
            **{name: getattr(record, name).replace("ravdess", corpus) for name in ("clip_id", "take_id", "speaker")},
        )
        for seed, corpus in enumerate(("ravdess", "emodb", "tess"))
        for record in tiny.records_of(speakers=4, seed=seed)
    ]
    quick = Quick(folder, tiny.write_corpus(folder / "joined", records))
    roots = {"corpora": ("ravdess", "emodb", "tess"), "roots": ("a", "b", "c"), "labels": "ravdess8"}
    quick.config["data"] |= roots
    return quick


def clip_ids_of(run: Run) -> set[str]:
    return membership.clip_ids(run.parts)
