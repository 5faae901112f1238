"""The arrows between the rooms go one way, as docs/architecture.md draws them."""

import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "fusion_emotion"
LEAVES = {
    "config",
    "cores",
    "errors",
    "files",
    "locks",
    "progress",
    "units",
    "versions",
}  # import nothing of ours but each other
# The rooms, or single modules of a room, that a room may import beside itself and the leaves.
ARROWS = {
    "corpora": set(),
    "prepare": {"corpora"},
    "models": set(),
    "input": {"corpora", "models.batch", "prepare.records"},
    "train": {"input", "models"},
    "evaluate": {"corpora", "input", "models", "prepare.records", "train"},
    "experiments": {
        "corpora",
        "evaluate",
        "input",
        "models.films",
        "models.weights",
        "prepare.records",
        "train.writer",
    },
    "analyse": {"corpora", "evaluate", "input", "models", "prepare.records", "train.devices"},
    "predict": {"corpora.clip", "corpora.labels", "evaluate.table", "models", "pages.timeline", "prepare"},
    "serve": {"corpora.sample", "pages.timeline", "predict", "prepare.media_errors"},
    "pages": {
        *("corpora", "input", "models.batch", "models.frontend", "prepare.records"),
        *(f"evaluate.{name}" for name in ("answers", "statistics", "table")),
    },
}


def imports(path: pathlib.Path) -> set[str]:
    """The modules of ours that a file imports, without the package's name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{name.name}" for name in node.names}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return {name.removeprefix("fusion_emotion.") for name in found if name.startswith("fusion_emotion.")}


@pytest.mark.parametrize("room", sorted(ARROWS))
def test_a_room_imports_only_what_its_arrows_reach(room):
    allowed = {room, *ARROWS[room], *LEAVES}
    for path in (PACKAGE / room).rglob("*.py"):
        for name in imports(path):
            assert {name, name.split(".")[0], ".".join(name.split(".")[:2])} & allowed, f"{path.name} imports {name}"


def test_leaves_import_leaves_only_and_every_room_has_its_arrows():
    for leaf in LEAVES:
        assert {name.split(".")[0] for name in imports(PACKAGE / f"{leaf}.py")} <= LEAVES
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert rooms == set(ARROWS)
    assert {path.stem for path in PACKAGE.glob("*.py")} == {*LEAVES, "__init__", "commands"}


def test_no_room_knows_the_program_that_starts_it():
    """A subprocess is an import too: a room gets the command to start as an argument."""
    for room in ARROWS:
        for path in (PACKAGE / room).rglob("*.py"):
            tree = ast.parse(path.read_text())
            messages = {
                id(node) for joined in ast.walk(tree) if isinstance(joined, ast.JoinedStr) for node in joined.values
            }
            for node in ast.walk(tree):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in messages:
                    assert not node.value.endswith("launch.py") or " " in node.value, f"{path.name}:{node.lineno}"
            if "subprocess" in path.read_text():
                assert (room, path.name) in {("experiments", "crossval.py"), ("evaluate", "results.py")}  # git


def loaded_after(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    return set(ran.stdout.split())


def modules(*rooms: str) -> str:
    paths = [path for room in rooms for path in (PACKAGE / room).glob("*.py")]
    names = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in paths]
    return "import " + ", ".join(name.removesuffix(".__init__") for name in names)


def test_jax_rooms_load_no_decoder_or_detector():
    loaded = loaded_after(modules("train", "evaluate", "input", "models", "experiments", "analyse", "pages"))
    assert "jax" in loaded
    assert not {"decord", "insightface", "onnxruntime", "cv2"} & loaded


def test_pictures_are_loaded_by_pages_only():
    loaded = loaded_after(modules("train", "evaluate", "input", "models", "experiments", "analyse"))
    assert not {"matplotlib", "jinja2"} & loaded


def test_preparation_loads_no_jax():
    loaded = loaded_after(modules("prepare"))
    assert "decord" in loaded
    assert not {"jax", "flax"} & loaded


def test_the_package_loads_nothing_before_a_recogniser_is_asked_for():
    assert not {"jax", "av", "cv2", "numpy"} & loaded_after("import fusion_emotion")


def test_launch_loads_neither_before_a_mode_runs():
    assert not {"jax", "decord", "insightface", "onnxruntime", "cv2"} & loaded_after("import launch")
