"""Feature networks of one's own, as programs that `torch.export.save` wrote (``.pt2``).

`torch.export.load` unpickles what a file holds and evaluates its expressions, so that a file may run any code. Here the
archive is read as what it is, a list of operations and bytes of weights, and no more than that is carried out:
functions of `torch.ops.aten` by name, and Python's arithmetic of sizes.
"""

from __future__ import annotations

import hashlib
import io
import json
import operator
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from gimtune.data import Dataset
from gimtune.metrics.features import FEATURES, FeatureSource

#: Of the archive's schema, by ``torch._export.serde.schema``, which nothing promises to keep: another is refused.
_SCHEMA = 8
_KINDS = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
_STRIDED = 7
_ARITHMETIC = {
    *("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pow", "getitem"),
    *("eq", "ne", "lt", "le", "gt", "ge", "and_", "or_", "not_"),
}
#: Arguments that stand for themselves.
_PLAIN = ("as_int", "as_ints", "as_bool", "as_bools")
#: Texts that operations take: how borders are filled, what is approximated; no name of a file is among them.
_WORDS = {
    *("none", "tanh", "same", "valid", "mean", "sum", "floor", "trunc"),
    *("reflect", "constant", "replicate", "ij", "xy"),
}
#: Images that a network is tried with.
_TRIED = 3


