"""What a person may get wrong: one line that names the thing and the remedy, no traceback, exit code 1 or 2."""

import os
import pathlib
import shutil

import pytest

from films import ffmpeg
from fusion_emotion import commands
from fusion_emotion.config import CONFIG, defaults, save
from fusion_emotion.errors import UserError
from fusion_emotion.prepare.records import read_rows
from launch_kit import launch, refused

RAVDESS = "--config=configs/ravdess.py"
CENTERFACE = "--config.prepare.detector=centerface"


@pytest.fixture
def paths(tmp_path: pathlib.Path) -> list[str]:
    """Flags of a workdir and a cache of the test's own."""
    return [RAVDESS, f"--workdir={tmp_path / 'run'}", f"--config.run.cache={tmp_path / 'cache'}"]


@pytest.fixture
def data(tmp_path: pathlib.Path, paths: list[str]) -> pathlib.Path:
    """An empty corpus, which `paths` then names."""
    paths += [CENTERFACE, f"--config.data.root={tmp_path / 'data'}"]
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture(scope="module")
def prepared(sample_corpus, tmp_path_factory) -> tuple[list[str], pathlib.Path, str]:
    """Flags of a prepared corpus, its manifest, and what the preparation printed."""
    folder = tmp_path_factory.mktemp("prepared")
    flags = [RAVDESS, CENTERFACE, f"--config.data.root={sample_corpus}", f"--config.run.cache={folder / 'cache'}"]
    flags.append(f"--workdir={folder / 'run'}")
    ran = launch(*flags, "--mode=prepare")
    assert ran.returncode == 0, ran.stderr
    return flags, next((folder / "cache").glob("*/sets/*/manifest.jsonl")), ran.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([RAVDESS, "--config.train.epoch=3"], ["epoch", "epochs"]),
        ([RAVDESS, "--config.nothing.at=all"], ["nothing", "config.py"]),
        ([RAVDESS, "--config.prepare.cache=/tmp"], ["prepare.cache", "run.cache"]),
        ([RAVDESS, "--config.train.epochs=many"], ["config.train.epochs", "many"]),
        ([RAVDESS, "--config.model.modalities=smell"], ["model.modalities", "smell", "audio+video"]),
        ([RAVDESS, "--mode=guess"], ["mode", "train"]),
        ([RAVDESS, "--no_such_flag"], ["no_such_flag", "--help"]),
        ([RAVDESS, "stray"], ["stray"]),
        (["-config=configs/nope.py"], ["configs/nope.py", "configs/ravdess.py"]),
        (["-mode=predict", "--input=x.mp4", "--workdir=runs/mine"], ["--model=runs/mine"]),
        (["--mode=evaluate", "--workdir=~/no/run"], [str(pathlib.Path.home() / "no/run")]),
        (["--config=configs/nope.py"], ["configs/nope.py", "configs/ravdess.py"]),
        ([], ["configs/ravdess.py", "--workdir"]),
        (["--config="], ["--config is empty"]),
        (["--config.seed=1"], ["--config.seed", "configs/ravdess.py"]),
        ([RAVDESS, "--workdir="], ["--workdir is empty"]),
        ([RAVDESS, "--workdir=run\udcff"], ["--workdir", "UTF-8"]),
        (["--config=README.md"], ["README.md", "SyntaxError"]),
        ([RAVDESS, "--distributed=localhost:", "--num_processes=2", "--process_id=0"], ["localhost:", "HOST:PORT"]),
    ],
)
def test_wrong_flags_and_fields(arguments, words):
    refused(launch(*arguments), *words)


def test_from_another_folder_the_configs_are_listed_by_paths_that_work_there(tmp_path):
    ran = launch("--config=configs/nope.py", cwd=tmp_path)
    refused(ran, "configs/nope.py")
    [ravdess] = [path.strip() for path in ran.stderr.split(",") if path.endswith("ravdess.py")]
    refused(launch(f"--config={ravdess}", cwd=tmp_path), "data.root", str(tmp_path))


def test_the_config_of_a_workdir_with_other_fields(prepared, tmp_path):
    flags, _, printed = prepared
    given = dict(flag.removeprefix("--config.").split("=") for flag in flags if flag.startswith("--config."))
    config = defaults()
    config.update_from_flattened_dict(given)
    save(config.to_dict(), tmp_path / "run")
    for arguments in ([f"--config={tmp_path / 'run' / CONFIG}"], ["--workdir", str(tmp_path / "run")]):
        ran = launch(*arguments, "--mode=prepare")
        assert ran.stdout.splitlines()[1:] == printed.splitlines()[2:], ran.stderr
        refused(launch("--config.data.root=/nowhere", *arguments, "--mode=prepare"), "data.root='/nowhere'")
        refused(launch(*arguments, "--config.seed=7"), "seed is 0 there, 7 here", "choose another --workdir")


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


def test_folder_without_clips(data, paths):
    (data / "holiday.mp4").write_bytes(b"x")
    refused(launch(*paths), "no ravdess clip", "MM-VV-EE", "holiday.mp4")


