"""The tables of the README from the rows in results/*.csv.

python results/make_table.py            writes them into README.md
python results/make_table.py --check    fails where README.md differs from them
"""

import csv
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
README = HERE.parent / "README.md"


def share(text: str) -> str:
    """A share as a percentage."""
    return f"{100 * float(text):.1f}"


def markdown(rows: list[dict[str, str]]) -> str:
    """A table with a row a run, and below it the command of each."""
    header = ("", "protocol", "test clips (speakers)", "UAR", "WAR", "macro-F1", "chance UAR", "training")
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for row in rows:
        fold = f", fold {row['fold']}" if row["fold"] else ""
        cells = (
            f"{row['corpus']}, {row['modalities']}",
            f"{row['protocol']}{fold}",
            f"{row['test_clips']} ({row['test_speakers']})",
            *(share(row[name]) for name in ("clip_uar", "clip_war", "clip_macro_f1", "chance_uar")),
            f"{float(row['train_seconds']):.0f} s",
        )
        lines.append("| " + " | ".join(cells) + " |")
    commands = "\n".join(f"    {row['command']}" for row in rows)
    machines = "; ".join(sorted({f"{row['machine']} ({row['devices']})" for row in rows}))
    return "\n".join([*lines, "", f"Clip level, per cent, on {machines}. Each row's command:", "", commands])


def filled(readme: str) -> str:
    """The README with every `<!-- results/NAME.csv -->` section made anew."""

    def section(match: re.Match[str]) -> str:
        with (HERE.parent / match[1]).open() as table:
            return f"<!-- {match[1]} -->\n{markdown(list(csv.DictReader(table)))}\n<!-- end -->"

    return re.sub(r"<!-- (results/\S+\.csv) -->\n.*?<!-- end -->", section, readme, flags=re.DOTALL)


def main() -> None:
    """Write or check, as the command line says."""
    readme = README.read_text(encoding="utf-8")
    made = filled(readme)
    if "--check" in sys.argv and made != readme:
        sys.exit("README.md differs from results/*.csv: run python results/make_table.py")
    README.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
