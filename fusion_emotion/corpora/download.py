"""Files of corpora from their owners' hosts: fetched with resume, checked, and zip files unpacked clip by clip.

A file is checked by the digest that its owner publishes. One without is checked by the length that the server
announces and, if it is a zip file, by its CRCs.
"""

import dataclasses
import hashlib
import json
import pathlib
import re
import shutil
import signal
import time
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import requests
import tqdm
import urllib3

from fusion_emotion.corpora.corpus import Remote
from fusion_emotion.errors import Stopped, UserError
from fusion_emotion.files import atomic, sync
from fusion_emotion.locks import held
from fusion_emotion.progress import bar

_STATE = ".downloaded"  # folder of the markers and the lock
_ZENODO = "https://zenodo.org"  # run.download_url of older workdirs, where it was the default
_MOST_CUTS = 30  # of one file: a connection that is cut every minute is enough
_FETCHES = 2  # of one file that arrives whole but wrong
_RETRIES = 8  # of one request: with the back-off they last four minutes
_RETRY_STATUSES = (403, 408, 429, 500, 502, 503, 504)  # Zenodo answers 403 to too many requests
_BLOCK_BYTES = 1 << 18
_BACKOFF_S, _TIMEOUT_S = 1.0, 30.0
# A body compressed on the way would be neither of the announced length nor possible to resume.
_HEADERS = {"User-Agent": "fusion_emotion", "Accept-Encoding": "identity"}
_AGAIN = "run the same command again; what is downloaded is kept"


def mirror(config: Mapping[str, Any]) -> str:
    """Return the host that a config names in place of every owner's; "" for the owners' own."""
    url: str = config["run"]["download_url"].rstrip("/")
    return "" if url == _ZENODO else url


def listed(host: str, path: str, *, mirror: str = "") -> Any:
    """Return the JSON that a host answers. Raises UserError if it cannot be had."""
    url = (mirror or host) + path
    try:
        with _session(_BACKOFF_S) as session, session.get(url, headers=_HEADERS, timeout=_TIMEOUT_S) as response:
            response.raise_for_status()
            return response.json()
    except requests.RequestException as error:
        raise UserError(f"{url}: {error}: check the connection and {_AGAIN}") from error


def install(
    root: pathlib.Path,
    remotes: Sequence[Remote],
    *,
    title: str,
    mirror: str = "",
    keep_archives: bool,
    backoff_s: float = _BACKOFF_S,
    timeout_s: float = _TIMEOUT_S,
) -> None:
    """Fetch `remotes` one after the other into `root`, and unpack those that are archives.

    A file that is in place, or an archive whose marker and clips are, costs no request. A download that was cut or
    killed goes on from its `.part`. An archive that is in `root` already, put there by hand or kept, is used if its
    digest is right. Without `keep_archives` an archive is deleted once it is unpacked. `mirror` takes the place of the
    owners' hosts. `backoff_s` doubles for each further retry of a request; `timeout_s` bounds the wait for a connection
    and for a byte.

    Raises UserError for a full disk, a second download into `root`, and a file that cannot be fetched whole; Stopped at
    Ctrl-C.
    """
    busy = f"{root}: process {{process}} is downloading into it: wait for it to end, or choose another folder"
    try:
        with held(root / _STATE / "lock", busy):
            # A killed process leaves partial files; while this one holds the lock, no process writes to them.
            for leftover in root.rglob(".*.partial"):
                leftover.unlink()
            missing = [remote for remote in remotes if not _is_installed(root, remote)]
            if not missing:
                print(f"{title}: all {len(remotes)} files are in {root}")
                return
            for remote in missing:
                if remote.members and (root / remote.name).exists():
                    (root / remote.name).replace(_part(root, remote))
            with (
                _bar(root, missing, title, keep_archives=keep_archives) as bar,
                _session(backoff_s) as session,
            ):
                fetcher = _Fetcher(mirror, session, backoff_s, timeout_s, bar)
                for remote in missing:
                    _install(root, remote, fetcher, keep_archives=keep_archives)
    except KeyboardInterrupt:
        raise Stopped(f"SIGINT: {_AGAIN}", signal_number=signal.SIGINT) from None
    except OSError as error:
        raise UserError(
            f"{error.filename or root}: {error.strerror or error}: make room, or choose a folder you may write to, "
            f"and {_AGAIN}"
        ) from error


def _session(backoff_s: float) -> requests.Session:
    session = requests.Session()
    # Retry also waits as long as a Retry-After header says.
    retry = urllib3.Retry(_RETRIES, status_forcelist=_RETRY_STATUSES, backoff_factor=backoff_s, raise_on_status=False)
    for scheme in ("https://", "http://"):
        session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=retry))
    return session


def _bar(root: pathlib.Path, remotes: Sequence[Remote], title: str, *, keep_archives: bool) -> tqdm.tqdm:
    """Return a progress bar of `remotes`. Raises UserError if the disk cannot hold them and their clips."""
    sizes = [remote.size_bytes or remote.guess_bytes for remote in remotes]
    lengths = [_length(_part(root, remote)) for remote in remotes]
    missing = [max(0, size - length) for size, length in zip(sizes, lengths, strict=True)]
    print(f"{title}: {len(remotes)} files, {sum(missing) / 1e9:.2f} GB to fetch into {root}")
    passing = [
        0 if keep_archives or not remote.members else size for size, remote in zip(missing, remotes, strict=True)
    ]
    needed = sum(missing) - sum(passing) + max(passing)
    needed += sum(int(size * remote.expansion) for size, remote in zip(sizes, remotes, strict=True))
    if needed > (free := shutil.disk_usage(root).free):
        raise UserError(
            f"{root}: {needed / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free: make room, choose another "
            "folder, or name fewer actors"
        )
    return bar(total=sum(sizes), initial=sum(lengths), unit="B", unit_scale=True, desc=title)


