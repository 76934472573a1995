"""A train step as a flat program: recorded once for each shape of its inputs, then replayed, bit for bit.

A step of a small network is mostly Python, `torch.func.vmap` and autograd's bookkeeping, which decide the same at every
step. What reaches the processor in the end is a list of a few hundred operations on tensors. `Step` notes them while
they are done and calls them in their order from then on, with the same arguments: the same kernels on the same numbers.

Nothing is taken on trust that a wrong number could come of. Whatever tensor a step sees is one of its inputs, was made
by an operation that was noted, or is a constant; what draws at random, looks at a number or changes its inputs is not
replayed; and the first replays of every program are compared with the step as it is written. That code between the
operations decides the same at every step cannot be seen: it is known of our own parts, and those of others are computed
as they are written (``foreign`` of `gimtune.algebra.objective.Objective`).

`torch.fx.experimental.proxy_tensor.make_fx` gives the same list in ten to thirty times the time, which a short pack or
one that members leave would not earn back.

On a GPU even a flat list is a few hundred launches of kernels, which take longer than the kernels do. Where `CAPTURES`
has a way for a device, a program that has been compared is captured as one launch, and that compared once more.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

#: Replays of a program that are compared with the step as it is written, beside the one that is recorded.
_COMPARED = 2
#: Bytes of tensors that are held while a step is recorded. Where a step makes more, Python is a small part of it.
_MOST = 2**28
_PLAIN = (bool, int, float, str, type(None))
#: Runs a function, and gives what does so again with the same memory, and the tensors that it makes each time.
Capture = Callable[[Callable[[], tuple[Tensor, ...]]], tuple[Callable[[], object], tuple[Tensor, ...]]]
#: By type of device; of those that are not here, programs are replayed an operation at a time.
CAPTURES: dict[str, Capture] = {}


def cuda_graph(function: Callable[[], tuple[Tensor, ...]]) -> tuple[Callable[[], object], tuple[Tensor, ...]]:
    """A `Capture` as a CUDA graph. Source: torch's notes on CUDA semantics, "CUDA Graphs"."""
    # libraries make their handles and workspaces in a first run, which no graph may hold
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        function()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    # another thread may be copying what is to be written
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        made = function()
    return graph.replay, made


class _Unrecordable(Exception):
    """Why a step cannot be a list of operations."""


