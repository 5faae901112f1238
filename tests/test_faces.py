"""One person is followed over a clip, the square around the face is steady, and the crop shows its pixels."""

import cv2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from films import box, faces
from fusion_emotion.prepare.detectors import Faces
from fusion_emotion.prepare.faces import Track, crop, detect, jitter, nearest_found, smooth, squares, track

WIDTH, HEIGHT = 1280, 720
T = 12


def speaker(time: int) -> np.ndarray:
    """Large, central, nodding."""
    return box(640 + 8 * np.sin(time), 330 + 10 * np.cos(1.3 * time), 240)


def follow(frames: list[Faces]) -> Track:
    return track(frames, width=WIDTH, height=HEIGHT)


def assert_is_speaker(followed: Track, missing: set[int]) -> None:
    times = set(range(T)) - missing
    assert set(np.flatnonzero(followed.found)) == times
    for time, found in enumerate(followed.box):
        np.testing.assert_array_equal(found, speaker(time) if time in times else np.zeros(4))


# The choice of the face


@given(
    x=st.floats(60, WIDTH - 60),
    y=st.floats(60, HEIGHT - 60),
    size=st.floats(30, 160),
    drift=st.floats(-20, 20),
    swaps=st.integers(0, 2**T - 1),
)
def test_the_large_central_person_is_followed_in_any_order_of_detections(x, y, size, drift, swaps):
    assume(all(np.hypot(x + drift * t - 640, y - 330) > 200 for t in range(T)))
    pairs = [(box(x + drift * t, y, size), speaker(t)) for t in range(T)]
    frames = [faces(*(pair[::-1] if swaps >> t & 1 else pair)) for t, pair in enumerate(pairs)]
    assert_is_speaker(follow(frames), set())


GIANT = box(640, 360, 700)


@pytest.mark.parametrize(
    ("frames", "missing"),
    [
        ([faces(speaker(t)) for t in range(T)], set()),
        ([faces(box(150, 330, 260), speaker(t)) for t in range(T)], set()),
        ([faces(box(640 - 220, 330, 240)), *(faces(speaker(t)) for t in range(1, T))], {0}),
        ([faces(GIANT, speaker(t)) if t == 5 else faces(speaker(t)) for t in range(T)], set()),
        ([faces(GIANT) if t == 5 else faces(speaker(t)) for t in range(T)], {5}),
    ],
    ids=["alone", "beside one a little larger", "after a stray", "beside a giant", "behind one"],
)
def test_the_speaker_is_followed(frames, missing):
    assert_is_speaker(follow(frames), missing)


@pytest.mark.parametrize("gap", [{0}, {3, 4, 5}, {1, 3, 5, 7}, {8, 9, 10, 11}])
@pytest.mark.parametrize("other", [[], [box(200, 300, 100)]], ids=["alone", "another stays"])
def test_a_gap_is_bridged(gap, other):
    assert_is_speaker(follow([faces(*other, *([] if t in gap else [speaker(t)])) for t in range(T)]), gap)


def test_a_face_long_unseen_does_not_become_another():
    one, other = box(500, 330, 240), box(900, 330, 200)
    frames = [faces(*([one] if time < 40 else []), *([other] if time >= 38 else [])) for time in range(60)]
    assert set(np.flatnonzero(follow(frames).found)) == set(range(40))


@pytest.mark.parametrize("degrees", [-40, -10, 0, 25])
def test_the_roll_is_that_of_the_speakers_eyes(degrees):
    other = faces(box(150, 200, 60))
    rolled = [faces(speaker(t), roll=np.radians(degrees)) for t in range(T)]
    names = ("box", "score", "landmarks")
    frames = [
        Faces(*(np.concatenate([getattr(each, name) for each in (other, one)]) for name in names)) for one in rolled
    ]
    np.testing.assert_allclose(np.degrees(follow(frames).roll), degrees, atol=0.01)


# Detection on some frames only


def detect_some(known: list[Faces], *, every: int) -> tuple[list[Faces], list[int]]:
    """The faces of each frame, and the frames on which the detector ran."""
    looked: list[int] = []

    def detector(frame: np.ndarray) -> Faces:
        looked.append(int(frame[0, 0, 0]))
        return known[looked[-1]]

    frames = (np.full((2, 2, 3), number, np.uint8) for number in range(len(known)))
    return detect(frames, detector, every=every), looked


def assert_same(one: list[Faces], other: list[Faces]) -> None:
    assert len(one) == len(other)
    for mine, theirs in zip(one, other, strict=True):
        np.testing.assert_allclose(mine.box, theirs.box, atol=1e-3)
        np.testing.assert_allclose(mine.score, theirs.score, atol=1e-6)
        np.testing.assert_allclose(mine.landmarks, theirs.landmarks, atol=1e-3)


