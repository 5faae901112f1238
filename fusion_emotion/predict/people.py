"""The faces of a film as they go by: linked to people, smoothed and cropped with a delay of a second."""

import collections
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from fusion_emotion.predict.cuts import Cuts
from fusion_emotion.predict.reader import Step
from fusion_emotion.prepare import faces as faces_
from fusion_emotion.prepare.detectors import Detector, Faces, InsightFace, Recogniser
from fusion_emotion.prepare.faces import Track, assign, crop, detections, smooth, squares
from fusion_emotion.prepare.likeness import likeness, motion
from fusion_emotion.prepare.settings import Settings
from fusion_emotion.units import FRAME_RATE_HZ

# A person who is not seen for so many steps is someone else afterwards, unless a recogniser says otherwise.
_FORGOTTEN_STEPS = 15
# Smoothing reaches so many steps to both sides, so a crop is made that much later (`faces.smooth`).
REACH = 4
_MOST_EMBEDDINGS = 5  # kept of each person, in memory only
# Where the film may be cut, a face goes on as the one that was there if their patches are so alike (`likeness`): 0.87
# and more within a take in such places; below 0.85 for 99.5 % of pairs of moments of seven people of five films.
_SAME_OVER_CUT = 0.85


@dataclasses.dataclass(frozen=True)
class Sight:
    """One person at one step; lengths in px of the upright frame."""

    crop: UInt8[np.ndarray, "S S 3"]
    box: Float32[np.ndarray, "4"]  # left, top, right, bottom, smoothed
    score: float  # the detector's
    weight: float  # size and centrality, which choose the main person
    motion: float | None  # of the mouth region since the step before, once a second (`likeness.motion`)


@dataclasses.dataclass(frozen=True)
class Look:
    """What a step shows: its sound, and each visible person by id."""

    sound: np.ndarray
    people: dict[int, Sight]


@dataclasses.dataclass
class _Seen:
    """A step whose crops are not made yet."""

    step: Step
    faces: Faces | None = None
    ids: list[int] = dataclasses.field(default_factory=list)
    motions: dict[int, float] = dataclasses.field(default_factory=dict)


