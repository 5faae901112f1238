"""Downloads RAVDESS from Zenodo: resumed after any cut, checked by size and md5, unpacked clip by clip."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import importlib.resources
import json
import os
import pathlib
import re
import shutil
import threading
import zipfile
from collections.abc import Sequence

import tqdm

from fusion_emotion.corpora.fetch import FetchError, Patience, ask, fetch, held_bytes
from fusion_emotion.corpora.unpack import unpack
from fusion_emotion.errors import UserError, did_you_mean
from fusion_emotion.files import sync
from fusion_emotion.locks import held

RECORD = "1188976"
CHANNELS = ("speech", "song", "both")
MODALITIES = ("av", "v", "a")  # the video archives hold both av and v

_STATE = ".downloaded"  # folder of the markers and the lock
_MOST_API_BYTES = 5_000_000
_LARGEST_ARCHIVE_BYTES = 600_000_000  # the record's largest has 596 MB
_MOST_ARCHIVE_BYTES = 2_000_000_000  # whatever the server says
# Unpacked size over archive size, rounded up: 1,440 wavs of 3.7 s at 96 kB/s come in 208 MB
_EXPANSION = {"Audio": 3.0, "Video": 1.05}
_PATIENCE = Patience()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Archive:
    """A zip file of the record; `size_bytes` and `md5` are None where neither API nor table has them."""

    name: str
    url: str
    size_bytes: int | None
    md5: str | None


def plan(
    *, base_url: str, channel: str, modality: str, actors: Sequence[int], patience: Patience = _PATIENCE
) -> list[Archive]:
    """The archives that hold the clips of `channel`, `modality` and `actors`, as the record's API has them.

    Where the API does not answer, or not with the record, the packaged table is used, and a line says so.
    The audio archives hold all actors. Raises UserError for an argument that is none of the valid ones.
    """
    if not re.match(r"https?://", base_url):
        raise UserError(f"base_url={base_url!r}: expected a URL that begins with https://")
    base_url = base_url.rstrip("/")
    names = _archive_names(channel=channel, modality=modality, actors=actors)
    # Waiting long for the API is no use: the table says the same
    patience = dataclasses.replace(patience, attempts=min(patience.attempts, 4))
    record = f"{base_url}/api/records/{RECORD}"
    try:
        listed = ask(record, functools.partial(_described, names), most_bytes=_MOST_API_BYTES, patience=patience)
    except FetchError as error:
        print(f"{base_url}: no use of the record's API ({error}): names and checksums are the packaged table's")
        listed = _table(base_url)
    return [listed[name] for name in names]


def download(
    root: pathlib.Path,
    *,
    base_url: str = "https://zenodo.org",
    channel: str = "speech",
    modality: str = "av",
    actors: Sequence[int] = range(1, 25),
    keep_archives: bool = False,
    connections: int = 3,
    patience: Patience = _PATIENCE,
) -> None:
    """Fetches the archives of `plan` and unpacks their clips into `root/Actor_XX/`.

    What is there is left alone: an archive whose marker and clips are in place costs no request. A download
    that was cut or killed goes on from its `.zip.part`. An archive that lies in `root` already, put there by
    hand or kept, is used if its checksum is right. Without `keep_archives` an archive goes once unpacked.

    Raises UserError for a full disk, a second download into `root`, and an archive that cannot be had whole.
    """
    names = _archive_names(channel=channel, modality=modality, actors=actors)
    try:
        (root / _STATE).mkdir(parents=True, exist_ok=True)
        busy = f"{root}: process {{process}} is downloading into it: wait for it to end, or choose another folder"
        with held(root / _STATE / "lock", busy):
            missing = [name for name in names if not _is_installed(root, name)]
            if not missing:
                print(f"RAVDESS: all {len(names)} archives are unpacked in {root}")
                return
            planned = plan(base_url=base_url, channel=channel, modality=modality, actors=actors, patience=patience)
            archives = [archive for archive in planned if archive.name in missing]
            _fetch_all(root, archives, keep_archives=keep_archives, connections=connections, patience=patience)
    except OSError as error:
        raise UserError(
            f"{error.filename or root}: {error.strerror or error}: make room, or choose a folder you may "
            "write to, and run the same command again; what has come is kept"
        ) from error


def _archive_names(*, channel: str, modality: str, actors: Sequence[int]) -> list[str]:
    if channel not in CHANNELS:
        raise did_you_mean("channel", channel, CHANNELS)
    if modality not in MODALITIES:
        raise did_you_mean("modality", modality, MODALITIES)
    if wrong := [actor for actor in actors if actor not in range(1, 25)]:
        raise UserError(f"actors: {wrong[0]!r} is no actor of RAVDESS: expected numbers from 1 to 24")
    wanted = ["Speech", "Song"] if channel == "both" else [channel.capitalize()]
    if modality == "a":
        return [f"Audio_{kind}_Actors_01-24.zip" for kind in wanted]
    names = [
        f"Video_{kind}_Actor_{actor:02d}.zip"
        for kind in wanted
        for actor in sorted(set(actors))
        if (kind, actor) != ("Song", 18)
    ]
    if not names:
        raise UserError("actors: none left to fetch (actor 18 sang nothing): name at least one other")
    return names


def _table(base_url: str) -> dict[str, Archive]:
    text = (importlib.resources.files("fusion_emotion.corpora") / "ravdess_archives.tsv").read_text("utf-8")
    rows = [line.split("\t") for line in text.splitlines()[1:]]
    return {
        name: Archive(
            name=name,
            url=f"{base_url}/records/{RECORD}/files/{name}?download=1",
            size_bytes=int(size) if size else None,
            md5=md5 or None,
        )
        for name, size, md5 in rows
    }


def _described(names: Sequence[str], body: bytes) -> dict[str, Archive]:
    try:
        files = {file["key"]: file for file in json.loads(body)["files"]}
        return {name: _archive(files[name]) for name in names}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"its answer does not describe the record: {type(error).__name__} {error}"
        raise FetchError(reason) from error


def _archive(file: dict) -> Archive:
    url, size, checksum = file["links"]["self"], file["size"], file["checksum"]
    if not re.match("https?://", url) or not isinstance(size, int) or size <= 0:
        raise ValueError(f"{file['key']} has the link {url!r} and the size {size!r}")
    if not re.fullmatch("md5:[0-9a-f]{32}", checksum):
        raise ValueError(f"{file['key']} has the checksum {checksum!r}")
    return Archive(name=file["key"], url=url, size_bytes=size, md5=checksum.removeprefix("md5:"))


def _marker(root: pathlib.Path, name: str) -> pathlib.Path:
    return root / _STATE / f"{name}.json"


def _is_installed(root: pathlib.Path, name: str) -> bool:
    try:
        members = json.loads(_marker(root, name).read_text("utf-8"))["members"].items()
        return all((root / member).stat().st_size == size for member, size in members)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _write_marker(root: pathlib.Path, name: str, *, size_bytes: int, md5: str, members: dict[str, int]) -> None:
    marker = _marker(root, name)
    temporary = marker.with_suffix(".tmp")
    temporary.write_text(json.dumps({"size": size_bytes, "md5": md5, "members": members}, indent=1), "utf-8")
    sync(temporary)
    os.replace(temporary, marker)
    sync(marker.parent)


class _Bar:
    """One progress bar over all archives, moved from several threads, backwards too."""

    def __init__(self, *, total: int, positions: dict[str, int]) -> None:
        self._positions = positions
        self._lock = threading.Lock()
        self._bar = tqdm.tqdm(
            total=total,
            initial=sum(positions.values()),
            unit="B",
            unit_scale=True,
            desc="RAVDESS",
            disable=None,  # no bar where the output is not a terminal
        )

    def move(self, name: str, position: int) -> None:
        with self._lock:
            self._bar.update(position - self._positions[name])
            self._positions[name] = position

    def say(self, line: str) -> None:
        with self._lock:
            self._bar.write(line)

    def close(self) -> None:
        self._bar.close()


def _part(root: pathlib.Path, name: str) -> pathlib.Path:
    return root / f"{name}.part"


def _fetch_all(
    root: pathlib.Path,
    archives: Sequence[Archive],
    *,
    keep_archives: bool,
    connections: int,
    patience: Patience,
) -> None:
    for archive in archives:
        if (root / archive.name).exists():
            # Judged as a part is: taken if right, gone on from if short, fetched again if wrong
            os.replace(root / archive.name, _part(root, archive.name))
    came = {archive.name: held_bytes(_part(root, archive.name)) for archive in archives}
    sizes = {archive.name: archive.size_bytes or _LARGEST_ARCHIVE_BYTES for archive in archives}
    left = {name: max(0, size - came[name]) for name, size in sizes.items()}
    unknown = sum(archive.size_bytes is None for archive in archives)
    print(
        f"RAVDESS: {len(archives)} archives, {sum(left.values()) / 1e9:.2f} GB to fetch into {root}"
        + (f" ({unknown} of unknown size counted as {_LARGEST_ARCHIVE_BYTES / 1e9} GB)" if unknown else "")
    )
    # Archives go as they are unpacked, so only as many lie there as are fetched at once
    at_once = sorted(left.values()) if keep_archives else sorted(left.values())[-connections:]
    needed = sum(at_once) + sum(int(size * _EXPANSION[name[:5]]) for name, size in sizes.items())
    if needed > (free := shutil.disk_usage(root).free):
        raise UserError(
            f"{root}: {needed / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free: make room, choose "
            "another folder, or name fewer actors"
        )

    stop = threading.Event()
    bar = _Bar(total=sum(sizes.values()), positions=came)
    faults = []
    with contextlib.closing(bar), concurrent.futures.ThreadPoolExecutor(connections) as pool:
        try:
            futures = [
                pool.submit(_install, root, archive, keep_archive=keep_archives, patience=patience, bar=bar, stop=stop)
                for archive in archives
            ]
            for future in concurrent.futures.as_completed(futures):
                try:
                    future.result()
                except UserError as error:  # the other archives are still worth having
                    faults.append(str(error))
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            bar.say("stopping; what has come is kept, and the same command goes on from there")
            raise
    if faults:
        count = f"{len(faults)} of {len(archives)} archives failed: " if len(faults) > 1 else ""
        raise UserError(count + "; ".join(faults))


def _install(
    root: pathlib.Path,
    archive: Archive,
    *,
    keep_archive: bool,
    patience: Patience,
    bar: _Bar,
    stop: threading.Event,
) -> None:
    part, whole = _part(root, archive.name), root / archive.name
    for _ in range(patience.whole_fetches):
        try:
            fetch(
                archive.url,
                part,
                size_bytes=archive.size_bytes,
                most_bytes=_MOST_ARCHIVE_BYTES,
                patience=patience,
                moved=functools.partial(bar.move, archive.name),
                stop=stop,
            )
        except FetchError as error:
            raise UserError(
                f"{archive.name}: {error}: check the connection and {archive.url}, and run the same command "
                "again; what has come is kept"
            ) from error
        with part.open("rb") as file:
            md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if archive.md5 not in (None, md5):
            fault = f"has md5 {md5} where {archive.md5} was expected"
            part.unlink()
            continue
        sync(part)
        os.replace(part, whole)
        sync(root)
        try:
            members, passed_over = unpack(whole, root)
        except zipfile.BadZipFile as error:
            fault = f"is no whole zip file ({error})"
            whole.unlink()
            continue
        _write_marker(root, archive.name, size_bytes=whole.stat().st_size, md5=md5, members=members)
        if not keep_archive:
            whole.unlink()
        if passed_over:
            bar.say(f"{archive.name}: passed over {len(passed_over)} files that are no clips: {passed_over[:3]}")
        bar.say(f"{archive.name}: {len(members)} clips")
        return
    raise UserError(
        f"{archive.name}: fetched {patience.whole_fetches} times from {archive.url}, and it {fault}: the "
        f"server or a proxy alters it; get it another way, put it into {root} and run the same command again"
    )
