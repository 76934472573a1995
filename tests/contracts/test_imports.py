"""Who may import whom, held by reading every import statement."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Rooms from the bottom up. A room imports from lower lines only, or from itself.
ORDER = (
    ("vocabulary", "files", "interruption", "shadows"),
    ("parts",),
    ("networks", "data", "results"),
    ("algebra",),
    ("training",),
    ("metrics",),
    ("study", "analysis"),
    ("testing", "register"),
    ("tuning", "tune"),
    ("api",),
    ("__main__", "__init__"),
)
HEIGHT = {room: height for height, rooms in enumerate(ORDER) for room in rooms}
#: Libraries that are allowed in these places alone, and places that they are kept out of.
ONLY = {
    "ray": {"tuning", "tune"},
    "optuna": {"tuning"},
    "hydra": {"study.composition", "study.completion", "__main__"},
    "omegaconf": {"study.composition", "study.reading", "__main__"},
}
NOWHERE = (
    {"torch", "torchvision"},
    {"vocabulary", "files", "interruption", "shadows", "parts", "results", "analysis", "data.dataset"},
)
#: All that the analysis may read a study through.
READS = {"vocabulary", "files", "results", "analysis"}


def imported(path):
    """Every module that a file names in an import statement, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files():
    """Every file with its room and its place, as ``study`` and ``study.schema``."""
    for folder, before in ((ROOT / "gimtune", ()), (ROOT / "analysis", ("analysis",))):
        for path in sorted(folder.rglob("*.py")):
            if not path.relative_to(ROOT).is_relative_to("gimtune/analysis"):
                place = (*before, *path.relative_to(folder).with_suffix("").parts)
                # a command line stands above all rooms, wherever its file lies
                room = "__main__" if place[-1] == "__main__" else place[0]
                yield pytest.param(path, room, ".".join(place), id=str(path.relative_to(ROOT)))


FILES = list(files())


def test_every_room_has_its_place():
    assert {room for _, room, _ in (p.values for p in FILES)} == set(HEIGHT)


@pytest.mark.parametrize(("path", "room", "place"), FILES)
def test_imports_point_one_way(path, room, place):
    for module in imported(path):
        top, _, rest = module.partition(".")
        target = rest.partition(".")[0]
        assert top != "analysis", f"{place} imports {module}: in an installed package it is gimtune.analysis"
        if top == "gimtune" and target in HEIGHT and target != room:
            assert HEIGHT[target] < HEIGHT[room], f"{place} imports {module}"
        if room == "analysis" and top == "gimtune" and target:
            assert target in READS, f"{place} imports {module}"


@pytest.mark.parametrize(("path", "room", "place"), FILES)
def test_libraries_stay_in_their_rooms(path, room, place):
    kept_out, places = NOWHERE
    for module in imported(path):
        top = module.partition(".")[0]
        allowed = ONLY.get(top, {room})
        assert room in allowed or place in allowed, f"{place} imports {module}"
        if top in kept_out:
            assert room not in places, f"{place} imports {module}"
            assert place not in places, f"{place} imports {module}"


@pytest.mark.parametrize(("path", "room", "place"), FILES)
def test_a_file_has_one_job(path, room, place):
    # mo_asha is one state machine with its proofs beside it
    assert len(path.read_text().splitlines()) <= 400, place
