"""Among several tracks the speaker is the one who moves, and one person who comes back is one track."""

import pathlib

import cv2
import numpy as np
import onnx
import pytest

from conftest import settings_of
from films import box, faces
from fusion_emotion.predict import people
from fusion_emotion.predict.reader import Step
from fusion_emotion.prepare.detectors import Faces, Recogniser, find_recogniser
from fusion_emotion.prepare.faces import Track, detect, track

WIDTH, HEIGHT = 640, 360


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
        frame, boxes = np.full((HEIGHT, WIDTH, 3), 100.0), []
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
    return track(found, width=WIDTH, height=HEIGHT, recogniser=recogniser)


def middles(followed: Track) -> list[int]:
    """The column of the face at each time, to 20 px; 0 at times without one."""
    return (np.round(followed.box[:, ::2].mean(axis=1) / 20) * 20).astype(int).tolist()


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


@pytest.mark.parametrize("back_at", [30, 31, 34])
def test_a_person_who_returns_at_any_step_is_known_by_the_recogniser(recogniser, monkeypatch, back_at):
    class Pack:
        def __init__(self):
            self.recogniser = recogniser

        def __call__(self, frame: np.ndarray) -> Faces:
            return faces(np.array([40, 40, 160, 160])) if frame.any() else faces()

    monkeypatch.setattr(people, "InsightFace", Pack)
    red = np.zeros((200, 200, 3), np.uint8) + np.array([200, 120, 80], np.uint8)
    shown = [red if t < 10 or t >= back_at else np.zeros_like(red) for t in range(back_at + 6)]
    followed = people.People(settings_of(pathlib.Path("cache"), detect_every=2), Pack())
    looks = [look for look, _ in followed.looks(Step(frame, np.zeros(0, np.int16)) for frame in shown)]
    assert {person for look in looks for person in look.people} == {0}
    assert all(look.people for look in looks[back_at:])
