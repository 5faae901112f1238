"""The choice of CPU or GPU for decoding and detection, by what the installed builds support."""

import dataclasses
import importlib.metadata
import io
from typing import Any

from fusion_emotion.errors import UserError
from fusion_emotion.prepare.settings import Settings


def resolve(settings: Settings) -> Settings:
    """Replace "auto" by the available hardware. Raises UserError if the requested hardware is missing."""
    resolved: dict[str, Any] = {}
    for field, gpu, why_missing, remedy in (
        ("decoder", "gpu", _no_gpu_decoder, "build decord2 with CUDA (its README: -DUSE_CUDA=ON)"),
        ("provider", "cuda", _no_cuda_provider, "install requirements-cuda.txt as its first lines say"),
    ):
        asked = getattr(settings, field)
        # Ray hides the GPUs from tasks that request none, and the other machines may have other hardware.
        with_ray = settings.engine == "ray"
        missing = "" if asked == "cpu" else "the tasks of run.engine=ray run on CPUs" if with_ray else why_missing()
        if missing and asked == gpu:
            raise UserError(f"run.{field}={asked}: {missing}; {remedy}, or set --config.run.{field}=cpu")
        resolved[field] = "cpu" if missing or asked == "cpu" else gpu
    return dataclasses.replace(settings, **resolved)


def providers(settings: Settings) -> list[str]:
    """Return ONNX Runtime's execution providers for resolved settings."""
    return ["CUDAExecutionProvider"] if settings.provider == "cuda" else ["CPUExecutionProvider"]


def _no_gpu_decoder() -> str:
    """Return the reason why decord cannot decode on a GPU, or an empty string."""
    import av
    import decord

    # decord opens the file before it checks the device, so the check needs a film.
    film = io.BytesIO()
    with av.open(film, "w", format="mp4") as writer:
        stream = writer.add_stream("libx264", rate=25, width=256, height=256, pix_fmt="yuv420p")
        for packet in (*stream.encode(av.VideoFrame(256, 256, "yuv420p")), *stream.encode()):
            writer.mux(packet)
    film.seek(0)
    try:
        decord.VideoReader(film, ctx=decord.gpu(0))
    except (decord.DECORDError, RuntimeError) as error:
        line = str(error).strip().splitlines()[-1 if "Check failed" in str(error) else 0]
        return "this build of decord has no GPU decoder" if "not available" in str(error) else f"decord says: {line}"
    return ""


def _no_cuda_provider() -> str:
    """Return the reason why ONNX Runtime cannot run on CUDA, or an empty string."""
    import onnxruntime

    installed = {distribution.metadata["Name"].lower() for distribution in importlib.metadata.distributions()}
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return ""
    if {"onnxruntime", "onnxruntime-gpu"} <= installed:
        return "onnxruntime and onnxruntime-gpu are both installed, and the first overwrote the second"
    return "this onnxruntime has no CUDA provider"
