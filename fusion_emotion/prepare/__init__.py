"""Clips to records. The only room that imports decord, insightface and onnxruntime; it never imports jax."""

import os
import tempfile

# What these libraries read when they are imported, here or in a worker.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("PATH", os.defpath)  # decord ends without one
_home = os.path.expanduser("~")
if not (os.path.isdir(_home) and os.access(_home, os.W_OK)):
    os.environ.setdefault("XDG_CACHE_HOME", tempfile.gettempdir())  # so that no library ends for want of a cache
