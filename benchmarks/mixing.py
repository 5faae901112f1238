"""The cost of drawing several corpora by weight, in the input of a training step.

    PYTHONPATH=. python benchmarks/mixing.py RECORDS

RECORDS is the folder of a prepared corpus (--mode=prepare prints it). Half of its speakers count as another corpus.
Batches of 64 picks, as the trainer draws them where the records are on the device, with one corpus and with two that
are mixed, in turns; and for comparison the shortest step of docs/speed.md.
"""

import pathlib
import statistics
import sys
import time

from fusion_emotion import config
from fusion_emotion.input.batches import training_batches
from fusion_emotion.input.data import Data

BATCHES, ROUNDS, BATCH_SIZE = 500, 7, 64


def main(records: pathlib.Path) -> None:
    """Print milliseconds a batch, without and with mixing."""
    fields = config.defaults().to_dict()
    fields["model"]["modalities"] = "audio"
    source = Data.open(fields, records).source("train")
    for row in source.segments.rows:
        row.corpus = "even" if sum(map(ord, row.speaker)) % 2 else "odd"
    took: dict[str, list[float]] = {"one corpus": [], "two, mixed 1 : 3": []}
    for _ in range(ROUNDS):
        for name, weights in zip(took, (None, {"even": 1.0, "odd": 3.0}), strict=True):
            batches = training_batches(source, batch_size=BATCH_SIZE, seed=0, media=False, weights=weights)
            next(batches)
            began = time.perf_counter()
            for _ in range(BATCHES):
                next(batches)
            took[name].append(1e3 * (time.perf_counter() - began) / BATCHES)
    for name, each in took.items():
        print(
            f"{name:<18} {statistics.median(each):.2f} ms a batch of {BATCH_SIZE} ({min(each):.2f} to {max(each):.2f})"
        )


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
