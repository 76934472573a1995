"""Sections of a configuration of which a space may have parts: a member's network, and the settings of its critics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from gimtune.study.messages import ConfigError
from gimtune.study.schema import SECTIONS, Config, message_of


def critic_settings(config: Config, values: Mapping[str, Any]) -> dict[str, Any]:
    """What a study sets for a member's critics, and its space in place of that.

    Raises:
        ConfigError: a key that is none, or a value of a wrong type.
    """
    own = config.critic.model_dump(exclude_none=True)
    return _merged("critic", config.critic.model_dump(), values["critic"]) if "critic" in values else own


def network_options(config: Config, values: Mapping[str, Any]) -> dict[str, Any]:
    """Name and options of a member's network.

    Raises:
        ConfigError: as `critic_settings`.
    """
    own = config.network.model_dump(exclude_none=True)
    given = values.get("network")
    if given is None:
        return own
    if isinstance(given, str):
        given = {"name": given}
    if isinstance(given, Mapping) and given.get("name", own["name"]) != own["name"]:
        own = {}  # options of one architecture say nothing of another
    return _merged("network", own, given)


def _merged(key: str, own: Mapping[str, Any], given: Any) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise ConfigError(f"space.{key}={given!r}: a mapping of its keys, each a value or a space")
    try:
        return SECTIONS[key].model_validate({**own, **given}).model_dump(exclude_none=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(message_of({**first, "loc": ("space", key, *first["loc"])})) from None
