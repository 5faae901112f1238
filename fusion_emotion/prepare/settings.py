"""What preparation may be told. Every field but the last seven changes the records, and so the cache's name."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from fusion_emotion.errors import UserError, did_you_mean

RECORD_VERSION = 3  # bump when the same settings give other records

DETECTORS = ("insightface", "centerface")
MISSING = ("quarantine", "keep")
DECODERS = ("auto", "cpu", "gpu")
PROVIDERS = ("auto", "cpu", "cuda")
ENGINES = ("local", "ray")
NOT_IN_RECORDS = ("decoder", "provider", "engine", "ray_address", "cache", "workers", "clip_timeout_s")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The `prepare` section of a config; see `configs/ravdess.py` for what each field means."""

    detector: str
    detector_sizes: tuple[int, ...]  # px, tried in turn until a face is found
    detector_threshold: float
    insightface_pack: str
    insightface_root: str
    face_size: int  # px
    detect_every: int  # sampled frames
    align: bool
    margin: float  # added on each side of the face box, in shares of its longer side
    missing: str
    min_found_share: float
    decoder: str
    provider: str
    engine: str
    ray_address: str
    cache: str
    workers: int
    clip_timeout_s: float

    def __post_init__(self) -> None:
        for field, names in (
            ("detector", DETECTORS),
            ("missing", MISSING),
            ("decoder", DECODERS),
            ("provider", PROVIDERS),
            ("engine", ENGINES),
        ):
            if getattr(self, field) not in names:
                raise did_you_mean(f"prepare.{field}", getattr(self, field), names)
        for field, valid, expected in (
            (
                "detector_sizes",
                bool(self.detector_sizes) and min(self.detector_sizes) >= 32,
                "sizes of 32 px or more",
            ),
            ("detector_threshold", 0 < self.detector_threshold < 1, "a number between 0 and 1"),
            ("face_size", 16 <= self.face_size <= 512, "16 to 512 px"),
            ("detect_every", self.detect_every >= 1, "1 or more"),
            ("margin", 0 <= self.margin <= 2, "a share between 0 and 2"),
            ("min_found_share", 0 <= self.min_found_share <= 1, "a share between 0 and 1"),
            ("workers", self.workers >= 0, "0 (one per core) or more"),
            ("clip_timeout_s", self.clip_timeout_s > 0, "a positive number of seconds"),
        ):
            if not valid:
                raise UserError(f"prepare.{field}={getattr(self, field)!r} is out of range: expected {expected}")

    @classmethod
    def from_config(cls, section: Mapping[str, Any]) -> "Settings":
        """The settings of a config's `prepare` section."""
        return cls(**{**section, "detector_sizes": tuple(section["detector_sizes"])})

    def cache_folder(self, corpus: str, files: Iterable[tuple[str, int]]) -> pathlib.Path:
        """The folder of the records that `files` (names and bytes) of a corpus give under these settings."""
        described = {k: v for k, v in dataclasses.asdict(self).items() if k not in NOT_IN_RECORDS}
        if self.detector == "insightface":
            # Where the weights lie does not change what they say.
            del described["insightface_root"]
        digest = hashlib.sha256(json.dumps([RECORD_VERSION, corpus, described], sort_keys=True).encode())
        for name, size in files:
            digest.update(f"{name}\0{size}\n".encode())
        return pathlib.Path(self.cache).expanduser().absolute() / f"{corpus}-{digest.hexdigest()[:12]}"
