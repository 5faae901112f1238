"""Whatever is pointed at: a recording is judged as far as it can be read, or one line says why it is not."""

import contextlib
import fractions
import http.server
import importlib.resources
import pathlib
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator

import av
import numpy as np
import pytest

from conftest import ROOT, as_nobody
from films import ffmpeg, film
from fusion_emotion.errors import UserError
from fusion_emotion.predict import batch
from fusion_emotion.predict.batch import recordings
from fusion_emotion.predict.journal import Journal
from fusion_emotion.predict.live import Feed
from fusion_emotion.predict.reader import Reader
from fusion_emotion.predict.recognizer import find
from fusion_emotion.prepare import opening

FORMATS = ("csv", "json", "html", "eaf", "textgrid", "vtt", "srt", "mp4")


def png(side: int, rows: int) -> bytes:
    """A black picture of `side` x `side` px, of which `rows` are there."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer, row = zlib.compressobj(1), bytes(1 + 3 * side)
    content = b"".join(packer.compress(row) for _ in range(rows)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def grown(content: bytes, side: int = 30_000) -> bytes:
    """JPEG pictures whose headers promise `side` x `side` px."""
    start = b"\xff\xc0\x00\x11\x08"  # a frame's header, 8 bits
    head, *frames = content.split(start)
    assert frames
    return head + b"".join(start + struct.pack(">HH", side, side) + frame[4:] for frame in frames)


def without(source: pathlib.Path, target: pathlib.Path, lost: Callable[[int], bool]) -> pathlib.Path:
    """Copy a file, but not the packets of the picture whose number is `lost`."""
    with av.open(str(source)) as file, av.open(str(target), "w") as out:
        tracks = {stream.index: out.add_stream_from_template(stream) for stream in file.streams}
        numbers = dict.fromkeys(tracks, 0)
        for packet in file.demux():
            index, is_picture = packet.stream.index, packet.stream.type == "video"
            numbers[index] += 1
            if packet.dts is not None and not (is_picture and lost(numbers[index] - 1)):
                packet.stream = tracks[index]
                out.mux(packet)
    return target


REFUSED: dict[str, tuple[Callable[[pathlib.Path], object], str]] = {
    "empty.mp4": (lambda path: path.touch(), "is empty"),
    "text.wav": (lambda path: path.write_text("no sound\n" * 99), "cannot be opened"),
    "half.mp4": (lambda path: path.write_bytes(film(path).read_bytes()[:-2000]), "cut short"),
    "gone.mp4": (lambda path: path.symlink_to("nowhere.mp4"), "no such file"),
    "folder.mp4": (lambda path: path.mkdir(), "no such file"),
    "promise.png": (lambda path: path.write_bytes(png(30_000, 1)), "megapixels"),
    "promise.jpg": (
        lambda path: path.write_bytes(grown(ffmpeg(film(path.parent / "a.mp4"), path, "-frames:v", "1").read_bytes())),
        "megapixels",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_judged_is_one_line(hearing, tmp_path, name):
    make, words = REFUSED[name]
    make(tmp_path / name)
    with pytest.raises(UserError, match=words) as raised:
        hearing(tmp_path / name)
    assert "\n" not in str(raised.value)


def test_a_file_that_may_not_be_read(hearing, tmp_path):
    path = film(tmp_path / "a.mp4")
    path.chmod(0)
    for parent in tmp_path.parents[:3]:
        parent.chmod(0o755)
    with as_nobody(), pytest.raises(UserError, match="Permission denied"):
        hearing(path)


def test_a_decompression_bomb_takes_no_memory(tmp_path):
    """A picture of 0.4 GB in a file of 2 MB, opened by a process that may have 0.3 GB more than it has."""
    (tmp_path / "bomb.png").write_bytes(png(12_000, 12_000))
    assert (tmp_path / "bomb.png").stat().st_size < 2e6
    code = f"""
