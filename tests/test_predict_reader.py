"""The reader of prediction gives the frames and the sound of preparation, from any step on."""

from collections.abc import Iterator

import av
import numpy as np
import pytest
from PIL import Image

from films import ffmpeg, film
from fusion_emotion.predict.reader import Reader, duration_s, made_ahead
from fusion_emotion.prepare.media import Film, Still
from fusion_emotion.prepare.media_errors import MediaError
from fusion_emotion.prepare.video import turn_of
from fusion_emotion.units import SAMPLES_PER_FRAME


def moving(time: float) -> np.ndarray:
    image = np.full((48, 64, 3), int(20 + 50 * time) % 250, np.uint8)
    image[:24, :32, 0] = 200
    return image


FORMS = {
    "plain": ("a.mp4", {}, ()),
    "60 fps": ("a.mp4", {"fps": 60}, ()),
    "variable rate": ("a.mp4", {"times": [0, 0.04, 0.5, 0.9, 0.95, 1.4, 2.2]}, ()),
    "no sound": ("a.mp4", {"sound_s": 0}, ()),
    "longer sound": ("a.mp4", {"sound_s": 4.3}, ()),
    "sound longer by less than a step": ("a.mp4", {"sound_s": 2.45}, ()),
    "shorter sound": ("a.mp4", {"sound_s": 1.1}, ()),
    "turned": ("b.mp4", {}, ("-c", "copy")),
    "square pixels": ("b.mkv", {}, ("-vf", "setsar=2/1", "-c:a", "copy")),
    "webm": ("b.webm", {}, ("-c:v", "libvpx", "-deadline", "realtime", "-c:a", "libopus", "-live", "1")),
    "ts": ("b.ts", {}, ("-c:v", "libx264", "-preset", "ultrafast")),
    "avi": ("b.avi", {}, ("-c:v", "mpeg4", "-c:a", "mp3")),
    "late picture": ("b.mkv", {}, ("-c", "copy")),
    "sound alone": ("b.flac", {}, ("-vn",)),
    "still": ("b.png", {}, ("-frames:v", "1", "-an")),
}
BEFORE = {"turned": ("-display_rotation", "90"), "late picture": ("-itsoffset", "0.7")}


@pytest.fixture(scope="module", params=FORMS)
def path(request, tmp_path_factory):
    name, options, arguments = FORMS[request.param]
    folder = tmp_path_factory.mktemp("form")
    source = film(folder / "a.mp4", **{"seconds": 2.3, "size": (64, 48), "picture": moving, **options})
    if name == "a.mp4":
        return source
    if request.param == "late picture":
        sound = ("-i", str(source), "-map", "0:v", "-map", "1:a")
        return ffmpeg(source, folder / name, *sound, *arguments, before=BEFORE[request.param])
    return ffmpeg(source, folder / name, *arguments, before=BEFORE.get(request.param, ()))


def test_frames_and_sound_are_those_of_preparation(path):
    film, steps = Film(path), list(Reader(str(path)))
    shown = [step.frame for step in steps if step.frame is not None]
    expected = list(film.frames())
    assert len(shown) == len(expected)
    assert all((one == other).all() for one, other in zip(shown, expected, strict=True))
    if len(film.shown):
        assert [step.frame is not None for step in steps] == film.shown.tolist()
    else:
        assert len(steps) == round(len(film.waveform) / SAMPLES_PER_FRAME)
    sound = np.concatenate([step.sound for step in steps])
    np.testing.assert_array_equal(sound, film.waveform[: len(sound)])
    assert len(sound) == min(len(film.waveform), len(steps) * SAMPLES_PER_FRAME)


@pytest.mark.parametrize("start", [1, 7])
def test_reading_goes_on_at_any_step(path, start):
    whole, rest = list(Reader(str(path))), list(Reader(str(path), start=start))
    if len(whole) <= start:
        return
    assert len(rest) == len(whole) - start
    for one, other in zip(whole[start:], rest, strict=True):
        assert (one.frame is None) == (other.frame is None)
        assert one.frame is None or (one.frame == other.frame).all()
        np.testing.assert_array_equal(one.sound, other.sound)


def test_a_track_that_is_not_wanted_is_not_read(tmp_path):
    path = str(film(tmp_path / "a.mp4"))
    assert all(step.frame is None and len(step.sound) for step in Reader(path, picture=False))
    assert all(step.frame is not None and not len(step.sound) for step in Reader(path, sound=False))


def test_channels_that_cancel_are_heard_in_one(tmp_path):
    path = ffmpeg(
        "sine=300:r=16000:d=2", tmp_path / "a.wav", "-af", "pan=stereo|c0=c0|c1=-1*c0", before=("-f", "lavfi")
    )
    reader = Reader(str(path))
    assert max(np.abs(step.sound).max() for step in reader) > 1000
    assert "cancel" in reader.warnings[0]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.mp4", b"no film at all, but a text of some length", "cannot be opened"),
        ("a.wav", b"RIFF\x24\x00\x00\x00WAVEfmt ", "cannot be opened|no sample"),
        ("a.jpg", b"\xff\xd8\xff\xe0\x00\x10JFIF", "no size that can be read|cannot be opened"),
    ],
)
def test_what_is_no_recording_says_why(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MediaError, match=words):
        list(Reader(str(tmp_path / name)))


