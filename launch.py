"""Prepare, train, evaluate and report: python launch.py --config=configs/ravdess.py

Any field of a config can be changed: --config.train.epochs=20. A run that was stopped goes on when the same command is
given again. --mode=evaluate, --mode=report and --mode=analyse need only the --workdir of a run.
"""

import os
import pathlib
import re
import sys

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from fusion_emotion import commands
from fusion_emotion.config import CONFIG, MOVED, RELEASED_MODEL, completed, read
from fusion_emotion.config import __file__ as config_file
from fusion_emotion.errors import Stopped, UserError
from fusion_emotion.files import expanded, is_utf8
from fusion_emotion.train import cluster

_CONFIG = config_flags.DEFINE_config_file("config", None, "File of the configuration, for example configs/sample.py.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; by default runs/NAME of the config.")
_WORKDIRS = flags.DEFINE_list("workdirs", [], "Two runs for --mode=compare, with a comma between.")
_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    [*commands.MODES, "compare", "predict", "serve", "export", "release", "films"],
    "train: prepare, train, evaluate, report; prepare: only that; evaluate: the best checkpoint of --workdir; "
    "report: write report.html again; analyse: write analysis.html, what each modality is worth to a model; "
    "inspect: write prepared.html, the prepared clips; baselines: simple classifiers on the same split; "
    "crossval: every fold of config.crossval.protocols with every seed; compare: the two --workdirs; "
    "download: fetch the corpus; predict: judge --input by --model, and write timelines to --output; "
    "serve: a page in the browser for recordings and camera, judged by --model; "
    "export: write --model as one file, --output=NAME.onnx or NAME.stablehlo; "
    "release: write the model of --workdir to --output: of a training whose test part is given, or, of a "
    "cross-validation, one that is trained on every clip with its config; "
    "films: fit a last layer for films to --model, one of pictures, and write both to --output.",
)
_INPUT = flags.DEFINE_string(
    "input", None, "A file, a folder, a pattern ('talks/*.mp4'), a URL or camera:0, to predict."
)
_MODEL = flags.DEFINE_string(
    "model",
    RELEASED_MODEL,
    "For --mode=predict, serve, export and films: the name of a released model, the workdir of a finished training, or "
    "VOICE+FACE, two that judge together (predict and serve only).",
)
_OUTPUT = flags.DEFINE_string(
    "output", "", "The folder of predictions (by default predictions) or of a released model, or the exported file."
)
_DISTRIBUTED = flags.DEFINE_string(
    "distributed",
    "off",
    "Several processes: off; auto, by JAX's detection of Slurm, Open MPI, TPU pods and Kubernetes; or HOST:PORT of the "
    "first one, with --num_processes and --process_id.",
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "The number of processes, for --distributed=HOST:PORT.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "The number of this process, from 0.")
_CONFIGS = sorted(path for path in (pathlib.Path(__file__).parent / "configs").glob("*.py") if path.stem != "__init__")


def main(argv: list[str]) -> None:
    """Run the mode that the flags name."""
    logging.set_verbosity(logging.WARNING)  # Orbax and JAX log every file otherwise
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}: flags begin with --")
    if _MODE.value == "compare":
        commands.compare([expanded(workdir, field="--workdirs") for workdir in _WORKDIRS.value])
        return
    if _MODE.value in ("predict", "serve", "export"):
        _use_model()
        return
    if _MODE.value == "release":
        if not _WORKDIR.value or not _OUTPUT.value:
            raise UserError(
                "--mode=release needs --workdir=a finished training or cross-validation, and --output=the folder to "
                "write"
            )
        commands.release(expanded(_WORKDIR.value, field="--workdir"), expanded(_OUTPUT.value, field="--output"))
        return
    if _MODE.value == "films":
        if not _CONFIG.value or not _OUTPUT.value or _WORKDIR.value:
            raise UserError(
                "--mode=films needs --config=configs/films.py, --model=face-base and --output=the folder to write, and "
                "takes no --workdir"
            )
        output = expanded(_OUTPUT.value, field="--output")
        commands.films(completed(_CONFIG.value.to_dict()), model=_MODEL.value, output=output)
        return
    if not _CONFIG.value:
        raise UserError(
            f"give --config=NAME.py ({_configs()}), or the --workdir of a run with --mode=evaluate or report"
        )
    file = pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"]))
    usual = pathlib.Path("runs", file.stem + "_crossval" * (_MODE.value == "crossval"))
    workdir = expanded(_WORKDIR.value or str(file.parent if file.name == CONFIG else usual), field="--workdir")
    if not is_utf8(workdir):
        raise UserError(f"--workdir={workdir} is not in UTF-8: choose another folder")
    if _DISTRIBUTED.value != "off" and _MODE.value not in ("train", "evaluate"):
        raise UserError(f"--mode={_MODE.value} is for one process: run it without --distributed")
    cluster.join(_DISTRIBUTED.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    print(f"config     {file}")
    commands.MODES[_MODE.value](completed(_CONFIG.value.to_dict()), workdir)


def _use_model() -> None:
    """Predict, serve or export, which need a model and no workdir of their own."""
    if _WORKDIR.value:
        raise UserError(f"--mode={_MODE.value} takes no --workdir: give --model={_WORKDIR.value}")
    needed = {"--input=FILE, a folder or a pattern": _INPUT.value} if _MODE.value == "predict" else {}
    needed["--model=NAME of a released model, or the workdir of a finished training"] = _MODEL.value
    if _MODE.value == "export":
        needed["--output=NAME.onnx or NAME.stablehlo"] = _OUTPUT.value
    if missing := [what for what, value in needed.items() if not value]:
        raise UserError(f"--mode={_MODE.value} needs {missing[0]}")
    config, output = completed(_CONFIG.value.to_dict()), expanded(_OUTPUT.value or "predictions", field="--output")
    model, given = str(_MODEL.value), str(_INPUT.value or "")
    if _MODE.value == "predict":
        commands.predict(config, given=given, model=model, output=output)
    elif _MODE.value == "serve":
        commands.serve(config, model=model)
    else:
        commands.export(config, given=given, model=model, output=output)


class _ConfigParser(config_flags.config_flags.ConfigFileFlagParser):
    """A parser of --config that also reads the config.json of a workdir."""

    def parse(self, path: str) -> ConfigDict:
        """Return the config of a file. Raises UserError if it cannot be read."""
        file = pathlib.Path(path)
        if file.suffix == ".json":
            return ConfigDict(read(file)).lock()
        if not file.is_file():
            raise UserError(f"--config={path} is not a file: choose one of {_configs()}")
        try:
            return super().parse(path)
        except Exception as error:
            said = " ".join(str(error).splitlines()[-1:])
            raise UserError(f"--config={path} cannot be read ({type(error).__name__}: {said}): mend it") from error


def _configs() -> str:
    return ", ".join(os.path.relpath(path) for path in _CONFIGS)


def parse_flags(argv: list[str]) -> list[str]:
    """Parse the flags and return the rest of `argv`. Raises UserError for an unknown flag, config or field."""
    flags.FLAGS["config"].parser = _ConfigParser("config")
    # "-config" and "--config NAME" are as good as "--config=NAME".
    argv = [re.sub(r"^-(?=[a-z]\w+)", "--", word) for word in argv]
    words = re.sub(r"(?<=\0)(--(?:config|workdir|mode))\0", r"\1=", "\0".join(argv)).split("\0")
    given = dict(word.split("=", 1) for word in words if word.startswith(("--config=", "--workdir=")))
    if "" in given.values():
        raise UserError(f"{' and '.join(name for name in given if not given[name])} is empty: give it a value")
    if {"--mode=predict", "--mode=serve", "--mode=export"} & set(words) and "--config" not in given:
        words.append(f"--config={config_file}")
    elif "--workdir" in given and "--config" not in given:
        words.append(f"--config={expanded(given['--workdir'], field='--workdir') / CONFIG}")
    elif "--config" not in given and (fields := [word for word in words if word.startswith("--config.")]):
        raise UserError(
            f"{fields[0]} changes a field of a config: also give one of --config={_configs()}, or --workdir"
        )
    # ml_collections needs --config before --config.field, which it looks for in sys.argv.
    sys.argv = words = words[:1] + sorted(words[1:], key=lambda word: not word.startswith("--config="))
    for word in words:
        field = re.match(r"--(?:no)?config\.([\w.]+)", word)
        if field and field[1] in MOVED:
            raise UserError(f"config.{field[1]} is now config.{MOVED[field[1]]}: give --config.{MOVED[field[1]]}")
    try:
        return flags.FLAGS(words)
    except (KeyError, AttributeError) as error:
        # The message is quoted and escaped twice on its way here.
        said = " ".join(re.sub(r"\\n|[\\'\"]", " ", str(error)).split())
        raise UserError(f"the config has no field {said} (fusion_emotion/config.py lists them all)") from error
    except (flags.Error, TypeError, ValueError) as error:
        raise UserError(f"{error} (python launch.py --help lists the flags)") from error


def run() -> None:
    """Run launch.py; a user's mistake is one line and no traceback."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names in no encoding
    try:
        app.run(main, flags_parser=parse_flags)
    except UserError as error:
        sys.exit(f"error: {error}")
    except Stopped as stopped:
        print(f"stopped by {stopped}", file=sys.stderr)
        sys.exit(stopped.exit_code)


def console() -> None:
    """The command `fusion-emotion predict FILE --model=...`, as `launch.py --mode=predict --input=FILE --model=...`.

    Behind `serve` and `export` stands the model: `fusion-emotion serve WORKDIR`.
    """
    mode, *rest = sys.argv[1:] or ["--help"]
    flag = "input" if mode == "predict" else "model"
    inputs = [
        f"--{flag}={word}" if number == 0 and not word.startswith("--") else word for number, word in enumerate(rest)
    ]
    sys.argv = [sys.argv[0], mode if mode.startswith("--") else f"--mode={mode}", *inputs]
    run()


if __name__ == "__main__":
    run()
