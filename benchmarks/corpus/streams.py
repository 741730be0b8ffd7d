# ruff: noqa: E501  (lines of quoted programs)
"""Order between streams and the host: events, copies that do not block, pipelines."""

from __future__ import annotations

from .pair import Pair, control
from .parts import ADDRESSES, CAPTURE, TORCH

H = TORCH + CAPTURE + ADDRESSES
INF = 'mode = "inference"\ndevice="cuda"\n'

EVENTS = control(
    "two_towers_by_events",
    "concurrency",
    "Two graphs run on two streams, one after the other; events order them after the caller's stream and before it.",
    'entry="program:Towers"\ninputs={a="float32[B, 256]", b="float32[B, 256]"}\ndims={B=[30,32]}\n' + INF,
    TORCH
    + """
class Towers(nn.Module):
    def __init__(self, dim=256):
        super().__init__()
        self.left = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.right = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, dim))
    def forward(self, a, b):
        return self.left(a) * self.right(b)
""",
    H
    + """
class Towers(nn.Module):
    def __init__(self, dim=256):
        super().__init__()
        self.left = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.right = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, dim))
        self._graphs = {}
        self._streams = None
    def _tower(self, name, x, stream, ready, done):
        key = (name, x.shape, addresses(self))
        if key not in self._graphs:
            static = x.clone()
            self._graphs[key] = (static, *capture(lambda: getattr(self, name)(static)))
            ready.record()
        static, graph, out = self._graphs[key]
        stream.wait_event(ready)
        with torch.cuda.stream(stream):
            static.copy_(x)
            graph.replay()
            result = out.clone()
            done.record()
        x.record_stream(stream)
        return result
    def forward(self, a, b):
        if self._streams is None:
            self._streams = torch.cuda.Stream(), torch.cuda.Stream()
        mine = torch.cuda.current_stream()
        ready, first, second = torch.cuda.Event(), torch.cuda.Event(), torch.cuda.Event()
        ready.record(mine)
        left = self._tower("left", a, self._streams[0], ready, first)
        mine.wait_event(first)  # graphs share the workspace of their capture stream: one at a time
        ready.record(mine)
        right = self._tower("right", b, self._streams[1], ready, second)
        mine.wait_event(second)
        left.record_stream(mine)
        right.record_stream(mine)
        return left * right
""",
)

HOST_SCORE = control(
    "score_read_on_the_host",
    "concurrency",
    "The graph copies its score to page-locked memory; the host waits for the stream before it reads.",
    'entry="program:Score"\ninputs={x="float32[B, 64]"}\ndims={B=[1,4]}\n' + INF,
    TORCH
    + """
class Score(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(64, 8)
    def forward(self, x):
        h = self.lin(x)
        return h, h.mean(-1).cpu().tolist()
""",
    H
    + """
class Score(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(64, 8)
        self._graphs = {}
    def _run(self, x, host):
        h = self.lin(x)
        host.copy_(h.mean(-1), non_blocking=True)
        return h
    def forward(self, x):
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            s, host = x.clone(), torch.empty(len(x), pin_memory=True)
            self._graphs[key] = (s, host, *capture(lambda: self._run(s, host)))
        s, host, graph, out = self._graphs[key]
        s.copy_(x)
        graph.replay()
        torch.cuda.current_stream().synchronize()
        return out.clone(), host.tolist()
""",
)

STAGED = control(
    "inputs_staged_on_a_copy_stream",
    "concurrency",
    "Inputs go into one of two static buffers on a copy stream that waits for the replay which last read it.",
    'entry="program:Staged"\ninputs={x="float32[64, 256]"}\ndims={}\n' + INF,
    TORCH
    + """
class Staged(nn.Module):
    def __init__(self, dim=256):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
    def forward(self, x):
        return self.net(x)
""",
    H
    + """
class Staged(nn.Module):
    def __init__(self, dim=256):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        self._slots = []
        self._copy = None
        self._turn = 0
        self._owner = None
    def _slot(self, x):
        static = x.clone()
        graph, out = capture(lambda: self.net(static))
        free = torch.cuda.Event()
        free.record()
        return static, graph, out, free
    def forward(self, x):
        if self._owner != addresses(self):
            self._owner, self._slots = addresses(self), [self._slot(x), self._slot(x)]
        if self._copy is None:
            self._copy = torch.cuda.Stream()
        self._turn = 1 - self._turn
        static, graph, out, free = self._slots[self._turn]
        mine = torch.cuda.current_stream()
        self._copy.wait_stream(mine)
        self._copy.wait_event(free)
        with torch.cuda.stream(self._copy):
            static.copy_(x)
        mine.wait_stream(self._copy)
        x.record_stream(self._copy)
        graph.replay()
        free.record(mine)
        return out.clone()
""",
)

PAIRS: tuple[Pair, ...] = (
    EVENTS,
    EVENTS.mutant(
        "second_tower_not_waited",
        "result|kept",
        "The caller waits for the first tower alone.",
        ("        mine.wait_event(second)\n", ""),
    ),
    EVENTS.mutant(
        "towers_event_recorded_early",
        "result|kept",
        "The event that ends a tower is recorded before its replay.",
        (
            "            static.copy_(x)\n            graph.replay()\n            result = out.clone()\n            done.record()\n",
            "            static.copy_(x)\n            done.record()\n            graph.replay()\n            result = out.clone()\n",
        ),
    ),
    EVENTS.mutant(
        "towers_do_not_wait_for_inputs",
        "result|kept",
        "The towers start before the caller's stream has written their inputs.",
        ("        stream.wait_event(ready)\n", ""),
    ),
    EVENTS.mutant(
        "towers_event_never_recorded",
        "result|kept",
        "An event that was never recorded is waited for, which is no wait.",
        ("            done.record()\n", "            pass\n"),
    ),
    HOST_SCORE,
    HOST_SCORE.mutant(
        "score_read_too_early",
        "result",
        "The host reads before the copy is done.",
        ("        torch.cuda.current_stream().synchronize()\n", ""),
    ),
    HOST_SCORE.mutant(
        "score_of_the_call_before",
        "result",
        "The host reads the score before the replay.",
        (
            "        graph.replay()\n        torch.cuda.current_stream().synchronize()\n        return out.clone(), host.tolist()",
            "        said = host.tolist()\n        graph.replay()\n        torch.cuda.current_stream().synchronize()\n        return out.clone(), said",
        ),
    ),
    STAGED,
    STAGED.mutant(
        "staged_replay_does_not_wait",
        "result|kept",
        "The replay starts before the copy stream has filled its input.",
        ("        mine.wait_stream(self._copy)\n", ""),
    ),
    STAGED.mutant(
        "staged_copy_does_not_wait",
        "result|kept",
        "The copy stream reads the caller's tensor before it is written.",
        (
            "        self._copy.wait_stream(mine)\n        self._copy.wait_event(free)\n",
            "        self._copy.wait_event(free)\n",
        ),
    ),
    STAGED.mutant(
        "staged_other_slot_replayed",
        "result",
        "The graph of the other slot is replayed.",
        (
            "static, graph, out, free = self._slots[self._turn]\n",
            "static, _, _, free = self._slots[self._turn]\n        _, graph, out, _ = self._slots[1 - self._turn]\n",
        ),
    ),
)