def test_a_film_that_is_cut_off_is_read_to_there_and_says_so(tmp_path):
    whole = ffmpeg(
        film(tmp_path / "a.mp4", seconds=4), tmp_path / "a.mkv", "-c:v", "libx264", "-g", "10", "-c:a", "copy"
    )
    content = whole.read_bytes()
    (tmp_path / "b.mkv").write_bytes(content[: len(content) // 2])
    steps = list(Reader(str(tmp_path / "b.mkv")))
    assert 4 < len(steps) < 20
    assert duration_s(str(tmp_path / "b.mkv")) == pytest.approx(4, abs=0.2)


def test_times_are_kept_where_packets_are_lost(tmp_path):
    path = ffmpeg(
        film(tmp_path / "a.mp4", seconds=3, picture=moving, size=(64, 48)),
        tmp_path / "a.mkv",
        *("-c:v", "libx264", "-g", "5", "-bf", "0", "-c:a", "copy"),
    )
    with av.open(str(path)) as source, av.open(str(tmp_path / "b.mkv"), "w") as out:
        video = out.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(source.streams.video[0])):
            if packet.dts is not None and not 20 <= number < 40:
                packet.stream = video
                out.mux(packet)
    steps = list(Reader(str(tmp_path / "b.mkv")))
    assert len(steps) == 15
    assert steps[10].frame.mean() == pytest.approx(list(Reader(str(path)))[10].frame.mean(), abs=3)


def test_frames_are_made_ahead_in_order_and_no_further() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            if number == 12:
                raise MediaError("lost")
            yield number

    ahead = made_ahead(items(), n=3)
    assert [next(ahead) for _ in range(5)] == [0, 1, 2, 3, 4]
    ahead.close()
    assert 5 <= len(made) <= 8
    made.clear()
    with pytest.raises(MediaError, match="lost"):
        list(made_ahead(items()))
    assert made == list(range(13))
    assert list(made_ahead(iter("ab"))) == ["a", "b"]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", [1, 2, 6])
def test_a_photograph_of_a_telephone_is_read_as_preparation_reads_it(tmp_path, suffix, orientation):
    path = tmp_path / f"phone.{suffix}"
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", orientation
    Image.fromarray(moving(1.0)).save(path, exif=exif, dpi=(72, 144))
    [step] = Reader(str(path))
    [expected] = Still(path).frames()
    np.testing.assert_array_equal(step.frame, expected)
    assert step.frame.shape == ((64, 48, 3) if orientation == 6 else (48, 64, 3))


@pytest.mark.parametrize(
    ("orientation", "turn"), [(1, (1, 0, 0, 1)), (3, (-1, 0, 0, -1)), (6, (0, 1, -1, 0)), (8, (0, -1, 1, 0))]
)
def test_side_data_that_pyav_does_not_know_hides_no_turn(tmp_path, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(moving(1.0)).save(tmp_path / "a.jpg", exif=exif)
    with av.open(str(tmp_path / "a.jpg")) as file:
        assert turn_of(next(file.decode(video=0))) == turn


def test_sound_that_breaks_off_is_read_to_there(tmp_path):
    parts = []
    for channels in (1, 2):
        source = film(tmp_path / f"{channels}.mp4", seconds=4 - channels)
        parts.append(ffmpeg(source, tmp_path / f"{channels}.mp3", "-vn", "-ac", str(channels)).read_bytes())
    (tmp_path / "a.mp3").write_bytes(b"".join(parts))
    reader = Reader(str(tmp_path / "a.mp3"))
    sound = np.concatenate([step.sound for step in reader])
    assert len(sound) / 16_000 == pytest.approx(3, abs=0.1)
    assert np.abs(sound[:32_000].reshape(20, -1)).max(axis=1).min() > 1000
    assert any("the sound ends after 3." in each and "channels change" in each for each in reader.warnings)


@pytest.mark.parametrize(
    ("offset_s", "words"), [(0, "the clock of the file restarts"), (7200, "jump by more than an hour")]
)
def test_a_clock_that_jumps_is_said(tmp_path, offset_s, words):
    whole = film(tmp_path / "a.mp4", seconds=3)
    parts = [
        ffmpeg(whole, tmp_path / f"{s}.ts", "-c", "copy", "-output_ts_offset", str(s)).read_bytes()
        for s in (0, offset_s)
    ]
    (tmp_path / "b.ts").write_bytes(b"".join(parts))
    reader = Reader(str(tmp_path / "b.ts"), sound=False)
    assert len(list(reader)) == pytest.approx(15, abs=1)
    assert any(words in warning for warning in reader.warnings), reader.warnings