@pytest.mark.parametrize(("every", "count"), [(1, 11), (2, 6), (3, 4 + 1), (5, 3), (20, 1 + 10)])
@pytest.mark.parametrize("speed", [0.0, 2.0])
def test_a_steady_face_is_interpolated_between_detections(every, count, speed):
    known = [faces(box(300 + speed * t, 300, 200)) for t in range(11)]
    found, looked = detect_some(known, every=every)
    assert len(looked) == len(set(looked)) == count
    assert_same(found, known)


@pytest.mark.parametrize("every", [2, 3])
def test_the_detector_runs_on_every_frame_without_one_steady_face(every):
    fast = [faces(box(300 + 40 * t, 300, 100)) for t in range(9)]
    comes_and_goes = [faces(box(300, 300, 100)) if t % 2 else faces() for t in range(9)]
    grows = [faces(box(300, 300, 100 + 30 * (t % 4))) for t in range(9)]
    for known in (fast, comes_and_goes, grows):
        found, looked = detect_some(known, every=every)
        assert sorted(looked) == list(range(9))
        assert_same(found, known)


@given(st.lists(st.integers(0, 2), max_size=12), st.integers(1, 6))
def test_every_frame_gets_its_faces_from_one_detection_at_most(counts, every):
    known = [faces(*(box(200 + 300 * i, 300, 100) for i in range(count))) for count in counts]
    found, looked = detect_some(known, every=every)
    assert len(found) == len(known)
    assert len(looked) == len(set(looked))
    for time in looked:
        assert_same([found[time]], [known[time]])


# The square


@given(st.lists(st.booleans(), min_size=1, max_size=20).filter(any))
def test_the_nearest_found_time_is_the_nearest(found):
    found_times = np.flatnonzero(found)
    for time, chosen in enumerate(nearest_found(np.array(found))):
        assert chosen == min(found_times, key=lambda other: (abs(other - time), other))


def sides(square: np.ndarray) -> np.ndarray:
    return square[:, 2:] - square[:, :2]


def centres(square: np.ndarray) -> np.ndarray:
    return (square[:, 2:] + square[:, :2]) / 2


def steady_squares(boxes: np.ndarray, found: np.ndarray, *, margin: float) -> np.ndarray:
    return squares(smooth(Track(boxes, np.zeros(len(boxes), np.float32), found)).box, margin=margin)


