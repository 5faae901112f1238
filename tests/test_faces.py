"""One person is followed over a clip, the square around the face is steady, and the crop shows what is in it."""

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fusion_emotion.prepare.detectors import Faces
from fusion_emotion.prepare.faces import Track, crop, detect, jitter, nearest_found, smooth, squares, track

WIDTH, HEIGHT = 1280, 720
T = 12


def box(x: float, y: float, size: float) -> np.ndarray:
    """A face of `size` px around a centre, a little higher than wide."""
    return np.array([x - 0.4 * size, y - 0.5 * size, x + 0.4 * size, y + 0.5 * size], np.float32)


def faces(*boxes: np.ndarray, roll: float = 0.0) -> Faces:
    """Faces whose eyes lie on a line that is turned clockwise by `roll` radians."""
    n = len(boxes)
    box = np.array(boxes, np.float32).reshape(n, 4)
    landmarks = np.zeros((n, 5, 2), np.float32)
    middle, between = (box[:, :2] + box[:, 2:]) / 2, 0.2 * (box[:, 3:] - box[:, 1:2])
    landmarks[:, 0] = middle - between * [np.cos(roll), np.sin(roll)]
    landmarks[:, 1] = middle + between * [np.cos(roll), np.sin(roll)]
    return Faces(box, np.full(n, 0.9, np.float32), landmarks)


def speaker(time: int) -> np.ndarray:
    """Large, central, nodding."""
    return box(640 + 8 * np.sin(time), 330 + 10 * np.cos(1.3 * time), 240)


def follow(frames: list[Faces]) -> Track:
    return track(frames, width=WIDTH, height=HEIGHT)


def assert_is_speaker(followed: Track, times: set[int]) -> None:
    assert set(np.flatnonzero(followed.found)) == times
    for time, box in enumerate(followed.box):
        np.testing.assert_array_equal(box, speaker(time) if time in times else np.zeros(4))


EVERY = set(range(T))

# Whose face is it


def test_one_face_is_followed() -> None:
    assert_is_speaker(follow([faces(speaker(t)) for t in range(T)]), EVERY)


@settings(deadline=None)
@given(
    x=st.floats(60, WIDTH - 60),
    y=st.floats(60, HEIGHT - 60),
    size=st.floats(30, 160),
    first=st.booleans(),
    drift=st.floats(-20, 20),
)
def test_the_large_central_person_is_followed_among_two(
    x: float, y: float, size: float, first: bool, drift: float
) -> None:
    other = [box(x + drift * t, y, size) for t in range(T)]
    assume(all(np.hypot(x + drift * t - 640, y - 330) > 200 for t in range(T)))
    pairs = [(other[t], speaker(t)) if first else (speaker(t), other[t]) for t in range(T)]
    assert_is_speaker(follow([faces(*pair) for pair in pairs]), EVERY)


@pytest.mark.parametrize("swaps", [0b010101010101, 0b001100110011, 0b000000111111])
def test_the_order_of_detections_does_not_matter(swaps: int) -> None:
    frames = []
    for t in range(T):
        pair = (speaker(t), box(200, 330, 200))
        frames.append(faces(*(pair[::-1] if swaps >> t & 1 else pair)))
    assert_is_speaker(follow(frames), EVERY)


def test_of_two_alike_the_central_one_is_followed() -> None:
    """Even if the other one is a little larger, and stands first."""
    assert_is_speaker(follow([faces(box(150, 330, 260), speaker(t)) for t in range(T)]), EVERY)


def test_an_established_face_comes_before_a_stray_one() -> None:
    """What was seen once, near by and earlier, does not claim the speaker's later faces."""
    frames = [faces(box(640 - 220, 330, 240)), *(faces(speaker(t)) for t in range(1, T))]
    assert_is_speaker(follow(frames), EVERY - {0})


