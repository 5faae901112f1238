"""The prediction of one recording: its rows in time, its segments, and its summary."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from fusion_emotion.predict import hearing
from fusion_emotion.predict.hearing import Heard
from fusion_emotion.prepare.faces import still
from fusion_emotion.units import FRAME_RATE_HZ

STEP_S = 1 / FRAME_RATE_HZ
UNCERTAIN, VOICE = "uncertain", "voice"
_KINDS = ("both", "face")
_SMALL_FACE_PX, _LITTLE_SPEECH, _CLIPPED = 40, 0.2, 0.001
# Of `Heard.tone`: at most 0.50 in 1420 recordings of speech, 0.56 to 0.90 in music; and so many steps are needed.
_MUSIC_TONE, _MUSIC_STEPS = 0.52, 15
# A recording is unlike the training clips if it is so far outside the range of all but a hundredth of them: in dB of
# loudness, and as a factor of the face's side.
_UNLIKE_DB, _UNLIKE_SIZE = 6.0, 2.0


@dataclasses.dataclass(frozen=True)
class Segment:
    """A stretch of time with one label; times in seconds from the start of the recording."""

    person: str
    start: float
    end: float
    label: str
    confidence: float


@dataclasses.dataclass(frozen=True)
class Person:
    """The windows of one person, in time; NaN where a thing is not known."""

    name: str  # "face_0", by first appearance, or "voice"; no identity
    main: bool
    step: Int[np.ndarray, "n"]  # number of the first step of each window
    n_frames: Int[np.ndarray, "n"]
    modalities: Sequence[str]  # audio+video, audio, video, none
    found: Float[np.ndarray, "n"]  # share of the window's steps with the face
    score: Float[np.ndarray, "n"]
    box: Float[np.ndarray, "n 4"]  # x, y, width, height in px of the upright frame, mean over the window
    speech: Float[np.ndarray, "n"]
    probability: Float[np.ndarray, "n classes"]
    smooth: Float[np.ndarray, "n classes"]
    mean: Float[np.ndarray, "classes"]  # of all its windows: softmax of the mean log-probability


class Timeline:
    """Rows of all steps, gathered by person."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]):
        self.n_steps = 0
        self._windows: list[tuple[int, int, Heard]] = []  # step, frames
        self._voice: dict[int, Sequence[float]] = {}
        self._said: dict[str, dict[int, dict[int, Sequence[float]]]] = {kind: {} for kind in _KINDS}
        self._found: dict[int, dict[int, float]] = {}
        self._seen: dict[int, dict[int, Sequence[float]]] = {}
        for row in rows:
            step = row["step"]
            self.n_steps = max(self.n_steps, step + 1)
            for name, seen in row["seen"].items():
                self._seen.setdefault(int(name), {})[step] = seen
            if "n" not in row:
                continue
            self._windows.append((step, row["n"], Heard(**row["heard"])))
            if row["voice"] is not None:
                self._voice[step] = row["voice"]
            for kind in _KINDS:
                for name, log_prob in row[kind].items():
                    self._said[kind].setdefault(int(name), {})[step] = log_prob
            for name, share in row["found"].items():
                self._found.setdefault(int(name), {})[step] = share

    @property
    def has_face(self) -> bool:
        """True if a face was judged."""
        return bool(self._found)

    @property
    def has_voice(self) -> bool:
        """True if sound was judged."""
        return bool(self._voice)

    @property
    def heard(self) -> Heard:
        """What the sound is like, mean over all windows."""
        return hearing.mean([window[2] for window in self._windows])

    def main(self) -> int | None:
        """Return the number of the main person: large, central, and no still picture (as in preparation)."""
        numbers = sorted(self._found)
        if not numbers:
            return None
        motions = {number: [s[6] for s in self._seen[number].values() if s[6] is not None] for number in numbers}

        def motion_of(place: int) -> float:
            return float(np.mean(motions[numbers[place]])) if motions[numbers[place]] else 0.0

        stills = still([len(self._seen[number]) for number in numbers], motion_of)
        living = [number for number, is_still in zip(numbers, stills, strict=True) if not is_still]
        return max(living, key=lambda number: sum(s[5] for s in self._seen[number].values()))

    def person(
        self, number: int | None, *, main: bool, n_classes: int, temperature: float, smoothing_s: float
    ) -> Person:
        """Return the rows of a person; the main one has all windows and the voice, another those with its face."""
        found, seen = ({}, {}) if number is None else (self._found[number], self._seen[number])
        windows = [window for window in self._windows if main or window[0] in found]
        n = len(windows)
        log_prob = np.full((n, n_classes), np.nan)
        box, score = np.full((n, 4), np.nan), np.full(n, np.nan)
        modalities = []
        for place, (step, n_frames, _) in enumerate(windows):
            both, face, voice = (
                self._said["both"].get(number, {}).get(step) if main and number is not None else None,
                self._said["face"].get(number, {}).get(step) if number is not None else None,
                self._voice.get(step) if main else None,
            )
            said = both or face or voice
            modalities.append("audio+video" if both else "video" if face else "audio" if voice else "none")
            if said:
                log_prob[place] = said
            inside = [seen[time] for time in range(step, step + n_frames) if time in seen]
            if inside and found:
                left, top, right, bottom, sure = np.mean([values[:5] for values in inside], axis=0)
                box[place], score[place] = (left, top, right - left, bottom - top), sure
        steps = np.array([window[0] for window in windows], int)
        judged = log_prob[~np.isnan(log_prob[:, 0])]
        return Person(
            name=VOICE if number is None else f"face_{number}",
            main=main,
            step=steps,
            n_frames=np.array([window[1] for window in windows], int),
            modalities=modalities,
            found=np.array([found.get(int(step), 0.0) for step in steps]),
            score=score,
            box=box,
            speech=np.array([window[2].speech for window in windows]),
            probability=softmax(log_prob / temperature),
            smooth=softmax(smoothed(log_prob, steps, smoothing_s / STEP_S) / temperature),
            mean=softmax(judged.mean(axis=0) / temperature) if len(judged) else np.full(n_classes, np.nan),
        )

    def others(self) -> list[int]:
        """Return the numbers of all people but the main one."""
        main = self.main()
        return [number for number in sorted(self._found) if number != main]


