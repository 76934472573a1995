"""The one door for parts: registries, the contracts they are checked by, and plug-ins.

A part is a data set, network, likelihood, prior, restriction, encoder, model, metric or feature network. Those that we
ship and those of others come in the same way, by the registry of their kind:

    from gimtune import register

    @register.prior
    @dataclass(frozen=True)
    class Student(Prior): ...

A module that registers parts is a plug-in: a study names it (``plugins: [my_package.parts]``), or an installed package
does, by an entry point of the group ``gimtune``. Drivers and workers import it before anything is checked.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib import import_module, metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeVar

#: Of entry points: the value of each is the name of a plug-in's module.
GROUP = "gimtune"
_OURS = "gimtune."
#: So many names are listed beside the one that was meant.
_SHORT = 12

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
_importing: ContextVar[str | None] = ContextVar("importing", default=None)
_plugins: dict[str, str] = {}


class PartError(ValueError):
    """A part that does not keep its contract, or a plug-in that cannot be had: one line for the person who wrote it."""


@dataclass(frozen=True)
class Facts:
    """What `python -m gimtune parts` tells of a part.

    Attributes:
        summary: one line.
        options: by name, each with its default or its meaning.
        source: authors and year, where there is a publication.
    """

    summary: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    source: str = ""


class Registry(Mapping[K, T], Generic[K, T]):
    """The parts of one kind, by name, in the order in which they were registered.

    Args:
        kind: as in `gimtune.register`.
        contract: what a part has to be, in a sentence or two.
        accept: the name and the part as it is kept, from what is registered; a ValueError says what is wrong with it.
        facts: what there is to tell of a part.
        label: a name as a study file writes it.
    """

    def __init__(
        self,
        kind: str,
        contract: str,
        accept: Callable[[Any], tuple[K, T]],
        facts: Callable[[T], Facts],
        label: Callable[[K], str] = str,
    ) -> None:
        self.kind, self.contract, self.label = kind, contract, label
        self._accept, self._facts = accept, facts
        self._parts: dict[K, tuple[T, str]] = {}
        _REGISTRIES[kind] = self

    def __getitem__(self, key: K) -> T:
        return self._parts[key][0]

    def __iter__(self) -> Iterator[K]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def register(self, part: Any) -> Any:
        """Take a part in; returns what it was given, so that it serves as a decorator.

        Raises:
            PartError: the part does not keep the contract, or there is one of its name from another module.
        """
        self.enter(part, caller(2))
        return part

    def enter(self, part: Any, origin: str) -> None:
        """The same for a part of a given module."""
        try:
            key, kept = self._accept(part)
        except (ValueError, TypeError, AttributeError) as error:
            raise PartError(f"{self.kind} {_name(part)} of {origin}: {_first(error)}") from None
        # a cell of a notebook that is run again, or a module that is reloaded, replaces its own part
        if key in self._parts and self._parts[key][1] != origin:
            raise PartError(
                f"{self.kind} {self.label(key)} of {origin}: {self._parts[key][1]} has registered one of that name"
            )
        self._parts[key] = kept, origin

    def origin(self, key: K) -> str:
        """Name of the module that registered a part."""
        return self._parts[key][1]

    def ours(self, key: K) -> bool:
        """Whether we ship it."""
        return self.origin(key).startswith(_OURS)

    def facts(self, key: K) -> Facts:
        """What there is to tell of a part."""
        return self._facts(self[key])

    @contextmanager
    def without(self, *keys: K) -> Iterator[None]:
        """Put parts aside for a while; for tests."""
        kept = dict(self._parts)
        self._parts = {key: part for key, part in kept.items() if key not in keys}
        try:
            yield
        finally:
            self._parts = kept


_REGISTRIES: dict[str, Registry[Any, Any]] = {}


def registries() -> Mapping[str, Registry[Any, Any]]:
    """Every registry of the rooms that have been imported, by kind."""
    return MappingProxyType(_REGISTRIES)


def load(named: Iterable[str] = (), *, expected: Mapping[str, str] | None = None) -> None:
    """Import plug-ins: those of installed packages, then those that a study names.

    Args:
        expected: content hashes by module, as another process has them.

    Raises:
        PartError: one cannot be imported, has a part that does not keep its contract, or has another content.
    """
    # `python -m` looks for modules where the user stands, and the installed command does not
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    installed = {entry.value: entry.dist.name if entry.dist else "" for entry in metadata.entry_points(group=GROUP)}
    for module in dict.fromkeys([*installed, *named]):
        if module not in _plugins:
            where = f"installed by {installed[module]}" if module in installed else "named by plugins"
            _plugins[module] = _imported(module, where)
    for module, digest in (expected or {}).items():
        if _plugins.get(module) != digest:
            raise PartError(
                f"plugins={module}: its content is {_plugins.get(module, 'not there')}, and {digest} where the members "
                "were planned"
            )


def caller(depth: int) -> str:
    """The module that a part comes from: ours, the plug-in that is being imported, or whoever calls."""
    name = str(sys._getframe(depth).f_globals.get("__name__", "__main__"))
    return name if name.startswith(_OURS) else _importing.get() or name


def plugins() -> Mapping[str, str]:
    """Content hashes of the plug-ins that are loaded, by module."""
    return MappingProxyType(_plugins)


def used(parts: Iterable[tuple[Registry[Any, Any], Any]]) -> dict[str, str]:
    """The plug-ins that these parts come from, each a registry and a name, with their content hashes.

    Raises:
        PartError: one was registered by a module that workers are not told to import.
    """
    found: dict[str, str] = {}
    for registry, key in parts:
        if registry.ours(key):
            continue
        origin = registry.origin(key)
        # a module that was imported before the plug-in was named may have registered it
        top = origin.partition(".")[0]
        plugin = next(
            (name for name in (origin, *_plugins) if name in _plugins and name.partition(".")[0] == top), None
        )
        if plugin is None:
            raise PartError(
                f"{registry.kind} {registry.label(key)}: registered by {origin}, which workers do not import; put it "
                "into a module and name that in plugins"
            )
        found[plugin] = _plugins[plugin]
    return dict(sorted(found.items()))


def digest(module: str) -> str:
    """Hash of a plug-in's source: of the module's file, or of all of its package, so that what it imports counts."""
    top = sys.modules[module.partition(".")[0]]
    places = [Path(place) for place in getattr(top, "__path__", ())]
    files = {path.relative_to(place).as_posix(): path for place in places for path in place.rglob("*.py")}
    content = hashlib.sha256()
    for name, path in sorted(files.items()) or [("", Path(str(top.__file__)))]:
        content.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return content.hexdigest()[:12]


def close(name: object, known: Iterable[str], most: int = 3) -> list[str]:
    """Those of the known names that a mistyped one may have meant."""
    return difflib.get_close_matches(str(name), list(known), most, 0.5)


def allowed(name: object, known: Iterable[str], most: int = 3) -> str:
    """What is to be written in a mistyped name's place: what comes near it, and all names where these are few."""
    known = list(known)
    near = close(name, known, most)
    listed = f"allowed are {', '.join(known)}"
    if not near:
        return listed
    return f"did you mean {', '.join(near)}?" + (f" {listed[0].upper()}{listed[1:]}" if len(known) <= _SHORT else "")


