"""What is played: actors, emotions, takes and troubles of the sample corpus. Tables, and the draws that vary them.

A face shows one of five expressions and a voice one of five ways of speaking, so that neither tells all eight emotions
apart and both together do: the best mean recall from faces or from voices alone is 5 / 8, from both it is 1. This is so
on purpose, and says nothing about people.
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

# How far a sentence opens the lips of each expression, and the jaw with them.
SPEECH_OPENS_LIPS = 0.42
SPEECH_DROPS_JAW = 0.35


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prosody:
    """A way of speaking. Pitch and range are in eSpeak NG's units (0 to 99, 50 is its ordinary)."""

    words_per_minute: int
    pitch: int
    pitch_range: int
    level_dbfs: float  # root mean square of the speech
    tilt_db_per_octave: float  # around 1 kHz
    resonance_db: float = 0.0  # of a peak at 1.2 kHz
    formant_shift: float = 1.0  # factor of every frequency


def _prosody(rate: int, pitch: int, pitch_range: int, level: float, tilt: float, resonance: float) -> Prosody:
    return Prosody(
        words_per_minute=rate,
        pitch=pitch,
        pitch_range=pitch_range,
        level_dbfs=level,
        tilt_db_per_octave=tilt,
        resonance_db=resonance,
    )


PROSODIES = {
    #                 rate, pitch, range, level, tilt, resonance
    "level": _prosody(152, 42, 35, -24, -2.5, 0),
    "faint": _prosody(118, 25, 15, -31, -6, 0),
    "bright": _prosody(168, 85, 95, -19, 1.5, 0),
    "sharp": _prosody(190, 58, 35, -13, 6.5, 0),
    "nasal": _prosody(125, 12, 70, -24, 0, 14),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Voice:
    """An actor's voice: eSpeak NG's name of it, and what is added to (or multiplies) every prosody."""

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

# Clips in which something is missing, as in real corpora: (actor, emotion, statement).
NO_FACE = frozenset({(1, "happy", 1), (5, "surprised", 0)})  # nobody in the picture for a second in the middle
NO_SOUND = frozenset({(2, "angry", 0), (8, "sad", 1)})  # the audio track is digital silence


class Stream(enum.IntEnum):
    """Streams of random numbers: the draws of one never move those of another."""

    LOOK = 0
    VOICE = 1
    MANNER = 2
    SPEECH = 3
    FACE = 4
    NOISE = 5


@dataclasses.dataclass(frozen=True)
class Take:
    """One clip to be made; `statement` indexes `ravdess.STATEMENTS`."""

    actor: int
    emotion: str
    statement: int

    @property
    def key(self) -> tuple[int, str, int]:
        """As in NO_FACE and NO_SOUND."""
        return self.actor, self.emotion, self.statement

    @property
    def file_name(self) -> str:
        """RAVDESS's name of the clip, below the actor's folder."""
        emotion = ravdess.LABEL_NAMES.index(self.emotion) + 1
        return f"01-01-{emotion:02d}-01-{self.statement + 1:02d}-01-{self.actor:02d}.mp4"


def takes_of(actor: int) -> list[Take]:
    """The actor's clips, in the order in which they are spoken."""
    return [Take(actor, emotion, n) for emotion in ravdess.LABEL_NAMES for n in range(len(ravdess.STATEMENTS))]


def unfinished(file_name: str) -> str:
    """What a clip is called while it is being written: no reader takes it for a clip."""
    return f".{file_name}.partial"


def sex_of(actor: int) -> str:
    """As RAVDESS numbers its actors."""
    return "male" if actor % 2 else "female"


def actor_rng(seed: int, actor: int, stream: Stream) -> np.random.Generator:
    """The draws of one actor."""
    return np.random.default_rng([seed, actor, stream])


def take_rng(seed: int, take: Take, stream: Stream) -> np.random.Generator:
    """The draws of one take."""
    emotion = ravdess.LABEL_NAMES.index(take.emotion)
    return np.random.default_rng([seed, take.actor, emotion, take.statement, stream])


def voice_of(actor: int, *, seed: int) -> Voice:
    """The voice of an actor, drawn from the seed."""
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
    """How an actor speaks in a take: the emotion's way of speaking, the actor's voice, and a little chance."""
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
