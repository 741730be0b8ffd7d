"""What operations of torch give: device, family of the dtype, rank, and tuples of tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from refactor.analysis.arithmetic import tensor_binary
from refactor.analysis.domain import (
    BOOL,
    NONE,
    Host,
    Opaque,
    Readback,
    Seq,
    Tensor,
    Val,
    replace,
)
from refactor.analysis.model import Device
from refactor.analysis.torchops import (
    BOOL_RESULTS,
    BROADCAST,
    FLOAT_RESULTS,
    INT_RESULTS,
    KEEP_RANK,
    PAIR_WITH_DIM,
    PAIRS,
    RANKS,
    REDUCTIONS,
    SPLITS,
    TUPLES,
)

if TYPE_CHECKING:
    from refactor.analysis.calls import Arguments


def result_of(
    name: str,
    values: list[Val],
    args: Arguments,
    first: Tensor | None,
    device: Device,
    flat: list[Val],
) -> Val:
    """The value an operation gives; in ``flat`` a sequence of operands is what its items have in common."""
    dtype = _dtype(name, args, first, flat)
    base = Tensor(device, dtype)
    if name in ("equal", "allclose"):
        return BOOL if device is Device.HOST else Readback("bool")
    if name in REDUCTIONS:
        return _reduced(name, values, args, first, base)
    if name in PAIRS:
        rank = first.rank if first is not None else None
        return Seq(
            "tuple", (Tensor(device, first.dtype if first else None, rank), Tensor(device, "int", rank))
        )
    if name in SPLITS:
        rank = first.rank if first is not None else None
        return Seq(
            "tuple", None, Tensor(device, first.dtype if first else None, None if name == "unbind" else rank)
        )
    if name in ("where", "nonzero") and (len(flat) == 1 or "as_tuple" in args.keywords):
        separate = args.keywords.get("as_tuple")
        if name == "nonzero" and (
            separate is None or (isinstance(separate, Host) and separate.value is False)
        ):
            return Tensor(device, "int", 2)
        return Seq("tuple", None, Tensor(device, "int", 1))
    if name in ("unique", "unique_consecutive"):
        result = Tensor(device, first.dtype if first else None, None if "dim" in args.keywords else 1)
        several = any(key.startswith("return_") for key in args.keywords)
        return Seq("tuple", None, replace(result, dtype=None)) if several else result
    if name in TUPLES:
        return Seq("tuple", None, base)
    hosted = first is not None and first.hosted and first is values[0] and device is first.device
    return replace(base, rank=_rank(name, values, args, first, flat), hosted=hosted)


def _reduced(name: str, values: list[Val], args: Arguments, first: Tensor | None, base: Tensor) -> Val:
    dim = args.keywords.get("dim", args.keywords.get("axis"))
    if dim is None and len(values) > 1 and name not in ("norm", "quantile", "dist"):
        dim = values[1]
    if name in ("norm", "quantile", "nanquantile", "vector_norm") and dim is None and len(values) > 2:
        dim = values[2]
    if isinstance(dim, Tensor) and name in ("max", "min"):
        return tensor_binary(values[0], dim, None)  # max(a, b) of torch is elementwise
    if dim is None or dim == NONE:
        return replace(base, rank=0)
    keep = args.keywords.get("keepdim", values[2] if len(values) > 2 else None)
    kept = isinstance(keep, Host) and keep.value is True
    rank = first.rank if first is not None else None
    if rank is not None and not kept:
        removed = len(dim.items) if isinstance(dim, Seq) and dim.items is not None else 1
        rank = (
            rank - removed if rank >= removed and not (isinstance(dim, Seq) and dim.items is None) else None
        )
    result = replace(base, rank=rank)
    if name in PAIR_WITH_DIM:
        return Seq("tuple", (result, Tensor(base.device, "int", rank)))
    return result


def _dtype(name: str, args: Arguments, first: Tensor | None, flat: list[Val]) -> str | None:
    given = args.keywords.get("dtype")
    if isinstance(given, Host) and given.type == "dtype":
        return given.owner
    if name in BOOL_RESULTS:
        return "bool"
    if name in INT_RESULTS:
        return "int"
    if name in FLOAT_RESULTS:
        return "float"
    bare = name[:-1] if name.endswith("_") and not name.endswith("__") else name
    if first is None:
        return None
    if bare in ("sum", "cumsum", "prod", "cumprod"):
        return "int" if first.dtype in ("int", "bool") else first.dtype
    if bare in BROADCAST or bare == "where":
        families = {v.dtype for v in flat if isinstance(v, Tensor)}
        if bare == "where":
            families = {v.dtype for v in flat[1:] if isinstance(v, Tensor)}
        if bare in ("div", "true_divide"):
            return "float"
        if "float" in families:
            return "float"
        if len(families) == 1 and all(isinstance(v, Tensor) for v in flat):
            return families.pop()
        exact = all(not isinstance(v, Host) or v.type in ("int", "bool") for v in flat)
        if families == {"int"} and exact:
            return "int"
        return "number" if families and families <= {"int", "number"} else None
    if bare in ("cat", "stack", "concat", "einsum", "matmul", "bmm"):
        return first.dtype or ("float" if bare in ("einsum",) else None)
    return first.dtype


def _rank(name: str, values: list[Val], args: Arguments, first: Tensor | None, flat: list[Val]) -> int | None:
    bare = name[:-1] if name.endswith("_") and not name.endswith("__") else name
    how = args.keywords.get("reduction")
    if bare in RANKS and not (isinstance(how, Host) and how.value == "none"):
        return RANKS[bare]
    rank = first.rank if first is not None else None
    if bare in ("view", "reshape", "expand", "repeat", "tile", "permute", "broadcast_to"):
        return _shaped_rank(values[1:], args)
    if bare in KEEP_RANK:
        return rank
    if bare in ("unsqueeze", "diag_embed", "unfold"):
        return rank + 1 if rank is not None else None
    if bare == "squeeze" and len(values) > 1 and rank is not None:
        return rank - 1 if isinstance(values[1], Host) else None
    if bare in BROADCAST or bare == "where":
        tensors = [v for v in flat if isinstance(v, Tensor)]
        ranks = [t.rank for t in tensors if t.rank is not None]
        return (
            max(ranks)
            if ranks and len(ranks) == len(tensors) and not any(isinstance(v, Opaque) for v in flat)
            else None
        )
    if bare in ("cat", "concat", "stack", "hstack", "vstack"):
        inner = next((v.rank for v in flat if isinstance(v, Tensor) and v.rank is not None), None)
        return inner + 1 if bare == "stack" and inner is not None else inner
    if bare in ("expand_as", "view_as", "reshape_as") and len(values) > 1 and isinstance(values[1], Tensor):
        return values[1].rank
    if bare == "flatten" and len(values) == 1 and not args.keywords:
        return 1
    if bare == "select":
        return rank - 1 if rank else None
    if bare == "embedding" and first is not None:
        return rank + 1 if rank is not None else None
    if bare in ("matmul", "mm") and len(flat) > 1:
        ranks = [v.rank for v in flat if isinstance(v, Tensor) and v.rank is not None]
        return max(ranks) if len(ranks) == 2 and min(ranks) >= 2 else None
    return None


def _shaped_rank(sizes: list[Val], args: Arguments) -> int | None:
    if len(sizes) == 1 and isinstance(sizes[0], Seq) and sizes[0].type != "*":
        return len(sizes[0].items) if sizes[0].items is not None else None
    if any(isinstance(size, Seq) for size in sizes):
        return None
    if len(sizes) == 1 and not (isinstance(sizes[0], Host) and sizes[0].type == "int"):
        return None
    return len(sizes) or None
