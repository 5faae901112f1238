"""A prepared corpus as one HTML file, for judging the preparation at a glance."""

import json
import pathlib
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import grain
import numpy as np
from jaxtyping import Bool, Float

from fusion_emotion.corpora import catalogue
from fusion_emotion.errors import UserError
from fusion_emotion.evaluate.answers import hashed
from fusion_emotion.input.batches import cut
from fusion_emotion.input.segments import Cutting, segments_of
from fusion_emotion.pages import figures, page, pictures
from fusion_emotion.prepare.records import MANIFEST, Record, decode, read_rows, shard_paths
from fusion_emotion.units import FRAME_RATE_HZ, SAMPLE_RATE_HZ

RANDOM_STRIPS, WORST_STRIPS, SOUNDS = 24, 12, 6  # clips of a sheet
FACES = 5  # consecutive faces shown of a clip: one second
APART_S = 0.5  # largest difference in length of a clip's picture and sound that rounding may explain

_GROUPS = ("corpus", "emotion", "speaker", "sex", "intensity", "channel", "modality")
_COLUMNS = (
    *("clip_id", "status", "reason", "record", "n_frames", "n_samples"),
    *("found_share", "jitter", "peak", "rms_dbfs", *_GROUPS),
)

Columns = dict[str, np.ndarray]  # the manifest's fields by name, one element for each clip


class Measure(NamedTuple):
    """One number for each clip of the manifest."""

    title: str
    unit: str
    decimals: int
    span: tuple[float | None, float | None]  # of the histogram; None is the end of the values
    values: Float[np.ndarray, "clips"]  # in `unit`; nan where a clip has none

    @property
    def known(self) -> Float[np.ndarray, "known"]:
        """The values of the clips that have one."""
        return self.values[~np.isnan(self.values)]

    def quantile(self, share: float) -> str:
        """Format a quantile of the known values."""
        return f"{np.quantile(self.known, share):.{self.decimals}f}".replace("-", "−")


def write_prepared(folder: pathlib.Path, path: pathlib.Path) -> None:
    """Write a page on the corpus prepared in `folder` to `path`, all or nothing.

    The manifest is read once, a line at a time; of the records only those that are shown. Raises UserError if the
    folder holds no prepared corpus or `path` cannot be written.
    """
    try:
        clips, n_segments = _read(folder / MANIFEST)
        settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} holds no readable {MANIFEST} and settings.json: delete the folder and prepare again"
        ) from error
    records = grain.sources.ArrayRecordDataSource(shard_paths(folder)) if (clips["record"] >= 0).any() else []

    def record(clip: int) -> Record:
        return decode(records[int(clips["record"][clip])])

    names = list(dict.fromkeys(clips["corpus"]))
    corpus = catalogue.joined(names) if names and set(names) <= set(catalogue.MODULES) else None
    label_names = corpus.label_names if corpus else ()
    usable = clips["status"] == "ok"
    every = measure(clips)
    measures = {name: each for name, each in every.items() if len(each.known)}
    page.write(
        path,
        "prepared.html",
        corpus_title=corpus.title if corpus else folder.name,
        folder=folder.name,
        notes=notes(clips, label_names),
        n_clips=len(usable),
        n_usable=int(usable.sum()),
        n_segments=n_segments,
        n_frames=int(clips["n_frames"].sum()),
        found_share=_found_share(clips, usable),
        playing_time=page.duration(float(np.nansum(every["seconds"].values))),
        measures=measures,
        histograms={
            name: figures.svg_uri(figures.histogram(each.known, xlabel=f"{each.title} ({each.unit})", span=each.span))
            for name, each in measures.items()
        },
        reasons=reasons(clips),
        **_sheets(clips, record),
        groups={
            field: groups(clips, measures, field, label_names)
            for field in _GROUPS
            if field != "corpus" or len(names) > 1
        },
        settings=list(page.leaves(settings)),
        credit=corpus.credit if corpus else "",
    )


def _read(manifest: pathlib.Path) -> tuple[Columns, int]:
    """The columns of a manifest, with two lengths in seconds, and the number of segments of the usable clips."""
    columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    n_segments, one_second = 0, Cutting()
    for row in read_rows(manifest):
        for name, values in columns.items():
            values.append(getattr(row, name))
        n_segments += len(segments_of([row], one_second)) if row.status == "ok" else 0
    strings = {name for name, values in columns.items() if values and isinstance(values[0], str)}
    clips = {name: np.array(values, object if name in strings else None) for name, values in columns.items()}
    clips["picture_s"] = clips["n_frames"] / FRAME_RATE_HZ
    clips["sound_s"] = clips["n_samples"] / SAMPLE_RATE_HZ
    return clips, n_segments


