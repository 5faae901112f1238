"""Records are kept by clip: what changed is read again, what did not is not, and the machine's failures are retried."""

import dataclasses
import os
import pathlib
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
import soundfile

from conftest import settings_of
from films import by_clip, clip_of, film, sounds
from fusion_emotion.errors import UserError
from fusion_emotion.prepare import run
from fusion_emotion.prepare.clip import prepare_clip
from fusion_emotion.prepare.records import MANIFEST, Row, decode, read_rows, shard_paths
from fusion_emotion.prepare.store import key_of


def overwrite(path: pathlib.Path, data: bytes) -> None:
    """Write a file, with the time of change that it had."""
    status = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def rows_of(folder: pathlib.Path) -> list[Row]:
    return list(read_rows(folder / MANIFEST))


def heard(folder: pathlib.Path, index: int) -> np.ndarray:
    """The sound of a clip's record."""
    data = by_clip(folder)[index][1]
    assert data is not None
    return decode(data).waveform


@pytest.mark.parametrize("keep_time", [False, True])
def test_a_sound_overwritten_with_another_of_the_same_length_is_the_new_sound(tmp_path, keep_time):
    clips, settings = sounds(tmp_path, 2), settings_of(tmp_path)
    before = run.prepare(clips, settings)
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    soundfile.write(tmp_path / "new.wav", tone, 16_000)
    data = (tmp_path / "new.wav").read_bytes()
    assert len(data) == clips[1].path.stat().st_size
    (overwrite if keep_time else pathlib.Path.write_bytes)(clips[1].path, data)
    after = run.prepare(clips, settings)
    np.testing.assert_allclose(heard(after, 1), 32_767 * tone, atol=2)
    np.testing.assert_array_equal(heard(after, 0), heard(before, 0))
    (kept, old), (same, new) = rows_of(before), rows_of(after)
    assert kept == same
    assert old.digest != new.digest


