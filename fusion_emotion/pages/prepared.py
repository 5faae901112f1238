"""A prepared corpus to one HTML file, so that a person sees in a minute whether the preparation is good."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import grain
import numpy as np
from jaxtyping import Bool, Float, Int

from fusion_emotion import corpora
from fusion_emotion.errors import UserError
from fusion_emotion.input.batches import cut
from fusion_emotion.input.segments import windows_of
from fusion_emotion.pages import figures, page, pictures
from fusion_emotion.prepare.records import MANIFEST, Record, decode, read_rows, shard_paths
from fusion_emotion.units import FRAME_RATE_HZ, SAMPLE_RATE_HZ

RANDOM_STRIPS, WORST_STRIPS, SOUNDS = 24, 12, 6  # clips of a sheet
LONGEST_SOUND_S = 10  # of what a sheet shows of a clip's sound
APART_S = 0.5  # by how much the picture and the sound of a clip may differ in length: more than rounding explains
NAMED_CLIPS = 4  # of those that share a reason

_GROUPS = ("emotion", "speaker", "sex", "intensity", "channel", "modality")
_COLUMNS = (
    *("clip_id", "label", "status", "reason", "record", "n_frames", "n_samples"),
    *("found_share", "jitter", "peak", "rms_dbfs", *_GROUPS),
)
# Reasons that differ only in how large a share was are one.
_SHARE = re.compile(r"\d+(?=%)")

Columns = dict[str, np.ndarray]  # by the names of the manifest's fields, one element a clip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measure:
    """A number that the manifest has of each clip."""

    title: str
    unit: str
    values: Float[np.ndarray, "clips"]  # in `unit`; nan where a clip has none
    decimals: int
    span: tuple[float | None, float | None]  # of the histogram; None: where the values end

    @property
    def known(self) -> Float[np.ndarray, "known"]:
        """The values of the clips that have one."""
        return _known(self.values)

    def quantile(self, share: float) -> str:
        """A quantile of the known values, as it is written."""
        return f"{np.quantile(self.known, share):.{self.decimals}f}".replace("-", "−")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shot:
    """One clip on a contact sheet."""

    clip_id: str
    emotion: str
    facts: str
    where: str
    picture: str  # data URI
    alt: str
    marks: Sequence[str] = ()  # of each of the five faces: what is wrong with it, or ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sheet:
    """A contact sheet and how its clips were chosen."""

    title: str
    chosen: str
    shots: Sequence[Shot]


def write_prepared(folder: pathlib.Path, path: pathlib.Path) -> None:
    """Write what came of the corpus prepared in `folder` to `path`, whole or not at all.

    The manifest is read once, a line at a time, and of the records only those that are shown. Raises UserError where
    the folder holds no prepared corpus or `path` cannot be written.
    """
    try:
        clips, n_windows = _read(folder / MANIFEST)
        settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} holds no readable {MANIFEST} and settings.json: delete the folder and prepare again"
        ) from error
    records = grain.sources.ArrayRecordDataSource(shard_paths(folder)) if (clips["record"] >= 0).any() else []

    def record(clip: int) -> Record:
        return decode(records[int(clips["record"][clip])])

    ok = clips["status"] == "ok"
    corpus = record(int(ok.argmax())).corpus if ok.any() else ""
    every = measure(clips)
    measures = {name: each for name, each in every.items() if len(each.known)}
    values = {
        "corpus_title": page.CORPUS_TITLES.get(corpus, corpus or folder.name),
        "folder": folder.name,
        "notes": notes(clips, corpora.label_names(corpus) if corpus in corpora.CORPORA else ()),
        "n_clips": len(ok),
        "n_usable": int(ok.sum()),
        "n_windows": n_windows,
        "n_frames": int(clips["n_frames"].sum()),
        "found_share": _found_share(clips, ok),
        "playing_time": page.duration(float(np.nansum(every["seconds"].values))),
        "measures": measures,
        "histograms": {
            name: figures.svg_uri(figures.histogram(each.known, xlabel=f"{each.title} ({each.unit})", span=each.span))
            for name, each in measures.items()
        },
        "reasons": reasons(clips),
        "strips": _strip_sheets(clips, record),
        "sounds": _sound_sheets(clips, record),
        "groups": {field: groups(clips, measures, field) for field in _GROUPS},
        "settings": list(page.leaves(settings)),
        "credit": page.CREDITS.get(corpus, ""),
    }
    try:
        page.write(path, "prepared.html", **values)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): make room, or the folder writable") from error


def _read(manifest: pathlib.Path) -> tuple[Columns, int]:
    """The columns of a manifest that are used, with two of seconds, and how many windows the usable clips have."""
    columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    n_windows = 0
    for row in read_rows(manifest):
        for name, values in columns.items():
            values.append(getattr(row, name))
        n_windows += len(windows_of([row])) if row.status == "ok" else 0
    strings = {name for name, values in columns.items() if values and isinstance(values[0], str)}
    clips = {name: np.array(values, object if name in strings else None) for name, values in columns.items()}
    clips["picture_s"] = clips["n_frames"] / FRAME_RATE_HZ
    clips["sound_s"] = clips["n_samples"] / SAMPLE_RATE_HZ
    return clips, n_windows


def measure(clips: Columns) -> dict[str, Measure]:
    """The measures of the clips; those of the face where there is a picture, of the sound where there is sound."""
    seen, heard = clips["n_frames"] > 0, clips["n_samples"] > 0
    seconds = np.where(heard, clips["sound_s"], clips["picture_s"])

    def of(there: np.ndarray, values: np.ndarray, **others: Any) -> Measure:
        return Measure(values=np.where(there, values, np.nan), **others)

    return {
        "found": of(
            seen,
            100 * clips["found_share"],
            title="face found",
            unit="% of the frames",
            decimals=1,
            span=(0, 100),
        ),
        "jitter": of(
            seen, 100 * clips["jitter"], title="box jitter", unit="% of face width", decimals=2, span=(0, None)
        ),
        "seconds": of(seen | heard, seconds, title="length", unit="s", decimals=1, span=(0, None)),
        "loudness": of(heard, clips["rms_dbfs"], title="loudness", unit="dBFS", decimals=1, span=(None, None)),
        "peak": of(heard, 100 * clips["peak"], title="peak", unit="% of full scale", decimals=1, span=(0, 100)),
    }


def notes(clips: Columns, label_names: Sequence[str]) -> list[str]:
    """What a person should look at; empty where nothing stands out. `label_names` are the corpus's, where known."""
    ok = clips["status"] == "ok"
    seen, heard = clips["n_frames"] > 0, clips["n_samples"] > 0
    missing = [name for label, name in enumerate(label_names) if not (ok & (clips["label"] == label)).any()]
    counted = (
        (~ok, "quarantined, and so in no part of a run (reasons below)"),
        (ok & (clips["reason"] != ""), "usable, but without a face or without sound (reasons below)"),
        (
            seen & heard & (abs(clips["picture_s"] - clips["sound_s"]) > APART_S),
            f"picture and sound differ in length by over {APART_S} s",
        ),
        (
            ok & (np.maximum(clips["picture_s"], clips["sound_s"]) < 1),
            "shorter than a window of 1 s, so the last face and silence fill it",
        ),
        (clips["peak"] >= 1, "the sound reaches full scale, and so may be clipped"),
    )
    said = [f"{count:,} of {len(ok):,} clips: {what}." for where, what in counted if (count := int(where.sum()))]
    return said + ([f"No usable clip is {', '.join(missing)}."] if missing else [])


