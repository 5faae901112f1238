"""RAVDESS from Zenodo: fetch archives with resume, check their size and md5, unpack them clip by clip.

`ravdess_archives.tsv` pins names, sizes and md5 sums. It lacks the sizes and md5 sums of the 23 archives of song
videos: these are checked by the length that the server announces and by the CRCs of the zip file.
"""

import dataclasses
import hashlib
import importlib.resources
import json
import pathlib
import re
import shutil
import signal
import time
import zipfile
import zlib
from collections.abc import Sequence

import requests
import tqdm
import urllib3

from fusion_emotion.errors import Stopped, UserError
from fusion_emotion.files import atomic
from fusion_emotion.locks import held
from fusion_emotion.progress import bar

_RECORD = "1188976"
_STATE = ".downloaded"  # folder of the markers and the lock
_CLIP = re.compile(r"Actor_\d\d/[\w-]+\.(?:mp4|wav)", re.ASCII)
_SONG_BYTES = 600_000_000  # assumed where the table has no size; the largest archive has 596 MB
# Unpacked size over archive size, rounded up: 1,440 wavs of 3.7 s at 96 kB/s come in 208 MB.
_EXPANSION = {"Audio": 3.0, "Video": 1.05}
_MOST_CUTS = 30  # of one archive: a connection that is cut every minute is enough
_FETCHES = 2  # of one archive that arrives whole but wrong
_RETRIES = 8  # of one request: with the back-off they last four minutes
_RETRY_STATUSES = (403, 408, 429, 500, 502, 503, 504)  # Zenodo answers 403 to too many requests
_BLOCK_BYTES = 1 << 18
# A body compressed on the way would be neither of the announced length nor possible to resume.
_HEADERS = {"User-Agent": "fusion_emotion", "Accept-Encoding": "identity"}
_AGAIN = "run the same command again; what is downloaded is kept"


@dataclasses.dataclass(frozen=True)
class Archive:
    """A zip file of the record; `size_bytes` and `md5` are None where the table lacks them."""

    name: str
    size_bytes: int | None
    md5: str | None


def select(*, channel: str, modality: str, actors: Sequence[int]) -> list[Archive]:
    """Return the archives of `channel`, `modality` and `actors`, from the packaged table.

    Modality "a" takes the wav archives, which hold all actors; any other takes the video archives.
    Raises UserError for an unknown actor.
    """
    if wrong := [actor for actor in actors if actor not in range(1, 25)]:
        raise UserError(f"data.actors: {wrong[0]!r} is no actor of RAVDESS: expected numbers from 1 to 24")
    media = "Audio" if modality == "a" else "Video"
    contents = ["Actors_01-24"] if modality == "a" else [f"Actor_{actor:02d}" for actor in sorted(set(actors))]
    kinds = ["Speech", "Song"] if channel == "both" else [channel.capitalize()]
    text = (importlib.resources.files("fusion_emotion.corpora") / "ravdess_archives.tsv").read_text("utf-8")
    table = {row[0]: row for row in (line.split("\t") for line in text.splitlines())}
    names = [f"{media}_{kind}_{content}.zip" for kind in kinds for content in contents]
    rows = [table[name] for name in names if name in table]
    if not rows:
        raise UserError("data.actors: actor 18 sang nothing: name at least one other actor")
    return [Archive(name, size_bytes=int(size) if size else None, md5=md5 or None) for name, size, md5 in rows]


