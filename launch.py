"""Prepare, train, evaluate and report: python launch.py --config=configs/ravdess.py

Any field of a config can be changed: --config.train.epochs=20. A run that was stopped goes on when the same command is
given again. --mode=evaluate and --mode=report need only the --workdir of a run.
"""

import pathlib
import re
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from fusion_emotion import modes
from fusion_emotion.errors import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "File of the configuration, for example configs/sample.py.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; by default runs/NAME of the config.")
_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    list(modes.MODES),
    "train: prepare, train, evaluate, report; prepare: only that; evaluate: the best checkpoint of --workdir; "
    "report: write report.html again; inspect: write prepared.html, what came of the preparation; "
    "download: fetch RAVDESS.",
)
CONFIGS = sorted(path for path in pathlib.Path("configs").glob("*.py") if path.stem != "__init__")


def main(argv: list[str]) -> None:
    """Run the mode that the flags name."""
    logging.set_verbosity(logging.WARNING)  # Orbax and JAX tell of every file otherwise
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}: flags begin with --")
    name = pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem if _CONFIG.value else ""
    if not name and not _WORKDIR.value:
        raise UserError("give --config=configs/NAME.py, or the --workdir of a run with --mode=evaluate or report")
    workdir = pathlib.Path(_WORKDIR.value or f"runs/{name}").absolute()
    config = _CONFIG.value.to_dict() if name else modes.load_config(workdir)
    if name:
        print(f"config     {config_flags.get_config_filename(flags.FLAGS['config'])}")
    modes.MODES[_MODE.value](config, workdir)


def parse_flags(argv: list[str]) -> list[str]:
    """What is left of `argv` after the flags. Raises UserError for a flag, a config or a field that is none."""
    # ml_collections wants --config before --config.field; a person need not.
    argv = argv[:1] + sorted(argv[1:], key=lambda argument: not argument.startswith("--config="))
    for argument in argv[1:]:
        if argument.startswith("--config=") and not pathlib.Path(argument.removeprefix("--config=")).is_file():
            raise UserError(f"{argument} is not a file: choose one of {', '.join(map(str, CONFIGS))}")
    try:
        return flags.FLAGS(argv)
    except (KeyError, AttributeError) as error:
        # Quoted and escaped twice on its way here.
        said = " ".join(re.sub(r"\\n|[\\'\"]", " ", str(error)).split())
        raise UserError(f"the config has no field {said} (configs/ravdess.py lists them all)") from error
    except (flags.Error, TypeError, ValueError) as error:
        raise UserError(f"{error} (python launch.py --help lists the flags)") from error


if __name__ == "__main__":
    try:
        app.run(main, flags_parser=parse_flags)
    except UserError as error:
        sys.exit(f"error: {error}")