def softmax(logits: Float[np.ndarray, "*n classes"]) -> Float[np.ndarray, "*n classes"]:
    """Return probabilities; NaN stays NaN."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def smoothed(
    log_prob: Float[np.ndarray, "n classes"], steps: Int[np.ndarray, "n"], width: float
) -> Float[np.ndarray, "n classes"]:
    """Average log-probabilities in time by a Gaussian of `width` steps, over the windows that have any."""
    known = ~np.isnan(log_prob[:, 0]) if len(log_prob) else np.zeros(0, bool)
    if not width or not known.any():
        return log_prob
    reach = int(np.ceil(4 * width))
    result = log_prob.copy()
    filled = np.where(known[:, None], log_prob, 0.0)
    total, norm = np.zeros_like(filled), np.zeros(len(filled))
    for shift in range(-reach, reach + 1):
        # The windows of a person who comes and goes are not evenly spaced.
        near = np.searchsorted(steps, steps + shift)
        inside = near < len(steps)
        inside[inside] &= steps[near[inside]] == steps[inside] + shift
        share = np.exp(-0.5 * (shift / width) ** 2)
        total[inside] += share * filled[near[inside]]
        norm[inside] += share * known[near[inside]]
    result[known] = total[known] / norm[known, None]
    return result


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a recogniser says of one recording. `people` begins with the main person."""

    source: str
    label_names: tuple[str, ...]
    people: tuple[Person, ...]
    n_steps: int
    about: Mapping[str, Any]  # what the file says of itself
    model: Mapping[str, Any]
    settings: Mapping[str, Any]
    warnings: tuple[str, ...]
    notice: str

    @property
    def main(self) -> Person:
        """The main person, or the voice."""
        return self.people[0]

    @property
    def duration_s(self) -> float:
        """The length of what was read, in seconds."""
        return round(self.n_steps * STEP_S, 3)

    @property
    def confidence(self) -> float:
        """The probability of the label of the whole recording."""
        return float(self.main.mean.max())

    @property
    def label(self) -> str:
        """The label of the whole recording, of the main person."""
        return self._label(self.main.mean)

    def label_at(self, person: Person, place: int) -> str:
        """The label of one window of a person."""
        return self._label(person.smooth[place])

    def _label(self, probability: Float[np.ndarray, "classes"]) -> str:
        if np.isnan(probability[0]):
            return ""
        is_sure = probability.max() >= self.settings["uncertain_below"]
        return self.label_names[int(probability.argmax())] if is_sure else UNCERTAIN

    @functools.cached_property
    def segments(self) -> tuple[Segment, ...]:
        """Stretches of one label, by person; a window stands for the step in its middle."""
        return tuple(segment for person in self.people for segment in self._segments(person))

    def _segments(self, person: Person) -> list[Segment]:
        runs: list[tuple[str, int, int, list[float]]] = []  # label, first and last step, confidences
        first_step = int(person.step[0]) if len(person.step) else 0
        for step, n, smooth in zip(person.step.tolist(), person.n_frames.tolist(), person.smooth, strict=True):
            label, middle = self._label(smooth), step + n // 2
            # The ends of a film have no window of their own.
            begin = step if step == first_step else middle
            end = self.n_steps if step + n >= self.n_steps else middle + 1
            if runs and runs[-1][0] == label and begin <= runs[-1][2]:
                runs[-1] = (label, runs[-1][1], end, [*runs[-1][3], float(smooth.max())])
            else:
                runs.append((label, begin, end, [float(smooth.max())]))
        return [
            Segment(person.name, round(begin * STEP_S, 3), round(end * STEP_S, 3), label, float(np.mean(sure)))
            for label, begin, end, sure in runs
            if label
        ]

    def columns(self) -> dict[str, list[Any]]:
        """The rows as columns by name: every step and person, NaN where a thing is not known."""
        names: dict[str, list[Any]] = {}

        def add(**values: Any) -> None:
            for name, value in values.items():
                names.setdefault(name, []).extend(value)

        for person in self.people:
            n = len(person.step)
            ends = np.minimum(person.step + person.n_frames, self.n_steps) * STEP_S
            add(
                file=[self.source] * n, start=np.round(person.step * STEP_S, 3).tolist(), end=np.round(ends, 3).tolist()
            )
            add(person=[person.name] * n, modalities=person.modalities, face_found=np.round(person.found, 3).tolist())
            add(face_score=np.round(person.score, 4).tolist())
            for place, name in enumerate(("box_x", "box_y", "box_w", "box_h")):
                add(**{name: np.round(person.box[:, place], 1).tolist()})
            add(speech=np.round(person.speech, 3).tolist())
            for prefix, values in (("", person.probability), ("smooth_", person.smooth)):
                for place, name in enumerate(self.label_names):
                    add(**{prefix + name: np.round(values[:, place], 5).tolist()})
            add(label=[self._label(smooth) for smooth in person.smooth])
            add(confidence=np.round(person.smooth.max(axis=1), 5).tolist() if n else [])
        return names

    def to_pandas(self) -> Any:
        """Return the rows as a pandas DataFrame, with the columns of the CSV file."""
        try:
            import pandas
        except ImportError as error:
            raise ImportError("to_pandas() needs pandas: pip install pandas") from error
        return pandas.DataFrame(self.columns())

    def plot(self) -> Any:
        """Return a matplotlib figure of the main person's smoothed probabilities over time."""
        from fusion_emotion.pages.timeline import figure

        return figure(self)

    def save(self, folder: str | pathlib.Path, formats: Sequence[str] = ("csv", "json", "html")) -> list[pathlib.Path]:
        """Write the prediction to `folder` as `NAME.csv` and so on; return the paths."""
        from fusion_emotion.predict.outputs import save

        return save(self, pathlib.Path(folder), formats)

    def _repr_html_(self) -> str:
        from fusion_emotion.pages.timeline import notebook
        from fusion_emotion.predict.outputs import described

        return notebook(described(self), self.source)


