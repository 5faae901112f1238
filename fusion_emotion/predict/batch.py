"""Prediction of many recordings into one folder; what was interrupted goes on."""

import csv
import datetime
import glob
import hashlib
import itertools
import json
import math
import os
import pathlib
import signal
from collections.abc import Mapping
from typing import Any

from fusion_emotion.corpora.clip import FILM_SUFFIXES, PICTURE_SUFFIXES, SOUND_SUFFIXES
from fusion_emotion.errors import Stopped, UserError
from fusion_emotion.evaluate.table import table
from fusion_emotion.files import is_utf8
from fusion_emotion.locks import held
from fusion_emotion.predict import outputs
from fusion_emotion.predict.journal import Journal
from fusion_emotion.predict.live import is_live
from fusion_emotion.predict.outputs import save, write_index
from fusion_emotion.predict.prediction import STEP_S
from fusion_emotion.predict.reader import duration_s
from fusion_emotion.predict.recognizer import Progress, Recognizer
from fusion_emotion.prepare.media_errors import MediaError
from fusion_emotion.progress import bar
from fusion_emotion.units import FRAME_RATE_HZ

_SUFFIXES = (*FILM_SUFFIXES, *SOUND_SUFFIXES, *PICTURE_SUFFIXES)
_LOCK = ".lock"


def recordings(given: str, output: pathlib.Path) -> dict[str, pathlib.PurePath]:
    """Return the recordings that `given` names, and for each the place of its files below the output folder.

    `given` is a file, a folder, a pattern such as "talks/*.mp4", or an address. Files within `output` are left out, and
    two recordings never share a place. Raises UserError if there is none.
    """
    if "://" in given or is_live(given):
        name = pathlib.PurePosixPath(given.split("?")[0]).stem.strip(".") or "stream"
        return {given: pathlib.PurePath(_plain(name))}
    path = pathlib.Path(given).expanduser()
    if path.is_file():
        found, root = [path], path.parent
    elif path.is_dir():
        found, root = [each for each in path.rglob("*") if each.suffix.lower() in _SUFFIXES], path
    elif glob.has_magic(given):
        found = [pathlib.Path(each) for each in glob.glob(str(path), recursive=True) if os.path.isfile(each)]
        found = [each for each in found if each.suffix.lower() in _SUFFIXES]
        # A pattern with ".." may name a file twice.
        found = list({os.path.abspath(each): each for each in found}.values())
        root = pathlib.Path(os.path.commonpath([os.path.abspath(each.parent) for each in found])) if found else path
    else:
        raise UserError(f"--input={given} is no file, folder or address, and no pattern: give one that exists")
    inside = output.resolve()
    found = sorted(each for each in found if path.is_file() or not each.resolve().is_relative_to(inside))
    if not found:
        raise UserError(f"--input={given} holds no recording: expected files with {' '.join(_SUFFIXES)}")
    places = [pathlib.Path(os.path.relpath(each, root)).with_suffix("") for each in found]
    shared = {place for place in places if places.count(place) > 1} if len(set(places)) < len(places) else set()
    taken, result = set(places) - shared, dict[str, pathlib.PurePath]()
    for each, place in zip(found, places, strict=True):
        if place in shared:
            named = place.with_name(f"{place.name}_{each.suffix[1:]}")
            numbered = (named.with_name(f"{named.name}_{number}") for number in itertools.count(2))
            place = next(name for name in itertools.chain([named], numbered) if name not in taken)
        taken.add(place)
        result[str(each)] = place
    return result


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)


def predict(recognizer: Recognizer, given: str, output: pathlib.Path) -> None:
    """Judge recordings, write their files and print a table. Raises UserError at the end if any failed."""
    if is_live(given):
        _follow(recognizer, given, output)
        return
    wanted = recordings(given, output)
    busy = f"{output} is in use by another prediction, process {{process}}: wait for it, or choose another --output"
    try:
        with held(output / _LOCK, busy):
            failed = _all(recognizer, wanted, output)
    except OSError as error:
        raise UserError(f"--output={output} cannot be written ({error.strerror}): choose another folder") from error
    if failed:
        raise UserError(f"{len(failed)} of {len(wanted)} recordings could not be read, see above: mend or remove them")


