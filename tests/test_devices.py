"""The same training on any number of devices and processes."""

import pathlib
import platform
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

import run_tiny
import tiny
from conftest import ROOT
from fusion_emotion.errors import UserError
from fusion_emotion.train import cluster
from fusion_emotion.train.writer import read_metrics
from launch_kit import free_port
from run_tiny import finish

# Dropout and augmentations must be keyed by example. On eight devices each has two segments, a pair for mixup. Noise
# and colour are left to test_augment.py: their last bit depends on the shapes.
CONFIG = {
    "model__features": 16,
    "train__epochs": 5,
    "run__log_every_steps": 1,
    "train__ema_decay": 0.9,
    "train__label_smoothing": 0.1,
    "augment__mixup": 0.3,
    "augment__gain_db": 6.0,
    "augment__time_mask_s": 0.2,
    "augment__flip": 0.5,
    "augment__modality_dropout": 0.2,
}
# Sums in another order: float32 rounding, which ten steps of Adam carry on.
TOLERANCE = 2e-4


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tiny.write(tmp_path_factory.mktemp("prepared") / "tiny")


@pytest.fixture(scope="module")
def trained(records: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, pathlib.Path]:
    """The workdirs of trainings on one device and on eight."""
    workdirs = {devices: tmp_path_factory.mktemp(f"devices-{devices}") for devices in (1, 8)}
    for devices, workdir in workdirs.items():
        finish(run_tiny.start(records, workdir, CONFIG, devices=devices))
    return workdirs


def same(workdir: pathlib.Path, expected: pathlib.Path) -> None:
    """Equal rows of metrics, in any order of training and validation, up to rounding."""
    rows, expected_rows = (
        sorted(run_tiny.rows(folder), key=lambda row: (row["step"], row["part"])) for folder in (workdir, expected)
    )
    assert len(rows) == len(expected_rows) > 10
    for row, expected_row in zip(rows, expected_rows, strict=True):
        assert row.pop("part") == expected_row.pop("part")
        assert row == pytest.approx(expected_row, rel=TOLERANCE, abs=1e-6)


@pytest.mark.slow
def test_eight_devices_are_one_device(trained: dict[int, pathlib.Path]) -> None:
    same(trained[8], trained[1])


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4])
def test_the_number_of_devices_does_not_matter(
    records: pathlib.Path, trained: dict[int, pathlib.Path], devices: int, tmp_path: pathlib.Path
) -> None:
    finish(run_tiny.start(records, tmp_path, CONFIG, devices=devices))
    same(tmp_path, trained[1])


def two_processes(records: pathlib.Path, workdir: pathlib.Path) -> list[subprocess.Popen]:
    flags = (f"127.0.0.1:{free_port()}", "2")
    return [run_tiny.start(records, workdir, CONFIG, *flags, str(index), devices=2) for index in range(2)]