@pytest.mark.parametrize(("unseen", "distance", "same"), [(0, 90, True), (0, 200, False), (5, 200, True)])
def test_a_face_may_have_moved_further_the_longer_it_was_not_seen(unseen: int, distance: int, same: bool) -> None:
    before, after = [faces(box(640, 330, 240))] * 4, faces(box(640 + distance, 330, 240))
    assert follow([*before, *[faces()] * unseen, after]).found.sum() == 4 + same


def test_a_face_long_unseen_does_not_become_another() -> None:
    one, other = box(500, 330, 240), box(900, 330, 200)
    frames = [faces(*([one] if time < 40 else []), *([other] if time >= 38 else [])) for time in range(60)]
    followed = follow(frames)
    assert set(np.flatnonzero(followed.found)) == set(range(40))


@pytest.mark.parametrize("passing", [0, 5, T - 1])
def test_a_passer_by_who_fills_one_frame_is_ignored(passing: int) -> None:
    huge = box(640, 360, 700)
    frames = [faces(huge, speaker(t)) if t == passing else faces(speaker(t)) for t in range(T)]
    assert_is_speaker(follow(frames), EVERY)


def test_a_passer_by_in_front_of_the_speaker_is_not_the_speaker() -> None:
    frames = [faces(box(640, 360, 700)) if t == 5 else faces(speaker(t)) for t in range(T)]
    assert_is_speaker(follow(frames), EVERY - {5})


def test_somebody_walks_through_behind() -> None:
    frames = [faces(box(100 * t, 300, 90), speaker(t)) for t in range(T)]
    assert_is_speaker(follow(frames), EVERY)


@pytest.mark.parametrize("gap", [{0}, {3, 4, 5}, {1, 3, 5, 7}, {8, 9, 10, 11}])
@pytest.mark.parametrize("other_stays", [False, True])
def test_a_gap_is_bridged(gap: set[int], other_stays: bool) -> None:
    """Also when another face stays while the speaker's is lost."""
    other = [box(200, 300, 100)] if other_stays else []
    frames = [faces(*other, *([] if t in gap else [speaker(t)])) for t in range(T)]
    assert_is_speaker(follow(frames), EVERY - gap)


def test_nobody_is_found_in_nothing() -> None:
    followed = follow([faces()] * T)
    assert (followed.box.shape, followed.roll.shape, followed.found.shape) == ((T, 4), (T,), (T,))
    assert not followed.found.any()
    assert not followed.box.any()


def test_no_frames_at_all_are_no_error() -> None:
    assert follow([]).box.shape == (0, 4)


@pytest.mark.parametrize("degrees", [-40, -10, 0, 25])
def test_the_roll_is_of_the_line_through_the_eyes(degrees: float) -> None:
    other = box(150, 200, 60)  # the speaker's roll, not another's
    frames = [
        Faces(*(np.concatenate(pair) for pair in zip(vars(faces(other)).values(), vars(one).values(), strict=True)))
        for one in [faces(speaker(t), roll=np.radians(degrees)) for t in range(T)]
    ]
    np.testing.assert_allclose(np.degrees(follow(frames).roll), degrees, atol=0.01)


# Looking at some frames only


class Looking:
    """A detector that knows the faces of each frame, which holds its own number, and counts its looks."""

    def __init__(self, known: list[Faces]) -> None:
        self.known = known
        self.looked: list[int] = []

    def __call__(self, frame: np.ndarray) -> Faces:
        self.looked.append(int(frame[0, 0, 0]))
        return self.known[self.looked[-1]]


def look(known: list[Faces], *, every: int) -> tuple[list[Faces], list[int]]:
    """The faces found, and the frames that were looked at."""
    detector = Looking(known)
    frames = (np.full((2, 2, 3), number, np.uint8) for number in range(len(known)))
    return detect(frames, detector, every=every), detector.looked


