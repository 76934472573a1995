"""Files of YAML, read as Hydra reads them, and written for it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gimtune.study.messages import ConfigError

#: Values that a file may stand for, and its bytes.
_VALUES, _BYTES = 100_000, 2**22
#: What may be a number to some reader: ``1e3`` is one to OmegaConf, and text in YAML 1.1.
_NUMBER = re.compile(r"[-+.]*\d[\d_.:eE+-]*")


def read(path: Path) -> Any:
    """A YAML file: ``1e-3`` is a number in it, and text only in YAML 1.1.

    Raises:
        yaml.YAMLError: it is none.
        ConfigError: it is too large, or a few anchors in it stand for more values than fit into memory.
    """
    if path.stat().st_size > _BYTES:
        raise ConfigError(f"{path}: it has {path.stat().st_size:,} bytes; allowed are {_BYTES:,}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: it is no text in UTF-8 ({error.reason} at byte {error.start})") from None
    # OmegaConf copies what an anchor stands for, wherever it is referred to
    if (count := _values(yaml.compose(text, yaml.SafeLoader), {})) > _VALUES:
        raise ConfigError(f"{path}: its anchors stand for {count:,} values; allowed are {_VALUES:,}")
    try:
        return OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, OmegaConfBaseException):
        return yaml.safe_load(text)  # no mapping


def _values(node: yaml.Node | None, known: dict[int, int]) -> int:
    """How many values a node has with all that is below it, counted as often as it is referred to."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = _VALUES + 1  # of one that holds itself
        below = [part for item in node.value for part in (item if isinstance(item, tuple) else (item,))]
        known[id(node)] = 1 + sum(_values(part, known) for part in below)
    return known[id(node)]


class _Dumper(yaml.SafeDumper):
    pass


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if _NUMBER.fullmatch(text) else None)


_Dumper.add_representer(str, _text)


def written(content: Any) -> str:
    """The YAML that `read` makes the same of.

    >>> written({"name": "1e3", "weight": 0.5})
    "name: '1e3'\\nweight: 0.5\\n"
    """
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False)