def reasons(clips: Columns) -> list[dict[str, Any]]:
    """Why clips are quarantined or what usable ones lack, the most frequent first, with some of the clips."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for clip in np.flatnonzero(clips["reason"] != ""):
        key = (clips["status"][clip], _SHARE.sub("…", clips["reason"][clip]))
        by_reason.setdefault(key, []).append(clips["clip_id"][clip])
    return [
        {"status": status, "reason": reason, "count": len(named), "clips": named[:NAMED_CLIPS]}
        for (status, reason), named in sorted(by_reason.items(), key=lambda item: -len(item[1]))
    ]


def groups(clips: Columns, measures: dict[str, Measure], field: str) -> list[dict[str, Any]]:
    """For each value of a field of the manifest its counts and the medians of the measures; emotions by their label."""
    values = sorted(set(clips[field]))
    if field == "emotion":
        values.sort(key=lambda value: clips["label"][clips[field] == value].min())
    ok = clips["status"] == "ok"
    found = []
    for value in values:
        of = clips[field] == value
        medians = {name: np.median(known) for name, each in measures.items() if len(known := _known(each.values[of]))}
        found.append(
            {
                "value": value or "not known",
                "total": int(of.sum()),
                "usable": int((of & ok).sum()),
                "quarantined": int((of & ~ok).sum()),
                "found_share": _found_share(clips, of),
                "medians": medians,
            }
        )
    return found


def _known(values: np.ndarray) -> np.ndarray:
    return values[~np.isnan(values)]


def _found_share(clips: Columns, of: Bool[np.ndarray, "clips"]) -> float | None:
    """The share of the sampled frames of some clips at which a face was found; None without frames."""
    frames = clips["n_frames"][of]
    return float((clips["found_share"][of] * frames).sum() / frames.sum()) if frames.any() else None


def _strip_sheets(clips: Columns, record: Callable[[int], Record]) -> list[Sheet]:
    seen = np.flatnonzero(clips["n_frames"])
    gaps = seen[clips["found_share"][seen] < 1]

    def sheet(title: str, chosen: str, of: Sequence[int], start: Callable[[Record], int]) -> Sheet:
        return Sheet(title=title, chosen=chosen, shots=[_strip(clips, clip, record(clip), start) for clip in of])

    sheets = [
        sheet(
            "Random clips",
            "The hash of a clip's name chooses it; the window is its middle one.",
            _random(clips, seen, RANDOM_STRIPS),
            lambda record: max(0, len(record.faces) - FRAME_RATE_HZ) // 2,
        ),
        sheet(
            "Fewest faces found",
            "Where there was no face, the crop is the nearest found one. The window is the clip's poorest.",
            _worst(gaps, -clips["found_share"][gaps], WORST_STRIPS),
            fewest_found,
        ),
        sheet(
            "Most box jitter",
            "The window is the one around the clip's largest jerk.",
            _worst(seen, clips["jitter"][seen], WORST_STRIPS),
            largest_jerk,
        ),
    ]
    return [sheet for sheet in sheets if sheet.shots]


def _sound_sheets(clips: Columns, record: Callable[[int], Record]) -> list[Sheet]:
    heard = np.flatnonzero(clips["n_samples"])
    loudness = clips["rms_dbfs"][heard]
    chosen = (
        ("Random clips", "The hash of a clip's name chooses it.", _random(clips, heard, SOUNDS)),
        ("Quietest clips", "", _worst(heard, -loudness, SOUNDS)),
        ("Loudest clips", "", _worst(heard, loudness, SOUNDS)),
    )
    return [
        Sheet(title=title, chosen=how, shots=[_sound(clips, clip, record(clip)) for clip in of])
        for title, how, of in chosen
        if of
    ]


def _random(clips: Columns, among: Int[np.ndarray, "n"], count: int) -> list[int]:
    return sorted(among.tolist(), key=lambda clip: page.hashed(str(clips["clip_id"][clip])))[:count]


def _worst(among: Int[np.ndarray, "n"], badness: Float[np.ndarray, "n"], count: int) -> list[int]:
    return among[np.argsort(-badness, kind="stable")[:count]].tolist()


def fewest_found(record: Record) -> int:
    """The first start of the window with the fewest found faces, in sample times."""
    found = np.convolve(record.face_found, np.ones(min(FRAME_RATE_HZ, len(record.face_found)), int), mode="valid")
    return int(found.argmin())


def largest_jerk(record: Record) -> int:
    """The start of the window around the largest second difference of the crop's centre, in sample times."""
    there = np.flatnonzero(record.face_found)
    if len(there) < 3:
        return 0
    centre = (record.box[there, :2] + record.box[there, 2:]) / 2
    middle = there[1 + np.hypot(*np.diff(centre, n=2, axis=0).T).argmax()]
    return int(np.clip(middle - FRAME_RATE_HZ // 2, 0, max(0, len(record.faces) - FRAME_RATE_HZ)))


def marks(found: Bool[np.ndarray, "T"], start: int) -> list[str]:
    """What is wrong with each face of the window that starts at sample time `start`, or ""."""
    window = found[start : start + FRAME_RATE_HZ]
    return ["" if there else "no face" for there in window] + ["past the end"] * (FRAME_RATE_HZ - len(window))


def _strip(clips: Columns, clip: int, record: Record, choose: Callable[[Record], int]) -> Shot:
    start = choose(record)
    start_s = start / FRAME_RATE_HZ
    side_px = np.median(record.box[:, 2] - record.box[:, 0])
    return Shot(
        clip_id=record.clip_id,
        emotion=clips["emotion"][clip],
        facts=f"found {100 * clips['found_share'][clip]:.0f} %, jitter {100 * clips['jitter'][clip]:.2f} %",
        where=f"{side_px:.0f} px, from {start_s:.1f} s",
        picture=pictures.strip_uri(cut(record, start)["strip"]),
        alt=f"Five face crops of clip {record.clip_id} from {start_s:.1f} s to {start_s + 1:.1f} s",
        marks=marks(record.face_found, start),
    )


def _sound(clips: Columns, clip: int, record: Record) -> Shot:
    return Shot(
        clip_id=record.clip_id,
        emotion=clips["emotion"][clip],
        facts=f"{clips['rms_dbfs'][clip]:.1f} dBFS, peak {100 * clips['peak'][clip]:.1f} %".replace("-", "−"),
        where=f"{len(record.waveform) / SAMPLE_RATE_HZ:.1f} s",
        picture=pictures.jpeg_uri(pictures.sound(record.waveform[: LONGEST_SOUND_S * SAMPLE_RATE_HZ])),
        alt=f"Waveform and spectrogram of clip {record.clip_id}",
    )
