"""A study composed by Hydra from ``studies/``, a folder ``studies`` where the user stands, and the command line."""

from __future__ import annotations

import codecs
import contextlib
import difflib
import json
import os
import re
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gimtune import parts
from gimtune.results import folder, mirror
from gimtune.results.backup import KEPT
from gimtune.study.messages import ConfigError, first_line
from gimtune.study.reading import read, written
from gimtune.study.schema import OPEN, SWEPT, Config, all_fields, is_list, keys, unknown, validated

STUDIES = (Path(__file__).resolve().parents[1] / "studies").resolve()
GROUPS = ("study", "model", "data", "prior", "network", "search", "scheduler", "resources")


def load(arguments: Sequence[str]) -> Config:
    """The configuration that the command line asks for, fully checked but for the machine and the data.

    Raises:
        ConfigError: anything unknown, of a wrong type or impossible.
    """
    # an option of other keys whose values are no mappings
    arguments = [re.sub(r"^(resume|reuse)\.across=", "across=", argument) for argument in arguments]
    for argument in arguments:
        _check_length(*argument.partition("=")[::2])
    arguments = [_with_path(argument) for argument in arguments]
    config = validated(_compose(arguments))
    if config.resume is None:
        # a run that was begun has taken in what it starts from, which may be gone by now
        placed = _placed(config)
        if (start := placed.search.warm_start) is not None and not (Path(start) / "study.db").is_file():
            raise ConfigError(f"search.warm_start={config.search.warm_start}: {folder.absent(Path(start))}")
        return placed
    others = [a for a in arguments if not re.match(r"(resume|across|dry_run|(ray|stop)\.\w+)=", a)]
    if others:
        raise ConfigError(
            f"{others[0]}: with resume only resume.across, ray.*, stop.* and dry_run may be given; "
            "the run's own file says the rest"
        )
    run = str(here("resume", config.resume))
    stated = reopened(Path(run))
    of_now: dict[str, Any] = {"resume": run, "across": config.across, "dry_run": config.dry_run}
    given = [argument.partition("=")[0].partition(".") for argument in arguments]
    for section in ("ray", "stop"):
        new = {key: getattr(getattr(config, section), key) for place, _, key in given if place == section}
        of_now[section] = getattr(stated, section).model_copy(update=new)
    return stated.model_copy(update=of_now)


def _placed(config: Config) -> Config:
    """A configuration whose files are found from every folder: a run may be gone on with and opened elsewhere."""
    data, search = config.data, config.search
    own = data.model_copy(update=_absolute(root=data.root, path=data.options.get("path")))
    start = search.model_copy(update=_absolute(warm_start=search.warm_start))
    return config.model_copy(update={"data": own, "search": start})


def _absolute(**given: Any) -> dict[str, str]:
    files = {key: value for key, value in given.items() if isinstance(value, str) and "://" not in value}
    return {key: str(Path(value).expanduser().absolute()) for key, value in files.items()}


#: What may stand in the first place, with arguments of its own.
COMMANDS = ("analysis", "merge", "parts", "repair", "sweep")
#: Sections that take further keys than they come with.
_GROWING = ("space", "objectives", "constraints", *OPEN)
#: Keys whose values are paths, taken as a shell hands them over: Hydra's grammar gives a meaning to most signs.
_PATHS = (
    *("storage_path", "resume", "data.path", "data.root", "search.warm_start"),
    *("metrics.inception_weights", "metrics.features_file"),
)
#: Bytes of a file's name, and of a path.
_LONGEST, _DEEPEST = 255 - len(".yaml"), 4000
_QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""


def _check_length(key: str, value: str) -> None:
    """Refuse what no file can be called: every question about it would end in an error of the system's."""
    if key not in (*_PATHS, *GROUPS, "reuse"):
        return
    longest = max(re.split(r"[/,]", value), key=len)
    if len(os.fsencode(longest)) > _LONGEST or len(os.fsencode(value)) > _DEEPEST:
        raise ConfigError(f"{key}={value[:40]}...: a name of a file has {_LONGEST} bytes at most, a path {_DEEPEST}")


def _with_path(argument: str) -> str:
    """An argument whose path, or list of paths, stands between quotation marks."""
    key, _, value = argument.partition("=")
    if key == "reuse" and value.startswith("[") and value.endswith("]"):
        inside = re.findall(rf"\s*({_QUOTED}|[^,]+)", value[1:-1])
        return f"{key}=[{','.join(_quoted(one.strip()) for one in inside)}]"
    return f"{key}={_quoted(value)}" if key in (*_PATHS, "reuse") and value not in ("", "null") else argument


