"""A trained model that judges recordings: `Recognizer.load("runs/sample")("talk.mp4")`."""

import collections
import dataclasses
import functools
import hashlib
import importlib.resources
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from fusion_emotion import config as config_
from fusion_emotion.errors import UserError, unknown_name
from fusion_emotion.files import is_utf8
from fusion_emotion.models.weights import ABOUT, WEIGHTS, load_model, model_folder
from fusion_emotion.predict.joint import Joint, described
from fusion_emotion.predict.journal import Journal, Memory, Row
from fusion_emotion.predict.live import Moment, Readable, moments
from fusion_emotion.predict.notice import notice
from fusion_emotion.predict.on_films import judge_of_films
from fusion_emotion.predict.people import REACH, Look, People
from fusion_emotion.predict.prediction import STEP_S, Prediction, Timeline, warnings_of
from fusion_emotion.predict.reader import Reader
from fusion_emotion.predict.windows import Judge, Model, Noted, windows
from fusion_emotion.prepare import hardware
from fusion_emotion.prepare.detectors import create_detector
from fusion_emotion.prepare.media import check_whole
from fusion_emotion.prepare.media_errors import MediaError
from fusion_emotion.prepare.settings import Settings
from fusion_emotion.versions import versions

_PACKAGES = ("fusion_emotion", "jax", "av", "onnxruntime", "onnxruntime-gpu", "numpy")
_DETECTOR_SIZES = {"insightface": (192, 512), "centerface": (320, 640)}

_ROWS = 3  # the form of the rows; raise it with every change, so that older ones are not gone on from
# What a recording that nothing was kept of goes on from.
_START: Mapping[str, Any] = {"first": 0, "skip": 0, "people": None, "is_over": False, "n_lost": 0, "warnings": ()}

Progress = Callable[[int], None]  # called with the number of steps done


