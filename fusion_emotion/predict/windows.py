"""Windows of a film through a model: what the voice, each face, and both together say."""

import collections
import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Float

from fusion_emotion.models.batch import Batch, batch_spec
from fusion_emotion.models.weights import LoadedModel
from fusion_emotion.predict import hearing
from fusion_emotion.predict.hearing import BLOCK, Ear, Heard
from fusion_emotion.predict.people import Look, Sight
from fusion_emotion.prepare.faces import nearest_found
from fusion_emotion.units import FRAME_RATE_HZ, SAMPLES_PER_FRAME

LogProb = Float[np.ndarray, "classes"]
_LEAST_SPEECH = 0.05  # share of the sound around a window: a syllable in five seconds


@dataclasses.dataclass(frozen=True)
class Window:
    """What was judged from a step on; log-probabilities without temperature, None where it was not there."""

    step: int
    n_frames: int
    voice: LogProb | None
    both: Mapping[int, LogProb]  # by person: this face with the voice
    face: Mapping[int, LogProb]
    found: Mapping[int, float]  # share of the steps with this face
    heard: Heard  # mean over the window


class Model:
    """A loaded model, compiled for batches of so many windows."""

    def __init__(self, loaded: LoadedModel, *, batch_size: int | None = None):
        self.loaded = loaded
        self.about, self.label_names, self.prepare = loaded.about, loaded.label_names, loaded.config["prepare"]
        modalities = loaded.config["model"]["modalities"].split("+")
        self.face_size = int(self.prepare["face_size"])
        self.sees, self.hears = "video" in modalities, "audio" in modalities
        self.needs_speech = False
        self.n_heard = round(loaded.config["segment"]["seconds"] * FRAME_RATE_HZ)
        # A model that only hears may be of whole clips, and is asked what it hears around each second.
        self.n_frames = self.n_heard if self.sees else min(self.n_heard, FRAME_RATE_HZ)
        # Larger batches are hardly faster, and the last one of a block is padded with windows that nobody needs.
        self._batch_size = batch_size or (8 if self.n_heard == self.n_frames else 1)

        @jax.jit
        def log_prob(variables: Any, batch: Batch) -> jax.Array:
            logits: Any = loaded.net.apply(variables, batch, train=False)
            return jax.nn.log_softmax(logits)

        self._log_prob = functools.partial(log_prob, jax.device_put(dict(loaded.variables)))

    def with_batch_size(self, batch_size: int) -> "Model":
        """The same model, compiled for another number of windows."""
        return Model(self.loaded, batch_size=batch_size)

    def warm_up(self) -> None:
        """Compile."""
        spec = batch_spec(self.loaded.config)
        self([{name: np.zeros(field.shape[1:], field.dtype) for name, field in spec.items()}])

    def __call__(self, examples: list[Batch]) -> Float[np.ndarray, "n classes"]:
        """The log-probabilities of examples."""
        parts = []
        for start in range(0, len(examples), self._batch_size):
            chosen = examples[start : start + self._batch_size]
            filled = chosen + chosen[:1] * (self._batch_size - len(chosen))
            batch = {name: np.stack([example[name] for example in filled]) for name in chosen[0]}
            parts.append(np.asarray(self._log_prob(batch))[: len(chosen)])
        return np.concatenate(parts) if parts else np.zeros((0, len(self.label_names)), np.float32)


@runtime_checkable
class Judge(Protocol):
    """What judges windows: a `Model`, or two as one (`joint.Joint`)."""

    about: Mapping[str, Any]
    label_names: tuple[str, ...]
    prepare: Mapping[str, Any]  # how the faces were prepared in training
    n_frames: int  # of a window
    n_heard: int  # frames of sound that a window is judged by, at least its own
    face_size: int
    sees: bool
    hears: bool
    needs_speech: bool  # sound without a voice is no sound

    def __call__(self, examples: list[Batch]) -> Float[np.ndarray, "n classes"]:
        """The log-probabilities of examples."""

    def warm_up(self) -> None:
        """Compile."""

    def with_batch_size(self, batch_size: int) -> "Judge":
        """The same, compiled for another number of windows."""