def assert_same(one: list[Faces], other: list[Faces]) -> None:
    assert len(one) == len(other)
    for mine, theirs in zip(one, other, strict=True):
        np.testing.assert_allclose(mine.box, theirs.box, atol=1e-3)
        np.testing.assert_allclose(mine.score, theirs.score, atol=1e-6)
        np.testing.assert_allclose(mine.landmarks, theirs.landmarks, atol=1e-3)


@pytest.mark.parametrize(("every", "looked"), [(1, 11), (2, 6), (3, 4 + 1), (5, 3), (20, 1 + 10)])
@pytest.mark.parametrize("speed", [0.0, 2.0])
def test_a_steady_face_is_looked_at_now_and_then(every: int, looked: int, speed: float) -> None:
    """In between, and it alone, a motion is a straight line; what comes after the last look is looked at."""
    known = [faces(box(300 + speed * t, 300, 200)) for t in range(11)]
    found, frames = look(known, every=every)
    assert len(frames) == len(set(frames)) == looked
    assert_same(found, known)


@pytest.mark.parametrize(
    "known",
    [
        [faces(box(300 + 40 * t, 300, 100)) for t in range(9)],
        [faces(box(300, 300, 100), box(600, 300, 100)) for _ in range(9)],
        [faces() for _ in range(9)],
        [faces(box(300, 300, 100)) if t % 2 else faces() for t in range(9)],
        [faces(box(300, 300, 100 + 30 * (t % 4))) for t in range(9)],
    ],
    ids=["fast", "two", "nobody", "comes and goes", "grows"],
)
@pytest.mark.parametrize("every", [1, 2, 3])
def test_what_is_not_steadily_one_face_is_looked_at_throughout(known: list[Faces], every: int) -> None:
    found, frames = look(known, every=every)
    assert sorted(frames) == list(range(9))
    assert_same(found, known)


@settings(deadline=None)
@given(st.lists(st.integers(0, 2), max_size=12), st.integers(1, 6))
def test_every_frame_gets_its_faces_and_is_looked_at_once_at_most(counts: list[int], every: int) -> None:
    known = [faces(*(box(200 + 300 * i, 300, 100) for i in range(count))) for count in counts]
    found, frames = look(known, every=every)
    assert len(found) == len(known)
    assert len(frames) == len(set(frames))
    for time in frames:
        assert_same([found[time]], [known[time]])


# Where the face was not found


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=20).filter(any))
def test_the_nearest_found_time_is_the_nearest(found: list[bool]) -> None:
    chosen = nearest_found(np.array(found))
    there = [t for t, here in enumerate(found) if here]
    for t, source in enumerate(chosen):
        assert source == min(there, key=lambda other: (abs(other - t), other))


# The square


def sides(steady: np.ndarray) -> np.ndarray:
    return steady[:, 2:] - steady[:, :2]


def centres(steady: np.ndarray) -> np.ndarray:
    return (steady[:, 2:] + steady[:, :2]) / 2


def steady_squares(boxes: np.ndarray, found: np.ndarray, *, margin: float) -> np.ndarray:
    return squares(smooth(Track(boxes, np.zeros(len(boxes), np.float32), found)).box, margin=margin)


