"""``gimtune analysis RUN``: prints a study's front and writes its tables, figures and report into the run folder.

In a clone ``python -m analysis RUN`` does the same.
Of several runs it prints and writes the comparison alone: ``report.html`` in the first run's folder. With ``--status``,
``--watch`` or ``--serve`` it says how one study stands, running or not.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from gimtune.analysis.export.report import print_comparison, report, write_report
from gimtune.analysis.status import standing
from gimtune.analysis.text import plain
from gimtune.analysis.watch import render, watch
from gimtune.results.load import Study, load


def main(arguments: Sequence[str] | None = None, program: str = "python -m analysis") -> int:
    """Run the command line; return 0, 2 for bad input, or 1 where files could not be written.

    Args:
        program: how it was called.
    """
    parser = argparse.ArgumentParser(
        prog=program, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folder, results/<study>/<time>")
    parser.add_argument(
        "--objectives",
        nargs="+",
        metavar="METRIC[=min|max]",
        help="two or more metrics (default: the study's own)",
    )
    parser.add_argument("--data", help="data set, where the study has several")
    parser.add_argument("--features", metavar="FID_FEATURES", help="FID features, where the study has several")
    parser.add_argument(
        "--latent-dim", metavar="N", help="size of codes, or all (default: those that the study asks for)"
    )
    parser.add_argument("--samples", metavar="N", help="generated images of the FID, where the study has several")
    parser.add_argument("--reference-samples", metavar="N", help="images that they were compared with, likewise")
    parser.add_argument("--reference", metavar="HASH", help="hash of these images, likewise")
    parser.add_argument(
        "--add",
        nargs="+",
        default=[],
        metavar="METRIC",
        help="first measure registered metrics of the members whose weights were kept",
    )
    parser.add_argument("--plugins", nargs="+", default=[], metavar="MODULE", help="that register them")
    parser.add_argument("--root", metavar="FOLDER", help="with the data's files, where they are elsewhere by now")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="to write into (default: the run folder, the first)")
    live = parser.add_mutually_exclusive_group()
    live.add_argument("--status", action="store_true", help="how far it is, what runs and failed, the front so far")
    live.add_argument(
        "--watch", action="store_true", help="the same until it has ended, and keep its tables and report up to date"
    )
    live.add_argument(
        "--serve", action="store_true", help="the same as a page on this machine's loopback address, until Ctrl-C"
    )
    options = parser.parse_args(arguments)
    follows = options.status or options.watch or options.serve
    if len(options.runs) > 1 and follows:
        parser.error("--status, --watch and --serve take one RUN")
    if options.add and (len(options.runs) > 1 or follows):
        parser.error("--add takes one RUN, and none of --status, --watch and --serve")
    chosen = {
        "data": options.data,
        "fid_features": options.features,
        "latent_dim": options.latent_dim,
        "fid_samples": options.samples,
        "fid_reference_samples": options.reference_samples,
        "fid_reference": options.reference,
    }
    only = {column: value for column, value in chosen.items() if value is not None}
    asked = {key: way for key, _, way in (text.partition("=") for text in options.objectives or ())}
    console = Console()
    if not console.is_terminal:
        console.width = 120
    try:
        if options.add:
            _add(options.runs[0], options.add, options.plugins, options.root, console)
        if options.status:
            console.print(render(standing(options.runs[0], asked, only=only)), crop=False)
        elif options.watch:
            with contextlib.suppress(KeyboardInterrupt):
                watch(options.runs[0], console, asked, only=only)
        elif options.serve:
            _serve(options.runs[0], console, asked, only)
        else:
            if lost := _report([load(run) for run in options.runs], console, asked, only, options.out):
                print(plain(f"{lost}; --out FOLDER writes elsewhere"), file=sys.stderr)
                return 1
    except (ValueError, OSError) as error:
        print(plain(error), file=sys.stderr)
        return 2
    return 0


def _serve(run: Path, console: Console, asked: Mapping[str, str], only: Mapping[str, str]) -> None:
    # a server, which the other commands do without
    from gimtune.analysis.page.serve import serve

    def say(address: str) -> None:
        console.print(Text(address), soft_wrap=True)
        console.print("Ctrl-C ends it. From another machine: ssh -L PORT:127.0.0.1:PORT MACHINE, with its PORT.")

    with contextlib.suppress(KeyboardInterrupt):
        serve(run, say, asked, only=only)


def _add(run: Path, names: Sequence[str], plugins: Sequence[str], root: str | None, console: Console) -> None:
    # torch and the networks: the other commands do without
    from gimtune.study.added import add

    def note(text: str) -> None:
        console.print(Text(f"measured {text}"), soft_wrap=True)

    count = add(run, names, plugins, root, note)
    console.print(Text(f"{', '.join(names)}: of {count} members whose weights were kept"), soft_wrap=True)


def _report(
    studies: list[Study], console: Console, asked: Mapping[str, str], only: Mapping[str, str], out: Path | None
) -> str:
    """Why files were not written; empty where they were."""
    objectives = asked or studies[0].objectives
    if len(studies) == 1:
        return report(studies[0], console, objectives, only=only, out=out)
    lost, path = "", ""
    try:
        path = str(write_report(studies, objectives, only=only, out=out))
    except OSError as error:
        lost = f"not written: {error}"
    print_comparison(studies, console, objectives, only=only)
    console.print(Text(path), soft_wrap=True)
    return lost


if __name__ == "__main__":
    sys.exit(main())
