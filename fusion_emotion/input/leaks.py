"""The leak guard: compare the parts of a split before a step is trained.

The severity of a finding follows from the unit that the protocol places:

| kind                                      | speaker | take     | segment  |
|-------------------------------------------|---------|----------|----------|
| speaker                                   | error   | inherent | inherent |
| take, clip                                | error   | error    | inherent |
| segment (overlapping ones of one clip)    | error   | error    | error    |
| sound, near sound, faces, near faces      | error   | warning  | warning  |

The last line is about two clips of different names with the same bytes or the same recording. RAVDESS has one such
pair, 03-01-03-01-02-01-07 and 03-01-03-01-02-02-07: of one speaker, so no speaker-independent split can part them.

Near sound: clips whose spectral envelopes have similar modulation spectra are compared by phase correlation (Knapp &
Carter 1976). Neither depends on gain or on the place of the cut. Near faces: the deviations of eight pictures of a clip
from their mean are correlated, so that a person who looks the same twice is no finding. Clips that are cut at another
place, and still pictures that are similar but not identical, are not found either. Silence and constant pictures are
not compared.
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

from fusion_emotion.corpora.protocols import Part, Protocol
from fusion_emotion.errors import UserError
from fusion_emotion.input.segments import Segments
from fusion_emotion.prepare.records import Row, decode, shard_paths
from fusion_emotion.units import SAMPLE_RATE_HZ

Kind = Literal["speaker", "take", "clip", "segment", "sound", "near sound", "faces", "near faces"]
Severity = Literal["error", "warning", "inherent"]

KINDS: Mapping[Kind, str] = {
    "speaker": "speakers on two sides",
    "take": "takes on two sides",
    "clip": "clips with segments on two sides",
    "segment": "clips with overlapping segments on two sides",
    "sound": "clips with identical sound",
    "near sound": "clips with nearly identical sound",
    "faces": "clips with identical faces",
    "near faces": "clips with nearly identical faces",
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
_BLOCK = 1024  # clips; bounds the memory of matrix products
_MOST_NAMED = 5


@dataclasses.dataclass(frozen=True)
class Finding:
    """A speaker, a take or a clip that is on two sides, or a pair of clips in the order of the parts."""

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
    """The comparisons and findings of `check_split`."""

    protocol: str
    clips: Mapping[Part, int]
    compared: Mapping[Kind, int]  # speakers, takes or clips; of duplicates, pairs of clips that have sound or faces
    findings: Sequence[Finding]

    def of(self, kind: Kind) -> list[Finding]:
        """Return the findings of a kind."""
        return [finding for finding in self.findings if finding.kind == kind]

    def text(self) -> str:
        """A line for each kind: the number of comparisons, the findings, and their severity."""
        sizes = ", ".join(f"{n} {part}" for part, n in self.clips.items())
        lines = [f"leak check of protocol {self.protocol} ({sizes} clips)"]
        for kind, title in KINDS.items():
            findings, compared = self.of(kind), self.compared[kind]
            line = f"  {title}: " + (f"{len(findings)} of {compared:,}" if compared else "there is nothing to compare")
            if compared and kind in _DUPLICATES:
                line += " pairs"
            if findings and findings[0].severity == "inherent":
                line += ", inherent in the protocol"
            elif findings:
                line += f", {findings[0].severity}: {_some(findings)}"
            lines.append(line)
        lines.append(
            "  normalisation statistics: of training segments alone; batch statistics are running means of training "
            "batches, in the model"
        )
        return "\n".join(lines)

    def raise_errors(self) -> None:
        """Raise UserError if a finding is an error under the protocol."""
        if errors := [finding for finding in self.findings if finding.severity == "error"]:
            kinds = ", ".join(KINDS[kind] for kind in dict.fromkeys(finding.kind for finding in errors))
            raise UserError(
                f"the data break split.protocol={self.protocol}: there are {kinds} ({_some(errors)}); "
                "take one of each out of data.root, or mend its name"
            )


def _some(findings: Sequence[Finding]) -> str:
    more = len(findings) - _MOST_NAMED
    return "; ".join(map(str, findings[:_MOST_NAMED])) + (f"; and {more} more" if more > 0 else "")


def severity(protocol: Protocol, kind: Kind) -> Severity:
    """Return the severity of a finding under a protocol, as in the table above."""
    if protocol.speaker_independent:
        return "error"
    if kind in protocol.shared:
        return "inherent"
    return "warning" if kind in _DUPLICATES else "error"


def check_split(folder: pathlib.Path, parts: Mapping[Part, Segments], protocol: Protocol) -> LeakReport:
    """Read every record of the split in `folder` once and compare each part with each other.

    Fingerprints are compared by matrix products, and only similar ones in detail, so most of the time is reading: one
    to two milliseconds a clip.
    """
    rows = list({row.clip_id: row for segments in parts.values() for row in segments.rows}.values())
    number = {row.clip_id: i for i, row in enumerate(rows)}
    clips = {
        part: np.array([number[segments.rows[i].clip_id] for i in np.unique(segments.clip)], int)
        for part, segments in parts.items()
    }
    findings: list[Finding] = []
    compared: dict[Kind, int] = {}

    def add(kind: Kind, names: tuple[str, ...], sides: tuple[Part, ...]) -> None:
        findings.append(Finding(kind, names, sides, severity(protocol, kind)))

    fields: dict[Kind, str] = {"speaker": "speaker", "take": "take_id", "clip": "clip_id"}
    for kind, field in fields.items():
        parts_of: dict[str, list[Part]] = {}
        for part, numbers in clips.items():
            for name in {getattr(rows[i], field) for i in numbers} - {""}:  # a speaker who is not known
                parts_of.setdefault(name, []).append(part)
        compared[kind] = len(parts_of)
        for name, sides in sorted(parts_of.items()):
            if len(sides) > 1:
                add(kind, (name,), tuple(sides))

    compared["segment"] = compared["clip"]
    for name, both in _overlapping(parts):
        add("segment", (name,), both)

    for (same, near), prints in _fingerprints(folder, rows).items():
        compared[same] = compared[near] = 0
        seen: set[frozenset[int]] = set()
        for one, other in itertools.combinations(clips, 2):
            left, right = (numbers[prints.digests[numbers] >= 0] for numbers in (clips[one], clips[other]))
            n_pairs = len(left) * len(right) - len(np.intersect1d(left, right))
            compared[same] += n_pairs
            compared[near] += n_pairs
            for identical, i, j in prints.duplicates(left, right):
                # A clip with segments on two sides meets another more than once.
                if frozenset((i, j)) not in seen:
                    seen.add(frozenset((i, j)))
                    add(same if identical else near, (rows[i].clip_id, rows[j].clip_id), (one, other))
    return LeakReport(protocol.name, {part: len(numbers) for part, numbers in clips.items()}, compared, findings)


def _overlapping(parts: Mapping[Part, Segments]) -> Iterator[tuple[str, tuple[Part, Part]]]:
    """Each clip of which two parts have overlapping segments, with these parts."""
    frames: dict[str, dict[Part, set[int]]] = {}
    for part, segments in parts.items():
        for clip, start, length in zip(segments.clip, segments.start, segments.length, strict=True):
            by_part = frames.setdefault(segments.rows[clip].clip_id, {})
            by_part.setdefault(part, set()).update(range(start, start + length))
    for name, by_part in frames.items():
        for one, other in itertools.combinations(by_part, 2):
            if by_part[one] & by_part[other]:
                yield name, (one, other)


@dataclasses.dataclass(frozen=True)
class _Fingerprints:
    """The digest, as a number, and a unit vector of the sound or the faces of each clip; -1: nothing to compare."""

    digests: Int[np.ndarray, "clips"]
    vectors: Float32[np.ndarray, "clips d"]
    at_least: float  # inner product of two vectors from which clips may be the same
    same: Callable[[int, int], bool]  # compares two such clips in detail

    def duplicates(self, one: Int[np.ndarray, "n"], other: Int[np.ndarray, "m"]) -> Iterator[tuple[bool, int, int]]:
        """Yield (identical, i, j) for each pair of different clips that are the same recording."""
        for first in range(0, len(one), _BLOCK):
            block = one[first : first + _BLOCK]
            identical = self.digests[block, None] == self.digests[other]
            similar = self.vectors[block] @ self.vectors[other].T >= self.at_least
            for a, b in np.argwhere(identical | similar):
                i, j = int(block[a]), int(other[b])
                if i != j and (identical[a, b] or self.same(i, j)):
                    yield bool(identical[a, b]), i, j


def _fingerprints(folder: pathlib.Path, rows: Sequence[Row]) -> dict[tuple[Kind, Kind], _Fingerprints]:
    """The fingerprints of sound and of faces, by the kinds of finding."""
    source = grain.sources.ArrayRecordDataSource(shard_paths(folder))

    @functools.lru_cache(256)
    def waveform(clip: int) -> np.ndarray:
        return decode(source[rows[clip].record]).waveform

    def same_recording(one: int, other: int) -> bool:
        return phase_correlation(waveform(one), waveform(other)) >= _PHASE_CORRELATION

    numbers = {b"": -1}
    prints = []
    for row in rows:
        record = decode(source[row.record])
        sound, faces = (numbers.setdefault(_digest(array), len(numbers)) for array in (record.waveform, record.faces))
        prints.append((sound, _envelope(record.waveform), faces, _motion(record.faces)))
    sounds, envelopes, pictures, motions = map(np.array, zip(*prints, strict=True))
    return {
        ("sound", "near sound"): _Fingerprints(sounds, envelopes, _ENVELOPE_SIMILARITY, same_recording),
        ("faces", "near faces"): _Fingerprints(pictures, motions, _FACE_SIMILARITY, lambda one, other: True),
    }


def _digest(array: np.ndarray) -> bytes:
    """A digest of the values; empty for empty or constant arrays."""
    constant = not array.size or array.min() == array.max()
    return b"" if constant else hashlib.blake2b(array.tobytes(), digest_size=16).digest()


def _unit(vector: np.ndarray) -> Float32[np.ndarray, "d"]:
    """Flatten and scale to length 1; a vector of zeros stays zero."""
    flat = vector.ravel().astype(np.float32)
    return flat / max(float(np.linalg.norm(flat)), 1e-6)


def _envelope(waveform: Int16[np.ndarray, "n"]) -> Float32[np.ndarray, "d"]:
    """The modulation spectrum (magnitudes) of the levels of eight bands, clipped 30 dB below the loudest.

    A level of 0 is silence or padding alike, so neither gain nor cutting changes the spectrum much.
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
    """The peak of the phase correlation over 100 to 4,000 Hz (GCC-PHAT): 1 for a recording and its shifted copy."""
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
    """The deviations of eight evenly spaced pictures, 16x16 px in grey, from their mean."""
    if not len(faces):
        return np.zeros(_PICTURES * _SIDE * _SIDE, np.float32)
    pictures = faces[np.linspace(0, len(faces) - 1, _PICTURES).round().astype(int)].mean(axis=-1, dtype=np.float32)
    step = faces.shape[1] // _SIDE
    whole = pictures[:, : step * _SIDE, : step * _SIDE]
    small = whole.reshape(_PICTURES, _SIDE, step, _SIDE, step).mean(axis=(2, 4))
    return _unit(small - small.mean(axis=0))
