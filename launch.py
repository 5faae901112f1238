"""Prepare, train, evaluate and report: python launch.py --config=configs/ravdess.py

Any field of a config can be changed: --config.train.epochs=20. A run that was stopped goes on when the same command is
given again. --mode=evaluate, --mode=report and --mode=analyse need only the --workdir of a run.
"""

import pathlib
import re
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from fusion_emotion import commands
from fusion_emotion.config import MOVED, completed, load
from fusion_emotion.errors import Stopped, UserError
from fusion_emotion.train import cluster

_CONFIG = config_flags.DEFINE_config_file("config", None, "File of the configuration, for example configs/sample.py.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; by default runs/NAME of the config.")
_WORKDIRS = flags.DEFINE_list("workdirs", [], "Two runs for --mode=compare, with a comma between.")
_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    [*commands.MODES, "compare"],
    "train: prepare, train, evaluate, report; prepare: only that; evaluate: the best checkpoint of --workdir; "
    "report: write report.html again; analyse: write analysis.html, what each modality is worth to a model; "
    "inspect: write prepared.html, the prepared clips; baselines: simple classifiers on the same split; "
    "crossval: every fold of config.crossval.protocols with every seed; compare: the two --workdirs; "
    "download: fetch RAVDESS.",
)
_DISTRIBUTED = flags.DEFINE_string(
    "distributed",
    "off",
    "Several processes: off; auto, by JAX's detection of Slurm, Open MPI, TPU pods and Kubernetes; or HOST:PORT of the "
    "first one, with --num_processes and --process_id.",
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "The number of processes, for --distributed=HOST:PORT.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "The number of this process, from 0.")
CONFIGS = sorted(path for path in pathlib.Path("configs").glob("*.py") if path.stem != "__init__")


def main(argv: list[str]) -> None:
    """Run the mode that the flags name."""
    logging.set_verbosity(logging.WARNING)  # Orbax and JAX log every file otherwise
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}: flags begin with --")
    if _MODE.value == "compare":
        commands.compare([pathlib.Path(workdir) for workdir in _WORKDIRS.value])
        return
    name = pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem if _CONFIG.value else ""
    if not name and not _WORKDIR.value:
        raise UserError("give --config=configs/NAME.py, or the --workdir of a run with --mode=evaluate or report")
    usual = f"runs/{name}_crossval" if _MODE.value == "crossval" else f"runs/{name}"
    workdir = pathlib.Path(_WORKDIR.value or usual).absolute()
    config = completed(_CONFIG.value.to_dict()) if name else load(workdir)
    if _DISTRIBUTED.value != "off" and _MODE.value not in ("train", "evaluate"):
        raise UserError(f"--mode={_MODE.value} is for one process: run it without --distributed")
    cluster.join(_DISTRIBUTED.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    if name:
        print(f"config     {config_flags.get_config_filename(flags.FLAGS['config'])}")
    commands.MODES[_MODE.value](config, workdir)


def parse_flags(argv: list[str]) -> list[str]:
    """Parse the flags and return the rest of `argv`. Raises UserError for an unknown flag, config or field."""
    # ml_collections needs --config before --config.field; sort, so that users need not.
    argv = argv[:1] + sorted(argv[1:], key=lambda argument: not argument.startswith("--config="))
    for argument in argv[1:]:
        if argument.startswith("--config=") and not pathlib.Path(argument.removeprefix("--config=")).is_file():
            raise UserError(f"{argument} is not a file: choose one of {', '.join(map(str, CONFIGS))}")
        field = re.match(r"--(?:no)?config\.([\w.]+)", argument)
        if field and field[1] in MOVED:
            raise UserError(f"config.{field[1]} is now config.{MOVED[field[1]]}: give --config.{MOVED[field[1]]}")
    try:
        return flags.FLAGS(argv)
    except (KeyError, AttributeError) as error:
        # The message is quoted and escaped twice on its way here.
        said = " ".join(re.sub(r"\\n|[\\'\"]", " ", str(error)).split())
        raise UserError(f"the config has no field {said} (fusion_emotion/config.py lists them all)") from error
    except (flags.Error, TypeError, ValueError) as error:
        raise UserError(f"{error} (python launch.py --help lists the flags)") from error


if __name__ == "__main__":
    try:
        app.run(main, flags_parser=parse_flags)
    except UserError as error:
        sys.exit(f"error: {error}")
    except Stopped as stopped:
        print(f"stopped by {stopped}", file=sys.stderr)
        sys.exit(stopped.exit_code)