class Step:
    """Replays a function without arguments that reads some tensors and makes others.

    Args:
        eager: why it is always to be computed as it is written, or empty.

    Attributes:
        eager: the same, or what was found when it was recorded.
        loose: why it is replayed an operation at a time on a device that could do otherwise, or empty.
    """

    def __init__(self, eager: str = "") -> None:
        self.eager, self.loose = eager, ""
        self._programs: dict[tuple[Any, ...], _Program] = {}

    def __call__(self, function: Callable[[], tuple[Tensor, ...]], inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What ``function`` makes of ``inputs``: every tensor that it reads and that may be another one next time."""
        if self.eager:
            return function()
        shape = tuple([(t.shape, t.stride(), t.dtype) for t in inputs])
        program = self._programs.get(shape)
        if program is not None and program.compared == _COMPARED:
            return self._captured(program, inputs)
        written = function()
        try:
            if program is None:
                self._programs[shape], found = _recorded(function, inputs)
            else:
                program.compared += 1
                found = program(inputs)
                program.given = [weakref.ref(tensor) for tensor in inputs]
            if not all(map(_same, found, written)):
                raise _Unrecordable("a replay gave other bits")
        except Exception as error:  # whatever it is, the step as it is written has gone well
            self.eager = _told(error)
            self._programs.clear()
        return written

    def forget(self) -> None:
        """Let go of the memory of programs whose inputs are no more."""
        self._programs.clear()

    def _captured(self, program: _Program, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """By one launch, where the device has one and it gives the same bits."""
        capture = CAPTURES.get(inputs[0].device.type)
        if capture is None or self.loose:
            return program(inputs)
        if program.launch is not None and program.launch.fits(inputs):
            return program.launch(inputs)
        found = program(inputs)
        try:
            # what was there at the step before is read where it lies
            held = [known() is tensor for known, tensor in zip(program.given, inputs, strict=True)]
            program.launch = _Launch(program, inputs, held, capture)
            if not all(map(_same, program.launch(inputs), found)):
                raise _Unrecordable("one launch gave other bits")
            program.given = [weakref.ref(tensor) for tensor in inputs]
        except Exception as error:  # whatever it is, the program has gone well
            self.loose, program.launch = _told(error), None
        return found


class _Launch:
    """A program whose inputs and results lie in places that stay, as a CUDA graph needs them.

    Args:
        held: inputs that are read where they lie; the others are copied.
    """

    def __init__(self, program: _Program, inputs: Sequence[Tensor], held: Sequence[bool], capture: Capture) -> None:
        self._held = list(held)
        self._inputs = [t if stays else t.detach().clone() for t, stays in zip(inputs, held, strict=True)]
        self._replay, self._made = capture(lambda: program(self._inputs))

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        with torch.no_grad():
            for own, stays, given in zip(self._inputs, self._held, inputs, strict=True):
                if not stays:
                    own.copy_(given)
            self._replay()
            # the next launch writes over them
            return tuple(tensor.clone() for tensor in self._made)

    def fits(self, inputs: Sequence[Tensor]) -> bool:
        """Whether what is read where it lies is still there."""
        return all(own is given for own, stays, given in zip(self._inputs, self._held, inputs, strict=True) if stays)


class _Value:
    """A tensor of a program: its name in the code, and the memory that it lies in. ``same`` holds the same numbers."""

    def __init__(self, name: str, memory: int) -> None:
        self.name, self.memory = name, memory
        self.same: _Value | None = None

    def __repr__(self) -> str:
        return repr(self.same) if self.same else self.name


class _Operation(NamedTuple):
    function: str
    given: list[Any]
    named: dict[str, Any]
    made: list[_Value | None]
    changes: bool

    def __repr__(self) -> str:
        """Its call, with the names of today."""
        return f"{self.function}({', '.join([*map(repr, self.given), *(f'{k}={v!r}' for k, v in self.named.items())])})"

    @property
    def values(self) -> Iterator[_Value]:
        """What it takes."""
        for leaf in (*_leaves(self.given), *_leaves([*self.named.values()])):
            if isinstance(leaf, _Value):
                yield leaf.same or leaf


class _Recorder(TorchDispatchMode):
    """Notes every operation that is done while it is entered, below autograd and maps."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[_Operation] = []
        self._numbers = count()
        # every tensor that was seen is held, so that an address means one thing
        self._held: list[Tensor] = []
        self._values: dict[int, _Value] = {}
        self._places: dict[tuple[Any, ...], _Value] = {}
        self._memories: set[int] = set()
        self._constants: dict[Any, str] = {}
        self.bytes = 0
        #: Memory that is changed in place, and that must not be.
        self.changed: set[int] = set()
        self.names: dict[str, Any] = {"inf": math.inf, "nan": math.nan}
        self.inputs = [self._enter(tensor, f"i{i}") for i, tensor in enumerate(inputs)]
        if len({value.memory for value in self.inputs}) < len(inputs):
            raise _Unrecordable("its inputs share memory")
        self._fixed = set(self._memories)
        self.bytes = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # torch would import its compiler at the first operation, which costs every worker two seconds
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise _Unrecordable(f"{func} draws at random")
        changes = func._schema.is_mutable
        given, named = self._written(args), {key: self._written(value) for key, value in (kwargs or {}).items()}
        result = func(*args, **(kwargs or {}))
        if changes:
            stated = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False))
            for argument in func._schema.arguments:
                if argument.alias_info and argument.alias_info.is_write:
                    self._change({**stated, **(kwargs or {})}.get(argument.name))
        elif isinstance(result, Tensor) and (known := self._places.get(_place(result))):
            # a view of all of it: nothing to do
            self._held.append(result)
            self._values[id(result)] = known
            return result
        several = result if isinstance(result, (tuple, list)) else [result]
        if not all(isinstance(leaf, Tensor) or leaf is None for leaf in several):
            raise _Unrecordable(f"{func} looks at a number")
        # the operation itself, without Python around it
        name = self._named(func._op)
        made = [None if t is None else self._enter(t, f"v{next(self._numbers)}") for t in several]
        if isinstance(result, (tuple, list)) and len(made) == 1:
            raise _Unrecordable(f"{func} makes a list of one tensor")
        self.operations.append(_Operation(name, given, named, made, changes))
        return result

    def value(self, tensor: Tensor) -> _Value:
        """What a tensor is in the program."""
        if (known := self._values.get(id(tensor))) is not None:
            return known
        place = _place(tensor)
        if place[0] not in self._memories:
            constant = self._enter(tensor, f"c{next(self._numbers)}")
            self.names[constant.name] = tensor
            self._fixed.add(constant.memory)
            return constant
        # autograd hands on what it saved as another object
        if place not in self._places:
            raise _Unrecordable("a tensor came about unseen")
        self._held.append(tensor)
        self._values[id(tensor)] = self._places[place]
        return self._places[place]

    def _named(self, constant: Any) -> str:
        """The name by which code speaks of an operation, a dtype, ...: one for each."""
        name = self._constants.setdefault(constant, f"k{len(self._constants)}")
        self.names[name] = constant
        return name

    def _enter(self, tensor: Tensor, name: str) -> _Value:
        place = _place(tensor)
        if place[0] not in self._memories:
            self.bytes += tensor.untyped_storage().nbytes()
            if self.bytes > _MOST:
                raise _Unrecordable(f"more than {_MOST >> 20} MiB in a step")
        self._memories.add(place[0])
        self._held.append(tensor)
        self._values[id(tensor)] = value = _Value(name, place[0])
        self._places.setdefault(place, value)
        return value

    def _change(self, changed: Any) -> None:
        for tensor in _leaves([changed]):
            if isinstance(tensor, Tensor):
                memory = self.value(tensor).memory
                if memory in self._fixed:
                    raise _Unrecordable("it changes in place what it is given")
                self.changed.add(memory)

    def _written(self, argument: Any) -> Any:
        """An argument as its code shows it."""
        if isinstance(argument, Tensor):
            return self.value(argument)
        if isinstance(argument, (list, tuple)):
            return [self._written(item) for item in argument]
        if type(argument) in _PLAIN:
            return argument
        if isinstance(argument, (torch.dtype, torch.device, torch.layout, torch.memory_format)):
            return _Value(self._named(argument), 0)
        raise _Unrecordable(f"an argument of type {type(argument).__name__}")


