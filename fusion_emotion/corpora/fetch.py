"""One file over HTTP: resumed after any cut, and asked for again as long as there is hope."""

import dataclasses
import datetime
import email.utils
import pathlib
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import requests
import urllib3

_BLOCK_BYTES = 1 << 18
# Failures are counted anew once this much more than ever has come, so a line cut every minute gets through
_PROGRESS_BYTES = 1 << 20
_LEAST_BYTES_PER_S = 100  # less, over a whole time-out, is a stalled connection
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a server is borne with."""

    attempts: int = 10  # failures in a row without progress
    whole_fetches: int = 3  # of one file that arrives whole but wrong, which only the caller can tell
    backoff_s: float = 1.0  # before the second attempt; doubled for each further one, and jittered
    most_wait_s: float = 120.0  # cap of the backoff and of the server's Retry-After
    timeout_s: float = 30.0  # to connect, and without a byte


class FetchError(Exception):
    """An attempt failed; another may succeed, unless `final`."""

    def __init__(self, reason: str, *, retry_after_s: float = 0.0, final: bool = False) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s
        self.final = final


class _StoppedError(Exception):
    """Another thread failed, or the user has had enough."""


def ask(url: str, parse: Callable[[bytes], _T], *, most_bytes: int, patience: Patience) -> _T:
    """What `parse` makes of the first `most_bytes` of the answer; it raises FetchError for one to be asked for again.

    Raises the last FetchError once there is no hope left.
    """
    stop = threading.Event()

    def attempt() -> _T:
        with requests.Session() as session, _get(session, url, offset=0, patience=patience) as response:
            body = b"".join(_blocks(response, limit=most_bytes, patience=patience, stop=stop))
        return parse(body)

    return _patiently(attempt, patience=patience, stop=stop)


def fetch(
    url: str,
    part: pathlib.Path,
    *,
    size_bytes: int | None,
    most_bytes: int,
    patience: Patience,
    moved: Callable[[int], object],
    stop: threading.Event,
) -> None:
    """Brings the file `part` to its full length, from where it ends on: `size_bytes`, or None where nobody knows.

    `moved` is told how many bytes have come, which may be fewer than before. Once `stop` is set no more are waited for.
    Raises the last FetchError once there is no hope left. What has come is kept, but not of a file of `most_bytes`.
    """
    session = requests.Session()

    def attempt() -> None:
        size, held = size_bytes, held_bytes(part)
        if size is not None and held > size:
            part.unlink()
            held = 0
        moved(held)
        if held == size:
            return
        with _get(session, url, offset=held, patience=patience) as response:
            total = _total_bytes(response)
            if response.status_code == 200:  # the whole file, even where a range was asked for
                held = 0
            elif _start(response) != held or (size is not None and total not in (None, size)):
                part.unlink(missing_ok=True)
                answered = f"{response.status_code} with Content-Range {response.headers.get('Content-Range')!r}"
                raise FetchError(f"answered {answered} where byte {held} and on was asked for")
            size = size or total  # a lie about the length comes out when the caller looks into the file
            with part.open("ab" if held else "wb") as file:
                limit = min(size or most_bytes, most_bytes) - held
                for block in _blocks(response, limit=limit, patience=patience, stop=stop):
                    file.write(block)
                    file.flush()  # a kill loses nothing that was told of
                    held += len(block)
                    moved(held)
        if held >= most_bytes:
            part.unlink()
            raise FetchError(f"still no end after {held} bytes", final=True)
        if size is not None and held < size:
            raise FetchError(f"the server ended after {held} of {size} bytes")

    with session:
        _patiently(attempt, patience=patience, stop=stop, position=lambda: held_bytes(part))


def held_bytes(part: pathlib.Path) -> int:
    """How much of a file has come."""
    return part.stat().st_size if part.exists() else 0


def _get(session: requests.Session, url: str, *, offset: int, patience: Patience) -> requests.Response:
    """The answer to a GET from byte `offset` on: of status 200, 206 or 416, its body not yet read."""
    # A body compressed on the way would be neither of the announced length nor to be resumed
    headers = {"User-Agent": "fusion_emotion", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    try:
        response = session.get(url, headers=headers, stream=True, timeout=patience.timeout_s)
    except (OSError, urllib3.exceptions.HTTPError, UnicodeError) as error:
        raise FetchError(f"no connection ({error})") from error
    status = response.status_code
    if status in (200, 206) or (status == 416 and offset):
        return response
    response.close()
    raise FetchError(
        f"answered {status} {response.reason}",
        retry_after_s=_retry_after_s(response.headers.get("Retry-After", "")),
        # Zenodo says 403 to who asks too often
        final=status not in (403, 408, 416, 429) and status < 500,
    )


def _content_range(response: requests.Response) -> tuple[int | None, int | None]:
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    start, total = match.groups() if match else (None, None)
    return int(start) if start else None, int(total) if total and total != "*" else None


def _start(response: requests.Response) -> int | None:
    """The byte that the body begins with: for 416, which has none, the end of the file."""
    start, total = _content_range(response)
    return total if response.status_code == 416 else start


def _total_bytes(response: requests.Response) -> int | None:
    """The length of the whole file as the server has it."""
    if response.status_code != 200:
        return _content_range(response)[1]
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _retry_after_s(header: str) -> float:
    if header.strip().isdecimal():
        return float(header)
    try:
        then = email.utils.parsedate_to_datetime(header)
    except (ValueError, OverflowError):
        return 0.0
    return (then.astimezone() - datetime.datetime.now().astimezone()).total_seconds()


def _blocks(response: requests.Response, *, limit: int, patience: Patience, stop: threading.Event) -> Iterator[bytes]:
    """The body as it comes in, `limit` bytes at most; ends where the server ends it."""
    came, since = 0, time.monotonic()
    while limit > 0:
        try:
            # read1 hands over what is there: a block still filling up would be lost with the connection
            block = response.raw.read1(min(limit, _BLOCK_BYTES))
        except (OSError, urllib3.exceptions.HTTPError) as error:
            raise FetchError(f"the connection broke ({error})") from error
        if stop.is_set():
            raise _StoppedError
        if not block:
            return
        yield block
        limit -= len(block)
        came += len(block)
        if (elapsed := time.monotonic() - since) > patience.timeout_s:
            if came < _LEAST_BYTES_PER_S * elapsed:
                raise FetchError(f"only {came} bytes came in {elapsed:.0f} s")
            came, since = 0, time.monotonic()


def _patiently(
    attempt: Callable[[], _T],
    *,
    patience: Patience,
    stop: threading.Event,
    position: Callable[[], int] = lambda: 0,
) -> _T:
    """What `attempt` returns in the end. Raises its last FetchError once there is no hope left.

    `position` says in bytes how far it has come, so that failures on the way forward do not add up for ever.
    """
    failures, farthest = 0, position()
    while True:
        try:
            return attempt()
        except FetchError as error:
            if position() >= farthest + _PROGRESS_BYTES:
                failures, farthest = 0, position()
            failures += 1
            if error.final or failures >= patience.attempts:
                raise
            backoff_s = patience.backoff_s * 2 ** (failures - 1) * random.uniform(0.5, 1.5)
            if stop.wait(min(patience.most_wait_s, max(backoff_s, error.retry_after_s))):
                raise _StoppedError from error
