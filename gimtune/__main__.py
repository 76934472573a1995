"""``python -m gimtune``, or ``gimtune``: composes a study, checks it, runs it; ``gimtune analysis RUN`` beside it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from gimtune.shadows import shadow

try:
    from rich.console import Console

    from gimtune.interruption import Interrupted, Interruption
    from gimtune.study.composition import help_text, load
    from gimtune.study.messages import ConfigError
except Exception:
    if hidden := shadow():
        print(hidden, file=sys.stderr)
        raise SystemExit(2) from None
    raise


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 with failures, 2 bad input, 128 + a signal's number."""
    with Interruption():
        try:
            return _main(arguments)
        except KeyboardInterrupt as error:
            # before there is a run to go on with, or while its report is written
            print("Interrupted.", file=sys.stderr)
            return error.code if isinstance(error, Interrupted) else 130
        except BrokenPipeError:
            # whoever reads has seen enough, as in `gimtune parts | head`; the rest goes nowhere, at Python's end too
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE
        except Exception:
            if (hidden := shadow()) is None:
                raise
            print(hidden, file=sys.stderr)
            return 2


def _main(arguments: Sequence[str] | None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["analysis"]:
        from gimtune.analysis.__main__ import main as analyse

        called = "python -m gimtune" if Path(sys.argv[0]).name == "__main__.py" else "gimtune"
        return analyse(given[1:], f"{called} analysis")
    if {"-h", "--help"} & set(given):
        print(help_text())
        return 0
    if not given:
        print(help_text())
        print("nothing was started: python -m gimtune study=tradeoff starts the main job", file=sys.stderr)
        return 2
    console = Console()
    if not console.is_terminal:
        console.width = 120
    try:
        if given[:1] == ["parts"]:
            return _parts(given[1:], console)
        if given[:1] == ["merge"]:
            return _merge(given[1:], console)
        if given[:1] == ["repair"]:
            return _repair(given[1:], console)
        if given[:1] == ["sweep"]:
            return _sweep(given[1:], console)
        if given[:1] == ["-sc"]:
            from gimtune.study.completion import complete

            complete(given[1:])
            return 0
        from gimtune.tuning.launch import launch
        from gimtune.tuning.plan import preflight, show

        if hidden := shadow():
            raise ConfigError(hidden)
        config = load(given)
        plan = preflight(config)
        if config.dry_run:
            show(plan, console)
            return 0

        def finish(run: Path) -> int:
            # the plotting libraries are slow to import, and needed at the end only
            from gimtune.analysis.export.report import conclude

            return conclude(run, config.objectives, console)

        return launch(plan, console, finish)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2


def _parts(given: list[str], console: Console) -> int:
    import gimtune.register  # noqa: F401 - all kinds of parts
    from gimtune.study.composition import plugins_of
    from gimtune.study.listing import show

    plugins_of([text for text in given if "=" in text])
    show([text for text in given if "=" not in text], console)
    return 0


def _merge(given: list[str], console: Console) -> int:
    from gimtune.results.merge import merge
    from gimtune.study.composition import here

    try:
        lines = merge([here("merge", run) for run in given[:-1]], Path(given[-1] if given else ""))
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from None
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    return 0


def _repair(given: list[str], console: Console) -> int:
    from gimtune.study.composition import here
    from gimtune.tuning.repair import repair

    if len(given) != 1:
        raise ConfigError("repair: it takes one RUN")
    for line in repair(here("repair", given[0])):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    return 0


def _sweep(given: list[str], console: Console) -> int:
    named = next((text.partition("=")[2] for text in given if text.startswith("name=")), None)
    config = load(given)
    if config.resume:
        raise ConfigError(f"resume={config.resume}: a sweep of weights begins anew")
    from gimtune.tuning.ranges import sweep

    def say(line: str) -> None:
        console.print(line, soft_wrap=True, highlight=False, markup=False)

    name = named or f"{config.data.name}_swept"
    path = sweep(config, name, say)
    say(f"{path}\nstudies take these ranges by data={name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