def _quoted(path: str) -> str:
    if re.fullmatch(_QUOTED, path):
        return path
    # a quotation mark, and backslashes before it, are escaped there; and OmegaConf looks for its own references
    escaped = re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), path)
    return "'" + escaped.replace("${", "\\${") + "'"


def here(key: str, run: str) -> Path:
    """The folder of a run that a key names, fetched from an object store where it is there.

    Raises:
        ConfigError: it cannot be had.
    """
    try:
        return mirror.fetch(run) if mirror.is_address(run) else Path(run)
    except ValueError as error:
        raise ConfigError(f"{key}={error}") from None
    except OSError as error:
        raise ConfigError(f"{key}={run}: {str(error).splitlines()[0]}") from None


def reopened(run: Path, results: bool = True) -> Config:
    """The configuration that a run folder states.

    Args:
        results: whether it has to have some.

    Raises:
        ConfigError: it is no run folder, or its file is damaged.
    """
    path = run / "config.yaml"
    if path.is_file() and not (run / "study.db").is_file() and any((run / name).is_file() for name in KEPT) and results:
        raise ConfigError(f"resume={run}: study.db is gone; python -m gimtune repair {shlex.quote(str(run))} makes it")
    if not path.is_file() or (results and not (run / "study.db").is_file()):
        raise ConfigError(f"resume={run}: {folder.absent(run, 'config.yaml and study.db')}")
    try:
        content = read(path)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML ({str(error).splitlines()[0]})") from None
    load_plugins(content.get("plugins", []) if isinstance(content, dict) else [])
    return validated(content)


def dump(config: Config) -> str:
    """A configuration as the YAML that `reopened` reads."""
    return written(config.model_dump(mode="json"))


def _compose(arguments: list[str]) -> Any:
    own, overrides = own_studies(), plugins_of(arguments)
    plain: list[str] = []
    replaced: list[Any] = []
    adopted: dict[str, str] = {}
    for argument, override in overrides:
        key, value = override.key_or_group, override.value()
        _check_override(argument, override)
        if key in GROUPS and not override.is_delete() and (part := _adopted(key, value, own)):
            adopted[key] = part
        # Hydra merges a mapping into the one that stands there, and knows no options of parts; a space is replaced
        elif not override.is_delete() and (key.partition(".")[0] in _GROWING or isinstance(value, dict)):
            (plain if key in GROUPS else replaced).append(argument if key in GROUPS else override)
        else:
            plain.append(argument)
    composed, study = _hydra(plain, own)
    for key, value in _stated(study, own, "space").items():
        if (group := f"{key}=") in {a.partition("=")[0] + "=" for a in plain} and key in GROUPS:
            raise ConfigError(f"{group}...: study={study} sets space.{key} itself; write space.{key}=... instead")
        OmegaConf.update(composed, f"space.{key}", value, merge=False, force_add=True)
    if "name" in (network := _stated(study, own, "network")):
        # options of one architecture say nothing of another, and Hydra merges them
        given = next((o.value() for _, o in overrides if o.key_or_group == "network"), None)
        file = next((f for f in _files("network", str(given), own)), None)
        OmegaConf.update(composed, "network", OmegaConf.load(file) if file else network, merge=False, force_add=True)
    for group, name in adopted.items():
        key, content = _PLACES[group](name)
        OmegaConf.update(composed, key, content, merge=False, force_add=True)
    for override in replaced:
        key = override.key_or_group
        if not key.startswith(tuple(f"{section}." for section in _GROWING)) and key not in {*keys()}:
            raise ConfigError(unknown(key))
        OmegaConf.update(composed, key, override.value(), merge=False, force_add=True)
    try:
        return OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {first_line(error)}") from None


def _parsed(argument: str) -> Any:
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException:
        override = None
    if "=" not in argument and (meant := difflib.get_close_matches(argument, COMMANDS, 1, 0.6)):
        raise ConfigError(f"{argument}: no such command; did you mean {meant[0]}?")
    if override is None or not override.key_or_group:
        raise ConfigError(f"{argument}: cannot be read; write key=value, and quote mappings: 'key={{grid: [1, 2]}}'")
    if override.is_sweep_override():
        key, values = override.key_or_group, argument.partition("=")[2]
        form = f"{key}={{grid: [{values}]}}" if key.startswith("space.") else f"{key}=[{values}]"
        raise ConfigError(f"{argument}: several values are written '{form}'")
    return override


