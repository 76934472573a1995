"""``python -m analysis RUN``: prints a study's front and writes its tables and figures into the run folder.

With ``--status`` or ``--watch`` it says how a study stands, running or not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from analysis.load import load
from analysis.pareto import OBJECTIVES
from analysis.report import export, print_front
from analysis.status import standing
from analysis.watch import render, watch


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, results/<study>/<time>")
    parser.add_argument(
        "--objectives",
        nargs="+",
        metavar="METRIC[=min|max]",
        help="two or more metrics (default: the study's own)",
    )
    parser.add_argument("--data", help="data set, where the study has several")
    parser.add_argument("--features", metavar="FID_FEATURES", help="FID features, where the study has several")
    live = parser.add_mutually_exclusive_group()
    live.add_argument("--status", action="store_true", help="how far it is, what runs and failed, the front so far")
    live.add_argument(
        "--watch", action="store_true", help="the same until it has ended, and keep its tables and figures up to date"
    )
    options = parser.parse_args(arguments)
    chosen = {"data": options.data, "fid_features": options.features}
    only = {column: value for column, value in chosen.items() if value is not None}
    asked = {key: way for key, _, way in (text.partition("=") for text in options.objectives or ())}
    console = Console()
    if not console.is_terminal:
        console.width = 120
    try:
        if options.status:
            console.print(render(standing(options.run, asked, only=only)), crop=False)
            return 0
        if options.watch:
            with contextlib.suppress(KeyboardInterrupt):
                watch(options.run, console, asked, only=only)
            return 0
        study = load(options.run)
        objectives = asked or json.loads(study.meta.get("objectives") or json.dumps(dict(OBJECTIVES)))
        paths = export(study, objectives, only=only)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print_front(study, console, objectives, only=only, paths=paths)
    return 0


if __name__ == "__main__":
    sys.exit(main())
