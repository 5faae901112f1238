"""The leak guard: what two parts of a split share, looked for before a step is trained.

What a finding of each kind is depends on what the protocol promises:

| kind                                      | speaker-independent | random, takes | random_windows |
|-------------------------------------------|---------------------|---------------|----------------|
| speaker                                   | error               | inherent      | inherent       |
| take, clip                                | error               | error         | inherent       |
| window (overlapping ones of one clip)     | error               | error         | error          |
| sound, near sound, faces, near faces      | error               | warning       | warning        |

The last line is about two clips of different names with the same bytes or the same recording. RAVDESS has one such
pair, 03-01-03-01-02-01-07 and 03-01-03-01-02-02-07: of one speaker, so no speaker-independent split can part them.

Near sound: clips whose spectral envelopes have the same modulation spectrum are compared by phase correlation (Knapp &
Carter 1976). Neither depends on gain or on where the clip was cut. Near faces: the deviations of eight pictures of a
clip from their mean are correlated, so that a person who looks the same twice is no finding; a clip cut elsewhere is
none either, nor are still pictures unless identical. Constant sound (silence) and constant pictures are not compared.
"""

import dataclasses
import functools
import hashlib
import itertools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import grain
import numpy as np
import scipy.fft
from jaxtyping import Float32, Int, Int16, UInt8

from fusion_emotion.corpora.protocols import SPEAKER_INDEPENDENT, Part
from fusion_emotion.errors import UserError
from fusion_emotion.input.segments import Windows
from fusion_emotion.prepare.records import Row, decode, shard_paths
from fusion_emotion.units import FRAME_RATE_HZ, SAMPLE_RATE_HZ

Kind = Literal["speaker", "take", "clip", "window", "sound", "near sound", "faces", "near faces"]
Severity = Literal["error", "warning", "inherent"]

KINDS: Mapping[Kind, str] = {
    "speaker": "speakers on two sides",
    "take": "takes on two sides",
    "clip": "clips with windows on two sides",
    "window": "clips with overlapping windows on two sides",
    "sound": "clips with identical sound",
    "near sound": "clips with nearly identical sound",
    "faces": "clips with identical faces",
    "near faces": "clips with nearly identical faces",
}
NORMALISATION = "none is computed before training; batch statistics are running means of training batches, in the model"

_INHERENT: Mapping[str, tuple[Kind, ...]] = {
    "random": ("speaker",),
    "takes": ("speaker",),
    "random_windows": ("speaker", "take", "clip"),
}
_DUPLICATES: tuple[Kind, ...] = ("sound", "near sound", "faces", "near faces")

# Measured on 1,080 takes of RAVDESS speech. Altered copies (30 % of the gain, noise at 20 dB, Vorbis, MP3, resampling,
# 0.3 s cut off, 0.5 s put before) have an envelope similarity of 0.983 or more, 95 % of copies in the lowest quality of
# MP3 or low-passed at 3.4 kHz 0.984; of 582,659 pairs of other takes 85 have 0.98, the most alike 0.994. The phase
# correlation of all these copies is 0.62 or more, that of the 800 most alike other takes 0.20 or less.
_ENVELOPE_SIMILARITY, _PHASE_CORRELATION = 0.98, 0.4
# On 60 takes of one RAVDESS speaker, and on the sample corpus: copies (JPEG, noise, brightness, 3/4 of the resolution,
# a crop moved by one pixel) 0.87 or more, the closest other takes 0.65.
_FACE_SIMILARITY = 0.8

_LONGEST_S = 10.24
_FRAME_S = 0.02
_BAND_EDGES_HZ = (100, 200, 300, 450, 650, 950, 1350, 1900, 8000)
_RANGE_DB = 30.0
_MODULATIONS = 64  # up to 6.2 Hz
_PHASE_BAND_HZ = (100, 4000)
_PICTURES, _SIDE = 8, 16
_BLOCK = 1024  # clips: keeps the products of large corpora small
_MOST_NAMED = 5


