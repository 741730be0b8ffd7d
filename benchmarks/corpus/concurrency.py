# ruff: noqa: E501  (lines of quoted programs)
"""Threads and streams: one static buffer, two users."""

from __future__ import annotations

from .pair import Pair, control
from .parts import ADDRESSES, CAPTURE, TORCH

LOCKED = control(
    "one_graph_behind_a_lock",
    "concurrency",
    "Copy-in, replay and copy-out are one critical section, which waits for the device before it lets go.",
    """
entry  = "program:Service"
inputs = { x = "float32[4, 16]" }
dims   = {}
vary   = ["threads"]
""",
    TORCH
    + """

class Service(nn.Module):
    def __init__(self, dim=16):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, 32), nn.ReLU(), nn.Linear(32, dim))

    def forward(self, x):
        return self.net(x)
""",
    "\nimport threading\n"
    + TORCH
    + CAPTURE
    + ADDRESSES
    + """

class Service(nn.Module):
    def __init__(self, dim=16):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, 32), nn.ReLU(), nn.Linear(32, dim))
        self._graphs = {}
        self._lock = threading.Lock()

    def forward(self, x):
        if torch.is_grad_enabled():
            return self.net(x)
        with self._lock:
            key = (x.shape, addresses(self))
            if key not in self._graphs:
                static = x.clone()
                self._graphs[key] = (static, *capture(lambda: self.net(static)))
            static, graph, out = self._graphs[key]
            static.copy_(x)
            graph.replay()
            result = out.clone()
            torch.cuda.current_stream().synchronize()
        return result
""",
)

THREAD_LOCAL = control(
    "graphs_per_thread",
    "concurrency",
    "Every thread has graphs and static buffers of its own; capturing is behind a lock.",
    """
entry  = "program:Ranker"
inputs = { x = "float32[B, 8]" }
dims   = { B = [1, 3] }
vary   = ["threads", "values", "shapes", "kept outputs"]
""",
    TORCH
    + """

class Ranker(nn.Module):
    def __init__(self, dim=8):
        super().__init__()
        self.score = nn.Sequential(nn.Linear(dim, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x):
        return self.score(x).squeeze(-1).sort(descending=True)
""",
    "\nimport threading\n"
    + TORCH
    + CAPTURE
    + ADDRESSES
    + """

CAPTURING = threading.Lock()


class Ranker(nn.Module):
    def __init__(self, dim=8):
        super().__init__()
        self.score = nn.Sequential(nn.Linear(dim, 8), nn.Tanh(), nn.Linear(8, 1))
        self._local = threading.local()

    def _run(self, x):
        return self.score(x).squeeze(-1).sort(descending=True)

    def forward(self, x):
        if torch.is_grad_enabled():
            return self._run(x)
        if not hasattr(self._local, "graphs"):
            self._local.graphs = {}
        graphs = self._local.graphs
        with CAPTURING:  # nobody else may use the device while one thread captures
            key = (x.shape, addresses(self))
            if key not in graphs:
                static = x.clone()
                graphs[key] = (static, *capture(lambda: self._run(static)))
            static, graph, out = graphs[key]
            static.copy_(x)
            graph.replay()
            result = torch.return_types.sort(t.clone() for t in out)
            torch.cuda.current_stream().synchronize()
        return result
""",
)

SIDE = control(
    "side_stream_waits_both_ways",
    "concurrency",
    "The replay runs on a stream of its own, which waits for the caller's, and the caller's for it.",
    """
entry  = "program:Overlapped"
inputs = { x = "float32[B, 512]" }
dims   = { B = [60, 64] }
""",
    TORCH
    + """

class Overlapped(nn.Module):
    def __init__(self, dim=512):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self, x):
        return self.net(x) + x
""",
    TORCH
    + CAPTURE
    + ADDRESSES
    + """

class Overlapped(nn.Module):
    def __init__(self, dim=512):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))
        self._graphs = {}
        self._stream = None

    def _run(self, x):
        return self.net(x) + x

    def forward(self, x):
        if torch.is_grad_enabled():
            return self._run(x)
        if self._stream is None:
            self._stream = torch.cuda.Stream()
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            static = x.clone()
            self._graphs[key] = (static, *capture(lambda: self._run(static)))
        static, graph, out = self._graphs[key]
        mine = torch.cuda.current_stream()
        self._stream.wait_stream(mine)
        with torch.cuda.stream(self._stream):
            static.copy_(x)
            graph.replay()
            result = out.clone()
        mine.wait_stream(self._stream)
        x.record_stream(self._stream)
        result.record_stream(mine)
        return result
""",
)

