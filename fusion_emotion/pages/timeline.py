"""The viewer of predictions: a film with boxes, bars and a timeline, as a page and in a notebook."""

import base64
import html
import json
import mimetypes
import os
import pathlib
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

from fusion_emotion.pages.page import rendered

COLOURS = ("#8a8f98", "#5aa9e6", "#f5b700", "#4062bb", "#d7263d", "#7b4fa3", "#3c8d53", "#f46036")  # of labels
_INLINE_BYTES = 20_000_000  # a smaller recording is carried by the notebook's viewer itself


def page(predictions: Sequence[tuple[Mapping[str, Any], str]], *, folder: pathlib.Path | None = None) -> str:
    """Return the page of predictions, as JSON and path of the recording; `folder` is where the page will lie.

    The page loads nothing but the recordings, by their relative paths; without `folder` small ones are within the page.
    """
    entries = [{**described, "media": _address(source, folder)} for described, source in predictions]
    # "</script>" within a name would end the script.
    data = json.dumps(entries, allow_nan=False).replace("<", "\\u003c")
    return rendered("timeline.html", data=data, colours=json.dumps(COLOURS), title="Expressions over time")


def _address(source: str, folder: pathlib.Path | None) -> str:
    path = pathlib.Path(source)
    if not path.is_file():
        return source if "://" in source else ""
    if folder is not None:
        return urllib.parse.quote(os.path.relpath(path.absolute(), folder.absolute()).replace(os.sep, "/"))
    if path.stat().st_size > _INLINE_BYTES:
        return path.absolute().as_uri()
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def notebook(described: Mapping[str, Any], source: str) -> str:
    """Return the viewer of a prediction, as its JSON, as a frame of a notebook."""
    content = html.escape(page([(described, source)]), quote=True)
    return f'<iframe srcdoc="{content}" style="width:100%;height:640px;border:0"></iframe>'


def figure(prediction: Any) -> Any:
    """Return a matplotlib figure: the main person's smoothed probabilities and the speech, over seconds."""
    from matplotlib.figure import Figure

    person = prediction.main
    shown = Figure(figsize=(9, 3.6), layout="constrained")
    axes = shown.subplots()
    middle_s = (person.step + person.n_frames / 2) / 5
    marker = "o" if len(middle_s) == 1 else None
    for place, name in enumerate(prediction.label_names):
        axes.plot(middle_s, person.smooth[:, place], label=name, color=COLOURS[place % len(COLOURS)], marker=marker)
    axes.fill_between(middle_s, 0, person.speech * 0.05, color="#00000033", label="speech")
    axes.set(xlabel="time (s)", ylabel="probability", ylim=(0, 1))
    axes.set_title(pathlib.PurePath(prediction.source).name, parse_math=False)
    axes.legend(ncols=1, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return shown
