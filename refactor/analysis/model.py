"""The facts that rules, rewrites and drafts of targets stand on. All values are frozen; nodes are ``ast``."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from refactor.source import Source

if TYPE_CHECKING:
    from refactor.analysis.project import ModuleInfo


class Kind(str, Enum):
    """What an expression evaluates to."""

    TENSOR = "tensor"
    HOST = "host"  # a host value fixed by shapes, configuration or constants
    READBACK = "readback"  # a host value read back from the device
    MODULE = "module"  # an nn.Module instance
    CONTAINER = "container"  # list, tuple, dict … of the above; see Value.items
    FUNCTION = "function"
    UNKNOWN = "unknown"


class Device(str, Enum):
    """Where a tensor lives, as far as the code tells."""

    HOST = "host"  # made on the CPU in the code
    DEVICE = "device"  # parameters, buffers, tensor arguments of a region, and what is computed from them
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Value:
    """Abstract value of one expression."""

    kind: Kind
    device: Device = Device.UNKNOWN
    dtype: str | None = None  # "bool", "int", "float" (families), or an exact torch dtype name
    rank: int | None = None
    shape: tuple[int | str | None, ...] | None = None  # numbers, or names for symbolic sizes
    items: tuple[Value, ...] | None = None  # of a CONTAINER whose elements are known
    qualname: str | None = None  # of a FUNCTION or MODULE: "pkg.mod:Class", "torch.nn:Linear"
    constant: bool = False  # HOST: a literal, or a name bound once to a literal


UNKNOWN = Value(Kind.UNKNOWN)


class EventKind(str, Enum):
    """What happens at a place, before any rule judges it."""

    READBACK = "readback"  # .item(), float(t), .tolist(), bool(t) called explicitly
    TO_HOST = "to-host"  # .cpu(), .numpy(), .to("cpu")
    SHOW = "show"  # print(t), f"{t}", logging of a tensor
    ASSERT = "assert"  # assert t, raise guarded by a tensor
    SYNCHRONIZE = "synchronize"  # torch.cuda.synchronize() and the like
    SYNC_OP = "sync-op"  # an operation that synchronises inside: svd, allclose, nms …
    BATCH_LOOP = "batch-loop"  # a loop over batches that calls a module or function
    REPEATED_CALL = "repeated-call"  # a loop that feeds a model with what it gave: decoding, sampling
    ROUND_READ = "round-read"  # between the graphs of such a loop, in every round; extra["as"]: what it is
    TRAINING_STEP = "training-step"  # forward, loss and backward, one launch after the other
    DYNAMIC_OP = "dynamic-op"  # nonzero, masked_select, unique, repeat_interleave(t, r) …
    MASK_INDEX = "mask-index"  # t[bool_tensor]
    DEVICE_SIZE = "device-size"  # a size, bound or index that must be a host number comes from the device
    BRANCH = "branch"  # if / conditional expression on a tensor
    BOOL_OP = "bool-op"  # and / or / not / in / max() that asks a tensor for its truth
    WHILE = "while"
    COUNTED_LOOP = "counted-loop"  # for _ in range(int(t)), iteration over a tensor's values
    HOST_CONSTANT = "host-constant"  # torch.tensor(c, device=…), as_tensor, new_tensor
    HOST_TO_DEVICE = "host-to-device"  # cpu_made.to(device), a CPU tensor used with device tensors
    INDEX_LIST = "index-list"  # x[[0, 2]], x[cpu_index]
    INDEX_FILL = "index-fill"  # x[device_index] = 0: the number is copied to the device
    LAUNCH = "launch"  # a kernel whose launch depends on data: grouped_mm
    TEMPORARY = "temporary"  # an elementwise result that does not leave the function
    GROWING_CACHE = "growing-cache"  # self.cache = torch.cat([self.cache, k])
    CAPTURE = "capture"  # discipline of code that captures by hand; detail says which point
    HOST_STATE = "host-state"  # Python counters, random, attribute assignment, appends in a region


@dataclass(frozen=True, eq=False)
class Region:
    """Code that should live inside one graph."""

    kind: str  # "forward", "loop", "step" (training), "captured"
    qualname: str  # in the file: "Model.forward"
    module: str  # dotted module name relative to its import root
    node: ast.AST  # FunctionDef, or the For/While/With of a loop or capture


@dataclass(frozen=True, eq=False)
class Event:
    """Something at one place that may be a hazard; ``detail`` and ``extra`` depend on the kind."""

    kind: EventKind
    node: ast.AST  # what a finding spans: an expression, or a statement (then only its header)
    statement: ast.stmt
    function: ast.AST | None  # the innermost FunctionDef around it
    region: Region
    chain: tuple[str, ...]
    detail: str = ""  # e.g. the method or function name: "item", "torch.nonzero"
    subject: ast.expr | None = None  # the tensor expression concerned
    extra: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Facts:
    """Everything known about one file."""

    source: Source
    tree: ast.Module
    module: str
    root: Path  # the import root the module name is relative to
    regions: tuple[Region, ...]
    events: tuple[Event, ...]  # by place
    values: Mapping[ast.expr, Value]  # keyed by node identity; only for reached code
    parents: Mapping[ast.AST, ast.AST]
    foreign: tuple[Facts, ...] = ()
    """Other files that the regions of this one reach: their hazards arise in this file's regions."""
    info: ModuleInfo | None = None
    """The file in the code base that the analysis looked around in; its tree is `tree`."""

    def value(self, node: ast.expr) -> Value:
        """The abstract value of an expression; UNKNOWN where the analysis did not go."""
        return self.values.get(node, UNKNOWN)
