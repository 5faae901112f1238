"""A run knows its clips: what is added, taken away or changed later moves no clip from one part to another."""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import tiny
from fusion_emotion import commands
from fusion_emotion.config import CONFIG
from fusion_emotion.corpora.ravdess import LABEL_NAMES
from fusion_emotion.errors import UserError
from fusion_emotion.evaluate import baselines
from fusion_emotion.evaluate.answers import PREDICTIONS, RESULTS
from fusion_emotion.evaluate.table import NETWORK
from fusion_emotion.experiments import crossval, summary
from fusion_emotion.experiments.crossval import Run
from fusion_emotion.input.data import Data
from fusion_emotion.input.membership import CLIPS, save
from fusion_emotion.prepare.records import MANIFEST, Record, read_rows, write_rows
from run_tiny import settings
from test_crossval import write_results

# Sorted as the finders sort, so that new clips are between the old ones.
EVERYTHING = sorted(tiny.records_of(speakers=9, takes=2), key=lambda record: record.clip_id)
PROTOCOLS = ("random", "kfold", "random_windows")


def chosen(keep: Callable[[int, int], bool]) -> list[Record]:
    """The records whose number of speaker and of take pass."""
    return [one for one in EVERYTHING if keep(int(one.speaker[-2:]), int(one.take_id[-5:-3]))]


BEFORE = chosen(lambda speaker, take: speaker <= 6 and take == 1)
ADDED = {
    "takes": chosen(lambda speaker, take: speaker <= 6),
    "speakers": chosen(lambda speaker, take: take == 1),
    "one": [one for one in EVERYTHING if one in BEFORE or one.take_id == "ravdess/01-04-01-01-02-03"],
}
VICTIM = BEFORE[17]
CHANGED = [dataclasses.replace(one, waveform=one.waveform[::-1]) if one is VICTIM else one for one in BEFORE]


def config_of(protocol: str, **changes: Any) -> dict[str, Any]:
    small = {"model__modalities": "audio", "model__features": 8, "train__validate_every_epochs": 1}
    return settings(**{"split__protocol": protocol, "train__epochs": 1, **small, **changes})


Corpus = Callable[[Sequence[Record]], pathlib.Path]


@pytest.fixture
def corpus(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """Makes records what data.root holds."""

    def becomes(records: Sequence[Record]) -> pathlib.Path:
        folder = tiny.write_corpus(tmp_path / f"records-{len(list(tmp_path.iterdir()))}", records)
        monkeypatch.setattr(commands, "prepared", lambda config: folder)
        return folder

    return becomes


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    """Workdirs of finished runs on `BEFORE`, by protocol."""
    folder = tiny.write_corpus(tmp_path_factory.mktemp("prepared") / "tiny", BEFORE)
    workdirs = {name: tmp_path_factory.mktemp(name) for name in PROTOCOLS}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "prepared", lambda config: folder)
        for name, workdir in workdirs.items():
            commands.train(config_of(name), workdir)
    return workdirs


