"""What decodes and what detects: the CPU, or a GPU where the builds for it are there."""

import dataclasses
import importlib.metadata
import io

from fusion_emotion.errors import UserError
from fusion_emotion.prepare.settings import Settings


def resolve(settings: Settings) -> Settings:
    """The settings with "auto" replaced by what there is. Raises UserError where what was asked for is missing."""
    decoder, provider = settings.decoder, settings.provider
    if settings.engine == "ray":
        # Ray hides the GPUs from a task that claims none, and what there is here says nothing about the other machines.
        for field, value in (("decoder", decoder), ("provider", provider)):
            if value not in ("auto", "cpu"):
                raise UserError(
                    f"prepare.{field}={value} does not go with prepare.engine=ray, whose tasks run on CPUs: "
                    f"set --config.prepare.{field}=cpu"
                )
        decoder = provider = "cpu"
    if decoder != "cpu":
        missing = _no_gpu_decoder()
        if missing and decoder == "gpu":
            raise UserError(
                f"prepare.decoder=gpu: {missing}; build decord2 with CUDA (its README: -DUSE_CUDA=ON), "
                "or set --config.prepare.decoder=cpu"
            )
        decoder = "cpu" if missing else "gpu"
    if provider != "cpu":
        missing = _no_cuda_provider()
        if missing and provider == "cuda":
            raise UserError(
                f"prepare.provider=cuda: {missing}; install requirements-cuda.txt as its first lines say, "
                "or set --config.prepare.provider=cpu"
            )
        provider = "cpu" if missing else "cuda"
    return dataclasses.replace(settings, decoder=decoder, provider=provider)


def providers(settings: Settings) -> list[str]:
    """ONNX Runtime's execution providers for resolved settings."""
    return ["CUDAExecutionProvider"] if settings.provider == "cuda" else ["CPUExecutionProvider"]


def _no_gpu_decoder() -> str:
    """Why decord cannot decode on a GPU, or an empty string."""
    import av
    import decord

    # decord looks at the file before it looks at the device, so it takes a film to find out.
    film = io.BytesIO()
    with av.open(film, "w", format="mp4") as writer:
        stream = writer.add_stream("libx264", rate=25, width=256, height=256, pix_fmt="yuv420p")
        for packet in (*stream.encode(av.VideoFrame(256, 256, "yuv420p")), *stream.encode()):
            writer.mux(packet)
    film.seek(0)
    try:
        decord.VideoReader(film, ctx=decord.gpu(0))
    except (decord.DECORDError, RuntimeError) as error:
        said = str(error).strip().splitlines()[-1 if "Check failed" in str(error) else 0]
        return "this build of decord has no GPU decoder" if "not available" in str(error) else f"decord says: {said}"
    return ""


def _no_cuda_provider() -> str:
    """Why ONNX Runtime cannot run on CUDA, or an empty string."""
    import onnxruntime

    both = {"onnxruntime", "onnxruntime-gpu"} <= {
        d.metadata["Name"].lower() for d in importlib.metadata.distributions()
    }
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return ""
    if both:
        return "onnxruntime and onnxruntime-gpu are both installed, and the first overwrote the second"
    return "this onnxruntime has no CUDA provider"