def test_names_that_are_not_utf8_and_output_that_is_ascii(data, paths, sample_corpus):
    for actor, folder in (("01", "Schauspieler_ä"), ("02", "Actor_\udcfe")):
        (data / folder).mkdir()
        shutil.copy(sample_corpus / f"Actor_{actor}" / f"01-01-03-01-01-01-{actor}.mp4", data / folder)
    (data / "holiday\udcff.mp4").write_bytes(b"x")
    ran = launch(*paths, "--mode=prepare", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr
    assert "found 2 = ok" in ran.stdout
    assert f"passed over: {data}/holiday\\udcff.mp4" in ran.stdout


@pytest.mark.parametrize("home", [None, "/dev/null"])
def test_without_a_home_only_what_needs_one_is_refused(data, paths, sample_corpus, tmp_path, home):
    """Nor with a path or an entry in the list of users, as in a container."""
    (tmp_path / "sitecustomize.py").write_text("import pwd\npwd.getpwuid = {}.__getitem__\n")
    env = {"PYTHONPATH": str(tmp_path), "https_proxy": "http://127.0.0.1:9", **({"HOME": home} if home else {})}
    shutil.copy(sample_corpus / "Actor_01" / "01-01-03-01-01-01-01.mp4", data)
    ran = launch(*paths, "--mode=prepare", env=env)
    assert ran.returncode == 0, ran.stderr
    assert "found 1 = ok 1" in ran.stdout
    assert "telemetry" not in ran.stderr
    refused(launch(*paths, "--config.prepare.detector=insightface", "--mode=prepare", env=env), "insightface_root")


def test_folder_with_only_video_only_clips(data, paths, sample_corpus):
    shutil.copy(sample_corpus / "Actor_01" / "01-01-01-01-01-01-01.mp4", data / "02-01-01-01-01-01-01.mp4")
    refused(launch(*paths), "sound and picture", "01-*.mp4")


def test_detector_weights_that_cannot_be_had(paths, sample_corpus, tmp_path, monkeypatch):
    # A proxy that refuses stands for a machine without a network.
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    fields = {"data.root": sample_corpus, "run.insightface_root": tmp_path / "weights"}
    ran = launch(*paths, *(f"--config.{field}={value}" for field, value in fields.items()))
    refused(ran, "buffalo_sc", str(tmp_path / "weights"), "--config.prepare.detector=centerface")


def test_workdir_of_another_config(paths, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"seed": 7}')
    refused(launch(*paths), "belongs to another config", "seed is 7 there, 0 here", "--workdir")


def test_a_config_or_workdir_that_cannot_be_trained_binds_no_workdir(prepared, tmp_path):
    flags = [flag for flag in prepared[0] if not flag.startswith("--workdir=")]
    workdir = f"--workdir={tmp_path / 'run'}"
    ran = launch(*flags, workdir, "--config.train.epochs=1", "--config.train.accumulate_steps=9")
    refused(ran, "train.accumulate_steps=9", "train.epochs=1")
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").touch()
    refused(launch(*flags, workdir), str(tmp_path / "run"), "another --workdir")


@pytest.mark.parametrize("mode", ["evaluate", "report", "analyse"])
def test_workdir_without_a_run(paths, mode, tmp_path):
    refused(launch(f"--workdir={tmp_path}", f"--mode={mode}"), "config.json", "--config")
    refused(launch(*paths, f"--mode={mode}"), "first", "--workdir")


def test_unusable_clips_are_quarantined_and_the_run_goes_on(data, paths, tmp_path, sample_corpus):
    good = (sample_corpus / "Actor_01" / "01-01-03-01-01-01-01.mp4").read_bytes()
    reasons = {"good": "", "half": "decoded", "zero": "empty", "text": "decoded", "mute": "no audio track"}
    clips = {kind: data / f"01-01-03-01-01-01-{number:02d}.mp4" for number, kind in enumerate(reasons, 1)}
    clips["good"].write_bytes(good)
    clips["half"].write_bytes(good[: len(good) // 2])
    clips["zero"].touch()
    clips["text"].write_text("not a film\n" * 100)
    ffmpeg(clips["good"], clips["mute"], "-c", "copy", "-an")
    (data / "01-01-01-02-01-01-01.mp4").touch()
    ran = launch(*paths, "--mode=prepare")
    assert ran.returncode == 0, ran.stderr
    assert all(line.startswith("preparing: ") for line in ran.stderr.splitlines()), ran.stderr  # libav is silent
    assert "found 5 = ok 1 + quarantined 4" in ran.stdout
    assert "passed over" in ran.stdout
    assert "neutral (emotion 01) has no strong intensity" in ran.stdout
    rows = {row.clip_id: row for row in read_rows(next((tmp_path / "cache").glob("*/sets/*/manifest.jsonl")))}
    assert len(rows) == 5
    for kind, word in reasons.items():
        row = rows[f"ravdess/{clips[kind].stem}"]
        assert row.status == ("quarantined" if word else "ok")
        assert word in row.reason


def test_nothing_usable_at_all(data, paths):
    for actor in range(1, 4):
        (data / f"01-01-03-01-01-01-{actor:02d}.mp4").touch()
    refused(launch(*paths), "3 quarantined", "manifest.jsonl")


def test_too_few_speakers_for_the_protocol(prepared):
    flags, _, _ = prepared
    refused(launch(*flags, "--config.split.protocol=luna5"), "luna5", "takes or random")


def test_preparing_twice_does_nothing_twice(prepared):
    flags, manifest, printed = prepared
    before = manifest.stat().st_mtime_ns
    again = launch(*flags, "--mode=prepare")
    assert again.stdout == printed.replace("preparing  centerface on cpu, video decoded on cpu\n", "")
    assert "preparing" not in again.stderr
    assert manifest.stat().st_mtime_ns == before