def _check_override(argument: str, override: Any) -> None:
    key = override.key_or_group
    root = key.partition(".")[0].partition("@")[0]
    if key.startswith("hydra") or (root not in Config.model_fields and root not in GROUPS):
        raise ConfigError(unknown(key))
    # Hydra would look for the rest as an index
    if above := next((k for k, field in all_fields() if is_list(field) and key.startswith(f"{k}.")), None):
        raise ConfigError(f"{argument}: {above} is a list, and is given whole: {above}=[...]")
    whole = key in GROUPS or (key in {*keys()} and not key.startswith("space."))
    if override.is_delete() and (whole or override.value() is not None):
        raise ConfigError(f"{argument}: ~KEY takes a part out of a space or a mapping; write {key}=VALUE")


def _hydra(arguments: list[str], own: Path | None) -> tuple[DictConfig, str]:
    """What Hydra makes of the groups and keys, and the name of the study."""
    try:
        with _packaged(arguments, own) as folders, hydra.initialize_config_dir(str(STUDIES), version_base="1.3"):
            places = ",".join(_quoted(f"file://{folder}") for folder in folders)
            search = [f"hydra.searchpath=[{places}]"] if folders else []
            composed = hydra.compose("config", arguments + search, return_hydra_config=True)
    except MissingConfigException as error:
        group, _, name = str(error.missing_cfg_file or "").rpartition("/")
        raise ConfigError(f"{group}={name}: {parts.allowed(name, error.options or options(group))}") from None
    except ConfigCompositionException as error:
        found = re.search(r"Could not (?:override|append|delete)[^']*'([^']+)'", str(error))
        raise ConfigError(unknown(found[1].split("@")[0]) if found else first_line(error)) from None
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(first_line(error)) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"a study file is not YAML: {' '.join(str(error).split())}") from None
    assert isinstance(composed, DictConfig)
    OmegaConf.set_struct(composed, False)
    study = str(composed.hydra.runtime.choices.study)
    del composed["hydra"]
    return composed, study


@contextlib.contextmanager
def _packaged(arguments: Sequence[str], own: Path | None) -> Iterator[list[Path]]:
    """Folders where Hydra finds the user's files, a study among them that does not begin with ``@package``, or begins
    with the mark of bytes that editors on Windows write.

    Without that line a study's keys would be those of a section ``study``.
    """
    study = next((a.partition("=")[2] for a in reversed(arguments) if a.startswith("study=")), "")
    file = own / "study" / f"{study}.yaml" if own else None
    if not own or file is None or not file.is_file():
        yield [own] if own else []
        return
    content = file.read_bytes()
    marked = re.search(rb"^#\s*@package\s", plain := content.removeprefix(codecs.BOM_UTF8), re.M)
    if marked and plain == content:
        yield [own]
        return
    with tempfile.TemporaryDirectory(prefix="gimtune-") as made:
        (Path(made) / "study").mkdir()
        (Path(made) / "study" / file.name).write_bytes(plain if marked else b"# @package _global_\n" + plain)
        yield [Path(made), own]


def plugins_of(arguments: Sequence[str]) -> list[tuple[str, Any]]:
    """Import the plug-ins that the command line names, or else its study: parts are looked for from here on.

    Returns:
        The arguments, each with what Hydra reads in it.

    Raises:
        ConfigError: an argument that cannot be read, or as `load_plugins`.
    """
    overrides = [(argument, _parsed(argument)) for argument in arguments]
    given = {override.key_or_group: override.value() for _, override in overrides}
    study = str(given.get("study", "tradeoff"))
    load_plugins(given["plugins"] if "plugins" in given else _stated(study, own_studies(), "plugins", list))
    return overrides


def load_plugins(named: Any) -> None:
    """Import plug-ins, and those of installed packages.

    Raises:
        ConfigError: no list of names, or one that cannot be imported or has a part that is refused.
    """
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise ConfigError(f"plugins={named!r}: a list of modules, [my_package.parts]")
    try:
        parts.load(named)
    except parts.PartError as error:
        raise ConfigError(str(error)) from None


