"""What a person may get wrong: one line that names the thing and the remedy, no traceback, exit code 1 or 2."""

import pathlib
import shutil
import subprocess
import sys

import pytest

from conftest import ROOT
from fusion_emotion import commands
from fusion_emotion.config import defaults
from fusion_emotion.errors import UserError
from fusion_emotion.prepare.records import read_rows

RAVDESS = "--config=configs/ravdess.py"
CENTERFACE = "--config.prepare.detector=centerface"


@pytest.fixture
def launch(tmp_path):
    def run(*arguments: str, workdir: str = "run") -> subprocess.CompletedProcess[str]:
        paths = [f"--workdir={tmp_path / workdir}"]
        if any(argument.startswith("--config=") for argument in arguments):
            paths.append(f"--config.run.cache={tmp_path / 'cache'}")
        return subprocess.run(
            [sys.executable, "launch.py", *arguments, *paths], cwd=ROOT, capture_output=True, text=True, timeout=300
        )

    return run


def refused(ran: subprocess.CompletedProcess[str], *words: str) -> None:
    """The run ended with one line that begins with "error:" and holds `words`."""
    assert ran.returncode in (1, 2), ran.stderr
    assert "Traceback" not in ran.stderr
    lines = [line for line in ran.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, ran.stderr
    assert ran.stderr.rstrip().endswith(lines[0]), ran.stderr
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config.train.epoch=3"], ["epoch", "epochs"]),
        (["--config.nothing.at=all"], ["nothing", "config.py"]),
        (["--config.prepare.cache=/tmp"], ["prepare.cache", "run.cache"]),
        (["--config.train.epochs=many"], ["config.train.epochs", "many"]),
        (["--config.model.modalities=smell"], ["model.modalities", "smell", "audio+video"]),
        (["--mode=guess"], ["mode", "train"]),
        (["--no_such_flag"], ["no_such_flag", "--help"]),
        (["stray"], ["stray"]),
    ],
)
def test_wrong_flags_and_fields(launch, arguments, words):
    refused(launch(RAVDESS, *arguments), *words)