def warnings_of(timeline: Timeline, main: Person, training: Mapping[str, Sequence[float] | None]) -> list[str]:
    """Return what makes a prediction doubtful. `training` has the ranges of the training clips, if they are known."""
    found = []
    heard = timeline.heard
    sides = main.box[:, 2:].max(axis=1)[~np.isnan(main.box[:, 0])] if len(main.box) else np.zeros(0)
    side_px = float(np.median(sides)) if len(sides) else 0.0
    if len(sides) and side_px < _SMALL_FACE_PX:
        found.append(f"the face is small: {side_px:.0f} px, and below {_SMALL_FACE_PX} px little can be read")
    if timeline.has_voice and heard.speech < _LITTLE_SPEECH:
        found.append(f"little speech: a voice in {heard.speech:.0%} of the time; the rest may be music or noise")
    if timeline.n_steps >= _MUSIC_STEPS and (heard.tone or 0.0) > _MUSIC_TONE:
        found.append("the sound has steady tones, as of music or a hum: what is said of the voice may be of them")
    if heard.clipped > _CLIPPED:
        found.append(f"the sound is clipped: {heard.clipped:.1%} of the samples are at full scale")
    if len(sides) and main.found.mean() < 0.5:
        found.append(f"the face is there in {main.found.mean():.0%} of the time")
    level = hearing.loudness_dbfs(heard.power)
    if timeline.has_voice and (known := training.get("loudness_dbfs")):
        low, high = known
        if not low - _UNLIKE_DB <= level <= high + _UNLIKE_DB:
            found.append(f"unlike the training: its sound is of {low:.0f} to {high:.0f} dBFS, this one of {level:.0f}")
    if len(sides) and (known := training.get("face_px")):
        low, high = known
        if not low / _UNLIKE_SIZE <= side_px <= high * _UNLIKE_SIZE:
            found.append(f"unlike the training: its faces are of {low:.0f} to {high:.0f} px, this one of {side_px:.0f}")
    return found