@pytest.mark.slow
def test_two_processes_of_two_devices_are_one_device(
    records: pathlib.Path, trained: dict[int, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    """Each reads its own share of every batch, gloo adds the gradients up, and the first process writes.

    A signal to one of them stops both after the same step, and they resume together.
    """
    processes = two_processes(records, tmp_path)
    while not read_metrics(tmp_path) and all(process.poll() is None for process in processes):
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGTERM)
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [128 + signal.SIGTERM] * 2, errors
    [step] = {int(text.split("stopped by SIGTERM: step ")[1].split()[0]) for text in errors}
    assert 0 < step < read_metrics(trained[1])[-1]["step"]
    for process in two_processes(records, tmp_path):
        finish(process)
    same(tmp_path, trained[1])


@pytest.mark.slow
def test_of_several_processes_all_end_when_the_one_that_writes_cannot(
    records: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    processes = two_processes(records, tmp_path)
    run_tiny.without_room(processes[0])
    first, second = (process.communicate(timeout=120)[1].strip().splitlines()[-1] for process in processes)
    assert [process.returncode for process in processes] == [1, 1], (first, second)
    assert "cannot be written" in first
    assert "(File too large); there is none before it" in first
    assert "(the first process says why)" in second


@pytest.mark.slow
def test_the_readme_command_of_several_processes(sample_corpus: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Prepared by one process, trained and evaluated by two: one of them prints and writes."""
    changes = {
        "data.corpus": "ravdess",
        "data.root": sample_corpus,
        "run.cache": tmp_path / "cache",
        "split.protocol": "takes",
        "model.modalities": "audio",
        "train.epochs": 2,
    }
    command = [sys.executable, "launch.py", "--config=configs/sample.py", f"--workdir={tmp_path / 'run'}"]
    command += [f"--config.{field}={value}" for field, value in changes.items()]
    flags = [f"--distributed=127.0.0.1:{free_port()}", "--num_processes=2"]

    def begin(*more: str) -> subprocess.Popen:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([*command, *more], cwd=ROOT, env=run_tiny.environment(2), text=True, **pipes)

    finish(begin("--mode=prepare"))
    processes = [begin(*flags, f"--process_id={index}") for index in range(2)]
    (first, errors), (second, other_errors) = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors + other_errors
    for words in ("devices    4 x cpu, in 2 processes", "UAR", f"report: {tmp_path / 'run' / 'report.html'}"):
        assert words in first
    # Gloo itself writes to the output of every process.
    assert not [word for word in ("config", "parameters", "UAR", "report") if word in second], second
    assert (tmp_path / "run" / "report.html").is_file()


def test_a_batch_that_does_not_divide_is_an_error(records: pathlib.Path, tmp_path: pathlib.Path) -> None:
    error = run_tiny.failed(run_tiny.start(records, tmp_path, {**CONFIG, "train__batch_size": 18}, devices=4))
    assert error.startswith("error: train.batch_size=18 does not divide over 4 devices")


def test_the_loss_goes_down(trained: dict[int, pathlib.Path]) -> None:
    losses = [row["loss"] for row in read_metrics(trained[1]) if row["part"] == "train"]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


@pytest.mark.parametrize(
    ("distributed", "n", "index", "key_word"),
    [
        ("localhost:1234", None, None, "--num_processes and --process_id"),
        ("localhost:1234", 2, 2, "--process_id=2"),
        *((address, 2, 1, "HOST:PORT") for address in ("localhost", "localhost:", "localhost:x", ":1", "::1:1234")),
        *((address, 2, 1, "65535") for address in ("localhost:0", "localhost:65536", "[::1]:99999")),
        ("host.invalid:1234", 2, 1, "host.invalid is not known"),
    ],
)
def test_wrong_flags_of_several_processes(distributed, n, index, key_word) -> None:
    with pytest.raises(UserError, match=key_word):
        cluster.join(distributed, n, index)


def test_a_port_in_use_is_an_error_of_the_first_process() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} .*in use"):
            cluster.join(f"127.0.0.1:{port}", 2, 0)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6")
def test_an_address_of_ipv6_is_joined() -> None:
    port = free_port()
    code = f"from fusion_emotion.train import cluster; cluster.join('[::1]:{port}', 1, 0); assert cluster.joined()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=run_tiny.environment(), check=True, timeout=120)


def test_off_joins_nothing_and_auto_without_a_cluster_is_an_error() -> None:
    code = "from fusion_emotion.train import cluster; cluster.join('off'); cluster.joined() or cluster.join('auto')"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=run_tiny.environment(), check=False
    )
    assert ran.returncode == 1
    assert "UserError" in ran.stderr


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_freed_memory_is_kept_for_what_comes_next() -> None:
    """Ten arrays of 32 MB, one after the other, take their 8,192 pages once and not ten times."""
    code = (
        "import resource; import numpy as np; from fusion_emotion.train import kept\n"
        "{}\n"
        "np.ones(1 << 22)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(10): np.ones(1 << 22)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    default, kept = (
        int(subprocess.run([sys.executable, "-c", code.format(call)], capture_output=True, check=True, cwd=ROOT).stdout)
        for call in ("", "kept.keep_memory()")
    )
    # NumPy asks for huge pages of arrays as large as these, where the system grants them.
    assert kept < default / 10
