"""The picture of the README: a test strip of each emotion, with the true and the predicted one.

python docs/make_strips.py runs/sample docs/strips.png
"""

import json
import pathlib
import sys

import numpy as np
from matplotlib.figure import Figure

from fusion_emotion import commands
from fusion_emotion.train.loop import Setup


def main() -> None:
    """Draw the strips of the workdir and the picture that the command line names."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    workdir, picture = map(pathlib.Path, sys.argv[1:])
    config = commands.load_config(workdir)
    setup = Setup.create(config, commands.prepared(config))
    said = [json.loads(line) for line in (workdir / "predictions.jsonl").read_text().splitlines()]
    source = setup.source("test")
    windows = source.windows
    figure = Figure(figsize=(10, 5.2), dpi=110, layout="constrained")
    for axes, label in zip(figure.subplots(4, 2).flat, range(len(setup.label_names)), strict=True):
        # The first clip of the emotion that has a picture, whatever was predicted of it, and its first window.
        clip = next(i for i, row in enumerate(windows.rows) if row.label == label and row.n_frames)
        index = int(np.flatnonzero(windows.clip == clip)[0])
        axes.imshow(source.window(index)["strip"])
        guess = said[clip]["predicted"]
        verdict = "right" if guess == label else "wrong"
        axes.set_title(f"{setup.label_names[label]}, predicted {setup.label_names[guess]} ({verdict})", fontsize=10)
        axes.set_axis_off()
    figure.savefig(picture)


if __name__ == "__main__":
    main()
