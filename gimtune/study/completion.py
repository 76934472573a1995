"""Completion of the command line in a shell, by Hydra's own plug-ins: ``eval "$(gimtune -sc install=bash)"``."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from typing import Literal, get_args, get_origin

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin

from gimtune.study.composition import STUDIES, own_studies
from gimtune.study.messages import ConfigError
from gimtune.study.schema import all_fields, is_list, keys

#: Hydra knows ``python FILE`` and an installed command; ``python -m gimtune`` is completed as the latter.
_MODULE = r"""
_gimtune_module()
{
    [[ "$COMP_LINE" =~ -m\ +gimtune\  ]] || return
    COMP_CWORD=$((COMP_CWORD - 2)) COMP_LINE="gimtune ${COMP_LINE#*"${BASH_REMATCH[0]}"}" hydra_bash_completion
}
complete -o nospace -o bashdefault -o default -F _gimtune_module python python3"""


class _OwnStudies(SearchPathPlugin):
    """Hydra looks into the folder ``studies`` where the user stands, too."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if own := own_studies():
            search_path.append("gimtune", f"file://{own}")


def complete(arguments: Sequence[str]) -> None:
    """Do what stands after ``-sc``: print the script to install or uninstall, or what half a line may become.

    Args:
        arguments: ``install=SHELL``, ``uninstall=SHELL`` or ``query=SHELL``, SHELL being bash, zsh or fish.

    Raises:
        ConfigError: anything else.
    """
    sys.argv[0] = "gimtune"  # the command that the script is for
    Plugins.instance().register(_OwnStudies)
    said = io.StringIO()
    try:
        with redirect_stdout(said), hydra.initialize_config_dir(str(STUDIES), version_base="1.3"):
            completing = GlobalHydra.instance().hydra
            assert completing is not None
            completing.shell_completion("config", list(arguments))
    except (ValueError, KeyError) as error:
        raise ConfigError(f"-sc {' '.join(arguments)}: {' '.join(str(error).split())}") from None
    except HydraException:
        # half a line need not make sense
        said.truncate(0)
    if arguments[0].startswith("query="):
        word = os.environ["COMP_LINE"].rpartition(" ")[2]
        print("\n".join(sorted({*filter(_ours, said.getvalue().split()), *_more(word)})))
    else:
        print(said.getvalue())
        if arguments[0] in ("install=bash", "install=zsh"):
            print(_MODULE)


def _ours(offered: str) -> bool:
    """Whether it is no setting of Hydra itself, and no part of a list: those are given whole."""
    lists = {f"{key}." for key, field in all_fields() if is_list(field)}
    return not offered.startswith("hydra") and offered not in lists


def _more(word: str) -> Iterator[str]:
    """What no file states: keys without a default, and the values that a key allows."""
    for key in keys():
        if key.startswith(word) and "." not in key[len(word) :]:
            yield f"{key}="
    for key, field in all_fields():
        if word.startswith(f"{key}="):
            values = ("false", "true") if field.annotation is bool else ()
            if get_origin(field.annotation) is Literal:
                values = get_args(field.annotation)
            yield from (f"{key}={value}" for value in values)
