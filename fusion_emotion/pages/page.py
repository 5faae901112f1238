"""What the page of a run and that of a prepared corpus share: how they are written and what they call things."""

import hashlib
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jinja2

from fusion_emotion.evaluate.table import percent
from fusion_emotion.files import atomic

CORPUS_TITLES = {"ravdess": "RAVDESS", "sample": "the synthetic sample corpus"}
CREDITS = {
    "ravdess": (
        "Pictures and sound are of RAVDESS (Livingstone & Russo 2018, PLoS ONE 13(5) e0196391), cropped and resampled, "
        "under its licence CC BY-NC-SA 4.0; who passes them on does so under the same licence."
    ),
    "sample": "The faces are warps of NASA's public-domain portrait of Eileen Collins; the voices are espeak-ng's.",
}


def write(path: pathlib.Path, template: str, **values: Any) -> None:
    """Write a template of this folder, filled with `values`, to `path`, whole or not at all."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fusion_emotion", "pages/templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    html = environment.get_template(template).render(**values)
    with atomic(path) as partial:
        partial.write_text(html, encoding="utf-8")


def hashed(clip_id: str) -> bytes:
    """What clips are sorted by where neither looks nor numbers may choose; the same on every computer."""
    return hashlib.sha256(clip_id.encode()).digest()


def duration(seconds: float) -> str:
    """Seconds as a person would say them."""
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    minutes, hours = whole // 60, whole // 3600
    return f"{minutes} min {whole % 60} s" if minutes < 120 else f"{hours} h {minutes % 60} min"


def leaves(tree: Mapping[str, Any], *path: str) -> Iterator[tuple[str, str]]:
    """The fields of a config by their dotted names; of a folder only its last name, for the rest is this computer's."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, *path, name)
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            folder = pathlib.PurePath(text)
            yield ".".join((*path, name)), f"…/{folder.name}" if folder.is_absolute() else text