class Noted:
    """A judge that keeps what it is given."""

    def __init__(self, judge: Judge):
        self._judge, self.given = judge, list[Batch]()
        # Not by __getattr__, which the check of a protocol does not ask from Python 3.12 on.
        self.about, self.label_names, self.prepare = judge.about, judge.label_names, judge.prepare
        self.n_frames, self.n_heard, self.face_size = judge.n_frames, judge.n_heard, judge.face_size
        self.sees, self.hears, self.needs_speech = judge.sees, judge.hears, judge.needs_speech
        self.warm_up, self.with_batch_size = judge.warm_up, judge.with_batch_size

    def __call__(self, examples: list[Batch]) -> Float[np.ndarray, "n classes"]:
        """The log-probabilities of examples."""
        self.given += examples
        return self._judge(examples)


def windows(
    looks: Iterable[Look], model: Judge, *, everyone: bool = False, first: int = 0, skip: int = 0
) -> Iterator[list[Window]]:
    """Yield the windows of a film in blocks of 5 s; one begins at each step that leaves room for a whole one.

    `first` is the number of the first look, `skip` that of the first window: the looks before it only complete faces
    and sound. A film that is shorter than a window is one window. With `everyone` each face is also judged without the
    voice.
    """
    n, held = model.n_frames, collections.deque[Look]()
    every = FRAME_RATE_HZ if model.n_heard >= 2 * FRAME_RATE_HZ and n <= FRAME_RATE_HZ else 1
    examples = Examples(model, everyone, after=(model.n_heard - n) // 2, every=every)
    base = first  # number of the first look in `held`
    step = skip
    total = first
    for look in looks:
        examples.hear(total, look)
        held.append(look)
        total += 1
        # A face that is missing at the end of a window is taken from up to a window later; sound is heard beyond it.
        while total >= step + n + max(n, examples.after):
            if (block := examples.add(step, held, base, n)) is not None:
                yield block
            step += 1
            while base < step - max(n, examples.reach):
                held.popleft()
                base += 1
    if total > first:
        last = max(0, total - n)
        for number in range(step, last + 1):
            if (block := examples.add(number, held, base, min(n, total - number))) is not None:
                yield block
    if examples.pending:
        yield examples.finish()


class Examples:
    """Collects the examples of a block of windows, and runs the model on them together.

    The voice is judged by the sound of a window with that of so many frames `before` and `after` it as there are. What
    hears so much hears nearly the same in the next window, so it may be asked `every` so many steps only.
    """

    def __init__(self, model: Judge, everyone: bool, *, after: int, every: int = 1):
        self._model, self._everyone = model, everyone
        self.before, self.after, self._every = model.n_heard - model.n_frames - after, after, every
        self.reach = self.before + every - 1  # looks before a window that it may need
        self._voice: tuple[int, tuple[str, int, int]] | None = None  # the step that the newest voice is of
        self.pending: list[dict[str, Any]] = []
        self._batch: list[Batch] = []
        self._ear = Ear()
        self._heard = dict[int, Heard]()  # by step

    def hear(self, step: int, look: Look) -> None:
        """Listen to the sound of a step."""
        self._heard[step] = self._ear(step, look.sound)
        self._heard.pop(step - 4 * self._model.n_frames - BLOCK, None)

    def add(self, step: int, held: "collections.deque[Look]", base: int, n_frames: int) -> list[Window] | None:
        """Add the window of `n_frames` at `step`; return the finished block at its end."""
        looks = list(held)
        inside = looks[step - base : step - base + n_frames]
        middle = step - step % self._every
        begin = max(0, middle - base - self.before)
        around = looks[begin : middle - base + n_frames + self.after]
        sound = np.concatenate([look.sound for look in around]) if self._model.hears else np.zeros(0, np.int16)
        speech = [self._heard[base + begin + i].speech for i in range(len(around)) if base + begin + i in self._heard]
        if self._model.needs_speech and np.mean(speech or [0.0]) < _LEAST_SPEECH:
            sound = sound[:0]
        people = sorted({person for look in inside for person in look.people}) if self._model.sees else []
        wanted: list[tuple[str, int, int]] = []  # person, and place in the batch

        def judge(kind: str, person: int, faces: tuple[np.ndarray, np.ndarray] | None, sound: np.ndarray) -> None:
            wanted.append((kind, person, len(self._batch)))
            self._batch.append(example(self._model, faces, sound, n_frames))

        if len(sound) and self._voice and self._voice[0] == middle:
            wanted.append(self._voice[1])
        elif len(sound):
            judge("voice", -1, None, sound)
            self._voice = (middle, wanted[-1])
        for person in people:
            faces = self._faces(looks, step - base, n_frames, person)
            if len(sound):
                judge("both", person, faces, sound)
            # The voice is the main person's, who is known at the end: everyone else is judged by the face.
            if self._everyone or not len(sound):
                judge("face", person, faces, sound[:0])
        heard = [self._heard[number] for number in range(step, step + n_frames) if number in self._heard]
        found = {person: sum(person in look.people for look in inside) / n_frames for person in people}
        self.pending.append(
            {
                "step": step,
                "n_frames": n_frames,
                "wanted": wanted,
                "found": found,
                "heard": hearing.mean(heard),
            }
        )
        return self.finish() if (step + 1) % BLOCK == 0 else None

    def finish(self) -> list[Window]:
        """Return the windows of the block."""
        log_probs = self._model(self._batch)
        done = []
        for entry in self.pending:
            said: dict[str, dict[int, LogProb]] = {"voice": {}, "both": {}, "face": {}}
            for kind, person, place in entry.pop("wanted"):
                said[kind][person] = log_probs[place]
            done.append(Window(voice=said["voice"].get(-1), both=said["both"], face=said["face"], **entry))
        self.pending, self._batch, self._voice = [], [], None
        return done

    def _faces(self, looks: list[Look], start: int, n_frames: int, person: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the crops of a person's window, each missing one taken from the nearest step, and where they are."""
        around = looks[max(0, start - n_frames + 1) : start + 2 * n_frames - 1]
        offset = start - max(0, start - n_frames + 1)
        seen: list[Sight | None] = [look.people.get(person) for look in around]
        nearest = nearest_found(np.array([sight is not None for sight in seen]))
        crops = [sight.crop for i in nearest[offset : offset + n_frames] if (sight := seen[i])]
        return np.stack(crops), np.array([sight is not None for sight in seen[offset : offset + n_frames]])


def example(model: Judge, faces: tuple[np.ndarray, np.ndarray] | None, sound: np.ndarray, n_frames: int) -> Batch:
    """Return an example of the network's contract (`models.batch`), padded to what the model sees and hears.

    The sound may be longer than the `n_frames` of the window, if the model hears more than it sees. `faces` are the
    crops [n_frames, S, S, 3] and where there is one [n_frames]; None: no picture.
    """
    side = model.face_size
    if not model.sees:
        n_frames = max(n_frames, -(-len(sound) // SAMPLES_PER_FRAME))
    n = model.n_frames if model.sees else model.n_heard
    crops, found = faces or (np.zeros((n_frames, side, side, 3), np.uint8), np.zeros(n_frames, bool))
    padding = n - n_frames
    return {
        "faces": np.concatenate([crops, np.repeat(crops[-1:], padding, axis=0)]),
        "face_found": np.pad(found, (0, padding)),
        "n_frames": np.int32(n_frames),
        "waveform": np.pad(sound, (0, model.n_heard * SAMPLES_PER_FRAME - len(sound))),
        "n_samples": np.int32(max(1, len(sound))),
        "has_video": np.bool_(found.any()),
        "has_audio": np.bool_(len(sound) > 0),
        "label": np.int32(0),
        "clip": np.int32(0),
        "mask": np.bool_(True),
    }