class _Program:
    """Operations as one Python function, compiled.

    Attributes:
        compared: replays that were compared.
        given: inputs of the last of them.
        launch: the same as one, once it is captured.
        source: its code.
    """

    def __init__(self, recorder: _Recorder, made: Sequence[_Value]) -> None:
        results = set(made)
        operations = _needed(_once(recorder.operations, recorder.changed, results), results)
        last = {value: i for i, operation in enumerate(operations) for value in operation.values}
        own = {value for operation in operations for value in operation.made if value} - results
        over: dict[int, list[str]] = {}
        for value, i in last.items():
            if value in own:
                over.setdefault(i, []).append(value.name)
        lines = [f"def replay({', '.join(value.name for value in recorder.inputs)}):"]
        for i, operation in enumerate(operations):
            names = ", ".join("_" if value is None else value.name for value in operation.made)
            lines.append(f"    {names} = {operation!r}" + (f"; del {', '.join(over[i])}" if i in over else ""))
        lines.append(f"    return {', '.join(map(repr, made))},")
        self.compared, self.source = 0, "\n".join(lines)
        self.given: list[weakref.ref[Tensor]] = []
        self.launch: _Launch | None = None
        space = dict(recorder.names)
        exec(self.source, space)
        self._replay: Callable[..., tuple[Tensor, ...]] = space["replay"]

    @torch.no_grad()
    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return self._replay(*inputs)


def _recorded(
    function: Callable[[], tuple[Tensor, ...]], inputs: Sequence[Tensor]
) -> tuple[_Program, tuple[Tensor, ...]]:
    """The program of a function, and what it made while it was recorded."""
    recorder = _Recorder(inputs)
    with recorder:
        results = function()
    return _Program(recorder, [recorder.value(tensor) for tensor in results]), results


def _once(operations: Sequence[_Operation], changed: set[int], results: set[_Value]) -> list[_Operation]:
    """Without those that do what another has done: weights are cast for every call of their network.

    Memory that is changed in place is left alone, and every result is a tensor of its own.
    """
    found: dict[str, _Operation] = {}
    left = []
    for operation in operations:
        touched = {value.memory for value in (*operation.values, *filter(None, operation.made))}
        if operation.changes or touched & changed or results.intersection(filter(None, operation.made)):
            left.append(operation)
            continue
        earlier = found.setdefault(repr(operation), operation)
        if earlier is operation:
            left.append(operation)
            continue
        for value, known in zip(operation.made, earlier.made, strict=True):
            if value and known:
                value.same = known
    return left


def _needed(operations: Sequence[_Operation], wanted: set[_Value]) -> list[_Operation]:
    """Without those whose results nobody reads."""
    wanted, kept = set(wanted), []
    for operation in reversed(operations):
        if operation.changes or wanted.intersection(filter(None, operation.made)):
            wanted.update(operation.values)
            kept.append(operation)
    return kept[::-1]


def _told(error: Exception) -> str:
    """An error in a line; what we raise ourselves says it without its type."""
    text = str(error).partition("\n")[0]
    return text if isinstance(error, _Unrecordable) else f"{type(error).__name__}: {text}"


def _leaves(nested: Sequence[Any]) -> Iterator[Any]:
    for item in nested:
        if isinstance(item, (list, tuple)):
            yield from _leaves(item)
        else:
            yield item


def _place(tensor: Tensor) -> tuple[Any, ...]:
    """Where a tensor lies, and how it is read."""
    memory = tensor.untyped_storage()._cdata
    return memory, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same bits."""
    bits = [tensor.detach().reshape(-1).view(torch.uint8) for tensor in (one, other)]
    return one.shape == other.shape and torch.equal(*bits)