class People:
    """Follows the people of a film; the same detection, links, smoothing and crops as in preparation.

    `state` of an earlier instance goes on with its ids; it holds the last boxes, and no embedding. A box is smoothed
    over the steps before it and `ahead` steps after it, by which it comes later.
    """

    def __init__(
        self, settings: Settings, detector: Detector | None, state: dict[str, Any] | None = None, *, ahead: int = REACH
    ):
        self._settings, self._detector, self._ahead = settings, detector, ahead
        self._recogniser: Recogniser | None = detector.recogniser if isinstance(detector, InsightFace) else None
        state = state or {"next_id": 0, "last": []}
        self._next_id: int = state["next_id"]
        # By id: the step a person was last seen at, and the box there.
        self._last = {int(i): (int(t), np.array(box, np.float32)) for i, t, box in state["last"]}
        self._patches: dict[int, np.ndarray] = {}
        self._cuts = Cuts()
        self._doubted: set[int] = set()  # people who have not been seen since the last cut
        self._embeddings: dict[int, list[np.ndarray]] = {}

    def state(self) -> dict[str, Any]:
        """The links so far, as JSON."""
        last = [[i, t, [float(x) for x in box]] for i, (t, box) in self._last.items()]
        return {"next_id": self._next_id, "last": last}

    def looks(self, steps: Iterable[Step], *, first: int = 0) -> Iterator[tuple[Look, dict[str, Any] | None]]:
        """Yield the look of each step; `first` is the number of the first one.

        Beside it stands the state before the step, at steps that another instance can begin at, else None.
        """
        window: collections.deque[_Seen] = collections.deque()
        states: collections.deque[dict[str, Any] | None] = collections.deque()
        done = 0  # of the window's steps, whose crops are made
        n_shown = 0
        for number, seen in enumerate(self._seen(steps), start=first):
            is_cut = seen.step.frame is not None and self._cuts(seen.step.frame)
            # Begin only where detection and portraits are due, or other faces are found; and never at a cut, which is
            # seen only beside the picture before it.
            is_due = n_shown % (FRAME_RATE_HZ * self._settings.detect_every) == 0
            can_begin = seen.step.frame is not None and is_due and not self._doubted and not is_cut
            states.append(self.state() if can_begin else None)
            n_shown += seen.step.frame is not None
            if is_cut:
                self._doubted = set(self._last)
            self._link(seen, number)
            window.append(seen)
            if len(window) - done > self._ahead:
                yield self._look(window, done), states.popleft()
                done += 1
            if done > REACH:
                window.popleft()
                done -= 1
            if done:
                # Frames are large; what is left of a step is its boxes.
                window[done - 1].step = dataclasses.replace(window[done - 1].step, frame=None)
        for place in range(done, len(window)):
            yield self._look(window, place), states.popleft()

    def _seen(self, steps: Iterable[Step]) -> Iterator[_Seen]:
        """Yield each step with its faces."""
        waiting: collections.deque[Step] = collections.deque()

        def shown() -> Iterator[np.ndarray]:
            for step in steps:
                waiting.append(step)
                if step.frame is not None:
                    yield step.frame

        if self._detector is None:
            yield from map(_Seen, steps)
            return
        every, recogniser = self._settings.detect_every, self._recogniser
        if every == 1:  # nothing to interpolate, so no step waits for the next
            for step in steps:
                pictures = [] if step.frame is None else [step.frame]
                found = detections(pictures, self._detector, every=1, recogniser=recogniser)
                yield _Seen(step, next((faces for _, faces in found), None))
            return
        for _, faces in detections(shown(), self._detector, every=every, recogniser=recogniser):
            while waiting[0].frame is None:
                yield _Seen(waiting.popleft())
            yield _Seen(waiting.popleft(), faces)
        yield from map(_Seen, waiting)

    def _link(self, seen: _Seen, number: int) -> None:
        """Give each face of a step the id of the person it continues, or a new one."""
        self._last = {i: last for i, last in self._last.items() if number - last[0] <= _FORGOTTEN_STEPS}
        self._patches = {i: patch for i, patch in self._patches.items() if i in self._last}
        self._doubted &= self._last.keys()
        if seen.faces is None or not len(seen.faces.box):
            return
        ids = list(self._last)
        lasts = [self._last[i] for i in ids]
        numbers = assign([box for _, box in lasts], [number - time for time, _ in lasts], seen.faces.box)
        for index, place in enumerate(numbers):
            patch = seen.faces.patch[index]
            before = None if place is None or self._is_other(ids[place], patch) else ids[place]
            person = self._known(seen, index, taken=ids + seen.ids) if before is None else before
            seen.ids.append(person)
            self._doubted.discard(person)
            earlier = self._patches.get(person)
            if earlier is not None and number % FRAME_RATE_HZ == 0 and self._last[person][0] == number - 1:
                seen.motions[person] = motion([(earlier, patch)])
            self._last[person], self._patches[person] = (number, seen.faces.box[index]), patch
            if self._recogniser and seen.faces.portrait and len(self._embeddings.get(person, ())) < _MOST_EMBEDDINGS:
                embedding = self._recogniser.embed(seen.faces.portrait[index])
                self._embeddings.setdefault(person, []).append(embedding)

    def _is_other(self, person: int, patch: np.ndarray) -> bool:
        """True if a face at the place of a person from before a cut is somebody else's."""
        before = self._patches.get(person)
        return person in self._doubted and (before is None or likeness(before, patch) < _SAME_OVER_CUT)

    def _known(self, seen: _Seen, index: int, *, taken: list[int]) -> int:
        """Return the id of a person who was seen before and is not there now, else a new one."""
        if self._recogniser and seen.faces is not None and seen.step.frame is not None:
            # A person may return between two steps with portraits.
            marks = seen.faces.landmarks[index]
            portraits = seen.faces.portrait
            portrait = portraits[index] if portraits else self._recogniser.portrait(seen.step.frame, marks)
            embedding = self._recogniser.embed(portrait)
            alike = [
                (float(np.mean([embedding @ other for other in others])), person)
                for person, others in self._embeddings.items()
                if person not in taken
            ]
            cosine, person = max(alike, default=(-1.0, -1))
            if cosine >= faces_.SAME_EMBEDDING:
                return person
        self._next_id += 1
        return self._next_id - 1

    def _look(self, window: "collections.deque[_Seen]", place: int) -> Look:
        """Crop the faces of a step of the window."""
        seen, people = window[place], {}
        if seen.faces is not None and seen.step.frame is not None:
            height, width = seen.step.frame.shape[:2]
            for index, person in enumerate(seen.ids):
                box, roll = self._smoothed(window, place, person)
                square = squares(box[None], margin=self._settings.margin)[0]
                people[person] = Sight(
                    crop(
                        seen.step.frame,
                        square,
                        size=self._settings.face_size,
                        roll=roll if self._settings.align else 0.0,
                    ),
                    box,
                    float(seen.faces.score[index]),
                    faces_.weight(seen.faces.box[index], width, height),
                    seen.motions.get(person),
                )
        return Look(seen.step.sound, people)

    def _smoothed(
        self, window: "collections.deque[_Seen]", place: int, person: int
    ) -> tuple[Float32[np.ndarray, "4"], float]:
        """Return the box and roll of a person at a step, smoothed over the steps around it."""
        first = max(0, place - REACH)
        near = list(window)[first : place + self._ahead + 1]
        box = np.zeros((len(near), 4), np.float32)
        roll = np.zeros(len(near), np.float32)
        found = np.array([person in seen.ids for seen in near])
        for time in np.flatnonzero(found):
            faces, index = near[time].faces, near[time].ids.index(person)
            if faces is not None:
                box[time], roll[time] = faces.box[index], faces_.tilt(faces.landmarks[index])
        steady = smooth(Track(box, roll, found))
        return steady.box[place - first], float(steady.roll[place - first])
