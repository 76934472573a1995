"""``python -m analysis RUN``: prints a study's front and writes its tables and figures into the run folder."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from analysis.load import load
from analysis.pareto import OBJECTIVES
from analysis.report import export, print_front


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m analysis", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, results/<study>/<time>")
    parser.add_argument(
        "--objectives",
        nargs="+",
        metavar="METRIC[=min|max]",
        help="two or more metrics (default: the study's own)",
    )
    parser.add_argument("--data", help="data set, where the study has several")
    parser.add_argument("--features", metavar="FID_FEATURES", help="FID features, where the study has several")
    options = parser.parse_args(arguments)
    chosen = {"data": options.data, "fid_features": options.features}
    only = {column: value for column, value in chosen.items() if value is not None}
    try:
        study = load(options.run)
        objectives = (
            {key: way for key, _, way in (text.partition("=") for text in options.objectives)}
            if options.objectives
            else json.loads(study.meta.get("objectives") or json.dumps(dict(OBJECTIVES)))
        )
        paths = export(study, objectives, only=only)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    console = Console()
    if not console.is_terminal:
        console.width = 120
    print_front(study, console, objectives, only=only, paths=paths)
    return 0


if __name__ == "__main__":
    sys.exit(main())
