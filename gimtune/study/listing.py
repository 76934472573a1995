"""``python -m gimtune parts``: every part there is, or one with its contract, its options and its source."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gimtune import parts
from gimtune.algebra.models import classes
from gimtune.parts import close
from gimtune.study.messages import ConfigError
from gimtune.study.schema import OPEN
from gimtune.vocabulary import Model

#: Where the options of a kind of part stand in a study.
_SECTIONS = {
    **{section: f"{section}.OPTION" for section in OPEN},
    "prior": "space.prior={name: ..., OPTION: ...}",
    "model": "space.OPTION",
}


def show(names: Sequence[str], console: Console) -> None:
    """Print all parts, or those of a name with all that there is to say of them.

    Raises:
        ConfigError: no part has the name.
    """
    if not names:
        console.print(_table())
        console.print("python -m gimtune parts NAME prints one's contract, options and source", highlight=False)
    for name in names:
        matching = [(r, k) for r, k, label in _every() if name in (label, f"{r.kind}/{label}", label.partition("/")[2])]
        if not matching:
            near = close(name, [part for _, _, label in _every() for part in (label, label.partition("/")[2]) if part])
            meant = f"did you mean {', '.join(dict.fromkeys(near))}? " if near else ""
            raise ConfigError(f"parts {name}: no such part; {meant}python -m gimtune parts lists all")
        for registry, key in matching:
            _print_part(registry, key, console)


def _every() -> list[tuple[parts.Registry[Any, Any], Any, str]]:
    return [(registry, key, registry.label(key)) for registry in parts.registries().values() for key in registry]


def _table() -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("kind", "name", "from", "options", "what it is"):
        table.add_column(column, overflow="fold", no_wrap=column in ("kind", "name"))
    for registry, key, label in _every():
        facts = registry.facts(key)
        origin = registry.origin(key)
        where = "gimtune" if origin.startswith("gimtune.") else origin
        options = (
            [name for name in facts.options if not name.startswith("critic.")] if registry.kind != "metric" else []
        )
        table.add_row(registry.kind, label, where, " ".join(options), Text(facts.summary))
    return table


def _print_part(registry: parts.Registry[Any, Any], key: Any, console: Console) -> None:
    facts, origin = registry.facts(key), registry.origin(key)
    console.print(Text.assemble((f"{registry.kind} {registry.label(key)}", "bold"), f"  from {origin}"))
    console.print(Text(facts.summary))
    if facts.source:
        console.print(Text(f"Source: {facts.source}"))
    console.print(Text(f"Contract: {registry.contract}"))
    if facts.options:
        heading = "Columns:" if registry.kind == "metric" else "Options:"
        where = _SECTIONS.get(registry.kind, "")
        console.print(Text(heading + (f" ({where})" if where else "")))
        for name, meaning in facts.options.items():
            console.print(Text(f"  {name}: {meaning}"), soft_wrap=True)
    code = _code(registry[key])
    if code:
        console.print(Text(code), soft_wrap=True)
    console.print()


def _code(part: Any) -> str:
    """Where a part's code stands, and the code; a declaration is shown as it is declared."""
    if isinstance(part, Model):
        weights = part.weights(1.0, latent_dim=8, pixels=64)
        terms = (f"{t.match}/{t.divergence} x {w:g}" for t, w in zip(part.restrictions, weights, strict=True))
        declared = ", ".join(terms) or "no restriction"
        same = next(names for names in classes("bernoulli", "gaussian") if part.name in names)
        others = ", ".join(name for name in same if name != part.name)
        curve = f" With one likelihood and one encoder for all, one curve with {others}." if others else ""
        return f"Declared: {declared} at weight 1 (8 latent dimensions, 64 pixels). {part.note}".rstrip() + curve
    held = next((v for v in (getattr(part, "function", None), getattr(part, "closed", None)) if v is not None), part)
    shown = held if inspect.isclass(held) or inspect.isfunction(held) else type(held)
    try:
        lines, first = inspect.getsourcelines(shown)
        return f"Code: {inspect.getsourcefile(shown)}:{first}\n\n{''.join(lines).rstrip()}"
    except (OSError, TypeError):
        return ""
