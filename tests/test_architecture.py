"""The rules by which the tree stays readable: rooms in order, no circles, torch stays out, tests in the same rooms."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import timesformer_jax

PACKAGE = Path(timesformer_jax.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
TESTS = Path(__file__).parent

ROOT = {"errors", "presets", "activations", "position_embeddings", "config", "schemes", "parameters", "sharding"}
"""Modules of the root. What is neither here nor in a room has no place; a new module belongs in a room."""

ROOMS = (
    ROOT | {"support"},
    {"video"},
    {"checkpoints", "kernels"},
    {"model", "data"},
    {"inference"},
    {"conversion", "interpret", "evaluation"},
    {"training"},
    {"ablation", "demo"},
    {"commands"},
    {"cli"},
)
"""From the bottom up: a room imports from those before it in this list, and from itself; not from its neighbours."""

LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}


def dotted_name(path: Path) -> str:
    """The module's name, without the package's: "", "config", "model", "model.layers"."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {dotted_name(path): path for path in MODULES}


def imports(path: Path) -> list[tuple[str, bool]]:
    """(module, whether it is imported when the file is) of every import; those of this package without its name."""
    package = list(path.relative_to(PACKAGE).parts[:-1])
    tree = ast.parse(path.read_text())
    lazy = {
        id(node)
        for scope in ast.walk(tree)
        if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(scope, ast.If) and ast.unparse(scope.test) == "TYPE_CHECKING")
        for node in ast.walk(scope)
    }
    found: list[tuple[str, bool]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name.removeprefix("timesformer_jax.") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            if not node.level and stem.split(".")[0] == "timesformer_jax":
                stem = stem.partition(".")[2]
            inner = [".".join(filter(None, (stem, alias.name))) for alias in node.names]
            names = [name if name in NAMES else stem for name in inner]
        else:
            continue
        found += [(name, id(node) not in lazy) for name in names]
    return found


def own_imports(path: Path) -> set[str]:
    """The package's modules that a file imports, wherever in it."""
    return {name for name, _ in imports(path) if name in NAMES}


def test_every_module_is_in_a_room_or_one_of_the_few_in_the_root() -> None:
    assert {name.split(".")[0] for name in NAMES} - {""} == set(LEVEL)
    assert len(list(PACKAGE.glob("*.py"))) <= 10


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_rooms_import_from_the_bottom_up(path: Path) -> None:
    room = dotted_name(path).split(".")[0]
    if not room:
        return
    for imported in own_imports(path):
        other = imported.split(".")[0]
        assert other, f"{path} imports the package's face, which stands on all rooms"
        below = LEVEL[other] < LEVEL[room] or (LEVEL[other] == LEVEL[room] == 0)
        assert other == room or below, f"{dotted_name(path)} imports {imported}, whose room does not stand below"


def test_there_are_no_circles() -> None:
    # Those hidden in functions, too: what can't be imported in one order can't be read in one.
    graph = {name: own_imports(path) - {name} for name, path in NAMES.items()}
    while leaves := {name for name, others in graph.items() if not others}:
        graph = {name: others - leaves for name, others in graph.items() if name not in leaves}
    assert not graph, f"these import each other, or stand on those that do: {sorted(graph)}"


def test_only_commands_know_the_command_line() -> None:
    users = {dotted_name(path) for path in MODULES for name, _ in imports(path) if name.split(".")[0] == "tyro"}
    assert {user.split(".")[0] for user in users} == {"commands", "cli"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_torch_is_imported_in_two_places_and_late(path: Path) -> None:
    for imported, at_import in imports(path):
        if imported.split(".")[0] in ("torch", "transformers"):
            name = dotted_name(path)
            assert name == "conversion.verify" or name.startswith("checkpoints."), f"{path} imports {imported}"
            assert not at_import, f"{path} imports {imported} at its top"


def test_one_file_names_the_axes_of_the_mesh() -> None:
    for path in MODULES:
        named = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
        assert "fsdp" not in named or dotted_name(path) == "sharding", path


def test_the_core_loads_neither_torch_nor_what_is_slow() -> None:
    heavy = ("torch", "transformers", "orbax", "av", "huggingface_hub", "optax", "tyro", "matplotlib")
    code = f"import sys, timesformer_jax; print([m for m in {heavy!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_modules_can_be_read_in_one_go() -> None:
    # The design asks for about 250 lines; docstrings and the config's field list may take a little more.
    too_long = {str(p.relative_to(PACKAGE)): n for p in MODULES if (n := len(p.read_text().splitlines())) > 380}
    assert not too_long


def test_the_model_can_be_read_in_an_evening() -> None:
    core = {f"model.{name}" for name in ("modeling", "layers", "attention", "token_groups", "embeddings")}
    read = set(core)
    while more := {name for each in read for name in own_imports(NAMES[each]) if name.startswith("model.")} - read:
        read |= more
    lines = {name: len(NAMES[name].read_text().splitlines()) for name in read}
    assert sum(lines[name] for name in core) <= 800
    assert sum(lines.values()) <= 1200


def test_tests_stand_in_the_rooms_of_what_they_test() -> None:
    rooms = {path.name for path in TESTS.iterdir() if path.is_dir() and any(path.glob("test_*.py"))}
    assert rooms <= set(LEVEL) - ROOT