@pytest.mark.parametrize("mode", ["train", "prepare", "inspect", "baselines", "crossval"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prepare.margin", -1.0),
        ("split.protocol", "lucky"),
        ("crossval.protocols", ("guess",)),
        ("data.corpus", "other"),
        ("data.root", ""),
        ("data.root", "/no/such/folder"),
    ],
)
def test_wrong_values_are_refused_before_anything_is_done(mode, field, value, tmp_path):
    config = defaults()
    config.data.root = str(tmp_path)
    config.run.cache = str(tmp_path / "cache")
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=field):
        commands.MODES[mode](config.to_dict(), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_no_config_and_no_workdir():
    ran = subprocess.run([sys.executable, "launch.py"], cwd=ROOT, capture_output=True, text=True)
    refused(ran, "--config=configs/", "--workdir")


def test_missing_config_file(launch):
    refused(launch("--config=configs/nope.py"), "configs/nope.py", "configs/ravdess.py")


def test_folder_without_clips(launch, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "holiday.mp4").write_bytes(b"x")
    refused(launch(RAVDESS, f"--config.data.root={tmp_path / 'data'}"), "no ravdess clip", "MM-VV-EE", "holiday.mp4")


def test_folder_with_only_video_only_clips(launch, tmp_path, sample_corpus):
    (tmp_path / "data").mkdir()
    shutil.copy(sample_corpus / "Actor_01" / "01-01-01-01-01-01-01.mp4", tmp_path / "data" / "02-01-01-01-01-01-01.mp4")
    refused(launch(RAVDESS, f"--config.data.root={tmp_path / 'data'}"), "sound and picture", "01-*.mp4")


def test_detector_weights_that_cannot_be_had(launch, sample_corpus, tmp_path, monkeypatch):
    # A proxy that refuses stands for a machine without a network.
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    ran = launch(
        RAVDESS, f"--config.data.root={sample_corpus}", f"--config.run.insightface_root={tmp_path / 'weights'}"
    )
    refused(ran, "buffalo_sc", str(tmp_path / "weights"), "--config.prepare.detector=centerface")


def test_workdir_of_another_config(launch, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"seed": 7}')
    refused(launch(RAVDESS), "belongs to another config", "seed is 7 there, 0 here", "--workdir")


@pytest.mark.parametrize("mode", ["evaluate", "report", "analyse"])
def test_workdir_without_a_run(launch, mode):
    refused(launch(f"--mode={mode}"), "config.json", "--config")
    refused(launch(RAVDESS, f"--mode={mode}"), "first", "--workdir")


def without_sound(source: pathlib.Path, target: pathlib.Path) -> None:
    import av

    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        video = reader.streams.video[0]
        stream = writer.add_stream_from_template(video)
        for packet in reader.demux(video):
            if packet.dts is not None:
                packet.stream = stream
                writer.mux(packet)


def test_unusable_clips_are_quarantined_and_the_run_goes_on(launch, tmp_path, sample_corpus):
    good = sample_corpus / "Actor_01" / "01-01-03-01-01-01-01.mp4"
    data = tmp_path / "data" / "Actor_01"
    data.mkdir(parents=True)
    names = {
        what: f"01-01-03-01-01-01-{number:02d}"
        for number, what in enumerate(("good", "half", "zero", "text", "mute"), 1)
    }
    shutil.copy(good, data / f"{names['good']}.mp4")
    (data / f"{names['half']}.mp4").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    (data / f"{names['zero']}.mp4").touch()
    (data / f"{names['text']}.mp4").write_text("not a film\n" * 100)
    without_sound(good, data / f"{names['mute']}.mp4")
    (data / "01-01-01-02-01-01-01.mp4").touch()
    ran = launch(RAVDESS, CENTERFACE, f"--config.data.root={tmp_path / 'data'}", "--mode=prepare")
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr
    assert "found 5 = ok 1 + quarantined 4" in ran.stdout
    assert "passed over" in ran.stdout
    assert "neutral (emotion 01) has no strong intensity" in ran.stdout
    rows = {
        row.clip_id.removeprefix("ravdess/"): row
        for row in read_rows(next((tmp_path / "cache").glob("*/manifest.jsonl")))
    }
    assert len(rows) == 5
    for what, word in (("half", "decoded"), ("zero", "empty"), ("text", "decoded"), ("mute", "no audio track")):
        assert rows[names[what]].status == "quarantined"
        assert word in rows[names[what]].reason
    assert rows[names["good"]].status == "ok"


def test_nothing_usable_at_all(launch, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for actor in range(1, 4):
        (data / f"01-01-03-01-01-01-{actor:02d}.mp4").touch()
    refused(launch(RAVDESS, CENTERFACE, f"--config.data.root={data}"), "3 quarantined", "manifest.jsonl")


def test_too_few_speakers_for_the_protocol(launch, sample_corpus):
    ran = launch(RAVDESS, CENTERFACE, f"--config.data.root={sample_corpus}", "--config.split.protocol=luna5")
    refused(ran, "luna5", "random")


def test_preparing_twice_does_nothing_twice(launch, sample_corpus, tmp_path):
    first = launch(RAVDESS, CENTERFACE, f"--config.data.root={sample_corpus}", "--mode=prepare")
    assert first.returncode == 0, first.stderr
    manifest = next((tmp_path / "cache").glob("*/manifest.jsonl"))
    before = manifest.stat().st_mtime_ns
    second = launch(RAVDESS, CENTERFACE, f"--config.data.root={sample_corpus}", "--mode=prepare")
    assert second.stdout == first.stdout.replace("preparing  centerface on cpu, video decoded on cpu\n", "")
    assert "preparing" not in second.stderr
    assert manifest.stat().st_mtime_ns == before