class Exported:
    """A program of one tensor of images (n, c, h, w) in [0, 1] to one of features (n, k).

    Args:
        content: of the file.

    Raises:
        ValueError: it is no such program, or has something else in it than operations on tensors.
    """

    def __init__(self, content: bytes, device: torch.device) -> None:
        self.content, self._device = content, device
        self.name = f"exported:{hashlib.sha256(content).hexdigest()[:8]}"
        try:
            self._read(zipfile.ZipFile(io.BytesIO(content)))
        except Exception as error:  # a damaged file goes wrong in more ways than can be listed
            if type(error) is ValueError:
                raise
            raise ValueError(f"it cannot be read ({type(error).__name__}: {_line(error)})") from None

    def _read(self, archive: zipfile.ZipFile) -> None:
        paths = [name for name in archive.namelist() if name.endswith("/models/model.json")]
        if len(paths) != 1:
            raise ValueError("it is no file of torch.export.save")
        (path,) = paths
        root = path.removesuffix("models/model.json")
        program = json.loads(archive.read(path))
        if (found := program["schema_version"]["major"]) != _SCHEMA:
            raise ValueError(
                f"it is of torch {program['torch_version']} (schema {found}, not {_SCHEMA}): export it anew"
            )
        graph = program["graph_module"]["graph"]
        places = [program["graph_module"]["signature"][key] for key in ("input_specs", "output_specs")]
        self._constants, takes = dict[str, Tensor](), list[str]()
        weights = _tensors(archive, f"{root}data/weights/", "model_weights_config.json")
        others = _tensors(archive, f"{root}data/constants/", "model_constants_config.json")
        for place in places[0]:
            ((kind, given),) = place.items()
            if kind == "user_input":
                takes.append(given["arg"]["as_tensor"]["name"])
            elif kind in ("parameter", "buffer", "tensor_constant"):
                key = given[f"{kind}_name"]
                self._constants[given["arg"]["name"]] = (weights | others)[key].to(self._device)
            else:
                raise ValueError(f"its input {kind} is none of tensors")
        gives = [place["user_output"]["arg"]["as_tensor"]["name"] for place in places[1] if "user_output" in place]
        if len(takes) != 1 or len(gives) != 1 or len(places[1]) != 1:
            raise ValueError("it is to take one tensor of images and to give one of features, and to change nothing")
        (self._takes,), (self._gives,) = takes, gives
        #: Of an image, None for what may be any size; the first is of how many.
        self.sizes = [size.get("as_int") for size in graph["tensor_values"][self._takes]["sizes"]]
        self._nodes = [
            (_function(node["target"]), node["target"], node["inputs"], node["outputs"]) for node in graph["nodes"]
        ]
        last = {name: place for place, (*_, inputs, _) in enumerate(self._nodes) for name in _names(inputs)}
        #: What is not needed after an operation.
        self._done = dict[int, list[str]]()
        for name, place in last.items():
            if name != self._gives:
                self._done.setdefault(place, []).append(name)

    def __call__(self, images: Tensor) -> Tensor:
        values: dict[str, Any] = {**self._constants, self._takes: images}
        for place, (function, target, inputs, outputs) in enumerate(self._nodes):
            given = {one["name"]: self._argument(one["arg"], values) for one in inputs}
            # a schema's names, since defaults are left out; Python's arithmetic has none
            found = function(**given) if target.startswith("torch.") else function(*given.values())
            _enter(outputs, found, values)
            for name in self._done.get(place, ()):
                values.pop(name, None)
        features: Tensor = values[self._gives]
        return features

    def _argument(self, argument: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
        ((kind, given),) = argument.items()
        match kind:
            case "as_none":
                return None
            case "as_tensor":
                return values[given["name"]]
            case "as_tensors":
                return [values[one["name"]] for one in given]
            case "as_optional_tensors":
                return [None if "as_none" in one else values[one["as_tensor"]["name"]] for one in given]
            case "as_sym_int" | "as_sym_float" | "as_sym_bool":
                return _size(given, values)
            case "as_sym_ints":
                return [_size(one, values) for one in given]
            case "as_scalar_type":
                return _KINDS[given]
            case "as_float":
                return float(given)  # infinities are words
            case "as_floats":
                return [float(one) for one in given]
            case "as_memory_format":
                return _FORMATS[given]
            case "as_layout" if given == _STRIDED:
                return torch.strided
            case "as_device":
                return self._device
            case "as_string" if given in _WORDS:
                return given
        if kind in _PLAIN:
            return given
        raise ValueError(f"an operation takes {kind.removeprefix('as_')} {str(given)[:40]!r}, which is not carried out")


def _function(target: str) -> Any:
    """What an operation's name stands for; nothing but arithmetic is looked up."""
    match target.split("."):
        case ["torch", "ops", "aten", name, overload] if name.isidentifier() and overload.isidentifier():
            packet = getattr(torch.ops.aten, name, None)
            if isinstance(packet, torch._ops.OpOverloadPacket) and overload in packet.overloads():
                return getattr(packet, overload)
        case ["_operator", name] if name in _ARITHMETIC:
            return getattr(operator, name)
    raise ValueError(f"its operation {target[:80]} is none of torch.ops.aten: torch.export.export keeps to these")


def _names(inputs: Any) -> list[str]:
    """Names in an operation's arguments, wherever they stand: those of values are among them."""
    if isinstance(inputs, Mapping):
        own = [inputs[key] for key in ("name", "as_name") if isinstance(inputs.get(key), str)]
        return own + [name for value in inputs.values() for name in _names(value)]
    return [name for value in inputs for name in _names(value)] if isinstance(inputs, list) else []


def _size(given: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
    return values[given["as_name"]] if "as_name" in given else next(iter(given.values()))


def _enter(outputs: list[Mapping[str, Any]], found: Any, values: dict[str, Any]) -> None:
    results = [found] if len(outputs) == 1 else list(found or ())
    for output, result in zip(outputs, results, strict=False):
        ((kind, given),) = output.items()
        if kind == "as_tensors":
            values |= {one["name"]: value for one, value in zip(given, result, strict=True)}
        elif isinstance(given, Mapping):
            values[given.get("name") or given["as_name"]] = result


def _tensors(archive: zipfile.ZipFile, folder: str, listed: str) -> dict[str, Tensor]:
    """Tensors by name, of bytes alone."""
    found = {}
    for name, stored in json.loads(archive.read(folder + listed))["config"].items():
        if stored["use_pickle"] or (meta := stored["tensor_meta"]) is None:
            raise ValueError(f"{name} is pickled, and may be any code: export plain tensors")
        kind, content = _KINDS[meta["dtype"]], archive.read(folder + stored["path_name"])
        sizes, strides = ([one["as_int"] for one in meta[key]] for key in ("sizes", "strides"))
        flat = torch.frombuffer(bytearray(content), dtype=kind) if content else torch.empty(0, dtype=kind)
        found[name] = flat.as_strided(sizes, strides, meta["storage_offset"]["as_int"]).clone()
    return found


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["nothing said"])[0][:200]


@FEATURES.register
class ExportedSource(FeatureSource):
    """A program of torch.export in metrics.features_file, of images (n, c, h, w) in [0, 1] to features (n, k).

    The file is read as a list of operations, and runs no code of its own. It is kept in the run folder.
    """

    name: ClassVar[str] = "exported"

    def check(self, settings: Mapping[str, Any]) -> None:
        _opened(settings, torch.device("cpu"))

    def identity(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        path = settings.get("features_file") or ""
        try:
            return {"features_file": path, "features_content": _digest(path, Path(path).stat().st_mtime_ns)}
        except OSError:
            return {"features_file": path}  # `check` says so

    @torch.no_grad()
    def fits(self, data: Dataset, settings: Mapping[str, Any]) -> None:
        network, said = _opened(settings, torch.device("cpu")), f"metrics.features_file={settings['features_file']}"
        count, *takes = network.sizes
        if count is not None:
            raise ValueError(
                f"{said}: it is of {count} images at a time; export it with "
                "dynamic_shapes=({0: torch.export.Dim('count')},)"
            )
        if len(takes) != len(data.image) or any(a not in (None, b) for a, b in zip(takes, data.image, strict=True)):
            shape = tuple("any" if size is None else size for size in takes)
            raise ValueError(f"{said}: it takes images {shape}, and those of {data.name} are {data.image}")
        images = torch.from_numpy(data.images["train"][:_TRIED].copy()) / data.scale
        try:
            found, again = network(images), network(images)
        except Exception as error:  # whatever an operation says of what it is given
            raise ValueError(f"{said}: it fails on images {data.image} ({_line(error)})") from None
        if found.ndim != 2 or len(found) != len(images) or not found.is_floating_point() or not found.isfinite().all():
            raise ValueError(f"{said}: it gives {tuple(found.shape)} of {found.dtype} and not finite features (n, k)")
        if not found.equal(again):
            raise ValueError(f"{said}: it gives other features of the same images; export it after .eval()")

    def load(self, data: Dataset, settings: Mapping[str, Any], folder: Path, device: torch.device) -> Exported:
        return _opened(settings, device)

    def state(self, network: Exported) -> dict[str, Tensor]:
        return {"file": torch.frombuffer(bytearray(network.content), dtype=torch.uint8)}

    def made(self, data: Dataset, state: Mapping[str, Tensor], device: torch.device) -> Exported:
        return Exported(state["file"].numpy().tobytes(), device)


@cache
def _digest(path: str, changed: int) -> str:
    """A hash of a file's content, taken anew once it has changed; a study has many members."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def _opened(settings: Mapping[str, Any], device: torch.device) -> Exported:
    if not (path := settings.get("features_file")):
        raise ValueError("metrics.fid_features=exported: metrics.features_file=FILE.pt2 is to say where it is")
    try:
        return Exported(Path(path).read_bytes(), device)
    except (ValueError, OSError) as error:
        raise ValueError(f"metrics.features_file={path}: {_line(error)}") from None