class Recognizer:
    """A model, or two that judge together, with a face detector; it keeps nothing of what it has judged."""

    def __init__(self, folders: Sequence[pathlib.Path], settings: Mapping[str, Any], run: Mapping[str, Any]):
        models = [Model(load_model(folder)) for folder in folders]
        films = {"temperature": settings["film_temperature"], "joined": len(models) == 2}
        on_films = [judge_of_films(model, **films) for model in models]
        self._of_pictures, self._model = (_together(each, settings["face_weight"]) for each in (models, on_films))
        self.label_names, self.about = self._model.label_names, self._model.about
        self.settings = dict(settings)
        self._run = run
        contents = [(folder / name).read_bytes() for folder in folders for name in (ABOUT, WEIGHTS)]
        self._digest = hashlib.sha256(b"".join(contents)).hexdigest()
        self._detector: Any = None

    @classmethod
    def load(
        cls,
        model: str | pathlib.Path = config_.RELEASED_MODEL,
        *,
        insightface_root: str = "~/.insightface",
        **settings: Any,
    ) -> "Recognizer":
        """Load a released model by its name, or that of a workdir, or "VOICE+FACE", two that judge together.

        `settings` are fields of the section `predict` of `fusion_emotion/config.py`. Raises UserError.
        """
        config = config_.defaults().to_dict()
        if unknown := settings.keys() - config["predict"].keys():
            raise unknown_name("setting", sorted(unknown)[0], tuple(config["predict"]))
        config["predict"] |= settings
        config["run"]["insightface_root"] = insightface_root
        config_.check(config)
        return cls(find(str(model)), config["predict"], config["run"])

    def __call__(self, source: str | pathlib.Path) -> Prediction:
        """Judge a film, a sound or a picture, by its path or address. Raises UserError if there is nothing to read."""
        try:
            return self.predict(str(source))
        except MediaError as error:
            raise UserError(f"{source}: {error}") from error

    def predict(
        self, source: str, *, kept: Journal | Memory | None = None, progress: Progress | None = None
    ) -> Prediction:
        """Judge a recording; a journal keeps its rows, and a later call goes on from there. Raises MediaError."""
        kept = kept or Memory()
        if not is_utf8(source):
            raise MediaError("its path is not in UTF-8: rename it")
        try:
            if pathlib.Path(source).is_file():
                check_whole(pathlib.Path(source))
            elif "://" not in source:
                raise MediaError("there is no such file")
        except OSError as error:
            raise MediaError(f"the file cannot be read: {error.strerror}") from error
        go_on = kept.go_on or _START
        tracks = {"picture": self._model.sees, "sound": self._model.hears}
        reader = Reader(source, **tracks, start=go_on["first"], n_lost=go_on["n_lost"])
        judge = self._of_pictures if reader.is_of_one_picture else self._model
        if not go_on["is_over"]:
            for rows, behind in self._blocks(reader, judge, go_on):
                kept.append(rows, go_on := behind)
                if progress:
                    progress(behind["skip"])
        return self._finished(source, reader, judge, kept.rows(), go_on["warnings"])

    def stream(self, source: str | Readable, options: Mapping[str, str] | None = None) -> Iterator[Moment]:
        """Yield what is said of the newest window every 0.2 s of "camera:0", of a stream's address or of a file object.

        `options` are libav's of the protocol. Pictures that cannot be looked at in time are dropped. Ends with the
        stream. Raises UserError if it cannot be opened, or stalls.
        """
        model = self._model.with_batch_size(4)
        settings = dataclasses.replace(self._preparation, detect_every=1)
        people = People(settings, self._finder() if model.sees else None, ahead=0)
        chosen = {name: self.settings[name] for name in ("smoothing_s", "uncertain_below")}
        model.warm_up()
        try:
            yield from moments(source, model, people, options=options, **chosen)
        except MediaError as error:
            raise UserError(f"{source}: {error}" if isinstance(source, str) else str(error)) from error

    def export(self, path: pathlib.Path, source: str) -> float:
        """Write the model to one file; return its difference from JAX, on a recording and noise (`models.export`).

        Raises UserError.
        """
        from fusion_emotion.models.export import check_path, export_model

        if not isinstance(self._model, Model):
            raise UserError("--model names two models that judge together: export each by itself")
        check_path(path)
        noted = Noted(self._model)
        try:
            reader = Reader(source, picture=noted.sees, sound=noted.hears)
            people = People(self._preparation, self._finder() if reader.picture else None)
            collections.deque(windows((look for look, _ in people.looks(reader)), noted), maxlen=0)
        except MediaError as error:
            raise UserError(f"{source}: {error}") from error
        return export_model(self._model.loaded, path, noted.given)

    def key(self, source: str) -> dict[str, Any]:
        """What the rows of a source depend on."""
        path = pathlib.Path(source)
        status = path.stat() if path.is_file() else None
        return {
            "source": str(path.absolute()) if status else source,
            "file": [status.st_size, status.st_mtime_ns] if status else [],
            "model": self._digest,
            "people": self.settings["people"],
            "detector": self.settings["detector"],
            "face_weight": self.settings["face_weight"],
            "film_temperature": self.settings["film_temperature"],
            "versions": versions(_PACKAGES),
            "rows": _ROWS,
        }

    def _blocks(
        self, reader: Reader, judge: Judge, go_on: Mapping[str, Any]
    ) -> Iterator[tuple[list[Row], dict[str, Any]]]:
        """Yield the rows of a recording in blocks, each with what a later call needs to go on behind it."""
        first, step, before = go_on["first"], go_on["skip"], go_on["people"]
        seen: dict[int, dict[str, Any]] = {}
        states: collections.deque[tuple[int, Any]] = collections.deque([(first, before)])
        people = People(self._preparation, self._finder() if reader.picture else None, before)

        def looks() -> Iterator[Look]:
            for number, (look, state) in enumerate(people.looks(reader, first=first), start=first):
                seen[number] = {str(i): _brief(sight) for i, sight in look.people.items()}
                if state is not None:
                    states.append((number, state))
                yield look

        def behind(*, first: int, people: Any, is_over: bool = False) -> dict[str, Any]:
            warnings = list(dict.fromkeys([*go_on["warnings"], *reader.warnings]))
            lost = {"n_lost": reader.n_lost(first), "warnings": warnings}
            return {"first": first, "skip": step, "people": people, "is_over": is_over, **lost}

        for block in windows(looks(), judge, everyone=self.settings["people"] == "all", first=first, skip=step):
            rows = [_row(window, seen.get(window.step, {})) for window in block]
            step = block[-1].step + 1
            for number in [number for number in seen if number < step]:
                del seen[number]
            # Smoothing and missing faces of the next window look back.
            while len(states) > 1 and states[1][0] <= step - judge.n_heard - REACH:
                states.popleft()
            begin, state = states[0]
            yield rows, behind(first=begin, people=state)
        rest = [{"step": number, "seen": seen[number]} for number in sorted(seen) if number >= step]
        yield rest, behind(first=0, people=None, is_over=True)

    def _finished(
        self, source: str, reader: Reader, judge: Judge, rows: Iterable[Row], told: Iterable[str]
    ) -> Prediction:
        timeline = Timeline(rows)
        if not (timeline.has_face or timeline.has_voice):
            lacks = [*reader.lacks, *(["no face in the picture"] if reader.picture else [])]
            lacks += ["hardly any speech in the sound"] if reader.sound and judge.needs_speech else []
            raise MediaError(f"nothing to read: {'; '.join(lacks) or 'no face and no voice'}")
        shape = {
            "n_classes": len(self.label_names),
            "temperature": float(judge.about["temperature"]),
            "smoothing_s": self.settings["smoothing_s"],
        }
        main = timeline.person(timeline.main(), main=True, **shape)
        people = [main]
        if self.settings["people"] == "all":
            people += [timeline.person(number, main=False, **shape) for number in timeline.others()]
        warnings = [*reader.lacks, *told, *warnings_of(timeline, main, judge.about.get("training", {}))]
        if others := timeline.others():
            given = "voice was given to" if timeline.has_voice else "label is of"
            warnings.append(
                f"{len(others) + 1} people were seen; the {given} {main.name}, the largest and most central"
            )
        return Prediction(
            source=source,
            label_names=self.label_names,
            people=tuple(people),
            n_steps=timeline.n_steps,
            about=reader.about,
            model={**described(judge.about), "sha256": self._digest},
            settings={
                **self.settings,
                "temperature": shape["temperature"],
                "window_s": self._model.n_frames * STEP_S,
                "heard_s": self._model.n_heard * STEP_S,
            },
            warnings=tuple(warnings),
            notice=notice(judge.about),
        )

    @functools.cached_property
    def _preparation(self) -> Settings:
        """Preparation as the model was trained with, and the detector that was asked for."""
        config = config_.completed({"prepare": dict(self._model.prepare), "run": dict(self._run)})
        detector = self.settings["detector"]
        if config["prepare"]["detector"] == "none":  # trained on crops: a film has whole frames
            detector = detector or "centerface"  # needs no download
        if detector and detector != config["prepare"]["detector"]:
            config["prepare"] |= {"detector": detector, "detector_sizes": _DETECTOR_SIZES[detector]}
        config["run"]["decoder"] = "cpu"
        return hardware.resolve(Settings.from_config(config))

    def _finder(self) -> Any:
        self._detector = self._detector or create_detector(self._preparation)
        return self._detector


