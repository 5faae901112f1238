"""A finished run to a row of a results file.

    python results/record.py WORKDIR results/NAME.csv "COMMAND THAT REPRODUCES IT"

The row holds what a number needs beside it: protocol, split, seeds, commit, versions, hardware, time. A row of the same
command takes the place of the one before.
"""

import csv
import hashlib
import json
import pathlib
import sys

FIELDS = (
    *("corpus", "modalities", "protocol", "fold", "split_seed", "seed", "test_clips", "test_speakers"),
    *("clip_uar", "clip_war", "clip_macro_f1", "window_uar", "chance_uar", "chosen_step", "steps"),
    *("train_seconds", "parameters", "config_hash", "commit", "versions", "machine", "devices", "date", "command"),
)


def row_of(results: dict, command: str) -> dict[str, object]:
    """The row of a `results.json`."""
    clip, window = results["test"]["clip"], results["test"]["window"]
    digest = hashlib.sha256(json.dumps(results["config"], sort_keys=True).encode()).hexdigest()[:12]
    return {
        "corpus": results["corpus"],
        "modalities": results["modalities"],
        "protocol": results["protocol"]["name"],
        "fold": results["protocol"]["fold"],
        "split_seed": results["protocol"]["split_seed"],
        "seed": results["seed"],
        "test_clips": clip["count"],
        "test_speakers": len(results["parts"]["test"]["speakers"]),
        "clip_uar": round(clip["uar"], 4),
        "clip_war": round(clip["war"], 4),
        "clip_macro_f1": round(clip["macro_f1"], 4),
        "window_uar": round(window["uar"], 4),
        "chance_uar": round(clip["chance_uar"], 4),
        "chosen_step": results["checkpoint"]["step"],
        "steps": results["checkpoint"]["of_steps"],
        "train_seconds": round(results["train_seconds"], 1),
        "parameters": results["parameters"],
        "config_hash": digest,
        "commit": results["commit"],
        "versions": " ".join(f"{name} {version}" for name, version in results["versions"].items()),
        "machine": results["machine"],
        "devices": " ".join(results["devices"]),
        "date": results["date"],
        "command": command,
    }


def main() -> None:
    """Record the run that the command line names."""
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    workdir, table, command = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
    row = row_of(json.loads((workdir / "results.json").read_text()), command)
    rows = list(csv.DictReader(table.open())) if table.exists() else []
    rows = [old for old in rows if old["command"] != command]
    with table.open("w", newline="") as out:
        writer = csv.DictWriter(out, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, row])


if __name__ == "__main__":
    main()