def signature(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """A function's parameters, by name."""
    return inspect.signature(function).parameters


def summary(part: Any) -> str:
    """First line of a part's docstring.

    Raises:
        ValueError: it has none, so that nobody would know what it is.
    """
    text = inspect.getdoc(part)
    if not text and sys.flags.optimize > 1:  # `python -OO` leaves them out
        return ""
    if not text:
        raise ValueError("it has no docstring; the first line says what it is")
    return text.splitlines()[0].partition(" Source: ")[0]


def source(part: Any) -> str:
    """What a docstring names after ``Source:``, to the end of the paragraph."""
    after = (inspect.getdoc(part) or "").partition("Source: ")[2]
    return " ".join(after.partition("\n\n")[0].split()).rstrip(".")


def check_class(part: Any, base: type) -> None:
    """Refuse what is no subclass of a base class, lacks one of its methods, a name or a docstring.

    Raises:
        ValueError: saying which.
    """
    if not (isinstance(part, type) and issubclass(part, base)):
        raise ValueError(f"it is no subclass of {base.__name__}")
    if missing := sorted(getattr(part, "__abstractmethods__", ())):
        raise ValueError(f"it lacks {', '.join(missing)}")
    if not isinstance(getattr(part, "name", None), str):
        raise ValueError("it has no name")
    summary(part)


def signature_options(function: Callable[..., Any], skip: int | Iterable[str]) -> dict[str, inspect.Parameter]:
    """The options that a function takes beside its first arguments, or beside some by name.

    Raises:
        ValueError: it takes any name, so that a mistyped option would not be noticed.
    """
    given = signature(function)
    if any(p.kind is p.VAR_KEYWORD or p.kind is p.VAR_POSITIONAL for p in given.values()):
        raise ValueError("options are named, one by one; it takes any (*args, **kwargs)")
    left = set(skip) if not isinstance(skip, int) else {*list(given)[:skip]}
    return {name: parameter for name, parameter in given.items() if name not in left}


def as_text(options: Mapping[str, inspect.Parameter]) -> dict[str, str]:
    """Options with their types and defaults, as a person reads them."""
    return {
        name: f"{p.annotation if p.annotation is not p.empty else 'any'}"
        + ("" if p.default is p.empty else f" = {p.default!r}")
        for name, p in options.items()
    }


def _imported(module: str, where: str) -> str:
    token = _importing.set(module)
    try:
        import_module(module)
        return digest(module)
    except PartError:
        raise
    except (Exception, SystemExit) as error:  # whatever a plug-in's code raises, its author is told
        raise PartError(
            f"plugins={module}: cannot be imported ({type(error).__name__}: {_first(error)}); {where}"
        ) from None
    finally:
        _importing.reset(token)


def _name(part: Any) -> str:
    part = getattr(part, "function", part)
    named = getattr(part, "key", None) or getattr(part, "name", None) or getattr(part, "__name__", None)
    return named if isinstance(named, str) else repr(part)[:80]


def _first(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
