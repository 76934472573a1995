"""Who may import whom: design.md, section 3, held by reading every import statement."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Rooms from the bottom up. A room imports from lower lines only, or from itself.
ORDER = (
    ("vocabulary",),
    ("seeds", "files", "adam", "store", "space"),
    ("priors", "likelihoods", "networks", "data", "mirror"),
    ("divergences", "models"),
    ("encoders", "critics"),
    ("restrictions", "metrics"),
    ("objective",),
    ("evaluation",),
    ("training",),
    ("config",),
    ("resolve",),
    ("tuning",),
    ("__main__",),
)
HEIGHT = {room: height for height, rooms in enumerate(ORDER) for room in rooms}
#: Libraries that are allowed in these rooms alone, and those that are kept out of these.
ONLY = {"ray": {"tuning"}, "optuna": {"tuning"}, "hydra": {"config", "__main__"}, "omegaconf": {"config", "__main__"}}
NOWHERE = {
    "torch": {"vocabulary", "files", "models", "store", "space", "mirror", "config"},
    "torchvision": {"vocabulary", "store"},
}


def imported(path):
    """Every module that a file names in an import statement, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms():
    """Pairs of a file and its room."""
    for path in sorted((ROOT / "gimtune").rglob("*.py")):
        first = path.relative_to(ROOT / "gimtune").parts[0]
        yield path, first.removesuffix(".py")


FILES = [pytest.param(path, room, id=str(path.relative_to(ROOT))) for path, room in rooms() if room != "__init__"]


def test_every_room_has_its_place():
    assert {room for _, room in rooms()} - {"__init__"} == set(HEIGHT)


@pytest.mark.parametrize(("path", "room"), FILES)
def test_imports_point_one_way(path, room):
    for module in imported(path):
        top, _, rest = module.partition(".")
        target = rest.partition(".")[0]
        if top == "gimtune" and target in HEIGHT and target != room:
            assert HEIGHT[target] < HEIGHT[room], f"{room} imports {module}"
        if top == "analysis":
            assert HEIGHT[room] >= HEIGHT["tuning"], f"{room} imports {module}"


@pytest.mark.parametrize(("path", "room"), FILES)
def test_libraries_stay_in_their_rooms(path, room):
    for module in imported(path):
        top = module.partition(".")[0]
        assert room in ONLY.get(top, {room}), f"{room} imports {module}"
        assert room not in NOWHERE.get(top, ()), f"{room} imports {module}"


def test_the_bottom_imports_nothing_of_ours():
    for room in ("vocabulary", "seeds", "files", "adam"):
        tops = {module.partition(".")[0] for module in imported(ROOT / "gimtune" / f"{room}.py")}
        assert not tops & {"gimtune", "analysis"}


@pytest.mark.parametrize("path", sorted((ROOT / "analysis").rglob("*.py")), ids=lambda path: path.name)
def test_the_analysis_reads_through_the_store(path):
    allowed = {"gimtune.files", "gimtune.store", "gimtune.vocabulary", "gimtune.models"}
    for module in imported(path):
        top, _, rest = module.partition(".")
        assert top not in {"torch", "torchvision", "ray", "optuna", "hydra"}, f"{path.name} imports {module}"
        if top == "gimtune" and rest:
            assert f"gimtune.{rest.partition('.')[0]}" in allowed, f"{path.name} imports {module}"
