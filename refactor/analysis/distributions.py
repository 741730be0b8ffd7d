"""``torch.distributions``: checks of their arguments wait for the device, unless ``validate_args=False``.

``Distribution.__init__`` raises where a parameter lies outside of its support, ``log_prob`` and its kin where
a value does; ``torch.normal`` with a tensor of deviations looks for a negative one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from refactor.analysis.domain import OPAQUE, ExtObj, Host, Tensor, Val, is_tainted, on_device
from refactor.analysis.model import Device, EventKind
from refactor.analysis.torchops import names

if TYPE_CHECKING:
    from refactor.analysis.calls import Arguments
    from refactor.analysis.interpreter import Frame, Interpreter

SCOPE = "torch.distributions."
_WRAPPERS = frozenset({"Independent", "TransformedDistribution", "MixtureSameFamily"})
"""They check nothing themselves, and draw what the distribution inside draws."""
_DRAWS = names("sample rsample enumerate_support")
_JUDGED = names("log_prob cdf icdf")


def construct(it: Interpreter, frame: Frame, name: str, args: Arguments) -> Val:
    """A distribution, with the check of its arguments."""
    scope, _, leaf = name.rpartition(".")
    if leaf in _WRAPPERS or leaf.endswith("Transform") or scope.endswith((".constraints", ".transforms")):
        inner = next((v for v in args.every if isinstance(v, ExtObj) and v.made is not None), None)
        return inner if inner is not None and leaf in _WRAPPERS else ExtObj(name)
    device = any(map(is_tainted, args.every))
    checked = device and not _switched_off(args.keywords.get("validate_args"))
    if checked and any(map(on_device, args.every)):
        it.readback(frame, EventKind.SYNC_OP, args.node, args.node, f"{name} with validate_args")
    return ExtObj(name, made=Tensor(Device.DEVICE, "float") if device else None, checked=checked)


def _switched_off(given: Val | None) -> bool:
    return isinstance(given, Host) and given.value is False


def method(it: Interpreter, frame: Frame, owner: ExtObj, name: str, args: Arguments) -> Val:
    """A method of a distribution: what it draws, and the check of the values that it judges."""
    leaf = owner.name.rpartition(".")[2]
    if name in _JUDGED:
        if owner.checked and any(map(on_device, args.every)):
            it.readback(frame, EventKind.SYNC_OP, args.node, args.node, f"{name} with validate_args")
        return owner.made or args.unknown
    if name in _DRAWS and leaf == "Normal" and name == "sample" and owner.made is not None:
        it.readback(frame, EventKind.SYNC_OP, args.node, args.node, "torch.normal of tensors")
    if name in _DRAWS and owner.made is not None:
        return Tensor(Device.DEVICE, "int" if leaf == "Categorical" else "float")
    if name in ("entropy", "perplexity"):
        return owner.made or OPAQUE
    return owner if name == "expand" else args.unknown
