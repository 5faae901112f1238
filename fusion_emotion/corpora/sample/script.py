"""The script of the sample corpus: actors, emotions, takes, defects, and the random draws that vary them.

There are five expressions and five prosodies for eight emotions. Neither alone separates all emotions, both together
do: the best mean recall is 5 / 8 from faces or voices alone and 1 from both. This is by design, and says nothing about
people.
"""

import dataclasses
import enum

import numpy as np

from fusion_emotion.corpora import ravdess

EXPRESSION_OF = {
    "neutral": "plain",
    "calm": "plain",
    "happy": "smiling",
    "sad": "sorrowful",
    "angry": "cross",
    "disgust": "cross",
    "fearful": "startled",
    "surprised": "startled",
}
PROSODY_OF = {
    "neutral": "level",
    "sad": "faint",
    "calm": "faint",
    "happy": "bright",
    "surprised": "bright",
    "angry": "sharp",
    "fearful": "sharp",
    "disgust": "nasal",
}

# Weights of the action units (`heads.UNITS`) at full strength.
EXPRESSIONS: dict[str, dict[str, float]] = {
    "plain": {},
    "smiling": {"corners_up": 1.0, "lids_tighten": 0.25, "lips_part": 0.35},
    "sorrowful": {"inner_brow_raise": 1.0, "corners_down": 1.0, "lids_close": 0.3},
    "cross": {
        "brow_lower": 1.0,
        "nose_wrinkle": 0.9,
        "lips_press": 0.7,
        "lids_tighten": 0.3,
        "lids_close": 0.1,
    },
    "startled": {"brow_raise": 0.85, "lids_close": -0.2, "jaw_drop": 0.8, "lips_part": 0.45},
}

# The weights that speech adds to lips and jaw, whatever the expression.
SPEECH_OPENS_LIPS = 0.42
SPEECH_DROPS_JAW = 0.35


@dataclasses.dataclass(frozen=True)
class Prosody:
    """A way of speaking. Pitch and range are in eSpeak NG's units (0 to 99, default 50)."""

    words_per_minute: int
    pitch: int
    pitch_range: int
    level_dbfs: float  # root mean square of the speech
    tilt_db_per_octave: float  # around 1 kHz
    resonance_db: float = 0.0  # of a peak at 1.2 kHz
    formant_shift: float = 1.0  # factor of every frequency


PROSODIES = {
    #                 rate, pitch, range, level, tilt, resonance
    "level": Prosody(152, 42, 35, -24, -2.5, 0),
    "faint": Prosody(118, 25, 15, -31, -6, 0),
    "bright": Prosody(168, 85, 95, -19, 1.5, 0),
    "sharp": Prosody(190, 58, 35, -13, 6.5, 0),
    "nasal": Prosody(125, 12, 70, -24, 0, 14),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Voice:
    """An actor's voice: its name in eSpeak NG, and the offsets and factors that it applies to every prosody."""

    name: str
    pitch: float
    tempo: float
    tilt_db_per_octave: float
    formant_shift: float


# eSpeak NG's languages and variants, taken in turn by the male (odd) and the female (even) actors.
_VOICES = {
    "male": ("en-us", "en-us+m3", "en-gb-x-rp", "en-us+m2", "en-us+m7", "en-gb-x-rp+m3"),
    "female": ("en-us+f3", "en-us+f2", "en-gb-x-rp+f2", "en-us+f4", "en-gb-x-rp+f3", "en-us+f1"),
}

# Clips with defects, as in real corpora: (actor, emotion, statement).
NO_FACE = frozenset({(1, "happy", 1), (5, "surprised", 0)})  # nobody is in the picture for a second in the middle
NO_SOUND = frozenset({(2, "angry", 0), (8, "sad", 1)})  # the audio track is digital silence


class Stream(enum.IntEnum):
    """Independent streams of random numbers: more draws from one do not change another."""

    LOOK = 0
    VOICE = 1
    MANNER = 2
    SPEECH = 3
    FACE = 4
    NOISE = 5


@dataclasses.dataclass(frozen=True)
class Take:
    """One clip; `statement` indexes `ravdess.STATEMENTS`."""

    actor: int
    emotion: str
    statement: int

    @property
    def key(self) -> tuple[int, str, int]:
        """The take as in NO_FACE and NO_SOUND."""
        return self.actor, self.emotion, self.statement

    @property
    def file_name(self) -> str:
        """RAVDESS's name of the clip in the actor's folder."""
        emotion = ravdess.LABEL_NAMES.index(self.emotion) + 1
        return f"01-01-{emotion:02d}-01-{self.statement + 1:02d}-01-{self.actor:02d}.mp4"


def takes_of(actor: int) -> list[Take]:
    """Return the actor's clips, in the order in which they are spoken."""
    return [Take(actor, emotion, n) for emotion in ravdess.LABEL_NAMES for n in range(len(ravdess.STATEMENTS))]


def unfinished(file_name: str) -> str:
    """Return the name of a clip while it is being written; readers ignore it."""
    return f".{file_name}.partial"


def sex_of(actor: int) -> str:
    """Return the sex of an actor; RAVDESS numbers men odd and women even."""
    return "male" if actor % 2 else "female"


def actor_rng(seed: int, actor: int, stream: Stream) -> np.random.Generator:
    """Return the random generator of one actor and stream."""
    return np.random.default_rng([seed, actor, stream])


def take_rng(seed: int, take: Take, stream: Stream) -> np.random.Generator:
    """Return the random generator of one take and stream."""
    emotion = ravdess.LABEL_NAMES.index(take.emotion)
    return np.random.default_rng([seed, take.actor, emotion, take.statement, stream])


def voice_of(actor: int, *, seed: int) -> Voice:
    """Draw the voice of an actor from the seed."""
    rng = actor_rng(seed, actor, Stream.VOICE)
    names = _VOICES[sex_of(actor)]
    return Voice(
        name=names[(actor - 1) // 2 % len(names)],
        pitch=rng.uniform(-6, 6),
        tempo=rng.uniform(0.95, 1.05),
        tilt_db_per_octave=rng.uniform(-0.5, 0.5),
        formant_shift=rng.uniform(0.96, 1.04),
    )


def prosody_of(take: Take, voice: Voice, *, seed: int) -> Prosody:
    """Return the prosody of a take: that of the emotion, changed by the actor's voice and a little chance."""
    rng = take_rng(seed, take, Stream.SPEECH)
    prosody = PROSODIES[PROSODY_OF[take.emotion]]
    return Prosody(
        words_per_minute=round(prosody.words_per_minute * voice.tempo * rng.uniform(0.96, 1.04)),
        pitch=int(np.clip(prosody.pitch + voice.pitch + rng.uniform(-3, 3), 0, 99)),
        pitch_range=int(np.clip(prosody.pitch_range * rng.uniform(0.85, 1.15), 0, 99)),
        level_dbfs=prosody.level_dbfs + rng.uniform(-1.5, 1.5),
        tilt_db_per_octave=prosody.tilt_db_per_octave + voice.tilt_db_per_octave + rng.uniform(-0.4, 0.4),
        resonance_db=prosody.resonance_db * rng.uniform(0.85, 1.15),
        formant_shift=voice.formant_shift,
    )
