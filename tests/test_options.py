"""Options that no config turns on have the effect that the table in config.py names."""

import dataclasses
import functools
import pathlib

import numpy as np
import pytest

from conftest import settings_of
from films import OneFace, clip_of, film
from fusion_emotion.config import defaults
from fusion_emotion.errors import UserError
from fusion_emotion.prepare import groups, media
from fusion_emotion.prepare.clip import prepare_clip
from fusion_emotion.prepare.detectors import Faces, create_detector, insightface_weights
from fusion_emotion.prepare.groups import Group
from fusion_emotion.prepare.records import Record
from fusion_emotion.prepare.store import RETRY
from fusion_emotion.train.optimizer import create_schedule
from fusion_emotion.train.plan import Plan


class TiltedFace(OneFace):
    """A face whose eyes lie on a line that falls by 45 degrees; `calls` counts the frames that are searched."""

    calls = 0

    def __call__(self, frame: np.ndarray) -> Faces:
        self.calls += 1
        faces = super().__call__(frame)
        x, y = faces.box[0, :2]
        eyes = [[[x + 15, y + 10], [x + 35, y + 30], [x + 25, y + 20], [x + 20, y + 30], [x + 30, y + 35]]]
        return Faces(faces.box, faces.score, np.array(eyes, np.float32))


def diagonal(time: float) -> np.ndarray:
    """A white line that falls by 45 degrees, on grey, through the middle of the picture."""
    y, x = np.mgrid[:120, :160]
    return np.where(np.abs((y - 60) - (x - 80))[..., None] < 4, 255, 60).repeat(3, axis=2).astype(np.uint8)


def prepared(folder: pathlib.Path, detector: TiltedFace, **changes: object) -> Record:
    path = film(folder / "a.mp4", seconds=2.0, picture=diagonal)
    _, record = prepare_clip(clip_of(path), settings_of(folder, decoder="cpu", **changes), detector)
    assert record is not None
    return record


@pytest.mark.parametrize("align", [False, True])
def test_align_turns_the_crops_until_the_eyes_are_level(tmp_path: pathlib.Path, align: bool) -> None:
    faces = prepared(tmp_path, TiltedFace(), align=align).faces.astype(float).mean(axis=(0, 3))
    assert (faces.mean(axis=1).max() > 1.5 * faces.mean()) == align  # a white row


def test_detect_every_searches_fewer_frames_for_the_same_crops(tmp_path: pathlib.Path) -> None:
    each, fifth = TiltedFace(), TiltedFace()
    records = prepared(tmp_path, each, detect_every=1), prepared(tmp_path, fifth, detect_every=5)
    np.testing.assert_array_equal(records[0].faces, records[1].faces)
    assert (each.calls, fifth.calls) == (10, 6)  # 0, 5, and those behind 5


def test_the_detector_of_a_pack_and_its_threshold(tmp_path: pathlib.Path, sample_corpus: pathlib.Path) -> None:
    frame = next(iter(media.Film(next(sample_corpus.rglob("01-*.mp4")), decoder="cpu").frames()))
    counts = [len(create_detector(settings_of(tmp_path, detector_threshold=t))(frame).box) for t in (0.5, 0.999)]
    assert counts == [1, 0]
    weights = tmp_path / "models" / "mine" / "det_1.onnx"
    weights.parent.mkdir(parents=True)
    weights.touch()
    settings = settings_of(tmp_path, insightface_root=str(tmp_path), insightface_pack="mine")
    assert insightface_weights(settings) == weights
    with pytest.raises(UserError, match=r"det_1\.onnx cannot be loaded .* delete .*mine"):
        create_detector(dataclasses.replace(settings, detector="insightface"))


def test_a_pack_that_breaks_off_is_not_taken_for_one(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(tmp_path, insightface_root=str(tmp_path), insightface_pack="mine")

    def unpacked(kind: str, name: str, root: str, *, breaks_off: bool = False) -> None:
        folder = pathlib.Path(root, kind, name)
        folder.mkdir(parents=True)
        if breaks_off:
            raise KeyboardInterrupt
        (folder / "det_1.onnx").touch()

    monkeypatch.setattr("insightface.utils.ensure_available", functools.partial(unpacked, breaks_off=True))
    with pytest.raises(KeyboardInterrupt):
        insightface_weights(settings)
    assert [path.name for path in (tmp_path / "models").iterdir()] == [".mine.lock"]
    monkeypatch.setattr("insightface.utils.ensure_available", unpacked)
    assert insightface_weights(settings) == tmp_path / "models" / "mine" / "det_1.onnx"


def test_a_clip_that_takes_longer_than_the_timeout_is_quarantined(tmp_path: pathlib.Path) -> None:
    groups.set_out(tmp_path)
    group = Group({"a": clip_of(film(tmp_path / "a.mp4"), modality="a")})
    settings = settings_of(tmp_path, clip_timeout_s=1e-6)
    assert list(groups.finish(tmp_path, groups.unfinished(tmp_path, group), settings, workers=1)) == ["a"]
    assert b"longer than" in (tmp_path / RETRY / "a").read_bytes()


def test_more_accumulation_steps_than_steps_are_refused() -> None:
    config = defaults()
    config.train.update(epochs=2, accumulate_steps=3)
    assert Plan(config.to_dict(), n_segments=65).n_steps == 3
    with pytest.raises(UserError, match=r"accumulate_steps=3 is more than the 2 steps of train\.epochs=2"):
        Plan(config.to_dict(), n_segments=64)


def test_the_learning_rate_rises_over_the_warmup_epochs() -> None:
    train = {**defaults().train.to_dict(), "learning_rate": 1.0, "warmup_epochs": 4.0}
    schedule = create_schedule(train, n_steps=100, steps_per_epoch=5)
    rates = [float(schedule(step)) for step in range(21)]
    np.testing.assert_allclose(np.diff(rates), 0.05, atol=0.01)
    assert max(rates) == rates[20] == 1