def measure(clips: Columns) -> dict[str, Measure]:
    """The measures by name; a clip without a picture has none of its face, one without sound none of its sound."""
    seen, heard = clips["n_frames"] > 0, clips["n_samples"] > 0
    seconds = np.where(heard, clips["sound_s"], clips["picture_s"])
    found, jitter = np.where(seen, [100 * clips["found_share"], 100 * clips["jitter"]], np.nan)
    loudness, peak = np.where(heard, [clips["rms_dbfs"], 100 * clips["peak"]], np.nan)
    return {
        "found": Measure("face found", "% of the frames", 1, (0, 100), found),
        "jitter": Measure("box jitter", "% of face width", 2, (0, None), jitter),
        "seconds": Measure("length", "s", 1, (0, None), np.where(seen | heard, seconds, np.nan)),
        "loudness": Measure("loudness", "dBFS", 1, (None, None), loudness),
        "peak": Measure("peak", "% of full scale", 1, (0, 100), peak),
    }


def notes(clips: Columns, label_names: Sequence[str]) -> list[str]:
    """Sentences on what a person should check; `label_names` are the corpus's, if known."""
    usable = clips["status"] == "ok"
    seen, heard = clips["n_frames"] > 0, clips["n_samples"] > 0
    is_still = (clips["n_frames"] == 1) & ~heard
    counted = (
        (~usable, "quarantined, and so in no part of a run (reasons below)"),
        (usable & (clips["reason"] != ""), "usable, but without a face or without sound (reasons below)"),
        (
            seen & heard & (abs(clips["picture_s"] - clips["sound_s"]) > APART_S),
            f"picture and sound differ in length by over {APART_S} s",
        ),
        (usable & ~is_still & (np.maximum(clips["picture_s"], clips["sound_s"]) < 1), "shorter than 1 s"),
        (clips["peak"] >= 1, "the sound reaches full scale, and so may be clipped"),
    )
    lines = [f"{count:,} of {len(usable):,} clips: {text}." for where, text in counted if (count := int(where.sum()))]
    missing = [name for name in label_names if name not in clips["emotion"][usable]]
    return lines + ([f"No usable clip is {', '.join(missing)}."] if missing else [])


