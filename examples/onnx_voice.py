"""The expressions of a voice every 0.2 s, by an exported model, with numpy and onnxruntime alone.

python examples/onnx_voice.py model.onnx talk.wav    # 16 kHz, mono, 16 bits
"""

import json
import pathlib
import sys
import wave

import numpy as np
import onnxruntime

BATCH = 16  # windows at a time; each takes some 14 MB

path, sound = sys.argv[1:]
about = json.loads(pathlib.Path(path + ".json").read_text())
with wave.open(sound) as file:
    if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (16_000, 1, 2):
        sys.exit(
            f"error: {sound} is not 16 kHz, mono, 16 bits: ffmpeg -i {sound} -ar 16000 -ac 1 -sample_fmt s16 new.wav"
        )
    samples = np.frombuffer(file.readframes(file.getnframes()), np.int16)
length, hop = round(16_000 * about["window_s"]), 3200
samples = np.pad(samples, (0, max(0, length - len(samples))))
starts = range(0, len(samples) - length + 1, hop)
session = onnxruntime.InferenceSession(path)
empty = {}
for name, *_, shape in ((field["name"], field["shape"]) for field in about["inputs"] if field["name"] != "waveform"):
    filled = np.ones if name == "has_sound" else np.zeros  # there is sound, and there is no face
    empty[name] = filled((BATCH, *shape[1:]), np.uint8 if name == "faces" else np.bool_)
for first in range(0, len(starts), BATCH):
    some = starts[first : first + BATCH]
    given = {name: values[: len(some)] for name, values in empty.items()}
    given["waveform"] = np.stack([samples[start : start + length] for start in some])
    [log_prob] = session.run(None, given)
    for start, row in zip(some, np.exp(log_prob), strict=True):
        print(f"{start / 16_000:6.1f} s  {about['label_names'][int(row.argmax())]:<10} {row.max():.2f}")
