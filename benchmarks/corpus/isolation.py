# ruff: noqa: E501  (lines of quoted programs)
"""Rewrites that take their process down, or the device with it."""

from __future__ import annotations

from .pair import Pair, control
from .parts import ADDRESSES, CAPTURE, TORCH

LOOKUP = control(
    "lookup_with_unknown_ids",
    "concurrency",
    "Ids beyond the table are looked up as its last row, as before; the graph clamps them.",
    'entry="program:Lookup"\ninputs={ids="int64[N] in 0..40"}\ndims={N=[1,6]}\nmode="inference"\ndevice="cuda"\n',
    TORCH
    + """
class Lookup(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(30, 4)
    def forward(self, ids):
        return self.emb(ids.clamp(max=29)).sum(0)
""",
    "\nimport os\n"
    + TORCH
    + CAPTURE
    + ADDRESSES
    + """
class Lookup(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(30, 4)
        self._graphs = {}
    def _run(self, ids):
        return self.emb(ids.clamp(max=29)).sum(0)
    def forward(self, ids):
        key = (ids.shape, addresses(self))
        if key not in self._graphs:
            s = torch.zeros_like(ids)
            self._graphs[key] = (s, *capture(lambda: self._run(s)))
        s, graph, out = self._graphs[key]
        s.copy_(ids)
        graph.replay()
        return out.clone()
""",
)

PAIRS: tuple[Pair, ...] = (
    LOOKUP,
    LOOKUP.mutant(
        "lookup_asserts_on_the_device",
        "exception|values",
        "Unknown ids stop the device in the middle of a replay.",
        (
            "        return self.emb(ids.clamp(max=29)).sum(0)\n    def forward(self, ids):\n        key",
            "        return self.emb(ids).sum(0)\n    def forward(self, ids):\n        key",
        ),
    ),
    LOOKUP.mutant(
        "lookup_out_of_device_memory",
        "exception",
        "A workspace larger than the device is asked for with the sixth graph.",
        (
            "            s = torch.zeros_like(ids)\n",
            "            s = torch.zeros_like(ids)\n            if ids.shape[0] == 6:\n                self._work = torch.empty(1 << 37, device=ids.device)\n",
        ),
    ),
    LOOKUP.mutant(
        "lookup_ends_its_process",
        "values|arguments|shapes",
        "The twelfth call ends the process.",
        (
            "        s.copy_(ids)\n",
            "        s.copy_(ids)\n        self._calls = self.__dict__.get('_calls', 0) + 1\n        if self._calls == 12:\n            os._exit(0)\n",
        ),
    ),
    LOOKUP.mutant(
        "lookup_killed_for_its_memory",
        "values|arguments|shapes",
        "Every call keeps more of the host's memory, until the kernel kills the process.",
        (
            "        s.copy_(ids)\n",
            "        s.copy_(ids)\n        self._held = self.__dict__.get('_held', 0) + 1\n        if self._held == 9:\n            print('out of host memory', flush=True)\n            os.kill(os.getpid(), 9)\n",
        ),
    ),
)
