"""Cameras and streams as they come; a film that plays in real time stands for a camera."""

import collections
import csv
import errno
import itertools
import subprocess
import threading
import time

import av
import imageio_ffmpeg
import numpy as np
import pytest

import predict_kit
from films import OneFace, ffmpeg, film
from fusion_emotion.errors import UserError
from fusion_emotion.predict import batch, live
from fusion_emotion.predict.live import Feed, is_live
from fusion_emotion.prepare.media_errors import MediaError
from launch_kit import free_port, launch, refused


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Three seconds; the face is there up to 1.6 s."""
    return film(
        tmp_path_factory.mktemp("film") / "a.mp4",
        seconds=3,
        picture=lambda time: np.full((120, 160, 3), 90 if time < 1.59 else 0, np.uint8),
    )


av_open = av.open


def device(path, *, name="lavfi:"):
    return f"{name}movie={path}:s=dv+da[v][a];[v]realtime[out0];[a]arealtime[out1]"


def publish(path, address, form, *options):
    """Play a film to an address in real time, in another process; try again while nobody listens."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-re", "-i", str(path), "-c", "copy", "-f", form]
    for _ in range(40):
        time.sleep(0.3)
        if subprocess.run([*command, *options, address], capture_output=True, timeout=30).returncode == 0:
            return


def test_a_moment_comes_every_step_and_soon(workdir, path):
    began = time.monotonic()
    told = list(predict_kit.recognizer(workdir, OneFace()).stream(device(path)))
    assert time.monotonic() - began > 2.5
    assert [moment.end for moment in told] == [pytest.approx(1 + 0.2 * i) for i in range(len(told))]
    assert 8 <= len(told) <= 11
    assert told[0].modalities == "audio+video"
    assert told[0].box == pytest.approx((160 / 3, 40, 160 / 3, 40), abs=1)
    assert told[-1].modalities == "audio"
    for moment in told:
        assert sum(moment.probabilities.values()) == pytest.approx(1)
        assert 0 <= moment.lag_s < 2


def test_pictures_that_wait_are_dropped_and_sound_is_not(path):
    feed = Feed(device(path), picture=True, sound=True)
    steps = iter(feed)
    first = next(steps)
    time.sleep(2)
    rest = list(steps)
    feed.close()
    assert first.frame is not None
    # Of some nine steps that waited, the newest two and what came later have pictures.
    waited = [step.frame is None for step in rest[:9]]
    assert waited[:5] == [True] * 5
    assert rest[-2].frame is not None
    assert all(len(step.sound) == 3200 for step in rest)
    assert np.abs(np.concatenate([step.sound for step in rest[1:6]])).max() > 1000


@pytest.mark.parametrize("rate", [2.5, 5, 7.5])
def test_a_slow_camera_has_a_picture_in_each_step(rate, monkeypatch):
    monkeypatch.setattr(live, "_LATE_STEPS", 100)  # none loses its picture by waiting
    feed = Feed(f"lavfi:testsrc=rate={rate}:size=64x48:duration=2", picture=True, sound=False)
    assert [step.frame is not None for step in feed].count(False) <= 1
    feed.close()


def test_a_track_keeps_what_stands_for_a_step_without_a_picture():
    track = live._Track()
    for number, place_s in enumerate((0.0, 0.2, 0.4)):
        track.others.append((place_s, lambda number=number: np.full((1, 1, 3), number, np.uint8)))
    track.pictures[1] = np.full((1, 1, 3), 9, np.uint8)
    taken = [track.picture_of(step) for step in range(5)]
    assert [None if picture is None else int(picture.max()) for picture in taken] == [0, 9, 2, 2, None]


def test_sound_from_before_the_first_picture_is_cut_off():
    track, ramp = live._Track(), np.arange(16_000, dtype=np.float32) / 16_000
    for start in range(0, 16_000, 1600):
        frame = av.AudioFrame.from_ndarray(ramp[None, start : start + 1600], format="fltp", layout="mono")
        frame.sample_rate = 16_000
        track.hear(frame, start / 16_000 - 0.45)
    heard = np.concatenate([track.sound_of(step) for step in range(2)]) / np.iinfo(np.int16).max
    np.testing.assert_allclose(heard, 0.45 + np.arange(6400) / 16_000, atol=1e-3)