@dataclasses.dataclass(frozen=True)
class Finding:
    """What is on two sides: a speaker, a take, a clip, or a pair of clips in the order of the parts."""

    kind: Kind
    names: tuple[str, ...]
    parts: tuple[Part, ...]
    severity: Severity

    def __str__(self) -> str:
        if len(self.names) == 1:
            return f"{self.kind} {self.names[0]} in {' and '.join(self.parts)}"
        return " and ".join(f"{name} ({part})" for name, part in zip(self.names, self.parts, strict=True))


@dataclasses.dataclass(frozen=True)
class LeakReport:
    """What `check_split` compared and found."""

    protocol: str
    clips: Mapping[Part, int]
    compared: Mapping[Kind, int]  # speakers, takes or clips; of duplicates, pairs of clips that have sound or faces
    findings: Sequence[Finding]

    def of(self, kind: Kind) -> list[Finding]:
        """The findings of a kind."""
        return [finding for finding in self.findings if finding.kind == kind]

    def text(self) -> str:
        """A line for each kind: how many were compared, what was found, and what that means under the protocol."""
        sizes = ", ".join(f"{n} {part}" for part, n in self.clips.items())
        lines = [f"leak check of protocol {self.protocol} ({sizes} clips)"]
        for kind, title in KINDS.items():
            found = self.of(kind)
            line = f"  {title}: {len(found)} of {self.compared[kind]:,}" + " pairs" * (kind in _DUPLICATES)
            if not self.compared[kind]:
                line = f"  {title}: there is nothing to compare"
            if found and found[0].severity == "inherent":
                line += ", inherent in the protocol"
            elif found:
                line += f", {found[0].severity}: {_some(found)}"
            lines.append(line)
        return "\n".join([*lines, f"  normalisation statistics: {NORMALISATION}"])

    def raise_errors(self) -> None:
        """Raise UserError if a finding breaks what the protocol promises."""
        errors = [finding for finding in self.findings if finding.severity == "error"]
        if errors:
            kinds = ", ".join(KINDS[kind] for kind in dict.fromkeys(finding.kind for finding in errors))
            raise UserError(
                f"the data break split.protocol={self.protocol}: there are {kinds} ({_some(errors)}); "
                "take one of each out of data.root, or mend its name"
            )


def _some(findings: Sequence[Finding]) -> str:
    more = len(findings) - _MOST_NAMED
    return "; ".join(map(str, findings[:_MOST_NAMED])) + (f"; and {more} more" if more > 0 else "")


def severity(protocol: str, kind: Kind) -> Severity:
    """What a finding means under a protocol: the table above."""
    if protocol in SPEAKER_INDEPENDENT:
        return "error"
    if kind in _INHERENT[protocol]:
        return "inherent"
    return "warning" if kind in _DUPLICATES else "error"


def check_split(folder: pathlib.Path, windows_by_part: Mapping[Part, Windows], *, protocol: str) -> LeakReport:
    """Read every record of the split in `folder` once and compare each part with each other.

    Fingerprints are compared by matrix products, and only what is alike is looked at again, so that the reading is what
    takes time: one to two milliseconds a clip.
    """
    rows = {row.clip_id: row for windows in windows_by_part.values() for row in windows.rows}
    clips: dict[Part, list[str]] = {
        part: [windows.rows[i].clip_id for i in np.unique(windows.clip)] for part, windows in windows_by_part.items()
    }
    findings: list[Finding] = []
    compared: dict[Kind, int] = {}

    def add(kind: Kind, names: tuple[str, ...], parts: tuple[Part, ...]) -> None:
        findings.append(Finding(kind, names, parts, severity(protocol, kind)))

    keys: dict[Kind, Callable[[Row], str]] = {
        "speaker": lambda row: row.speaker,
        "take": lambda row: row.take_id,
        "clip": lambda row: row.clip_id,
    }
    for kind, key in keys.items():
        parts_of: dict[str, list[Part]] = {}
        for part, names in clips.items():
            for name in {key(rows[name]) for name in names}:
                parts_of.setdefault(name, []).append(part)
        compared[kind] = len(parts_of)
        for name, parts in sorted(parts_of.items()):
            if len(parts) > 1:
                add(kind, (name,), tuple(parts))

    compared["window"] = compared["clip"]
    for name, both in _overlapping(windows_by_part):
        add("window", (name,), both)

    names_of = list(rows)
    number = {name: i for i, name in enumerate(names_of)}
    for (same, near), prints in _fingerprints(folder, list(rows.values())).items():
        compared[same] = compared[near] = 0
        seen: set[frozenset[int]] = set()
        for one, other in itertools.combinations(clips, 2):
            left, right = (prints.present([number[name] for name in clips[part]]) for part in (one, other))
            n_pairs = len(left) * len(right) - len(np.intersect1d(left, right))
            compared[same] += n_pairs
            compared[near] += n_pairs
            for identical, i, j in prints.duplicates(left, right):
                # A clip with windows on two sides meets another more than once.
                if frozenset((i, j)) not in seen:
                    seen.add(frozenset((i, j)))
                    add(same if identical else near, (names_of[i], names_of[j]), (one, other))
    return LeakReport(protocol, {part: len(names) for part, names in clips.items()}, compared, findings)


