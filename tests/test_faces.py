"""One person is followed over a clip, the square around the face is steady, and the crop shows its pixels."""

import cv2
import numpy as np
import onnx
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fusion_emotion.prepare.detectors import Faces, Recogniser, find_recogniser
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


def assert_is_speaker(followed: Track, missing: set[int]) -> None:
    times = set(range(T)) - missing
    assert set(np.flatnonzero(followed.found)) == times
    for time, box in enumerate(followed.box):
        np.testing.assert_array_equal(box, speaker(time) if time in times else np.zeros(4))


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


# A poster, and a face that comes back elsewhere


def portrait(seed: int, size: int, *, mouth: float = 0.0) -> np.ndarray:
    """A drawn face, round on grey; `mouth` opens it. An odd seed has a dark beard and fair hair, an even one not."""
    face = np.full((240, 240, 3), 128, np.uint8)
    skin, hair = (200, 170, 150), ((220, 200, 120) if seed % 2 else (50, 40, 30))
    cv2.ellipse(face, (120, 120), (95, 118), 0, 0, 360, skin, -1)
    cv2.ellipse(face, (120, 60), (90, 50), 0, 180, 360, hair, -1)
    if seed % 2:
        cv2.ellipse(face, (120, 165), (80, 70), 0, 0, 180, (50, 40, 30), -1)
    for x in (78, 162):
        cv2.circle(face, (x, 95), 14, (60, 50, 40), -1)
    cv2.line(face, (120, 95), (120, 150), (150, 110, 90), 6)
    cv2.ellipse(face, (120, 185), (40, 6 + int(20 * mouth)), 0, 0, 360, (150, 60, 60), -1)
    return cv2.resize(face, (size, size), interpolation=cv2.INTER_AREA)


Shown = dict[tuple[int, int], np.ndarray]  # centre: picture of a face


def filmed(shown: list[Shown], *, recogniser: Recogniser | None = None, every: int = 2, shake: int = 0) -> Track:
    """The track in a film, with the sensor's noise, whose camera moves by up to `shake` px between two frames."""
    rng = np.random.default_rng(0)
    frames, known = [], []
    for pictures in shown:
        frame, boxes = np.full((HEIGHT // 2, WIDTH // 2, 3), 100.0), []
        jolt = rng.integers(-shake, shake + 1, 2)
        for centre, picture in pictures.items():
            (x, y), half = np.array(centre) + jolt, len(picture) // 2
            frame[y - half : y + half, x - half : x + half] = picture
            # A detector is not exact.
            boxes.append(box(x, y, 2 * half) + rng.normal(0, 0.01 * half, 4).astype(np.float32))
        frames.append(np.clip(frame + rng.normal(0, 4, frame.shape), 0, 255).astype(np.uint8))
        known.append(faces(*boxes))
    answers = {id(frame): answer for frame, answer in zip(frames, known, strict=True)}
    found = detect(frames, lambda frame: answers[id(frame)], every=every, recogniser=recogniser)
    return track(found, width=WIDTH // 2, height=HEIGHT // 2, recogniser=recogniser)


def middles(followed: Track) -> list[int]:
    """The column of the face at each time, to 20 px; 0 at times without one."""
    return (np.round(centres(followed.box)[:, 0] / 20) * 20).astype(int).tolist()


def talking(seed: int, size: int, time: int) -> np.ndarray:
    return portrait(seed, size, mouth=(time * 7 % 5) / 4)


@pytest.mark.parametrize("shake", [0, 6])
def test_the_smaller_face_that_talks_beats_a_larger_poster(shake):
    shown = [{(180, 180): portrait(1, 280), (480, 180): talking(2, 160, t)} for t in range(16)]
    assert middles(filmed(shown, shake=shake)) == pytest.approx([480] * 16, abs=20)


@pytest.mark.parametrize("talk", [False, True])
def test_the_larger_of_two_that_talk_or_of_two_that_do_not_is_chosen(talk):
    shown = [{(180, 180): talking(1, 280, talk * t), (480, 180): talking(2, 160, talk * t)} for t in range(16)]
    assert middles(filmed(shown)) == [180] * 16


def test_one_who_passes_by_a_poster_is_not_the_speaker():
    shown = [{(180, 180): portrait(1, 280)} | ({(480, 180): talking(2, 160, t)} if t < 4 else {}) for t in range(16)]
    assert middles(filmed(shown)) == [180] * 16


@pytest.mark.parametrize("size", [100, 140])
def test_a_face_that_leaves_and_returns_elsewhere_is_found_both_times(size):
    """It is there for 14 of 20 frames: 70 %, not 40 %."""
    shown = [{(100, 120): talking(2, 120, t)} if t < 8 else {} for t in range(14)]
    shown += [{(540, 200): talking(2, size, t)} for t in range(6)]
    assert middles(filmed(shown)) == [100] * 8 + [0] * 6 + [540] * 6


@pytest.mark.parametrize(
    ("seed", "size", "from_time"),
    [(3, 120, 8), (2, 260, 8), (2, 120, 7)],
    ids=["other looks", "huge", "both are there"],
)
def test_another_face_elsewhere_is_another_person(seed, size, from_time):
    shown = [{(100, 120): talking(2, 120, t)} if t < 8 else {} for t in range(14)]
    for time in range(from_time, 14):
        shown[time][500, 200] = talking(seed, size, time)
    chosen = set(middles(filmed(shown)))
    assert len(chosen - {0}) == 1


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory) -> Recogniser:
    """A pack whose recogniser embeds a face by the sign of its redness, as (1, 0) or (0, 1)."""
    pack = tmp_path_factory.mktemp("pack")
    node, channel = onnx.helper.make_node, [onnx.TensorProto.FLOAT, [1, 3, 1, 1], [1.0, 0.0, -1.0]]
    tensors = [
        onnx.helper.make_tensor("weights", *channel),
        onnx.helper.make_tensor("signs", onnx.TensorProto.FLOAT, [1, 2], [1.0, -1.0]),
        onnx.helper.make_tensor("axes", onnx.TensorProto.INT64, [2], [2, 3]),
    ]
    nodes = [
        node("Conv", ["face", "weights"], ["red"]),
        node("ReduceMean", ["red", "axes"], ["mean"], keepdims=0),
        node("MatMul", ["mean", "signs"], ["both"]),
        node("Relu", ["both"], ["embedding"]),
    ]
    value = onnx.helper.make_tensor_value_info
    face, embedding = (
        value(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("face", [1, 3, 112, 112]), ("embedding", [1, 2]))
    )
    graph = onnx.helper.make_graph(nodes, "redness", [face], [embedding], tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, str(pack / "w600k_test.onnx"))
    found = find_recogniser(pack, ["CPUExecutionProvider"])
    assert found is not None
    return found


@pytest.mark.parametrize(("colour", "share"), [("red", 14 / 14), ("blue", 8 / 14)])
def test_the_embedding_of_the_pack_decides_against_the_looks(recogniser, colour, share):
    """The first face is red. One of other looks is the same person if red, one of the same looks is another if blue."""
    tint = {"red": np.array([1.0, 0.6, 0.4]), "blue": np.array([0.4, 0.6, 1.0])}
    first = [{(100, 120): talking(2, 120, t) * tint["red"]} for t in range(8)]
    later = [{(540, 200): talking({"red": 3, "blue": 2}[colour], 120, t) * tint[colour]} for t in range(6)]
    assert filmed(first + later, recogniser=recogniser).found.mean() == pytest.approx(share)


def test_a_pack_without_a_recogniser_is_no_error(tmp_path):
    assert find_recogniser(tmp_path, ["CPUExecutionProvider"]) is None


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