#: Groups whose option may be a registered part without a file, and what it then stands for.
_PLACES: Mapping[str, Callable[[str], tuple[str, Any]]] = {
    "network": lambda name: ("network", {"name": name}),
    "prior": lambda name: ("space.prior", name),
    "model": lambda name: ("models", [name]),
}


def _adopted(group: str, option: Any, own: Path | None) -> str | None:
    """The option of a group that has no file and is a plug-in's part.

    Raises:
        ConfigError: it is neither.
    """
    there = sorted({*options(group), *(path.stem for path in (own / group).glob("*.yaml"))} if own else options(group))
    if option in there:
        return None
    registered = [str(name) for name in parts.registries().get(group, ())]
    if option in registered and group in _PLACES:
        return str(option)
    more = f"; the registered {option} needs a file studies/{group}/{option}.yaml" if option in registered else ""
    known = sorted({*there, *(registered if group in _PLACES else ())})
    raise ConfigError(f"{group}={option}: {parts.allowed(option, known)}{more}")


def own_studies() -> Path | None:
    """The folder ``studies`` where the user stands, if it is another than ours.

    Raises:
        ConfigError: a file in it has the name of one of ours, which Hydra would take instead, or leads out of it.
    """
    own = Path.cwd() / "studies"
    if not own.is_dir() or own.resolve() == STUDIES:
        return None
    for path in own.rglob("*.yaml"):
        ours = STUDIES / path.relative_to(own)
        if ours.is_file() and ours.read_bytes() != path.read_bytes():
            raise ConfigError(f"{path}: gimtune ships a file of that name; give yours another")
        with contextlib.suppress(yaml.YAMLError):  # composing says it better
            content = read(path)
            if isinstance(content, dict) and ".." in json.dumps(content.get("defaults"), default=str):
                raise ConfigError(f"{path}: its defaults lead out of {own}")
    return own


def _stated(study: str, own: Path | None, key: str, kind: type[dict[str, Any]] | type[list[Any]] = dict) -> Any:
    """What a study file itself states under a key: to be taken as a whole, and not merged into the defaults.

    Of another kind it is nothing here: checking the whole says what is wrong with it.
    """
    for path in _files("study", study, own):
        try:
            content = read(path)
        except yaml.YAMLError:
            return kind()  # composing says it better
        stated = (content if isinstance(content, dict) else {}).get(key)
        return stated if isinstance(stated, kind) else kind()
    return kind()


def _files(group: str, option: str, own: Path | None) -> list[Path]:
    """The file of a group's option, in our folder or in the one where the user stands; empty where there is none."""
    places = (folder / group / f"{option}.yaml" for folder in (STUDIES, own) if folder)
    return [path for path in places if path.is_file()]


def options(group: str) -> list[str]:
    """The files of a configuration group."""
    return sorted(path.stem for path in (STUDIES / group).glob("*.yaml"))


def help_text() -> str:
    """What ``--help`` prints: groups with their options, then every key with what it means."""
    lines = [
        "usage: python -m gimtune [group=option] [key=value] ...   run a study",
        "       python -m gimtune analysis RUN ...                 its tables, figures and report; analysis --help",
        "       python -m gimtune merge RUN RUN2 ... OUT            several runs as one; docs/howto/growing.md",
        "       python -m gimtune repair RUN                       results that are damaged or gone, made anew",
        "       python -m gimtune sweep [key=value] ...            each model's range of weights, as a file to keep",
        "       python -m gimtune parts [NAME]                     what a study may name, and what it takes",
        "       gimtune ...                                        the same, where it is installed",
        'completion: eval "$(gimtune -sc install=bash)"            (or zsh, fish)',
        "",
        "groups:",
    ]
    lines += [f"  {group:28} {', '.join(options(group))}" for group in GROUPS]
    lines += ["", "keys:"]
    lines += [f"  {key:28} {field.description}" for key, field in all_fields()]
    lines += [f"  {f'space.{key}':28} a value or a space: {meaning}" for key, meaning in SWEPT.items()]
    lines += ["", "spaces: {grid: [..]} {choice: [..]} {uniform: [a, b]} {loguniform: [a, b]} {randint: [a, b]}"]
    lines += ["        {per: model, vae: SPACE, default: SPACE}   (or per: prior, per: restriction)"]
    return "\n".join(lines)