def _together(models: Sequence[Model], face_weight: float) -> Judge:
    """Return what judges by one model, or by a voice and a face."""
    return models[0] if len(models) == 1 else Joint(*models, face_weight=face_weight)


_TOGETHER = {"av-base": "voice-base+face-base"}


def find(name: str) -> tuple[pathlib.Path, ...]:
    """Return the folder of a model by the name of a released one, or the path of a workdir; two for "VOICE+FACE".

    Raises UserError.
    """
    weights = pathlib.Path(str(importlib.resources.files("fusion_emotion"))) / "released"
    released = {path.name for path in weights.iterdir()} if weights.is_dir() else set()
    together = {short for short, both in _TOGETHER.items() if released.issuperset(both.split("+"))}
    if name in released:
        return (weights / name,)
    if name in together:
        return find(_TOGETHER[name])
    path = pathlib.Path(name).expanduser()
    if path.exists():
        return (model_folder(path),)
    if name.count("+") == 1 and all(name.split("+")):
        return tuple(folder for part in name.split("+") for folder in find(part))
    there = f"one of {', '.join(sorted(released | together))}" if released else "no model is released yet"
    raise UserError(f"--model={name} is unknown: give the workdir of a finished training ({there})")


def _brief(sight: Any) -> list[float | None]:
    """Return what a row keeps of a sight: box, score, weight and motion."""
    box = [round(float(x), 2) for x in sight.box]
    moves = None if sight.motion is None else round(sight.motion, 5)
    return [*box, round(sight.score, 4), round(sight.weight, 2), moves]


def _row(window: Any, seen: dict[str, Any]) -> Row:
    def numbers(log_prob: Any) -> list[float]:
        return [round(float(x), 5) for x in log_prob]

    return {
        "step": window.step,
        "n": window.n_frames,
        "heard": {name: None if value is None else float(f"{value:.4g}") for name, value in vars(window.heard).items()},
        "voice": None if window.voice is None else numbers(window.voice),
        "both": {str(i): numbers(log_prob) for i, log_prob in window.both.items()},
        "face": {str(i): numbers(log_prob) for i, log_prob in window.face.items()},
        "found": {str(i): round(share, 3) for i, share in window.found.items()},
        "seen": seen,
    }