import resource
from fusion_emotion.predict.reader import MediaError, Reader
[pages] = [int(line.split()[0]) for line in open("/proc/self/statm")]
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 300_000_000,) * 2)
try:
    Reader({str(tmp_path / "bomb.png")!r})
except MediaError as error:
    print(error)
"""
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert "of at most 100 megapixels" in ran.stdout, ran.stderr


def copied(path: pathlib.Path, *arguments: str, before: tuple[str, ...] = (), **options: object) -> None:
    ffmpeg(film(path.parent / "source.mp4", **options), path, *arguments, before=before)


def late_sound(path: pathlib.Path) -> None:
    source = film(path.parent / "source.mp4")
    ffmpeg(source, path, "-i", str(source), "-map", "0:a", "-map", "1:v", "-c", "copy", before=("-itsoffset", "0.7"))


def a_million_frames_a_second(path: pathlib.Path) -> None:
    with av.open(str(path), "w", options={"video_track_timescale": "1000000"}) as writer:
        video = writer.add_stream("libx264", rate=1_000_000)
        video.width, video.height, video.pix_fmt = 160, 120, "yuv420p"
        video.codec_context.time_base = fractions.Fraction(1, 1_000_000)
        for number in range(50):
            frame = av.VideoFrame.from_ndarray(np.full((120, 160, 3), 90, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, video.codec_context.time_base
            writer.mux(video.encode(frame))
        writer.mux(video.encode())


def promised_film(path: pathlib.Path) -> None:
    copied(path, "-c:v", "mjpeg")
    path.write_bytes(grown(path.read_bytes()))


def without_key_frame(path: pathlib.Path) -> None:
    """Two seconds; the first whole frame is that of 1 s."""
    copied(path.with_name("whole.mkv"), "-c:v", "libx264", "-g", "25", "-bf", "0", "-c:a", "copy", seconds=2)
    without(path.with_name("whole.mkv"), path, lambda number: number < 20)


def of_two_sizes(path: pathlib.Path) -> None:
    parts = [
        ffmpeg(film(path.parent / f"{number}.mp4", size=size), path.parent / f"{number}.ts", "-c", "copy")
        for number, size in enumerate([(160, 120), (320, 200)])
    ]
    ffmpeg("concat:" + "|".join(map(str, parts)), path, "-c", "copy")


def cut_off(path: pathlib.Path) -> None:
    copied(path, "-c:v", "libx264", "-g", "10", "-c:a", "copy", seconds=3)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def named_oddly(path: pathlib.Path) -> None:
    film(path.parent / "source.mp4").rename(path)


# name: maker, number of steps, modalities, what a warning says
JUDGED: dict[str, tuple[Callable[[pathlib.Path], object], int | range, set[str], str]] = {
    "recorded.webm": (
        lambda path: copied(path, "-c:v", "libvpx", "-deadline", "realtime", "-c:a", "libopus", "-live", "1"),
        5, {"audio+video"}, "",
    ),
    "variable.mp4": (lambda path: film(path, times=[0, 0.04, 0.5, 0.9, 0.95, 1.4, 2.2], sound_s=2.3), 11,
                     {"audio+video"}, ""),
    "late.mkv": (late_sound, 8, {"audio+video"}, ""),
    "turned.mp4": (lambda path: copied(path, "-c", "copy", before=("-display_rotation", "90")), 5, {"audio+video"}, ""),
    "promise.avi": (promised_film, 5, {"audio"}, "no frame is whole"),
    "million.mp4": (a_million_frames_a_second, 1, {"video"}, "no audio track"),
    "long_sound.mp4": (lambda path: film(path, sound_s=10), 50, {"audio+video", "audio"}, "the face is there in"),
    "no_key_frame.mkv": (without_key_frame, 10, {"audio+video"}, ""),
    "sizes.mkv": (of_two_sizes, 10, {"audio+video", "audio"}, "2 people"),
    "cut_off.mkv": (cut_off, range(4, 13), {"audio+video"}, ""),
    "Prüfung \u00e9 \U0001f642.mp4": (named_oddly, 5, {"audio+video"}, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", JUDGED)
def test_what_is_unusual_is_judged_and_written(hearing, tmp_path, name):
    make, n_steps, modalities, words = JUDGED[name]
    make(tmp_path / name)
    told = hearing(tmp_path / name)
    assert told.n_steps in n_steps if isinstance(n_steps, range) else told.n_steps == n_steps
    assert set(told.main.modalities) == modalities
    np.testing.assert_allclose(told.main.probability.sum(axis=1), 1)
    assert any(words in warning for warning in told.warnings) or not words
    written = told.save(tmp_path / "out", FORMATS)
    assert all(path.stat().st_size for path in written)
    if name == "no_key_frame.mkv":
        assert told.main.found.tolist() == [pytest.approx(0.2 * i) for i in (1, 2, 3, 4, 5, 5)]
    if name == "turned.mp4":
        assert (told.about["width"], told.about["height"]) == (120, 160)
    if name == "sizes.mkv":
        with av.open(str(written[-2])) as overlay:
            assert {(frame.width, frame.height) for frame in overlay.decode(video=0)} == {(160, 120)}


def test_a_stream_that_changes_its_size(tmp_path):
    of_two_sizes(tmp_path / "a.ts")
    feed = Feed(str(tmp_path / "a.ts"), picture=True, sound=True)
    shapes = [step.frame.shape[:2] for step in feed if step.frame is not None]
    feed.close()
    assert shapes[-1] == (200, 320)


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[str]:
    """The address of a server: a film, a page, and one that stops in the middle."""
    monkeypatch.setattr(opening, "SILENT_S", 1.0)
    whole = ffmpeg(film(tmp_path / "a.mp4", seconds=4), tmp_path / "a.mkv", "-c", "copy").read_bytes()
    picture = ffmpeg(tmp_path / "a.mp4", tmp_path / "a.png", "-frames:v", "1").read_bytes()
    contents = {"/a.mkv": whole, "/a.png": picture, "/page.html": b"<html>no film</html>" * 99, "/stalls.mkv": whole}
    stop = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            if path not in contents:
                self.send_error(404)
                return
            content = contents[path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with contextlib.suppress(OSError):
                if path == "/stalls.mkv":
                    self.wfile.write(content[: 2 * len(content) // 3])
                    stop.wait(20)
                else:
                    self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        stop.set()
        serving.shutdown()
        thread.join()


def test_addresses(hearing, server, tmp_path, capsys):
    assert hearing(f"{server}/a.mkv").n_steps == 20
    told = hearing(f"{server}/stalls.mkv")
    assert 5 < told.n_steps < 20
    assert any("ends after" in warning for warning in told.warnings)
    for name, words in (("page.html", "cannot be opened"), ("none.mp4", "404")):
        with pytest.raises(UserError, match=words):
            hearing(f"{server}/{name}")
    batch.predict(hearing, f"{server}/a.mkv?token=1/2", tmp_path / "out")
    assert (tmp_path / "out" / "a.json").exists()
    begun = (tmp_path / "out" / "a.json").stat().st_mtime_ns
    batch.predict(hearing, f"{server}/a.mkv?token=1/2", tmp_path / "out")  # what is there may have changed
    assert (tmp_path / "out" / "a.json").stat().st_mtime_ns > begun
    for source, of_one in ((f"{server}/a.png", True), (str(tmp_path / "a.png"), True), (f"{server}/a.mkv", False)):
        assert Reader(source).is_of_one_picture == of_one
    with pytest.raises(UserError, match="1 of 1"):
        batch.predict(hearing, f"{server}/page.html", tmp_path / "out")
    assert "failed: http://" in capsys.readouterr().out


def test_no_name_leads_out_of_the_output_folder(tmp_path, monkeypatch):
    for name in ("a/x", "b/y"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.mp4").touch()
    (tmp_path / "z.mp4").touch()
    monkeypatch.chdir(tmp_path / "a")
    output = tmp_path / "out"
    for given in ("x/a.mp4", "../b/y/a.mp4", "../*/*/a.mp4", "**/../*.mp4", "*/../../**/*.mp4", "..", "../z.mp4"):
        places = recordings(given, output)
        assert all((output / place).resolve().is_relative_to(output) for place in places.values()), given
        assert len({pathlib.Path(path).resolve() for path in places}) == len(places) == len(set(places.values()))
    for address in ("https://example.org/..", "https://example.org/a/..%2f..%2fb.mp4", "https://example.org/"):
        assert {str(place) for place in recordings(address, output).values()} <= {"stream", "_2f.._2fb", "example"}


def test_two_recordings_never_share_a_place(tmp_path):
    for name in ("a.mp4", "a.wav", "a_mp4.avi", "a_mp4.mp4", "b.flac"):
        (tmp_path / name).touch()
    places = [str(place) for place in recordings(str(tmp_path), tmp_path / "out").values()]
    assert places == ["a_mp4", "a_wav", "a_mp4_avi", "a_mp4_mp4", "b"]
    (tmp_path / "a_mp4_mp4.mkv").touch()
    places = [str(place) for place in recordings(str(tmp_path), tmp_path / "out").values()]
    assert len(set(places)) == len(places) == 6


def test_a_full_disk(hearing, tmp_path, small_disk, capsys):
    film(tmp_path / "a.mp4", seconds=40, fps=5, size=(64, 48))
    with pytest.raises(UserError, match=r"1 of 1|cannot be written"):
        batch.predict(hearing, str(tmp_path / "a.mp4"), small_disk)
    assert "No space left" in capsys.readouterr().out
    assert not [path.name for path in small_disk.iterdir() if path.suffix in (".json", ".csv", ".partial")]


def test_an_unknown_model_lists_those_there_are(tmp_path, monkeypatch):
    for name in ("voice-base", "face-base"):
        (tmp_path / "released" / name).mkdir(parents=True)
    monkeypatch.setattr(importlib.resources, "files", lambda package: tmp_path)
    with pytest.raises(UserError, match=r"--model=voice-bass is unknown.*one of av-base, face-base, voice-base"):
        find("voice-bass")
    assert find("voice-base") == (tmp_path / "released" / "voice-base",)


@pytest.mark.parametrize("progressed", [0, 1, 2])
def test_what_was_lost_before_an_interruption_is_still_told(hearing, tmp_path, progressed):
    """Packets that hold rubbish, before and after the first blocks."""
    whole = ffmpeg(
        film(tmp_path / "a.mp4", seconds=16, fps=5, size=(64, 48)),
        tmp_path / "a.mkv", "-c:v", "mpeg4", "-g", "1", "-c:a", "copy",
    )  # fmt: skip
    spoilt = tmp_path / "b.mkv"
    with av.open(str(whole)) as file, av.open(str(spoilt), "w") as out:
        tracks = {stream.index: out.add_stream_from_template(stream) for stream in file.streams}
        for number, packet in enumerate(file.demux(file.streams.video[0])):
            if packet.dts is not None:
                if number in (5, 6, 30, 70):
                    rubbish = av.Packet(b"\0" * 20)
                    rubbish.pts, rubbish.dts, rubbish.time_base = packet.pts, packet.dts, packet.time_base
                    packet = rubbish
                packet.stream = tracks[0]
                out.mux(packet)
    whole_told = hearing(spoilt)
    assert "4 packets of the picture cannot be decoded" in whole_told.warnings
    told: list[int] = []

    def interrupt(step: int) -> None:
        told.append(step)
        if len(told) > progressed:
            raise KeyboardInterrupt

    journal = Journal(tmp_path / "rows", {})
    with pytest.raises(KeyboardInterrupt):
        hearing.predict(str(spoilt), kept=journal, progress=interrupt)
    journal.close()
    again = Journal(tmp_path / "rows", {})
    assert again.go_on
    assert hearing.predict(str(spoilt), kept=again).warnings == whole_told.warnings
    again.close()
