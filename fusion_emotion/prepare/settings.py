"""The settings of preparation, of the sections `prepare` and `run` of a config (`fusion_emotion/config.py`)."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

RECORD_VERSION = 5  # bump when the same settings give other records


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordSettings:
    """The section `prepare`: these settings decide the records, and so the cache's name."""

    detector: str
    detector_sizes: tuple[int, ...]  # px, tried in turn until a face is found
    detector_threshold: float
    insightface_pack: str
    face_size: int  # px
    detect_every: int  # sampled frames
    align: bool
    margin: float  # added on each side of the face box, in shares of its longer side
    missing: str
    min_found_share: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(RecordSettings):
    """All settings: those of the section `run` say where and how records are made, and do not change them."""

    cache: str
    workers: int
    engine: str
    ray_address: str
    decoder: str
    provider: str
    clip_timeout_s: float
    insightface_root: str

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Settings":
        """Return the settings of a config."""
        names = {field.name for field in dataclasses.fields(cls)}
        run = {name: value for name, value in config["run"].items() if name in names}
        return cls(**{**config["prepare"], **run, "detector_sizes": tuple(config["prepare"]["detector_sizes"])})

    def cache_folder(self, corpus: str, files: Iterable[tuple[str, int]]) -> pathlib.Path:
        """Return the folder of the records that `files` (names and bytes) of a corpus give under these settings."""
        described = {field.name: getattr(self, field.name) for field in dataclasses.fields(RecordSettings)}
        digest = hashlib.sha256(json.dumps([RECORD_VERSION, corpus, described], sort_keys=True).encode())
        for name, size in files:
            digest.update(f"{name}\0{size}\n".encode())
        return pathlib.Path(self.cache).expanduser().absolute() / f"{corpus}-{digest.hexdigest()[:12]}"