@pytest.fixture(params=PROTOCOLS)
def run(request: pytest.FixtureRequest, trained: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of the workdir of a finished run."""
    return shutil.copytree(trained[request.param], tmp_path / request.param)


def places(data: Data) -> dict[str, list[tuple[str, int, int]]]:
    """Clip, start and length of every segment, by part."""
    return {
        part: [
            (segments.rows[clip].clip_id, int(start), int(length))
            for clip, start, length in zip(segments.clip, segments.start, segments.length, strict=True)
        ]
        for part, segments in data.parts.items()
    }


@pytest.mark.parametrize("added", ADDED)
def test_added_clips_move_no_clip(run: pathlib.Path, added: str, corpus: Corpus) -> None:
    config = config_of(run.name)
    corpus(BEFORE)
    trained_on = places(commands.open_job(config, run).data)
    corpus(ADDED[added])
    data = commands.open_job(config, run).data
    assert places(data) == trained_on
    assert not {*places(data)["test"]} & {*trained_on["train"]}
    assert list(data.set_aside.values()) == [len(ADDED[added]) - len(BEFORE)]


@pytest.mark.slow
def test_every_later_use_takes_the_clips_that_a_run_began_with(
    run: pathlib.Path, corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    before = json.loads((run / RESULTS).read_text())
    kept, predictions = (run / CLIPS).read_bytes(), (run / PREDICTIONS).read_bytes()
    corpus(ADDED["speakers"])
    commands.evaluate(config_of(run.name, data__root="/another/place"), run)
    assert "set aside  24 new" in capsys.readouterr().out
    evaluated = json.loads((run / RESULTS).read_text())
    assert (evaluated["parts"], evaluated["test"]) == (before["parts"], before["test"])
    assert (run / PREDICTIONS).read_bytes() == predictions
    longer = config_of(run.name, train__epochs=2)
    commands.train(longer, run)
    assert "going on from step" in capsys.readouterr().out
    resumed = json.loads((run / RESULTS).read_text())
    assert resumed["parts"] == before["parts"]
    assert resumed["checkpoint"]["of_steps"] > before["checkpoint"]["of_steps"]
    if run.name == "kfold":  # the slowest mode, which opens the workdir as the others do
        commands.analyse(longer, run)
        analysed = json.loads((run / "analysis.json").read_text())["test"]
        assert {name: analysed[name] for name in before["parts"]["test"]} == before["parts"]["test"]
    assert (run / CLIPS).read_bytes() == kept


@pytest.mark.parametrize("mode", ["evaluate", "train", "analyse", "report"])
@pytest.mark.parametrize("fate", ["removed", "changed"])
def test_clips_that_vanished_or_changed_are_named(run: pathlib.Path, mode: str, fate: str, corpus: Corpus) -> None:
    corpus([one for one in BEFORE if one is not VICTIM] if fate == "removed" else CHANGED)
    results = (run / RESULTS).read_bytes()
    with pytest.raises(UserError, match=f"1 of the 48 clips .*{VICTIM.clip_id}.*data.root.*--workdir") as error:
        commands.MODES[mode](config_of(run.name), run)
    assert "\n" not in str(error.value)
    assert ("changed)" in str(error.value)) == (fate == "changed")
    assert (run / RESULTS).read_bytes() == results


def test_many_vanished_clips_are_a_few_and_a_count(trained: dict[str, pathlib.Path], corpus: Corpus) -> None:
    corpus(BEFORE[20:])
    with pytest.raises(UserError, match=r"20 of the 48 clips .* and 15 more"):
        commands.open_job(config_of("kfold"), trained["kfold"])


def test_a_quarantined_clip_is_named_with_its_reason(trained: dict[str, pathlib.Path], corpus: Corpus) -> None:
    folder = corpus(BEFORE)
    rows = list(read_rows(folder / MANIFEST))
    rows[3] = dataclasses.replace(rows[3], status="quarantined", reason="took too long")
    write_rows(folder / MANIFEST, rows)
    with pytest.raises(UserError, match=rf"{rows[3].clip_id} \(took too long\)"):
        commands.open_job(config_of("kfold"), trained["kfold"])


def test_manifests_without_digests_are_not_compared(trained: dict[str, pathlib.Path], corpus: Corpus) -> None:
    folder = corpus(CHANGED)
    write_rows(folder / MANIFEST, [dataclasses.replace(row, digest="") for row in read_rows(folder / MANIFEST)])
    data = commands.open_job(config_of("kfold"), trained["kfold"]).data
    assert {row.clip_id for row in data.rows} == {one.clip_id for one in BEFORE}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_kept_parts_are_the_drawn_ones(tmp_path: pathlib.Path, protocol: str) -> None:
    """Order, starts, lengths and cutting: a resumed run reads the same batches."""
    folder = tiny.write(tmp_path / "tiny", n_frames=17)
    config = config_of(protocol)
    drawn = Data.open(config, folder, tmp_path)
    save(tmp_path, drawn.parts, label_names=LABEL_NAMES)
    kept = Data.open(config, folder, tmp_path)
    assert places(kept) == places(drawn)
    for part, segments in drawn.parts.items():
        assert kept.parts[part].rows == segments.rows
        assert kept.parts[part].cutting == segments.cutting
        np.testing.assert_array_equal(kept.parts[part].clip, segments.clip)


def test_a_run_that_made_no_step_is_bound(
    tmp_path: pathlib.Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(job: commands.Job) -> None:
        raise KeyboardInterrupt

    corpus(BEFORE)
    config, workdir = config_of("kfold"), tmp_path / "run"
    monkeypatch.setattr(commands, "train_job", killed)
    with pytest.raises(KeyboardInterrupt):
        commands.train(config, workdir)
    before = places(commands.open_job(config, workdir).data)
    corpus(ADDED["speakers"])
    assert places(commands.open_job(config, workdir).data) == before


def test_clips_that_the_leak_guard_refuses_bind_no_workdir(tmp_path: pathlib.Path, corpus: Corpus) -> None:
    copy = dataclasses.replace(VICTIM, clip_id="ravdess/copy", take_id="ravdess/copy", speaker="ravdess/09")
    corpus([*BEFORE, copy])
    workdir = tmp_path / "run"
    with pytest.raises(UserError, match="identical sound"):
        commands.train(config_of("loso", split__fold=6), workdir)
    assert not (workdir / CONFIG).exists()
    assert not (workdir / CLIPS).exists()


def test_a_workdir_of_an_earlier_version_is_told_and_stays_as_it_is(
    trained: dict[str, pathlib.Path], tmp_path: pathlib.Path, corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(trained["kfold"], tmp_path / "kfold", ignore=shutil.ignore_patterns(CLIPS))
    parts = json.loads((run / RESULTS).read_text())["parts"]
    corpus(BEFORE)
    commands.train(config_of("kfold"), run)
    assert "clips      not listed" in capsys.readouterr().out
    assert json.loads((run / RESULTS).read_text())["parts"] == parts
    assert not (run / CLIPS).exists()


def test_baselines_take_the_split_of_a_run_of_the_same_config(
    trained: dict[str, pathlib.Path], corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(baselines, "available", lambda rows: ["majority"])
    monkeypatch.setattr(baselines, "text", lambda systems: "")
    monkeypatch.setattr(baselines, "baseline", lambda name, data, config: seen.append(len(data.rows)))
    corpus(ADDED["takes"])
    for config in (config_of("kfold"), config_of("random"), config_of("kfold", split__fold=1)):
        commands.baselines(config, trained["kfold"])
    assert seen == [48, 96, 96]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: text[:-9], "cannot be read"),
        (lambda text: "", "cannot be read"),
        (lambda text: text.replace('"sad"', '"gloomy"', 1), "labels"),
        (lambda text: text.replace('"format": 1', '"format": 9', 1), "newer"),
    ],
)
def test_a_damaged_or_foreign_list_is_refused(
    damage: Callable[[str], str], words: str, trained: dict[str, pathlib.Path], tmp_path: pathlib.Path, corpus: Corpus
) -> None:
    corpus(BEFORE)
    (tmp_path / CLIPS).write_text(damage((trained["kfold"] / CLIPS).read_text()))
    with pytest.raises(UserError, match=f"{CLIPS} .*{words}"):
        commands.open_job(config_of("kfold"), tmp_path)


@pytest.fixture
def many(corpus: Corpus, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """The mode crossval on records, with runs that do not train; returns its numbers by protocol and system."""

    def execute(runs: Sequence[Run], *, is_done: Callable[[Run], bool], **_: Any) -> None:
        for run in runs:
            if not is_done(run):
                write_results(run, run.workdir)

    def crossval_of(records: Sequence[Record], *seeds: int) -> dict[str, Any]:
        corpus(records)
        section = {"crossval__protocols": ("kfold", "random", "random_windows"), "crossval__seeds": seeds}
        commands.crossval(config_of("kfold", **section), tmp_path / "crossval")
        results = json.loads((tmp_path / "crossval" / summary.RESULTS).read_text())
        return {name: protocol["systems"] for name, protocol in results["protocols"].items()}

    monkeypatch.setattr(crossval, "execute", execute)
    monkeypatch.setattr(baselines, "available", lambda rows, **_: ["majority"])
    return crossval_of


def test_a_cross_validation_keeps_its_clips(many: Callable[..., dict[str, Any]], tmp_path: pathlib.Path) -> None:
    """Finished runs, runs added later, and baselines are of the same clips, though the corpus grows, then shrinks."""
    before = many(BEFORE, 0)
    shutil.rmtree(tmp_path / "crossval" / "kfold" / "baselines")
    after = many(ADDED["speakers"], 0, 1)
    assert after["kfold"]["majority"] == before["kfold"]["majority"]
    for name, systems in after.items():
        first, second = ([run["clips"] for run in systems[NETWORK]["runs"] if run["seed"] == seed] for seed in (0, 1))
        assert first == [run["clips"] for run in before[name][NETWORK]["runs"]]
        assert sum(second) == sum(first) or name == "random_windows"
    kfold = [(tmp_path / "crossval" / "kfold" / f"fold-0-seed-{seed}" / CLIPS).read_bytes() for seed in (0, 1)]
    assert kfold[0] == kfold[1]

    with pytest.raises(UserError, match=f"1 of the 48 clips .*{BEFORE[-1].clip_id}"):
        many(BEFORE[:-1], 0, 1, 2)
    assert not (tmp_path / "crossval" / "kfold" / "fold-0-seed-2").exists()
