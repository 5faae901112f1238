"""Make the tables of the README from the rows in results/*.csv.

python results/make_table.py            writes them into README.md
python results/make_table.py --check    fails if README.md differs from them
"""

import csv
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
README = HERE.parent / "README.md"


def percent(text: str) -> str:
    """Format a fraction in per cent."""
    return f"{100 * float(text):.1f}"


def markdown(rows: list[dict[str, str]]) -> str:
    """Return a table of peers, cross-validations or runs, and below it the meaning of the numbers and the commands."""
    header, cells, meaning = (peers if "peer" in rows[0] else crossvals if "system" in rows[0] else runs)(rows)
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in cells]
    commands = "\n".join(f"    {command}" for command in dict.fromkeys(row["command"] for row in rows))
    machines = "; ".join(sorted({f"{row['machine']} ({row['devices']})" for row in rows}))
    each = "Each row's command" if "system" not in rows[0] else "Made by"
    return "\n".join([*lines, "", f"{meaning}, on {machines}. {each}:", "", commands])


def peers(rows: list[dict[str, str]]) -> tuple[tuple[str, ...], list[tuple[str, ...]], str]:
    """Return the header, the cells and the meaning of a table with one row for each system and collection of clips."""
    header = ("", "trained on", "clips", "UAR", "WAR", "chance UAR")
    cells = [
        (
            row["peer"],
            row["trained_on"],
            f"{row['corpus']} ({row['clips']})",
            *(percent(row[name]) for name in ("uar", "war", "chance_uar")),
        )
        for row in rows
    ]
    return header, cells, "Clip level, per cent; none of the clips was in the training"


def runs(rows: list[dict[str, str]]) -> tuple[tuple[str, ...], list[tuple[str, ...]], str]:
    """Return the header, the cells and the meaning of a table with one row a run."""
    header = ("", "protocol", "test clips (speakers)", "UAR", "WAR", "macro-F1", "chance UAR", "training")
    cells = [
        (
            f"{row['corpus']}, {row['modalities']}",
            row["protocol"]
            + (f", fold {row['fold']}" if row["fold"] else "")
            + (f", seed {row['seed']}" if row["seed"] != "0" else ""),
            clips(row),
            *(percent(row[name]) for name in ("clip_uar", "clip_war", "clip_macro_f1", "chance_uar")),
            f"{float(row['train_seconds']):.0f} s",
        )
        for row in rows
    ]
    return header, cells, "Clip level, per cent"


def clips(row: dict[str, str]) -> str:
    """Return the number of clips that were tested, and of speakers where they are known."""
    return row["test_clips"] + (f" ({row['test_speakers']})" if row["test_speakers"] != "0" else "")


def crossvals(rows: list[dict[str, str]]) -> tuple[tuple[str, ...], list[tuple[str, ...]], str]:
    """Return the header, the cells and the meaning of a table with one row for each protocol and system."""
    header = (
        *("", "protocol", "folds; seeds", "test clips (speakers)", "UAR [95 %]", "UAR, mean ± sd of folds", "WAR"),
        *("macro-F1", "chance UAR", "training"),
    )
    protocols = list(dict.fromkeys(row["protocol"] for row in rows))
    rows = sorted(rows, key=lambda row: (protocols.index(row["protocol"]), row["system"] != "network"))
    cells = [
        (
            f"{row['corpus']}, " + (row["modalities"] or f"baseline {row['system']}"),
            f"{row['protocol']} ({row['on_both_sides'] or 'speaker-independent'})",
            f"{row['folds'] or 'no folds'}; {row['seeds'].replace(' ', ', ')}",
            clips(row),
            percent(row["uar_pooled"])
            + (f" [{percent(row['uar_low'])}, {percent(row['uar_high'])}]" if row["uar_low"] else ", no interval"),
            percent(row["uar_mean"]) + (f" ± {percent(row['uar_std_folds'])}" if row["uar_std_folds"] else ""),
            *(percent(row[name]) for name in ("war_pooled", "macro_f1_pooled", "chance_uar")),
            f"{int(row['runs'])} x {float(row['epochs']):g} epochs, {float(row['train_seconds']) / 60:.0f} min"
            if row["epochs"]
            else "",
        )
        for row in rows
    ]
    meaning = (
        "Clip level, per cent; pooled over folds and averaged over seeds; the interval is of resampled speakers, and "
        "there is none of fewer than four"
    )
    inflated = [
        f"{row['protocol']} ({row['on_both_sides']}) shows {100 * float(row['inflation_uar']):+.1f} points of UAR"
        + (f" [{percent(row['inflation_low'])}, {percent(row['inflation_high'])}]" if row["inflation_low"] else "")
        + f" against {row['inflation_over']} for {row['corpus']}, {row['modalities'] or 'baseline ' + row['system']}"
        for row in rows
        if row["inflation_over"] and row["system"] != "majority"
    ]
    # Cross-validations of other modalities on the same splits have the same baselines.
    cells = list(dict.fromkeys(cells))
    return header, cells, ". Inflation: ".join([meaning, "; ".join(inflated)] if inflated else [meaning])


def filled(readme: str) -> str:
    """Return the README with every `<!-- results/NAME.csv -->` section replaced."""

    def section(match: re.Match[str]) -> str:
        with (HERE.parent / match[1]).open() as table:
            return f"<!-- {match[1]} -->\n{markdown(list(csv.DictReader(table)))}\n<!-- end -->"

    return re.sub(r"<!-- (results/\S+\.csv) -->\n.*?<!-- end -->", section, readme, flags=re.DOTALL)


def main() -> None:
    """Write the tables, or with --check compare them."""
    readme = README.read_text(encoding="utf-8")
    made = filled(readme)
    if "--check" in sys.argv and made != readme:
        sys.exit("README.md differs from results/*.csv: run python results/make_table.py")
    README.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
