# ruff: noqa: E501  (lines of quoted programs)
"""What graphs and copies are looked up by: sizes, numbers, marks of a table; rings of results."""

from __future__ import annotations

from .pair import Pair, control
from .parts import ADDRESSES, CAPTURE, FUNCTIONAL

H = FUNCTIONAL + CAPTURE + ADDRESSES

KEYS = control(
    "graphs_by_sizes_and_two_numbers",
    "capture",
    "The lookup key has both sizes and both numbers; the scale is a device scalar.",
    'entry="program:Net"\ninputs={x="float32[B, S, 4]", k="int in 0..6", j="int in 0..6", scale="float in 0.5..2.0"}\ndims={B=[1,4],S=[1,6]}\nmode="inference"\ndevice="cuda"\n',
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)
    def forward(self, x, k, j, scale):
        return torch.softmax(self.lift(x) * scale, 1) * (k + 1) + j * 10
""",
    H
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)
        self._graphs = {}
    def _run(self, x, k, j, scale):
        return torch.softmax(self.lift(x) * scale, 1) * (k + 1) + j * 10
    def forward(self, x, k, j, scale):
        key = (x.shape, k, j, addresses(self))
        if key not in self._graphs:
            static, s = x.clone(), x.new_zeros(())
            self._graphs[key] = (static, s, *capture(lambda: self._run(static, k, j, s)))
        static, s, graph, y = self._graphs[key]
        static.copy_(x.view_as(static))
        s.fill_(scale)
        graph.replay()
        return y.clone()
""",
)

MEMO = control(
    "table_copied_in_every_call",
    "capture",
    "The table is copied whatever it holds: no mark of it is kept.",
    'entry="program:Net"\ninputs={x="float32[B, 4]", table="float32[6, 4]"}\ndims={B=[1,4]}\nmode="inference"\ndevice="cuda"\n',
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)
    def forward(self, x, table):
        return x @ self.lift(table).T
""",
    H
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)
        self._graphs = {}
    def forward(self, x, table):
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            a, b = x.clone(), table.clone()
            self._graphs[key] = [a, b, *capture(lambda: a @ self.lift(b).T), None]
        a, b, graph, y, seen = self._graphs[key]
        mark = None
        if mark is None or mark != seen:
            b.copy_(table)
            self._graphs[key][4] = mark
        a.copy_(x)
        graph.replay()
        return y.clone()
""",
)

KEEP = control(
    "results_of_their_own",
    "buffers",
    "Every result is a clone: the ring of buffers stays empty.",
    'entry="program:Net"\ninputs={x="float32[B, 4]"}\ndims={B=[1,3]}\nmode="inference"\ndevice="cuda"\n',
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)
    def forward(self, x):
        return self.lift(x)
""",
    H
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)
        self._graphs = {}
        self._ring = {}
    def forward(self, x):
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            a = x.clone()
            self._graphs[key] = [a, *capture(lambda: self.lift(a))]
        a, graph, y = self._graphs[key]
        a.copy_(x)
        graph.replay()
        return y.clone()
""",
)


def _key(name: str, why: str, key: str, *more: tuple[str, str]) -> Pair:
    return KEYS.mutant(
        name,
        "result",
        why,
        ("key = (x.shape, k, j, addresses(self))", f"key = ({key}, addresses(self))"),
        *more,
    )


def _mark(name: str, why: str, mark: str) -> Pair:
    return MEMO.mutant(name, "result", why, ("mark = None\n", f"mark = {mark}\n"))


def _ring(length: int) -> Pair:
    return KEEP.mutant(
        f"ring_of_{length}_results",
        "kept|aliasing",
        f"The buffer of a result is written again {length} calls later.",
        (
            "        return y.clone()\n",
            f"""        ring = self._ring.setdefault(x.shape, [])
        if len(ring) < {length}:
            ring.append(y.clone())
            return ring[-1]
        ring.append(ring.pop(0))
        return ring[-1].copy_(y)
""",
        ),
    )


PAIRS: tuple[Pair, ...] = (
    KEYS,
    _key(
        "graphs_by_number_of_elements",
        "Two rows of three for three rows of two.",
        "x.numel(), k, j",
        ("return y.clone()", "return y.clone().view(x.shape)"),
    ),
    _key("graphs_by_sum_of_numbers", "The key has the sum of both numbers.", "x.shape, k + j"),
    _key("graphs_by_product_of_numbers", "The key has the product of both numbers.", "x.shape, k * j"),
    _key("graphs_by_numbers_without_order", "The key has both numbers sorted.", "x.shape, *sorted((k, j))"),
    MEMO,
    _mark("table_known_by_first_element", "The first element stands for the table.", "table[0, 0].item()"),
    _mark("table_known_by_last_element", "The last element stands for the table.", "table[-1, -1].item()"),
    _mark("table_known_by_first_row", "The first row stands for the table.", "tuple(table[0].tolist())"),
    _mark(
        "table_known_by_every_second_row",
        "Every second row stands for the table.",
        "tuple(table[::2].flatten().tolist())",
    ),
    _mark(
        "table_known_by_its_values_without_order",
        "The sorted values stand for the table.",
        "tuple(table.flatten().sort().values.tolist())",
    ),
    _mark(
        "table_known_by_its_greatest",
        "The greatest and its place stand for the table.",
        "(table.argmax().item(), table.max().item())",
    ),
    KEEP,
    _ring(6),
    _ring(16),
    _ring(24),
)
