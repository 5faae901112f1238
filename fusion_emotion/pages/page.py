"""Parts that all pages share: writing a template, and texts for caveats, durations and settings."""

import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jinja2

from fusion_emotion.config import dotted
from fusion_emotion.corpora.corpus import Corpus
from fusion_emotion.corpora.protocols import Protocol
from fusion_emotion.errors import UserError
from fusion_emotion.evaluate.table import percent
from fusion_emotion.files import atomic


def rendered(template: str, **values: Any) -> str:
    """Fill a template of this room."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fusion_emotion", "pages/templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    return environment.get_template(template).render(**values)


def write(path: pathlib.Path, template: str, **values: Any) -> None:
    """Fill a template of this room and write it to `path`, all or nothing. Raises UserError if it cannot be written."""
    html = rendered(template, **values)
    try:
        with atomic(path) as partial:
            partial.write_text(html, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): make room, or the folder writable") from error


def notes(corpus: Corpus, protocol: Protocol) -> list[str]:
    """The caveats of all numbers of a corpus under a protocol."""
    return [note for note in (corpus.note, protocol.warning) if note]


def duration(seconds: float) -> str:
    """Format seconds for people."""
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    minutes, hours = whole // 60, whole // 3600
    return f"{minutes} min {whole % 60} s" if minutes < 120 else f"{hours} h {minutes % 60} min"


def leaves(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the fields of a config by dotted name, with folders cut to their last part: the rest is private."""
    for name, value in dotted(config).items():
        is_list = isinstance(value, Sequence) and not isinstance(value, str)
        cut = [_cut(each) for each in value] if is_list else _cut(value)
        yield name, cut if isinstance(cut, str) else json.dumps(cut, ensure_ascii=False)


def _cut(value: Any) -> Any:
    is_folder = isinstance(value, str) and (pathlib.PurePath(value).is_absolute() or value.startswith("~"))
    return f"…/{pathlib.PurePath(value).name}" if is_folder else value
