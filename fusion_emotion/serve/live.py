"""A live stream that the page sends in chunks: a file that is read while it is written."""

import base64
import binascii
import math
import threading
from collections.abc import Callable, Mapping
from typing import Any

from fusion_emotion.errors import UserError
from fusion_emotion.predict.live import Moment
from fusion_emotion.predict.recognizer import Recognizer

_STALLED_S = 10.0  # without a chunk
_MOST_BYTES = 20_000_000  # that wait to be read; a chunk of 125 ms has some 50 kB


class Live:
    """A stream from its first chunk on, judged in a thread until the chunks end; then `ended` is called."""

    def __init__(self, recognizer: Recognizer, identity: str, *, ended: Callable[[], None]):
        self.identity = identity
        self._ended = ended
        self._changed = threading.Condition()
        self._bytes = bytearray()
        self._next = 0
        self._closed = False
        self._moments: list[dict[str, Any]] = []
        self._error = ""
        self._over = False
        self._thread = threading.Thread(target=self._follow, args=(recognizer,), daemon=True)
        self._thread.start()

    def push(self, chunk: Mapping[str, Any]) -> dict[str, Any]:
        """Take a chunk and return {"moments"}; one without data is the last. A gap in the numbers is an error."""
        try:
            data = base64.b64decode(str(chunk.get("data", "")), validate=True)
        except binascii.Error:
            return {"error": "a chunk of the live stream is broken: begin again"}
        with self._changed:
            if int(chunk["number"]) != self._next or len(self._bytes) + len(data) > _MOST_BYTES:
                self._error = "chunks of the live stream are missing or come too fast: begin again"
                self._closed = True
            elif self._over and data and not self._error:
                self._error = "the live stream has ended: start it again"
            self._next += 1
            self._bytes += data
            self._closed = self._closed or not data
            self._changed.notify_all()
            if self._closed and not self._error:
                self._changed.wait_for(lambda: self._over, timeout=2)  # the last moments
            moments, self._moments = self._moments, []
            return {"moments": moments, **({"error": self._error} if self._error else {})}

    def read(self, count: int) -> bytes:
        """Return up to `count` bytes, as a file does; none at the end, or if nothing comes for 10 s."""
        with self._changed:
            self._changed.wait_for(lambda: self._bytes or self._closed, timeout=_STALLED_S)
            taken = bytes(self._bytes[:count])
            del self._bytes[:count]
            return taken

    def close(self) -> None:
        """End the stream."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout=5)

    def _follow(self, recognizer: Recognizer) -> None:
        try:
            for moment in recognizer.stream(self):
                with self._changed:
                    self._moments.append(_described(moment))
        except UserError as error:
            self._error = str(error)
        except Exception as error:  # of a library: a stream never ends the page
            self._error = f"{type(error).__name__}: {' '.join(str(error).split())}"
        finally:
            with self._changed:
                self._over = self._closed = True
                self._changed.notify_all()
            self._ended()


def _described(moment: Moment) -> dict[str, Any]:
    shares = {name: None if math.isnan(share) else round(share, 4) for name, share in moment.probabilities.items()}
    return {
        "end": moment.end,
        "modalities": moment.modalities,
        "label": moment.label,
        "probabilities": shares,
        "box": moment.box,
        "speech": round(moment.speech, 2),
    }