def _follow(recognizer: Recognizer, given: str, output: pathlib.Path) -> None:
    """Print what is said of a camera or a stream, once a second, and write each moment, until it ends or Ctrl-C."""
    began = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    path, n_told = output / f"{_plain(given)}-{began}.csv", 0
    names = [f"box_{name}" for name in "xywh"]
    try:
        output.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            head = ["start", "end", "person", "modalities", *names, "speech", *recognizer.label_names]
            rows.writerow([*head, "label", "confidence", "lag_s"])
            print(f"writing {path}; Ctrl-C ends it", flush=True)
            for n_told, told in enumerate(recognizer.stream(given), start=1):
                box = [round(x, 1) for x in told.box] if told.box else [""] * 4
                shares = ["" if math.isnan(share) else round(share, 5) for share in told.probabilities.values()]
                sure = round(told.confidence, 5) if told.label else ""
                where = [told.start, told.end, told.person, told.modalities, *box, round(told.speech, 3)]
                rows.writerow([*where, *shares, told.label, sure, round(told.lag_s, 3)])
                file.flush()
                if n_told % FRAME_RATE_HZ == 1:
                    words = f"{told.end:7.1f} s  {told.person:<8} {told.modalities:<12} {told.label:<10} {sure}"
                    print(f"{words}  lag {told.lag_s:.2f} s", flush=True)
    except KeyboardInterrupt:
        pass
    except UserError as error:
        if n_told:
            raise UserError(f"{error}; what was judged before is in {path}") from error
        path.unlink(missing_ok=True)
        raise
    except OSError as error:
        raise UserError(f"--output={output} cannot be written ({error.strerror}): choose another folder") from error
    print(f"written {path}")


def _all(recognizer: Recognizer, wanted: Mapping[str, pathlib.PurePath], output: pathlib.Path) -> dict[str, str]:
    """Judge each recording and print what came of it; return the reason of each that failed."""
    lines: list[list[str]] = []
    failed: dict[str, str] = {}
    lengths = {source: duration_s(source) for source in wanted}
    total_s = 0.0
    with bar(total=round(sum(lengths.values())), desc="predicting", unit="s of film") as shown:
        for source, place in wanted.items():

            def progress(steps: int, before_s: float = total_s) -> None:
                shown.update(round(before_s + steps * STEP_S) - shown.n)

            try:
                lines.append(_one(recognizer, source, output / place, progress))
            except KeyboardInterrupt as error:
                done = f"{len(lines)} of {len(wanted)} recordings are finished"
                kept = f"of {source} what was judged is kept in {output}; the same command goes on"
                raise Stopped(f"Ctrl-C: {done}, and {kept}", signal_number=signal.SIGINT) from error
            except Exception as error:  # also of a library: one recording never ends the others
                kind = "" if isinstance(error, MediaError | UserError) else f"{type(error).__name__}: "
                failed[source] = kind + " ".join(str(error).split())
            total_s += lengths[source]
            progress(0, total_s)
    jsons = {source: output / f"{place}.json" for source, place in wanted.items() if source not in failed}
    if len(jsons) > 1 and {"html", "json"} <= set(recognizer.settings["formats"]):
        print(f"index: {write_index(output, jsons)}")
    if lines:
        print(table(["recording", "length", "expression", "confidence", "read by"], lines))
    for source, reason in failed.items():
        print(f"failed: {source}: {reason}")
    print(f"predictions in {output}")
    return failed


def _one(recognizer: Recognizer, source: str, place: pathlib.Path, progress: Progress) -> list[str]:
    """Judge one recording, unless its files say that it was done before; return its line of the table."""
    formats = recognizer.settings["formats"]
    if not is_utf8(source):
        raise MediaError("its path is not in UTF-8: rename it")
    key = recognizer.key(source)
    digest = hashlib.sha256(json.dumps([key, recognizer.settings], sort_keys=True).encode()).hexdigest()[:16]
    done = place.with_name(f"{'' if 'json' in formats else '.'}{place.name}.json")
    # What an address gives may have changed since.
    if (described := _read(done)).get("key") != digest or "://" in source:
        journal = Journal(place.with_name(f".{place.name}.rows"), key)
        try:
            prediction = recognizer.predict(source, kept=journal, progress=progress)
        finally:
            journal.close()
        save(prediction, place.parent, formats, name=place.name, key=digest)
        if "json" not in formats:  # remember what is done all the same
            save(prediction, place.parent, ("json",), name=f".{place.name}", key=digest)
        journal.path.unlink()
        described = outputs.described(prediction)
    heard = dict.fromkeys(described["timeline"]["modalities"])
    sure = "" if described["confidence"] is None else f"{described['confidence']:.0%}"
    length = f"{described['source']['read_s']:.1f} s"
    file = pathlib.PurePath(source).name
    return [file if file.isprintable() else ascii(file), length, described["label"], sure, " ".join(heard)]


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
