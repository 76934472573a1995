"""Files where the user stands that hide a module of Python's or of a library's: ``random.py``, ``torch.py``."""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from pathlib import Path

#: What Python looks for everywhere, so that anyone may put it in.
_MEANT = {"sitecustomize", "usercustomize"}


def shadow() -> str | None:
    """A line on a file of the working directory that hides a module in use; ``None`` without one.

    Ray's processes find it first even where this one has not.
    """
    try:
        here = Path.cwd()
        found = sorted(here.iterdir())
    except OSError:
        return None
    if here == Path(__file__).resolve().parents[1]:
        return None  # a checkout, or where packages are installed
    for path in found:
        if path.suffix == ".py" or (not path.suffix and (path / "__init__.py").is_file()):
            module = path.stem
            if module in sys.modules and module not in _MEANT and _elsewhere(module, here):
                return f"{path}: it hides the module {module}; rename it, or start gimtune in another folder"
    return None


def _elsewhere(module: str, here: Path) -> bool:
    """Whether there is another module of that name."""
    if module in sys.stdlib_module_names:
        return True
    spec = PathFinder.find_spec(module, [place for place in sys.path if place and Path(place).resolve() != here])
    return spec is not None and spec.origin is not None
