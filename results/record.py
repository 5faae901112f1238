"""Record a finished run or cross-validation in a results file.

    python results/record.py WORKDIR results/NAME.csv "COMMAND THAT REPRODUCES IT"

A run is one row, a cross-validation one for each protocol and system. A row names protocol, split, seeds, commit,
versions, hardware and time beside its numbers, and replaces older rows of the same command. A file holds rows of runs
or of cross-validations, not both.
"""

import csv
import hashlib
import json
import pathlib
import sys

SURROUNDINGS = ("config_hash", "commit", "versions", "machine", "devices", "date", "command")
FIELDS = (
    *("corpus", "modalities", "protocol", "fold", "split_seed", "seed", "test_clips", "test_speakers"),
    *("clip_uar", "clip_war", "clip_macro_f1", "segment_uar", "chance_uar", "chosen_step", "steps"),
    *("train_seconds", "parameters", *SURROUNDINGS),
)
STATISTICS = ("uar", "war", "macro_f1")
CROSSVAL_FIELDS = (
    *("corpus", "modalities", "system", "protocol", "on_both_sides", "folds", "seeds", "split_seed", "runs"),
    *("test_clips", "test_speakers"),
    *(f"{name}_{what}" for name in STATISTICS for what in ("pooled", "low", "high", "mean", "std_folds", "std_seeds")),
    *("chance_uar", "ece", "ece_scaled", "inflation_over", "inflation_uar", "inflation_low", "inflation_high"),
    *("epochs", "train_seconds", "parameters", *SURROUNDINGS),
)


def row_of(results: dict, command: str) -> dict[str, object]:
    """Return the row of a `results.json`."""
    clip, segment = results["test"]["clip"], results["test"]["segment"]
    return {
        "corpus": results["corpus"],
        "modalities": results["modalities"],
        "protocol": results["protocol"]["name"],
        "fold": results["protocol"]["fold"],
        "split_seed": results["protocol"]["split_seed"],
        "seed": results["seed"],
        "test_clips": clip["count"],
        "test_speakers": len({*results["parts"]["test"]["speakers"]} - {""}),  # "": not known
        "clip_uar": round(clip["uar"], 4),
        "clip_war": round(clip["war"], 4),
        "clip_macro_f1": round(clip["macro_f1"], 4),
        "segment_uar": round(segment["uar"], 4),
        "chance_uar": round(clip["chance_uar"], 4),
        "chosen_step": results["checkpoint"]["step"],
        "steps": results["checkpoint"]["of_steps"],
        "train_seconds": round(results["train_seconds"], 1),
        "parameters": results["parameters"],
        **surroundings_of(results, results["date"], command),
    }


def surroundings_of(results: dict, date: str, command: str) -> dict[str, object]:
    """Return the columns that rows of runs and of cross-validations share."""
    return {
        "config_hash": hashlib.sha256(json.dumps(results["config"], sort_keys=True).encode()).hexdigest()[:12],
        "commit": results["commit"],
        "versions": " ".join(f"{name} {version}" for name, version in results["versions"].items()),
        "machine": results["machine"],
        "devices": " ".join(results["devices"]),
        "date": date,
        "command": command,
    }


def rows_of_crossval(results: dict, command: str) -> list[dict[str, object]]:
    """Return the rows of a `crossval.json`; only the network has a training time and parameters."""
    inflation = {(each["protocol"], each["system"]): each for each in results["inflation"]}
    rows = []
    for name, protocol in results["protocols"].items():
        for system, numbers in protocol["systems"].items():
            network = system == "network"
            inflated = inflation.get((name, system), {})
            inflated_low, inflated_high = inflated.get("interval") or (None, None)
            after = numbers["calibration"]["after"]
            rows.append(
                {
                    "corpus": results["corpus"],
                    "modalities": results["modalities"] if network else "",
                    "system": system,
                    "protocol": name,
                    "on_both_sides": protocol["on_both_sides"],
                    "folds": None if protocol["folds"] is None else len(protocol["folds"]),
                    "seeds": " ".join(map(str, sorted({run["seed"] for run in numbers["runs"]}))),
                    "split_seed": None if protocol["folds"] is None else results["config"]["split"]["seed"],
                    "runs": len(numbers["runs"]),
                    "test_clips": protocol["clips"],
                    "test_speakers": len(protocol["speakers"]),
                    **{
                        f"{statistic}_{what}": rounded(value)
                        for statistic in STATISTICS
                        for what, value in numbers_of(numbers[statistic]).items()
                    },
                    "chance_uar": rounded(numbers["chance_uar"]),
                    "ece": rounded(numbers["calibration"]["before"]["ece"]),
                    "ece_scaled": rounded(after["ece"]) if after else None,
                    "inflation_over": inflated.get("over"),
                    "inflation_uar": rounded(inflated.get("uar")),
                    "inflation_low": rounded(inflated_low),
                    "inflation_high": rounded(inflated_high),
                    "epochs": results["config"]["train"]["epochs"] if network else None,
                    "train_seconds": round(results["times"]["train_seconds"][name], 1) if network else None,
                    "parameters": results["parameters"] if network else None,
                    **surroundings_of(results, results["times"]["date"], command),
                }
            )
    return rows


def numbers_of(statistic: dict) -> dict[str, float | None]:
    """Return the pooled value with its interval, and the mean of the runs with its standard deviations."""
    low, high = statistic["interval"] or (None, None)
    return {"low": low, "high": high} | {name: statistic[name] for name in ("pooled", "mean", "std_folds", "std_seeds")}


def rounded(fraction: float | None) -> float | None:
    """Round a fraction to a hundredth of a per cent."""
    return None if fraction is None else round(fraction, 4)


def main() -> None:
    """Record the workdir that the command line names."""
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    workdir, table, command = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
    if (workdir / "crossval.json").exists():
        fields = CROSSVAL_FIELDS
        made = rows_of_crossval(json.loads((workdir / "crossval.json").read_text(encoding="utf-8")), command)
    else:
        fields = FIELDS
        made = [row_of(json.loads((workdir / "results.json").read_text(encoding="utf-8")), command)]
    rows: list[dict] = []
    if table.exists():
        with table.open(newline="") as lines:
            header, *old = csv.reader(lines)
        if tuple(header) != fields:
            sys.exit(f"{table} has other columns than rows of {workdir}: name another file")
        rows = [row for row in (dict(zip(header, cells, strict=True)) for cells in old) if row["command"] != command]
    with table.open("w", newline="") as out:
        writer = csv.DictWriter(out, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, *made])


if __name__ == "__main__":
    main()