def test_time_stamps_that_jump_end_the_stream(path, tmp_path):
    parts = [
        ffmpeg(path, tmp_path / f"{s}.ts", "-c", "copy", "-output_ts_offset", str(s)).read_bytes() for s in (0, 3600)
    ]
    (tmp_path / "b.ts").write_bytes(b"".join(parts))
    feed = Feed((tmp_path / "b.ts").open("rb"), picture=True, sound=True)
    with pytest.raises(MediaError, match="it broke off: its time stamps jump by 3"):
        collections.deque(itertools.islice(feed, 30), maxlen=0)
    feed.close()


@pytest.mark.slow
def test_a_stream_over_udp(workdir, path, monkeypatch):
    monkeypatch.setattr(live, "_STALLED_S", 6.0)
    address = f"udp://127.0.0.1:{free_port()}"
    sender = threading.Thread(target=publish, args=(path, f"{address}?pkt_size=1316", "mpegts"), daemon=True)
    stream = predict_kit.recognizer(workdir, OneFace()).stream(address)
    threading.Timer(3.0, sender.start).start()
    told = []
    with pytest.raises(UserError, match="the stream stalls"):
        told.extend(stream)
    assert len(told) >= 4
    assert "audio+video" in {moment.modalities for moment in told}


def test_a_stream_over_rtsp(workdir, path):
    address = f"rtsp://127.0.0.1:{free_port()}/live"
    stream = predict_kit.recognizer(workdir, OneFace()).stream(
        address, {"rtsp_flags": "listen", "listen_timeout": "30"}
    )

    sent = (path, address, "rtsp", "-rtsp_transport", "tcp")
    threading.Thread(target=publish, args=sent, daemon=True).start()
    told = list(itertools.islice(stream, 4))
    stream.close()
    assert [moment.end for moment in told] == [pytest.approx(1 + 0.2 * i) for i in range(4)]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("camera:7", "this machine has none|there are"),
        ("udp://256.0.0.1:1", "cannot be opened"),
        ("rtsp://127.0.0.1:9/x", "cannot be opened"),
        ("lavfi:no such graph", "cannot be opened"),
    ],
)
def test_what_cannot_be_opened_is_one_line(workdir, source, words):
    assert is_live(source)
    with pytest.raises(UserError, match=words):
        next(predict_kit.recognizer(workdir, OneFace()).stream(source))


class TakenAway:
    """A device of libav that plays a film, and is gone after 1.6 s."""

    def __init__(self, path):
        self._file = av_open(device(path, name=""), format="lavfi")
        self.streams = self._file.streams

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def demux(self, streams):
        for packet in self._file.demux(streams):
            if packet.pts is not None and packet.pts * packet.time_base > 1.6:
                av.error.err_check(-errno.ENODEV)
            yield packet


def test_a_camera_that_is_taken_away_leaves_what_was_judged(workdir, path, tmp_path, monkeypatch, capsys):
    """The microphone stays, and has nobody left to hear."""
    opened = []

    def opens(name, format):
        opened.append((name, format))
        return TakenAway(path) if format == "v4l2" else av_open(device(path, name=""), format="lavfi")

    monkeypatch.setattr(live.platform, "system", lambda: "Linux")
    monkeypatch.setattr(live.av, "open", opens)
    monkeypatch.setattr(live, "picture_stream", lambda file: file.streams.video[0])
    with pytest.raises(UserError, match=r"camera:0: after 1\.[246] s it broke off: No such device.*is in .*csv"):
        batch.predict(predict_kit.recognizer(workdir, OneFace()), "camera:0", tmp_path)
    assert opened == [("/dev/video0", "v4l2"), ("default", "alsa")]
    [table] = tmp_path.glob("*.csv")
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert 1 <= len(rows) <= 4
    assert rows[0]["modalities"] == "audio+video"


@pytest.mark.slow
def test_the_command_writes_a_row_a_moment(workdir, path, tmp_path):
    ran = launch("--mode=predict", f"--input={device(path)}", f"--model={workdir}", f"--output={tmp_path}")
    assert ran.returncode == 0, ran.stderr
    [table] = tmp_path.glob("*.csv")
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert 8 <= len(rows) <= 11
    assert {row["modalities"] for row in rows} <= {"audio", "audio+video"}
    assert "lag" in ran.stdout
    table.unlink()
    ran = launch("--mode=predict", "--input=camera:9", f"--model={workdir}", f"--output={tmp_path}")
    refused(ran, "camera '9' cannot be opened")
    assert not list(tmp_path.glob("*.csv"))