@settings(deadline=None)
@given(
    st.floats(0, 1000),
    st.floats(0, 1000),
    st.floats(10, 500),
    st.floats(0, 1),
    st.lists(st.booleans(), min_size=1, max_size=14).filter(any),
)
def test_a_face_that_rests_has_a_square_that_rests(
    x: float, y: float, size: float, margin: float, found: list[bool]
) -> None:
    there = np.array(found)
    boxes = np.where(there[:, None], box(x, y, size)[None], 0).astype(np.float32)
    steady = steady_squares(boxes, there, margin=margin)
    np.testing.assert_allclose(sides(steady), size * (1 + 2 * margin), rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(centres(steady), np.broadcast_to([x, y], (len(found), 2)), rtol=1e-3, atol=1e-2)


def test_the_longer_side_decides() -> None:
    wide = np.array([[10, 20, 110, 60]], np.float32)
    np.testing.assert_allclose(squares(wide, margin=0.1), [[0, -20, 120, 100]], atol=1e-4)


def shaken(noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Boxes that move evenly and shake, and where their centres would be without the shaking."""
    moving = np.stack([box(300 + 10 * t, 300, 200) for t in range(40)])
    noisy = moving + np.random.default_rng(0).normal(0, noise, moving.shape)
    return noisy.astype(np.float32), centres(moving)


def test_shaking_is_reduced_and_motion_is_kept() -> None:
    boxes, true = shaken(5.0)
    steady = steady_squares(boxes, np.ones(40, bool), margin=0.05)
    before, after = centres(boxes) - true, centres(steady) - true
    # The ends lag behind a motion, for there is nothing beyond them to average with.
    assert after[3:-3].std() < 0.65 * before[3:-3].std()
    assert np.diff(sides(steady)[:, 0]).std() < 0.4 * np.diff(sides(boxes)[:, 1]).std()
    np.testing.assert_allclose(after[3:-3].mean(axis=0), 0, atol=1.5)


def test_a_time_without_a_face_has_the_nearest_square_and_no_say() -> None:
    found = np.array([False, False, True, True, False, False, False, True])
    boxes = np.where(found[:, None], np.stack([box(300 + 40 * t, 300, 100) for t in range(8)]), 0).astype(np.float32)
    garbage = np.where(found[:, None], boxes, 1e6).astype(np.float32)
    steady = steady_squares(boxes, found, margin=0.0)
    np.testing.assert_array_equal(steady, steady_squares(garbage, found, margin=0.0))
    for time, source in enumerate([2, 2, 2, 3, 3, 3, 7, 7]):
        np.testing.assert_array_equal(steady[time], steady[source])


def test_the_roll_is_steadied_and_filled_like_the_box() -> None:
    found = np.array([True, True, True, False, True])
    roll = np.array([0.1, -0.1, 0.1, 9.0, 0.2], np.float32)
    steady = smooth(Track(np.tile(box(0, 0, 9), (5, 1)), roll, found))
    # The Gaussian of one sample's width: the first is averaged with what comes 1, 2 and 4 samples later.
    weight = np.exp(-0.5 * np.array([0, 1, 2, 4]) ** 2)
    assert steady.roll[0] == pytest.approx(weight @ roll[found] / weight.sum(), abs=1e-5)
    assert steady.roll[3] == steady.roll[2]
    np.testing.assert_array_equal(steady.found, found)


@pytest.mark.parametrize(("scale", "speed"), [(1.0, 0.0), (1.0, 12.0), (5.0, 12.0)])
def test_jitter_is_shaking_in_shares_of_the_face_and_not_motion(scale: float, speed: float) -> None:
    def jitter_of(noise: float) -> float:
        time = np.arange(400)[:, None]
        rng = np.random.default_rng(0)
        moved = box(0, 0, 100) + speed * time + noise * np.tile(rng.normal(size=(400, 2)), 2)
        return jitter(Track((scale * moved).astype(np.float32), np.zeros(400, np.float32), np.ones(400, bool)))

    assert jitter_of(0.0) == pytest.approx(0, abs=1e-4)
    # Second differences of noise have six times its variance; the median of a Rayleigh is 1.177 of its scale.
    assert jitter_of(3.0) == pytest.approx(1.177 * np.sqrt(6) * 3.0 / 80, rel=0.1)


@pytest.mark.parametrize("n_found", [0, 1, 2])
def test_jitter_of_too_few_faces_is_none(n_found: int) -> None:
    found = np.arange(6) < n_found
    assert jitter(Track(np.tile(box(9, 9, 9), (6, 1)), np.zeros(6, np.float32), found)) == 0


# The crop


def ramp(height: int = 40, width: int = 60) -> np.ndarray:
    """A frame whose red is the column and whose green is the row."""
    row, column = np.mgrid[:height, :width]
    return np.stack([4 * column, 4 * row, np.full_like(row, 7)], axis=-1).astype(np.uint8)


def square(left: float, top: float, side: float) -> np.ndarray:
    return np.array([left, top, left + side, top + side], np.float32)


@pytest.mark.parametrize(("left", "top", "side"), [(0, 0, 16), (10, 20, 16), (44, 24, 16)])
def test_a_square_of_the_crops_own_size_is_cut_out(left: int, top: int, side: int) -> None:
    cut = crop(ramp(), square(left, top, side), size=side)
    np.testing.assert_array_equal(cut, ramp()[top : top + side, left : left + side])


def test_a_larger_square_is_averaged() -> None:
    cut = crop(ramp(), square(8, 4, 32), size=8)
    blocks = ramp()[4:36, 8:40].reshape(8, 4, 8, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(cut, blocks, atol=1)


def test_a_smaller_square_is_interpolated() -> None:
    cut = crop(ramp(), square(8, 4, 8), size=32).astype(float)
    assert (np.diff(cut[:, :, 0], axis=1) >= 0).all()
    np.testing.assert_allclose(cut[:, 2:-2, 0].mean(axis=0), 4 * (8 + (np.arange(2, 30) + 0.5) / 4 - 0.5), atol=1)
    np.testing.assert_allclose(cut[2:-2, :, 1].mean(axis=1), 4 * (4 + (np.arange(2, 30) + 0.5) / 4 - 0.5), atol=1)


@pytest.mark.parametrize("left", [-7, 10, 55])
@pytest.mark.parametrize("top", [-9, 10, 35])
def test_beyond_the_frame_its_border_is_repeated(left: int, top: int) -> None:
    frame = ramp()
    row = np.clip(np.arange(top, top + 20), 0, frame.shape[0] - 1)
    column = np.clip(np.arange(left, left + 20), 0, frame.shape[1] - 1)
    np.testing.assert_array_equal(crop(frame, square(left, top, 20), size=20), frame[row[:, None], column])


def test_a_square_around_the_whole_frame_repeats_every_border() -> None:
    frame = ramp(8, 8)
    at = np.clip(np.arange(-4, 12), 0, 7)
    np.testing.assert_array_equal(crop(frame, square(-4, -4, 16), size=16), frame[at[:, None], at])


@settings(deadline=None)
@given(st.floats(-15, 55), st.floats(-15, 35), st.floats(0.1, 200), st.integers(1, 40))
def test_a_crop_has_the_size_asked_for_and_only_colours_of_the_frame(
    left: float, top: float, side: float, size: int
) -> None:
    frame = ramp()
    assume(left + side > 1)
    assume(top + side > 1)
    cut = crop(frame, square(left, top, side), size=size)
    assert cut.shape == (size, size, 3)
    assert cut.dtype == np.uint8
    assert (cut[..., 2] == 7).all()
    assert cut[..., 0].max() <= frame[..., 0].max()


@pytest.mark.parametrize("shift", [0.0, 0.3, 0.5, 0.9])
def test_a_crop_lies_within_a_pixel_of_its_square(shift: float) -> None:
    cut = crop(ramp(), square(10 + shift, 5 + shift, 20), size=20)
    columns = cut[..., 0].mean(axis=0) / 4
    np.testing.assert_allclose(columns, 10 + shift + np.arange(20), atol=0.95)


@pytest.mark.parametrize("degrees", [-30, -5, 5, 30, 44])
@pytest.mark.parametrize(("side", "size"), [(120, 60), (60, 60), (50, 90)])
def test_a_crop_is_turned_upright(degrees: float, side: int, size: int) -> None:
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


def test_the_corners_of_a_turned_crop_are_picture() -> None:
    frame = np.zeros((200, 200, 3), np.uint8)
    frame[..., 0] = 200
    frame[20:180, 20:180] = (0, 200, 0)  # all that a square of 100 px can reach when turned
    assert (crop(frame, square(50, 50, 100), size=50, roll=float(np.radians(45)))[..., 0] < 10).all()
