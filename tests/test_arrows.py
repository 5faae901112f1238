"""The arrows between the rooms go one way."""

import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "fusion_emotion"
LEAVES = {"errors", "files", "locks", "units"}  # modules that import nothing of ours but each other
ARROWS = {
    "corpora": set(),
    "prepare": {"corpora"},
    "input": {"corpora", "prepare"},
    "models": set(),
    "train": {"corpora", "input", "models", "evaluate"},
    "evaluate": {"corpora", "input", "models", "prepare", "train"},
    "experiments": {"corpora", "evaluate", "input", "prepare", "train"},
    "analyse": {"evaluate", "input", "models", "prepare", "train", "pages"},
    "pages": {"corpora", "evaluate", "experiments", "input", "models", "prepare", "train"},
}
# Of `prepare`, these rooms may see only what a record is.
RECORDS_ONLY = set(ARROWS) - {"prepare"}


def imports(path: pathlib.Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{name.name}" for name in node.names}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return {name for name in found if name.startswith("fusion_emotion")}


@pytest.mark.parametrize("room", sorted(ARROWS))
def test_a_room_imports_only_what_its_arrows_reach(room):
    for path in (PACKAGE / room).rglob("*.py"):
        for name in imports(path):
            other = name.split(".")[1]
            assert other in {room, *ARROWS[room], *LEAVES}, f"{path} imports {name}"
            if other == "prepare" and room in RECORDS_ONLY:
                assert name.split(".")[2] in {"records", "settings"}, f"{path} imports {name}"


def test_every_room_has_its_arrows():
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert rooms == set(ARROWS)


def loaded_after(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    return set(ran.stdout.split())


def modules(room: str) -> str:
    names = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in (PACKAGE / room).glob("*.py")]
    return "import " + ", ".join(name.removesuffix(".__init__") for name in names)


@pytest.mark.parametrize("room", ["train", "evaluate", "input", "models"])
def test_jax_rooms_load_no_decoder_or_detector(room):
    assert not {"decord", "insightface", "onnxruntime", "cv2"} & loaded_after(modules(room))


def test_preparation_loads_no_jax():
    loaded = loaded_after(modules("prepare"))
    assert "decord" in loaded
    assert not {"jax", "flax"} & loaded


def test_launch_loads_neither_before_a_mode_runs():
    assert not {"jax", "decord", "insightface", "onnxruntime", "cv2"} & loaded_after("import launch")