def _install(root: pathlib.Path, remote: Remote, fetcher: "_Fetcher", *, keep_archives: bool) -> None:
    """Fetch and check one file; put it into place, or unpack it and write its marker."""
    part = _part(root, remote)
    part.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(_FETCHES):
        fetcher.fetch(remote, part)
        if not (fault := _fault(part, remote)):
            break
        fetcher.bar.update(-_length(part))
        part.unlink()
    else:
        raise UserError(
            f"{remote.name}: fetched {_FETCHES} times from {fetcher.url(remote)}, and it {fault}: the server or a "
            f"proxy alters it; get it another way, put it into {root} and run the same command again"
        )
    if not remote.members:
        sync(part)
        part.replace(root / remote.name)
        return
    members = _unpack(part, root, remote.members)
    if not members:
        raise UserError(
            f"{remote.name}: holds none of the files that were expected: its owners may have changed it; unpack "
            f"{part} yourself"
        )
    with atomic(_marker(root, remote.name)) as partial:
        partial.write_text(json.dumps({"members": members}, indent=1))
    if keep_archives:
        part.replace(root / remote.name)
    else:
        part.unlink()
    fetcher.bar.write(f"{remote.name}: {len(members)} clips")


@dataclasses.dataclass(frozen=True)
class _Fetcher:
    """A session with the hosts, and the bar that shows its progress."""

    mirror: str
    session: requests.Session
    backoff_s: float
    timeout_s: float
    bar: tqdm.tqdm

    def url(self, remote: Remote) -> str:
        return (self.mirror or remote.host) + remote.path

    def fetch(self, remote: Remote, part: pathlib.Path) -> None:
        """Append to `part` the bytes of the file that it lacks. Raises UserError once the retries are used up."""
        for _ in range(_MOST_CUTS):
            try:
                if self._fetch_once(remote, part):
                    return
            except urllib3.exceptions.HTTPError:
                pass  # cut or stalled in the body
            except requests.RequestException as error:
                raise UserError(f"{remote.name}: {error}: check the connection and {_AGAIN}") from error
            time.sleep(self.backoff_s)
        raise UserError(
            f"{remote.name}: the connection to {self.url(remote)} was cut {_MOST_CUTS} times: check it and {_AGAIN}"
        )

    def _fetch_once(self, remote: Remote, part: pathlib.Path) -> bool:
        """Append the body of one response; return True if `part` then has its full length."""
        length = _length(part)
        if remote.size_bytes is not None and length >= remote.size_bytes:
            return True
        url = self.url(remote)
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
            if (size := remote.size_bytes or total) is None:
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


def _fault(part: pathlib.Path, remote: Remote) -> str | None:
    """Describe the fault of a fetched file: of its digest, or of an archive's CRCs where none is known."""
    if remote.digest is not None:
        name, _, expected = remote.digest.partition(":")
        with part.open("rb") as file:
            actual = hashlib.file_digest(file, lambda: hashlib.new(name, usedforsecurity=False)).hexdigest()
        return f"has {name} {actual} where {expected} was expected" if actual != expected else None
    if not remote.members:
        return None
    try:
        with zipfile.ZipFile(part) as opened:
            damaged = opened.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        return f"is no whole zip file ({error})"
    return f"has a damaged member {damaged}" if damaged else None


def _unpack(archive: pathlib.Path, root: pathlib.Path, members: str) -> dict[str, int]:
    """Write some members below `root`, each one whole or not at all, and return their sizes in bytes."""
    pattern = re.compile(members, re.ASCII)
    with zipfile.ZipFile(archive) as opened:
        # The pattern also keeps members out whose path leaves the folder.
        clips = [info for info in opened.infolist() if pattern.fullmatch(info.filename)]
        for info in clips:
            target = root / info.filename
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic(target) as partial, opened.open(info) as source, partial.open("wb") as file:
                shutil.copyfileobj(source, file)
    return {info.filename: info.file_size for info in clips}


def _is_installed(root: pathlib.Path, remote: Remote) -> bool:
    """True if a file is there with its size; of an archive, if its marker and every clip that it lists are."""
    try:
        if not remote.members:
            return (root / remote.name).stat().st_size == remote.size_bytes or remote.size_bytes is None
        members = json.loads(_marker(root, remote.name).read_text("utf-8"))["members"].items()
        return all((root / member).stat().st_size == size for member, size in members)
    except (OSError, ValueError, KeyError):
        return False


def _marker(root: pathlib.Path, name: str) -> pathlib.Path:
    return root / _STATE / f"{name}.json"


def _part(root: pathlib.Path, remote: Remote) -> pathlib.Path:
    return root / f"{remote.name}.part"


def _length(path: pathlib.Path) -> int:
    return path.stat().st_size if path.exists() else 0
