"""``python -m gimtune``: composes a study, checks it, runs it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console

from gimtune.config import ConfigError, help_text, load


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (design: 0 done, 1 with failures, 2 bad input, 130 interrupted)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(given):
        print(help_text())
        return 0
    console = Console()
    if not console.is_terminal:
        console.width = 120
    try:
        config = load(given)
        from gimtune.tuning.study import launch

        return launch(config, console)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        # before there is a run to go on with, or while its report is written
        print("Interrupted.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