def _overlapping(windows_by_part: Mapping[Part, Windows]) -> Iterator[tuple[str, tuple[Part, Part]]]:
    """Each clip of which two parts show the same time, with these parts."""
    starts: dict[str, dict[Part, list[int]]] = {}
    for part, windows in windows_by_part.items():
        for clip, start in zip(windows.clip, windows.start, strict=True):
            starts.setdefault(windows.rows[clip].clip_id, {}).setdefault(part, []).append(int(start))
    for name, by_part in starts.items():
        for one, other in itertools.combinations(by_part, 2):
            apart = np.abs(np.subtract.outer(by_part[one], by_part[other]))
            if (apart < FRAME_RATE_HZ).any():
                yield name, (one, other)


@dataclasses.dataclass(frozen=True)
class _Fingerprints:
    """Of the sound or the faces of every clip: a digest, empty where there is nothing to compare, and a unit vector."""

    digests: Sequence[bytes]
    vectors: Float32[np.ndarray, "clips d"]
    at_least: float  # inner product of the vectors of clips that may be the same
    same: Callable[[int, int], bool]  # whether they are

    def present(self, clips: Sequence[int]) -> Int[np.ndarray, "n"]:
        """Those of `clips` that have something to compare."""
        return np.array([i for i in clips if self.digests[i]], int)

    def duplicates(self, one: Int[np.ndarray, "n"], other: Int[np.ndarray, "m"]) -> Iterator[tuple[bool, int, int]]:
        """Whether identical, and the indices, of each pair of different clips that are the same recording."""
        holders: dict[bytes, list[int]] = {}
        for j in other:
            holders.setdefault(self.digests[j], []).append(int(j))
        identical = {(int(i), j) for i in one for j in holders.get(self.digests[i], ()) if i != j}
        for i, j in sorted(identical):
            yield True, i, j
        for first in range(0, len(one), _BLOCK):
            block = one[first : first + _BLOCK]
            for a, b in np.argwhere(self.vectors[block] @ self.vectors[other].T >= self.at_least):
                i, j = int(block[a]), int(other[b])
                if i != j and (i, j) not in identical and self.same(i, j):
                    yield False, i, j


def _fingerprints(folder: pathlib.Path, rows: Sequence[Row]) -> dict[tuple[Kind, Kind], _Fingerprints]:
    """The fingerprints of sound and of faces, by the kinds of their duplicates."""
    source = grain.sources.ArrayRecordDataSource(shard_paths(folder))

    @functools.lru_cache(256)
    def waveform(clip: int) -> np.ndarray:
        return decode(source[rows[clip].record]).waveform

    def same_recording(one: int, other: int) -> bool:
        return phase_correlation(waveform(one), waveform(other)) >= _PHASE_CORRELATION

    records = (decode(source[row.record]) for row in rows)
    prints = [
        (_digest(record.waveform), _envelope(record.waveform), _digest(record.faces), _motion(record.faces))
        for record in records
    ]
    sound, envelopes, faces, motions = zip(*prints, strict=True)
    return {
        ("sound", "near sound"): _Fingerprints(sound, np.array(envelopes), _ENVELOPE_SIMILARITY, same_recording),
        ("faces", "near faces"): _Fingerprints(faces, np.array(motions), _FACE_SIMILARITY, lambda one, other: True),
    }