def test_a_file_that_is_made_whole_is_read(tmp_path):
    clips, settings = [*sounds(tmp_path, 1), clip_of(film(tmp_path / "x.mp4"), modality="a")], settings_of(tmp_path)
    whole = clips[1].path.read_bytes()
    overwrite(clips[1].path, whole[: len(whole) // 2].ljust(len(whole), b"\0"))
    assert [row.status for row in rows_of(run.prepare(clips, settings))] == ["ok", "quarantined"]
    overwrite(clips[1].path, whole)
    assert [row.status for row in rows_of(run.prepare(clips, settings))] == ["ok", "ok"]


@pytest.mark.parametrize("lack", ["file", "permission"])
def test_a_file_that_can_be_read_at_last_is_read(tmp_path, lack):
    clips, settings = sounds(tmp_path, 2), settings_of(tmp_path)
    path = clips[1].path
    if lack == "permission":
        path.chmod(0)
        if os.access(path, os.R_OK):
            pytest.skip("permissions do not bind this user")
    else:
        path.rename(tmp_path / "elsewhere")
    [_, row] = rows_of(run.prepare(clips, settings))
    assert (row.status, row.digest, row.retry) == ("quarantined", "", True)
    assert "cannot be read" in row.reason
    (path.chmod(0o600) if lack == "permission" else (tmp_path / "elsewhere").rename(path))
    assert [row.status for row in rows_of(run.prepare(clips, settings))] == ["ok", "ok"]


def test_a_clip_that_took_too_long_is_tried_again_and_costs_no_other(tmp_path):
    clips, settings = sounds(tmp_path, 3), settings_of(tmp_path)
    run.prepare(clips[:2], settings)
    hurried = dataclasses.replace(settings, clip_timeout_s=1e-6)
    folder = run.prepare(clips, hurried)
    assert [(row.status, row.retry) for row in rows_of(folder)] == [("ok", False), ("ok", False), ("quarantined", True)]
    before = (folder / MANIFEST).read_bytes()
    assert run.prepare(clips, dataclasses.replace(settings, retry=False)) == folder
    assert (folder / MANIFEST).read_bytes() == before
    assert run.prepare(clips, settings) == folder
    assert [(row.status, row.record) for row in rows_of(folder)] == [("ok", 0), ("ok", 1), ("ok", 2)]
    assert len(shard_paths(folder)) == 2
    # Now nothing is left to try.
    assert run.prepare(clips, hurried) == folder
    assert all(row.status == "ok" for row in rows_of(folder))


def test_sets_share_their_clips_and_one_file_more_costs_one_clip(tmp_path):
    clips, settings = sounds(tmp_path, 5), settings_of(tmp_path)
    four = run.prepare(clips[:4], settings, group=2)
    shards = shard_paths(four)
    kept = {path: pathlib.Path(path).stat().st_mtime_ns for path in shards}
    five = run.prepare(clips, settings)
    *same, new = shard_paths(five)
    assert same == shards
    assert [row.clip_id for row in read_rows(pathlib.Path(new).with_name("rows.jsonl"))] == [clips[4].clip_id]
    # Another order and fewer clips take only the shards that they need, and their own records.
    few = run.prepare([clips[4], clips[1]], settings)
    assert shard_paths(few) == [new, shards[0]]
    assert [row.record for row in rows_of(few)] == [0, 2]
    for folder, wanted in ((four, clips[:4]), (five, clips), (few, [clips[4], clips[1]])):
        for clip, (row, data) in zip(wanted, by_clip(folder), strict=True):
            assert row.clip_id == clip.clip_id == decode(data).clip_id
    assert {path: pathlib.Path(path).stat().st_mtime_ns for path in shards} == kept


def test_only_the_full_digest_sees_a_change_in_the_middle_that_keeps_the_time(tmp_path):
    path = tmp_path / "x.wav"
    path.write_bytes(bytes(300_000))
    clip = clip_of(path, modality="a")
    before = {full: key_of(clip, full=full) for full in (False, True)}
    overwrite(path, bytes(150_000) + b"\1" + bytes(149_999))
    assert [key_of(clip, full=full) == key for full, key in before.items()] == [True, False]


def test_a_pipe_has_a_key(tmp_path):
    os.mkfifo(tmp_path / "x.wav")
    assert key_of(clip_of(tmp_path / "x.wav"), full=True)


# One clip never ends the run


class Raises:
    """A detector that fails on every frame."""

    def __init__(self, error: Exception):
        self.error = error

    def __call__(self, frame: np.ndarray):
        raise self.error


@pytest.mark.parametrize(
    ("error", "reason", "retry"),
    [
        (ValueError("a bad\nframe"), "ValueError: a bad frame", False),
        (AssertionError(), "AssertionError:", False),
        (IndexError("\udcff" + "x" * 999), "IndexError: \\udcff", False),
        (MemoryError("8 GB"), "MemoryError: 8 GB", True),
        (OSError(5, "Input/output error"), "cannot be read: Input/output error", True),
    ],
)
def test_any_exception_of_a_clip_is_a_row(tmp_path, error, reason, retry):
    row, record = prepare_clip(clip_of(film(tmp_path / "x.mp4")), settings_of(tmp_path), Raises(error))
    assert (record, row.status, row.retry) == (None, "quarantined", retry)
    assert reason in row.reason
    assert "\n" not in row.reason
    assert len(row.reason.encode()) < 400


def test_a_flac_of_unknown_length_does_not_end_the_run(tmp_path):
    # A pipe cannot be rewound, so the header says 0 samples, which makes libsndfile ask for 2**63 - 1.
    clips = sounds(tmp_path, 1)
    tool = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", clips[0].path, "-f", "flac", "pipe:1"]
    (tmp_path / "x.flac").write_bytes(subprocess.run(tool, check=True, stdout=subprocess.PIPE).stdout)
    clips.append(clip_of(tmp_path / "x.flac", modality="a"))
    assert rows_of(run.prepare(clips, settings_of(tmp_path)))[0].status == "ok"


def test_no_usable_clip_is_an_error_that_gives_the_reasons(tmp_path):
    clips = sounds(tmp_path, 2)
    for clip in clips:
        soundfile.write(clip.path, np.zeros(16_000), 16_000)
    for _ in range(2):
        with pytest.raises(UserError, match="silent"):
            run.prepare(clips, settings_of(tmp_path))
    assert run.is_prepared(clips, settings_of(tmp_path))