def install(
    root: pathlib.Path,
    archives: Sequence[Archive],
    *,
    base_url: str,
    keep_archives: bool,
    backoff_s: float = 1.0,
    timeout_s: float = 30.0,
) -> None:
    """Fetch `archives` one after the other, and unpack their clips into `root/Actor_XX/`.

    An archive whose marker and clips are in place costs no request. A download that was cut or killed goes on from
    its `.zip.part`. An archive that is in `root` already, put there by hand or kept, is used if its md5 is right.
    Without `keep_archives` an archive is deleted once it is unpacked. `backoff_s` doubles for each further retry of a
    request; `timeout_s` bounds the wait for a connection and for a byte.

    Raises UserError for a full disk, a second download into `root`, and an archive that cannot be fetched whole;
    Stopped at Ctrl-C.
    """
    busy = f"{root}: process {{process}} is downloading into it: wait for it to end, or choose another folder"
    try:
        with held(root / _STATE / "lock", busy):
            # A killed process leaves partial files; while this one holds the lock, no process writes to them.
            for leftover in [*root.glob("Actor_*/.*.partial"), *root.glob(f"{_STATE}/.*.partial")]:
                leftover.unlink()
            missing = [archive for archive in archives if not _is_installed(root, archive.name)]
            if not missing:
                print(f"RAVDESS: all {len(archives)} archives are unpacked in {root}")
                return
            for archive in missing:
                if (root / archive.name).exists():
                    (root / archive.name).replace(_part(root, archive))
            with _bar(root, missing, keep_archives=keep_archives) as bar, requests.Session() as session:
                # Retry also waits as long as a Retry-After header says.
                retry = urllib3.Retry(
                    _RETRIES, status_forcelist=_RETRY_STATUSES, backoff_factor=backoff_s, raise_on_status=False
                )
                for scheme in ("https://", "http://"):
                    session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=retry))
                url = f"{base_url.rstrip('/')}/records/{_RECORD}/files"
                fetcher = _Fetcher(url, session, backoff_s, timeout_s, bar)
                for archive in missing:
                    _install(root, archive, fetcher, keep_archives=keep_archives)
    except KeyboardInterrupt:
        raise Stopped(f"SIGINT: {_AGAIN}", signal_number=signal.SIGINT) from None
    except OSError as error:
        raise UserError(
            f"{error.filename or root}: {error.strerror or error}: make room, or choose a folder you may write to, "
            f"and {_AGAIN}"
        ) from error


def _bar(root: pathlib.Path, archives: Sequence[Archive], *, keep_archives: bool) -> tqdm.tqdm:
    """Return a progress bar of `archives`. Raises UserError if the disk cannot hold them and their clips."""
    sizes = [archive.size_bytes or _SONG_BYTES for archive in archives]
    lengths = [_length(_part(root, archive)) for archive in archives]
    missing = [max(0, size - length) for size, length in zip(sizes, lengths, strict=True)]
    print(f"RAVDESS: {len(archives)} archives, {sum(missing) / 1e9:.2f} GB to fetch into {root}")
    needed = sum(missing) if keep_archives else max(missing)
    needed += sum(int(size * _EXPANSION[archive.name[:5]]) for size, archive in zip(sizes, archives, strict=True))
    if needed > (free := shutil.disk_usage(root).free):
        raise UserError(
            f"{root}: {needed / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free: make room, choose another "
            "folder, or name fewer actors"
        )
    return bar(total=sum(sizes), initial=sum(lengths), unit="B", unit_scale=True, desc="RAVDESS")


def _install(root: pathlib.Path, archive: Archive, fetcher: "_Fetcher", *, keep_archives: bool) -> None:
    """Fetch, check and unpack one archive, and write its marker."""
    part = _part(root, archive)
    for _ in range(_FETCHES):
        fetcher.fetch(archive, part)
        if not (fault := _fault(part, archive.md5)):
            break
        fetcher.bar.update(-_length(part))
        part.unlink()
    else:
        raise UserError(
            f"{archive.name}: fetched {_FETCHES} times from {fetcher.url}, and it {fault}: the server or a proxy "
            f"alters it; get it another way, put it into {root} and run the same command again"
        )
    members = _unpack(part, root)
    with atomic(_marker(root, archive.name)) as partial:
        partial.write_text(json.dumps({"members": members}, indent=1))
    if keep_archives:
        part.replace(root / archive.name)
    else:
        part.unlink()
    fetcher.bar.write(f"{archive.name}: {len(members)} clips")