FORK = control(
    "fork_and_join_inside_the_graph",
    "concurrency",
    "Two branches of a network are captured on two streams, forked from and joined to the capturing one.",
    """
entry  = "program:TwoTowers"
inputs = { a = "float32[B, 8]", b = "float32[B, 8]" }
dims   = { B = [1, 4] }
""",
    TORCH
    + """

class TwoTowers(nn.Module):
    def __init__(self, dim=8):
        super().__init__()
        self.left = nn.Sequential(nn.Linear(dim, 16), nn.ReLU(), nn.Linear(16, 4))
        self.right = nn.Sequential(nn.Linear(dim, 16), nn.Tanh(), nn.Linear(16, 4))

    def forward(self, a, b):
        return (self.left(a) * self.right(b)).sum(-1)
""",
    TORCH
    + CAPTURE
    + ADDRESSES
    + """

class TwoTowers(nn.Module):
    def __init__(self, dim=8):
        super().__init__()
        self.left = nn.Sequential(nn.Linear(dim, 16), nn.ReLU(), nn.Linear(16, 4))
        self.right = nn.Sequential(nn.Linear(dim, 16), nn.Tanh(), nn.Linear(16, 4))
        self._graphs = {}
        self._second = None

    def _run(self, a, b):
        main = torch.cuda.current_stream()
        self._second.wait_stream(main)
        with torch.cuda.stream(self._second):
            right = self.right(b)
        left = self.left(a)
        main.wait_stream(self._second)
        return (left * right).sum(-1)

    def forward(self, a, b):
        if torch.is_grad_enabled():
            return (self.left(a) * self.right(b)).sum(-1)
        if self._second is None:
            self._second = torch.cuda.Stream()
        key = (a.shape, b.shape, addresses(self))
        if key not in self._graphs:
            sa, sb = a.clone(), b.clone()
            self._graphs[key] = (sa, sb, *capture(lambda: self._run(sa, sb)))
        sa, sb, graph, out = self._graphs[key]
        sa.copy_(a)
        sb.copy_(b)
        graph.replay()
        return out.clone()
""",
)

PAIRS: tuple[Pair, ...] = (
    LOCKED,
    LOCKED.mutant(
        "threads_share_a_static_buffer",
        "result|kept",
        "Two threads copy their inputs into one buffer and replay one graph.",
        ("        with self._lock:\n            key", "        if True:\n            key"),
    ),
    LOCKED.mutant(
        "copy_out_after_the_lock",
        "result|kept",
        "The result is cloned when the next thread may already have replayed.",
        (
            "            result = out.clone()\n            torch.cuda.current_stream().synchronize()\n        return result",
            "            torch.cuda.current_stream().synchronize()\n        return out.clone()",
        ),
        cuda_only=True,
    ),
    LOCKED.mutant(
        "threads_share_an_output",
        "kept|result|aliasing",
        "The lock is right, but every thread gets the same output tensor.",
        ("            result = out.clone()\n", "            result = out\n"),
    ),
    THREAD_LOCAL,
    THREAD_LOCAL.mutant(
        "sorted_values_not_cloned",
        "kept|aliasing|result",
        "Indices are cloned, values are the static output.",
        (
            "torch.return_types.sort(t.clone() for t in out)",
            "torch.return_types.sort((out[0], out[1].clone()))",
        ),
    ),
    THREAD_LOCAL.mutant(
        "result_type_lost",
        "result",
        "The named result of sort became a plain tuple.",
        ("torch.return_types.sort(t.clone() for t in out)", "tuple(t.clone() for t in out)"),
    ),
    THREAD_LOCAL.mutant(
        "sorted_ascending",
        "result",
        "The order is turned around.",
        (
            "    def _run(self, x):\n        return self.score(x).squeeze(-1).sort(descending=True)",
            "    def _run(self, x):\n        return self.score(x).squeeze(-1).sort()",
        ),
    ),
    SIDE,
    SIDE.mutant(
        "caller_does_not_wait",
        "result|kept",
        "The caller's stream goes on before the side stream has written the result.",
        ("        mine.wait_stream(self._stream)\n", ""),
    ),
    SIDE.mutant(
        "side_stream_does_not_wait",
        "result|kept",
        "The side stream reads the input before the caller's stream has written it.",
        ("        self._stream.wait_stream(mine)\n", ""),
    ),
    FORK,
    FORK.mutant(
        "fork_not_joined",
        "exception",
        "The second stream is never joined: the capture cannot end.",
        ("        main.wait_stream(self._second)\n", ""),
    ),
    FORK.mutant(
        "second_stream_not_forked",
        "exception|result",
        "The second stream is not part of the capture: its work runs once, outside the graph.",
        ("        self._second.wait_stream(main)\n", ""),
        ("        main.wait_stream(self._second)\n", "        pass\n"),
    ),
)
