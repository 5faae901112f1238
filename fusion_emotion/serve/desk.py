"""What the page asks for: recordings that are judged one after the other, and one live stream. Nothing is kept."""

import contextlib
import dataclasses
import pathlib
import re
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping
from typing import Any

from fusion_emotion.corpora.sample import make_clip
from fusion_emotion.errors import UserError
from fusion_emotion.pages.timeline import page
from fusion_emotion.predict import outputs
from fusion_emotion.predict.prediction import STEP_S, Prediction
from fusion_emotion.predict.reader import duration_s
from fusion_emotion.predict.recognizer import Recognizer
from fusion_emotion.prepare.media_errors import MediaError
from fusion_emotion.serve.live import Live

MEDIA = "upload://recording"  # in the viewer, where the page puts the recording that its browser holds
_LONGEST_NAME = 100  # bytes
_FORMATS = ("csv", "json", "textgrid", "vtt", "srt")  # to download, beside html and eaf
_ASKED_S = 1.0  # an answer comes at the latest after this
_LEFT_S = 120.0  # a page that has not asked for so long is gone
_OLD_S = 600.0  # an upload that nobody asks for, or that broke off, is removed after this

Answer = dict[str, Any]


class _Left(Exception):  # noqa: N818 - nobody waits for the answer any more
    pass


@dataclasses.dataclass
class _Job:
    """A recording that is being judged."""

    folder: pathlib.Path  # of its own, removed when done
    name: str
    is_example: bool = False
    begun: bool = False
    read_s: float = 0.0
    length_s: float = 0.0  # as the file says; 0: it does not
    answer: Answer = dataclasses.field(default_factory=dict)
    done: threading.Event = dataclasses.field(default_factory=threading.Event)
    asked_s: float = dataclasses.field(default_factory=time.monotonic)


class Desk:
    """Answers the page. Each method takes and returns what JSON can hold; a mistake is {"error": one line}."""

    def __init__(self, recognizer: Recognizer, folder: pathlib.Path):
        self._recognizer, self._folder = recognizer, folder
        self.uploads = folder / "uploads"
        self.uploads.mkdir()
        self._turn, self._jobs_lock = threading.Lock(), threading.Lock()
        self._jobs: dict[str, _Job] = {}
        self._live: Live | None = None

    def begin(self, given: Mapping[str, Any]) -> Answer:
        """Begin to judge an uploaded file, {"path", "name"}, or the example, {}; return {"id"} to ask with."""
        folder = pathlib.Path(tempfile.mkdtemp(dir=self._folder))
        if given:
            path = pathlib.Path(str(given.get("path", ""))).resolve()
            if not path.is_relative_to(self.uploads.resolve()) or not path.is_file():
                folder.rmdir()
                return {"error": "there is no such upload: choose the file again"}
            job = _Job(folder, plain(str(given.get("name", ""))))
            path.replace(folder / job.name)
            with contextlib.suppress(OSError):  # another upload of the same content
                path.parent.rmdir()
        else:
            job = _Job(folder, "", is_example=True)
        identity = uuid.uuid4().hex
        with self._jobs_lock:
            self._jobs[identity] = job
        threading.Thread(target=self._judge, args=(job,), daemon=True).start()
        return {"id": identity}

    def ask(self, identity: str) -> Answer:
        """Return how far a recording is, {"read_s", "length_s"} or {"waits"}, or what came of it: once."""
        job = self._jobs.get(str(identity))
        if job is None:
            return {"error": "this recording is not known any more: begin again"}
        job.asked_s = time.monotonic()
        if not job.done.wait(_ASKED_S):
            return {"read_s": job.read_s, "length_s": job.length_s} if job.begun else {"waits": True}
        with self._jobs_lock:
            self._jobs.pop(str(identity), None)
        return job.answer

    def push(self, chunk: Mapping[str, Any]) -> Answer:
        """Take a chunk of a live stream, {"id", "number", "data" in base64}; return the moments since the last one."""
        if int(chunk["number"]) == 0:
            if not self._turn.acquire(timeout=_ASKED_S):
                return {"error": "another recording is being judged: wait until it is done"}
            self._live = Live(self._recognizer, str(chunk["id"]), ended=self._turn.release)
        live = self._live
        if live is None or live.identity != chunk["id"]:
            return {"error": "this live stream has ended: begin again"}
        return live.push(chunk)

    def sweep(self) -> None:
        """Remove uploads that broke off or that nobody asked for, and answers that nobody took."""
        for path in [each for each in self.uploads.rglob("*") if each.is_file()]:
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _OLD_S:
                    path.unlink()
        with self._jobs_lock:
            self._jobs = {name: job for name, job in self._jobs.items() if not _is_left(job)}

    def close(self) -> None:
        """End what is under way."""
        with self._jobs_lock:
            for job in self._jobs.values():
                job.asked_s = -_LEFT_S
        if self._live:
            self._live.close()

    def _judge(self, job: _Job) -> None:
        """In a thread: judge a recording, and remove it."""

        def progress(steps: int) -> None:
            job.read_s = steps * STEP_S
            if _is_left(job):
                raise _Left

        try:
            with self._turn:
                job.begun = True
                progress(0)
                path = make_clip(job.folder) if job.is_example else job.folder / job.name
                job.length_s = duration_s(str(path))
                job.answer = told(self._recognizer.predict(str(path), progress=progress), path, inline=job.is_example)
        except _Left:
            pass
        except Exception as error:  # also of a library: one recording never ends the page
            kind = "" if isinstance(error, MediaError | UserError) else f"{type(error).__name__}: "
            job.answer = {"error": f"{job.name}: {kind}{' '.join(str(error).split())}"}
        finally:
            shutil.rmtree(job.folder, ignore_errors=True)
            job.done.set()


def _is_left(job: _Job) -> bool:
    return time.monotonic() - job.asked_s > _LEFT_S


def plain(name: str) -> str:
    """Return the last part of a file's name, without what a path or a page could take for something else."""
    last = re.split(r"[\\/]", name)[-1]
    kept = "".join(letter if letter.isalnum() or letter in " -_.()" else "_" for letter in last).strip(" .")
    # Bytes: a file system limits these, and ".TextGrid" and the like come behind.
    return kept.encode()[-_LONGEST_NAME:].decode(errors="ignore").lstrip(" .") or "recording"


def told(prediction: Prediction, path: pathlib.Path, *, inline: bool) -> Answer:
    """Return the viewer and the files of a prediction as text: {"page", "files": {name: text}}.

    The recording is named, not where it lay. It is within the viewer if `inline`; else MEDIA stands for it.
    """
    named = dataclasses.replace(prediction, source=path.name)
    described = outputs.described(named)
    shown = page([(described, str(path) if inline else MEDIA)])
    folder = path.parent / "files"
    written = outputs.save(named, folder, _FORMATS)
    # These two name the recording relative to themselves: it is beside them wherever they are taken.
    written += outputs.save(prediction, path.parent, ("eaf",))
    files = {each.name: each.read_text(encoding="utf-8") for each in written}
    files[f"{path.stem}.html"] = page([(described, str(path))], folder=path.parent)
    return {"page": shown, "files": files}