@given(
    st.floats(0, 1000),
    st.floats(0, 1000),
    st.floats(10, 500),
    st.floats(0, 1),
    st.lists(st.booleans(), min_size=1, max_size=14).filter(any).map(np.array),
)
def test_a_face_that_rests_has_a_square_that_rests(x, y, size, margin, found):
    boxes = np.where(found[:, None], box(x, y, size)[None], 0).astype(np.float32)
    steady = steady_squares(boxes, found, margin=margin)
    np.testing.assert_allclose(sides(steady), size * (1 + 2 * margin), rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(centres(steady), np.broadcast_to([x, y], (len(found), 2)), rtol=1e-3, atol=1e-2)


def test_shaking_is_reduced_and_motion_is_kept():
    moving = np.stack([box(300 + 10 * t, 300, 200) for t in range(40)])
    boxes = (moving + np.random.default_rng(0).normal(0, 5.0, moving.shape)).astype(np.float32)
    steady = steady_squares(boxes, np.ones(40, bool), margin=0.05)
    before, after = centres(boxes) - centres(moving), centres(steady) - centres(moving)
    # The ends lag behind the motion: there is nothing beyond them to average with.
    assert after[3:-3].std() < 0.65 * before[3:-3].std()
    assert np.diff(sides(steady)[:, 0]).std() < 0.4 * np.diff(sides(boxes)[:, 1]).std()
    np.testing.assert_allclose(after[3:-3].mean(axis=0), 0, atol=1.5)


def test_boxes_before_and_after_a_jump_are_not_averaged():
    boxes = np.stack([box(200 if t < 4 else 900, 300, 200) for t in range(8)])
    np.testing.assert_allclose(centres(steady_squares(boxes, np.ones(8, bool), margin=0.0)), centres(boxes), atol=1e-3)


def test_a_time_without_a_face_has_the_nearest_square_and_no_influence():
    found = np.array([False, False, True, True, False, False, False, True])
    boxes = np.stack([box(300 + 40 * t, 300, 100) for t in range(8)]) * found[:, None]
    steady = steady_squares(boxes, found, margin=0.0)
    garbage = np.where(found[:, None], boxes, np.float32(1e6))
    np.testing.assert_array_equal(steady, steady_squares(garbage, found, margin=0.0))
    np.testing.assert_array_equal(steady, steady[[2, 2, 2, 3, 3, 3, 7, 7]])


def test_the_roll_is_smoothed_and_filled_like_the_box():
    found = np.array([True, True, True, False, True])
    roll = np.array([0.1, -0.1, 0.1, 9.0, 0.2], np.float32)
    steady = smooth(Track(np.tile(box(0, 0, 9), (5, 1)), roll, found))
    # A Gaussian of one sample's width: the first is averaged with those 1, 2 and 4 samples later.
    weight = np.exp(-0.5 * np.array([0, 1, 2, 4]) ** 2)
    assert steady.roll[0] == pytest.approx(weight @ roll[found] / weight.sum(), abs=1e-5)
    assert steady.roll[3] == steady.roll[2]
    np.testing.assert_array_equal(steady.found, found)


@pytest.mark.parametrize(("scale", "speed"), [(1.0, 0.0), (1.0, 12.0), (5.0, 12.0)])
def test_jitter_is_shaking_in_face_widths_and_not_motion(scale, speed):
    def jitter_of(noise: float) -> float:
        shaking = noise * np.tile(np.random.default_rng(0).normal(size=(400, 2)), 2)
        boxes = scale * (box(0, 0, 100) + speed * np.arange(400)[:, None] + shaking)
        return jitter(Track(boxes.astype(np.float32), np.zeros(400, np.float32), np.ones(400, bool)))

    assert jitter_of(0.0) == pytest.approx(0, abs=1e-4)
    # Second differences of noise have six times its variance; the median of a Rayleigh is 1.177 of its scale.
    assert jitter_of(3.0) == pytest.approx(1.177 * np.sqrt(6) * 3.0 / 80, rel=0.1)


# The crop


def ramp(height: int = 40, width: int = 60) -> np.ndarray:
    """A frame whose red is 4 times the column and whose green is 4 times the row."""
    row, column = np.mgrid[:height, :width]
    return np.stack([4 * column, 4 * row, np.full_like(row, 7)], axis=-1).astype(np.uint8)


def square(left: float, top: float, side: float) -> np.ndarray:
    return np.array([left, top, left + side, top + side], np.float32)


@pytest.mark.parametrize(
    ("left", "top", "side"),
    [(10, 20, 16), (44, 24, 16), *[(x, y, 20) for x in (-7, 10, 55) for y in (-9, 10, 35)], (-10, -10, 90)],
)
def test_a_square_of_the_crops_size_is_cut_out_and_padded_by_edge_pixels(left, top, side):
    row = np.clip(np.arange(top, top + side), 0, 39)
    column = np.clip(np.arange(left, left + side), 0, 59)
    np.testing.assert_array_equal(crop(ramp(), square(left, top, side), size=side), ramp()[row[:, None], column])


def test_a_larger_square_is_averaged():
    blocks = ramp()[4:36, 8:40].reshape(8, 4, 8, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(crop(ramp(), square(8, 4, 32), size=8), blocks, atol=1)


def test_a_smaller_square_is_interpolated():
    cut = crop(ramp(), square(8, 4, 8), size=32).astype(float)[2:-2, 2:-2]
    places = (np.arange(2, 30) + 0.5) / 4 - 0.5
    np.testing.assert_allclose(cut[..., 0].mean(axis=0), 4 * (8 + places), atol=1)
    np.testing.assert_allclose(cut[..., 1].mean(axis=1), 4 * (4 + places), atol=1)


@pytest.mark.parametrize("degrees", [-30, 5, 44])
@pytest.mark.parametrize(("side", "size"), [(120, 60), (60, 60), (50, 90)])
def test_a_crop_is_turned_upright(degrees, side, size):
    """Two eyes on a tilted line are level in the crop, as far from its middle as they were from the square's."""
    frame = np.zeros((300, 400, 3), np.uint8)
    apart = side / 4 * np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])
    for place, colour in ((-apart, (255, 0, 0)), (apart, (0, 255, 0))):
        centre = np.round(16 * (np.array([199.5, 149.5]) + place)).astype(int).tolist()
        cv2.circle(frame, centre, 16 * side // 15, colour, -1, lineType=cv2.LINE_AA, shift=4)
    cut = crop(frame, square(200 - side / 2, 150 - side / 2, side), size=size, roll=float(np.radians(degrees)))
    assert cut.shape == (size, size, 3)
    row, column = np.mgrid[:size, :size]
    for channel, expected in ((0, -0.25), (1, 0.25)):
        light = cut[..., channel] / cut[..., channel].sum(dtype=float)
        assert (light * (row + 0.5)).sum() / size == pytest.approx(0.5, abs=0.025)
        assert (light * (column + 0.5)).sum() / size == pytest.approx(0.5 + expected, abs=0.025)