@dataclasses.dataclass(frozen=True)
class _Fetcher:
    """A session with the server, and the bar that shows its progress."""

    url: str
    session: requests.Session
    backoff_s: float
    timeout_s: float
    bar: tqdm.tqdm

    def fetch(self, archive: Archive, part: pathlib.Path) -> None:
        """Append to `part` the bytes of the archive that it lacks. Raises UserError once the retries are used up."""
        for _ in range(_MOST_CUTS):
            try:
                if self._fetch_once(archive, part):
                    return
            except urllib3.exceptions.HTTPError:
                pass  # cut or stalled in the body
            except requests.RequestException as error:
                raise UserError(f"{archive.name}: {error}: check the connection and {_AGAIN}") from error
            time.sleep(self.backoff_s)
        raise UserError(
            f"{archive.name}: the connection to {self.url} was cut {_MOST_CUTS} times: check it and {_AGAIN}"
        )

    def _fetch_once(self, archive: Archive, part: pathlib.Path) -> bool:
        """Append the body of one response; return True if `part` then has its full length."""
        length = _length(part)
        if archive.size_bytes is not None and length >= archive.size_bytes:
            return True
        url = f"{self.url}/{archive.name}?download=1"
        headers = _HEADERS | ({"Range": f"bytes={length}-"} if length else {})
        with self.session.get(url, headers=headers, stream=True, timeout=self.timeout_s) as response:
            offset, total = _extent(response)
            if response.status_code == 416 and total == length:
                return True
            if response.status_code != 416:
                response.raise_for_status()
            if offset != length:  # the server ignores Range, or `part` is of another file
                part.unlink(missing_ok=True)
                self.bar.update(-length)
                if offset != 0:
                    return False
                length = 0
            if (size := archive.size_bytes or total) is None:
                raise requests.RequestException(f"{url} announces no length")
            with part.open("ab") as file:
                # read1 returns the bytes that have arrived: a block that is not full would be lost with the connection.
                while length < size and (block := response.raw.read1(min(_BLOCK_BYTES, size - length))):
                    file.write(block)
                    file.flush()  # a kill loses nothing
                    length += len(block)
                    self.bar.update(len(block))
        return length == size


def _extent(response: requests.Response) -> tuple[int | None, int | None]:
    """Return the offset of the body in the file and the length of the file; None where the server does not say."""
    if response.status_code == 200:  # the whole file, even where a range was asked for
        length = response.headers.get("Content-Length")
        return 0, int(length) if length else None
    match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+)", response.headers.get("Content-Range", ""))
    return (int(match[1]) if match[1] else None, int(match[2])) if match else (None, None)


def _fault(part: pathlib.Path, md5: str | None) -> str | None:
    """Describe the fault of a fetched archive: of its md5, or of its CRCs where no md5 is known."""
    if md5 is None:
        try:
            with zipfile.ZipFile(part) as opened:
                damaged = opened.testzip()
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            return f"is no whole zip file ({error})"
        return f"has a damaged member {damaged}" if damaged else None
    with part.open("rb") as file:
        actual = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return f"has md5 {actual} where {md5} was expected" if actual != md5 else None


def _unpack(archive: pathlib.Path, root: pathlib.Path) -> dict[str, int]:
    """Write the clips below `root`, each one whole or not at all, and return their sizes in bytes."""
    with zipfile.ZipFile(archive) as opened:
        # The pattern also keeps members out whose path leaves the folder.
        clips = [info for info in opened.infolist() if _CLIP.fullmatch(info.filename)]
        for info in clips:
            target = root / info.filename
            target.parent.mkdir(exist_ok=True)
            with atomic(target) as partial, opened.open(info) as source, partial.open("wb") as file:
                shutil.copyfileobj(source, file)
    return {info.filename: info.file_size for info in clips}


def _is_installed(root: pathlib.Path, name: str) -> bool:
    """True if the marker of an archive is there, and every clip that it lists has its size."""
    try:
        members = json.loads(_marker(root, name).read_text("utf-8"))["members"].items()
        return all((root / member).stat().st_size == size for member, size in members)
    except (OSError, ValueError, KeyError):
        return False


def _marker(root: pathlib.Path, name: str) -> pathlib.Path:
    return root / _STATE / f"{name}.json"


def _part(root: pathlib.Path, archive: Archive) -> pathlib.Path:
    return root / f"{archive.name}.part"


def _length(path: pathlib.Path) -> int:
    return path.stat().st_size if path.exists() else 0