def _digest(array: np.ndarray) -> bytes:
    """The same for the same values; empty for those that are empty or constant."""
    constant = not array.size or array.min() == array.max()
    return b"" if constant else hashlib.blake2b(array.tobytes(), digest_size=16).digest()


def _unit(vector: np.ndarray) -> Float32[np.ndarray, "d"]:
    """Of length 1; of length 0 where there is nothing to compare."""
    flat = vector.ravel().astype(np.float32)
    return flat / max(float(np.linalg.norm(flat)), 1e-6)


def _envelope(waveform: Int16[np.ndarray, "n"]) -> Float32[np.ndarray, "d"]:
    """The modulation spectrum (magnitudes) of the levels of eight bands, which are 0 from 30 dB below the loudest down.

    A level of 0 does not tell silence from what is beyond the ends, so that neither gain nor cutting changes it much.
    """
    frame = round(_FRAME_S * SAMPLE_RATE_HZ)
    n_frames = min(len(waveform), round(_LONGEST_S * SAMPLE_RATE_HZ)) // frame
    edges = [round(hz * _FRAME_S) for hz in _BAND_EDGES_HZ]
    n_times = round(_LONGEST_S / _FRAME_S)
    levels = np.zeros((n_times, len(edges) - 1), np.float32)
    if n_frames and waveform.min() < waveform.max():
        frames = waveform[: n_frames * frame].reshape(n_frames, frame) * np.hanning(frame).astype(np.float32)
        power = np.square(np.abs(scipy.fft.rfft(frames)))[:, edges[0] : edges[-1] + 1]
        db = 10 * np.log10(np.add.reduceat(power, np.array(edges[:-1]) - edges[0], axis=1) + 1e-3)
        levels[:n_frames] = np.maximum(db - db.max() + _RANGE_DB, 0)
    return _unit(np.abs(scipy.fft.rfft(levels, axis=0))[:_MODULATIONS])


def phase_correlation(one: Int16[np.ndarray, "n"], other: Int16[np.ndarray, "m"]) -> float:
    """How much of 100 to 4,000 Hz one shift of time aligns: 1 for a recording and its shifted copy (GCC-PHAT)."""
    longest = round(_LONGEST_S * SAMPLE_RATE_HZ)
    one, other = one[:longest], other[:longest]
    n = scipy.fft.next_fast_len(len(one) + len(other), real=True)
    spectra = [scipy.fft.rfft(sound.astype(np.float32), n) for sound in (one, other)]
    low, high = (hz * n // SAMPLE_RATE_HZ for hz in _PHASE_BAND_HZ)
    cross = np.zeros(n // 2 + 1, np.complex64)
    cross[low:high] = (spectra[0] * spectra[1].conj())[low:high]
    cross /= np.maximum(np.abs(cross), 1e-6)
    return float(np.abs(scipy.fft.irfft(cross, n)).max() * n / (2 * (high - low)))


def _motion(faces: UInt8[np.ndarray, "T S S 3"]) -> Float32[np.ndarray, "d"]:
    """How eight pictures, evenly apart and 16x16 px in grey, deviate from their mean."""
    if not len(faces):
        return np.zeros(_PICTURES * _SIDE * _SIDE, np.float32)
    pictures = faces[np.linspace(0, len(faces) - 1, _PICTURES).round().astype(int)].mean(axis=-1, dtype=np.float32)
    step = faces.shape[1] // _SIDE
    whole = pictures[:, : step * _SIDE, : step * _SIDE]
    small = whole.reshape(_PICTURES, _SIDE, step, _SIDE, step).mean(axis=(2, 4))
    return _unit(small - small.mean(axis=0))