def reasons(clips: Columns) -> list[dict[str, Any]]:
    """The reasons for quarantine and for missing parts, the most frequent first, each with up to four of its clips."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for clip in np.flatnonzero(clips["reason"] != ""):
        # Reasons that differ only in a percentage count as one.
        key = (clips["status"][clip], re.sub(r"\d+(?=%)", "…", clips["reason"][clip]))
        by_reason.setdefault(key, []).append(clips["clip_id"][clip])
    return [
        {"status": status, "reason": reason, "count": len(named), "clips": named[:4]}
        for (status, reason), named in sorted(by_reason.items(), key=lambda item: -len(item[1]))
    ]


def groups(
    clips: Columns, measures: dict[str, Measure], field: str, label_names: Sequence[str]
) -> list[dict[str, Any]]:
    """The counts and the medians of the measures for each value of a field; emotions in the order of `label_names`."""
    rank = {name: label for label, name in enumerate(label_names if field == "emotion" else ())}
    usable = clips["status"] == "ok"
    rows = []
    for value in sorted(set(clips[field]), key=lambda value: (rank.get(value, len(rank)), value)):
        of = clips[field] == value
        known = {name: values for name, each in measures.items() if not np.isnan(values := each.values[of]).all()}
        rows.append(
            {
                "value": value or "not known",
                "total": int(of.sum()),
                "usable": int((of & usable).sum()),
                "quarantined": int((of & ~usable).sum()),
                "found_share": _found_share(clips, of),
                "medians": {name: np.nanmedian(values) for name, values in known.items()},
            }
        )
    return rows


def _found_share(clips: Columns, of: Bool[np.ndarray, "clips"]) -> float | None:
    """The fraction of the sampled frames of some clips at which a face was found; None without frames."""
    frames = clips["n_frames"][of]
    return float((clips["found_share"][of] * frames).sum() / frames.sum()) if frames.any() else None


def _sheets(clips: Columns, record: Callable[[int], Record]) -> dict[str, list[dict[str, Any]]]:
    """The contact sheets of faces and of sounds; those without a clip are left out."""

    def first(of: np.ndarray, order: list[bytes] | np.ndarray, count: int) -> list[int]:
        return sorted(of.tolist(), key=lambda clip: order[clip])[:count]

    seen, heard = np.flatnonzero(clips["n_frames"]), np.flatnonzero(clips["n_samples"])
    found, jitter, loudness = clips["found_share"], clips["jitter"], clips["rms_dbfs"]
    gaps = seen[found[seen] < 1]
    hashes = [hashed(str(clip_id)) for clip_id in clips["clip_id"]]
    by_hash = "Chosen by the hash of the clip's name"
    by_middle = f"{by_hash}; the five faces in the middle of each."
    by_gaps = "Where no face was found, the crop is the nearest one. The five faces with the most gaps."
    by_jerk = "The five faces around the clip's largest jerk."
    # By kind: the title of a sheet, how its clips were chosen, the clips, and what is shown of each.
    sheets: dict[str, list[tuple[str, str, list[int], Callable[..., dict[str, Any]]]]] = {
        "strips": [
            ("Random clips", by_middle, first(seen, hashes, RANDOM_STRIPS), partial(_strip, choose=middle)),
            ("Fewest faces found", by_gaps, first(gaps, found, WORST_STRIPS), partial(_strip, choose=fewest_found)),
            ("Most box jitter", by_jerk, first(seen, -jitter, WORST_STRIPS), partial(_strip, choose=largest_jerk)),
        ],
        "sounds": [
            ("Random clips", f"{by_hash}.", first(heard, hashes, SOUNDS), _sound),
            ("Quietest clips", "", first(heard, loudness, SOUNDS), _sound),
            ("Loudest clips", "", first(heard, -loudness, SOUNDS), _sound),
        ],
    }
    return {
        kind: [
            {"title": title, "chosen": chosen, "shots": [shot(clips, clip, record(clip)) for clip in of]}
            for title, chosen, of, shot in rows
            if of
        ]
        for kind, rows in sheets.items()
    }


def middle(record: Record) -> int:
    """The first of the `FACES` frames in the middle of a clip."""
    return max(0, len(record.faces) - FACES) // 2


def fewest_found(record: Record) -> int:
    """The first start, in frames, of the `FACES` consecutive frames with the fewest found faces."""
    found = np.convolve(record.face_found, np.ones(min(FACES, len(record.face_found)), int), mode="valid")
    return int(found.argmin())


def largest_jerk(record: Record) -> int:
    """The start, in frames, of the `FACES` frames around the largest second difference of the crop's centre."""
    found = np.flatnonzero(record.face_found)
    if len(found) < 3:
        return 0
    centre = (record.box[found, :2] + record.box[found, 2:]) / 2
    middle = found[1 + np.hypot(*np.diff(centre, n=2, axis=0).T).argmax()]
    return int(np.clip(middle - FACES // 2, 0, max(0, len(record.faces) - FACES)))


def marks(found: Bool[np.ndarray, "T"], start: int) -> list[str]:
    """The fault of each of `FACES` faces from frame `start` on, or ""."""
    shown = found[start : start + FACES]
    return ["" if face_found else "no face" for face_found in shown] + ["past the end"] * (FACES - len(shown))


def _strip(clips: Columns, clip: int, record: Record, choose: Callable[[Record], int]) -> dict[str, Any]:
    start = choose(record)
    start_s = start / FRAME_RATE_HZ
    side_px = np.median(record.box[:, 2] - record.box[:, 0])
    return {
        "clip_id": record.clip_id,
        "emotion": record.emotion,
        "facts": f"found {100 * clips['found_share'][clip]:.0f} %, jitter {100 * clips['jitter'][clip]:.2f} %",
        "where": f"{side_px:.0f} px, from {start_s:.1f} s",
        "picture": pictures.strip_uri(cut(record, start, FACES, pad_to=FACES)["faces"]),
        "alt": f"Five face crops of clip {record.clip_id} from {start_s:.1f} s",
        "sound": None,
        "marks": marks(record.face_found, start),
    }


def _sound(clips: Columns, clip: int, record: Record) -> dict[str, Any]:
    shown = record.waveform[: 10 * SAMPLE_RATE_HZ]
    return {
        "clip_id": record.clip_id,
        "emotion": record.emotion,
        "facts": f"{clips['rms_dbfs'][clip]:.1f} dBFS, peak {100 * clips['peak'][clip]:.1f} %".replace("-", "−"),
        "where": f"{len(record.waveform) / SAMPLE_RATE_HZ:.1f} s",
        "picture": pictures.jpeg_uri(pictures.sound(shown)),
        "alt": f"Waveform and spectrogram of clip {record.clip_id}",
        "sound": pictures.wav_uri(shown),
        "marks": [],
    }
