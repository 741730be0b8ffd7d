# ruff: noqa: E501  (lines of quoted programs)
"""What calls leave in the process: memory that only grows, threads, open files, switches, paths."""

from __future__ import annotations

from .pair import Pair, control
from .parts import ADDRESSES, CAPTURE, FUNCTIONAL

H = FUNCTIONAL + CAPTURE + ADDRESSES
ROWS = 'entry = "program:Net"\ninputs = { x = "float32[B, 8]" }\ndims = { B = [1, 4] }\n'
PLAIN = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(8, 8)
    def forward(self, x):
        return self.lift(x).relu()
"""

NET = control(
    "memory_stays_level",
    "state",
    "Graphs by size; what a call needs beside them is freed, and the last few results are remembered.",
    ROWS,
    FUNCTIONAL + PLAIN,
    "import collections\nimport sys\nimport threading\nimport warnings\n"
    + H
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(8, 8)
        self._graphs = {}
        self._recent = collections.deque(maxlen=16)
    def forward(self, x):
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            static = x.clone()
            self._graphs[key] = (static, *capture(lambda: self.lift(static).relu()))
        static, graph, out = self._graphs[key]
        static.copy_(x)
        graph.replay()
        result = out.clone()
        self._recent.append(result)
        return result
""",
)

HISTORY = control(
    "history_is_the_programs_own",
    "state",
    "The original remembers every result; so does the rewrite.",
    ROWS,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(8, 8)
        self._all = []
    def forward(self, x):
        h = self.lift(x).relu()
        self._all.append(h.mean(0))
        return h, len(self._all)
""",
    H
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(8, 8)
        self._graphs = {}
        self._all = []
    def _run(self, x):
        h = self.lift(x).relu()
        return h, h.mean(0)
    def forward(self, x):
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            static = x.clone()
            self._graphs[key] = (static, *capture(lambda: self._run(static)))
        static, graph, (h, mean) = self._graphs[key]
        static.copy_(x)
        graph.replay()
        self._all.append(mean.clone())
        return h.clone(), len(self._all)
""",
)

LOOKED = control(
    "module_path_as_it_was",
    "state",
    "The capture looks into a folder that it puts on the path of modules and takes off again.",
    ROWS,
    FUNCTIONAL + PLAIN,
    "import sys\nimport warnings\n"
    + H
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(8, 8)
        self._graphs = {}
    def _new(self, x):
        static = x.clone()
        limit = sys.getrecursionlimit()
        sys.path.insert(0, "/nowhere")
        sys.setrecursionlimit(limit + 500)
        torch.set_printoptions(precision=6)
        try:
          with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return (static, *capture(lambda: self.lift(static).relu()))
        finally:
            torch.set_printoptions(profile="default")
            sys.setrecursionlimit(limit)
            sys.path.remove("/nowhere")
    def forward(self, x):
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            self._graphs[key] = self._new(x)
        static, graph, out = self._graphs[key]
        static.copy_(x)
        graph.replay()
        return out.clone()
""",
)

PAIRS: tuple[Pair, ...] = (
    NET,
    NET.mutant(
        "results_kept_for_ever", "memory growth", "Every result stays alive.",
        ("collections.deque(maxlen=16)", "[]"),
    ),
    NET.mutant(
        "buffer_grows_in_every_call", "memory growth", "A private buffer is lengthened in every call.",
        ("        self._recent.append(result)\n",
         "        self._all = torch.cat([self._all, result]) if hasattr(self, \"_all\") else result\n"),
    ),
    NET.mutant(
        "inputs_kept_by_object", "memory growth", "Inputs are remembered by the object that they are.",
        ("        self._recent.append(result)\n", "        self.__dict__.setdefault(\"_seen\", {})[id(result)] = (x, result)\n"),
    ),
    NET.mutant(
        "cycle_over_every_result", "memory growth", "Each result hangs on the one before.",
        ("        self._recent.append(result)\n", "        result._before = getattr(self, \"_last\", None)\n        self._last = result\n"),
    ),
    NET.mutant(
        "thread_left_in_every_call", "flags|memory growth", "A thread is started in every call, and waits for ever.",
        ("        self._recent.append(result)\n", "        threading.Thread(target=threading.Event().wait, daemon=True).start()\n"),
    ),
    NET.mutant(
        "file_left_open_in_every_call", "flags|memory growth", "A file is opened in every call, and never closed.",
        ("        self._recent.append(result)\n", "        self.__dict__.setdefault(\"_open\", []).append(open(__file__))\n"),
    ),
    HISTORY,
    HISTORY.mutant(
        "history_of_whole_results", "memory growth", "Whole results are remembered where their means would do.",
        ("self._all.append(mean.clone())", "self._all.append((mean.clone(), h.clone(), x))"),
    ),
    LOOKED,
    LOOKED.mutant(
        "module_path_longer", "flags", "The folder stays on the path of modules.",
        ('            sys.path.remove("/nowhere")\n', ""),
    ),
    LOOKED.mutant(
        "warnings_silenced_for_good", "flags", "No warning is given any more.",
        ("          with warnings.catch_warnings():\n", "          if True:\n"),
    ),
    LOOKED.mutant(
        "recursion_left_deeper", "flags", "The limit of recursion stays raised.",
        ("            sys.setrecursionlimit(limit)\n", ""),
    ),
    LOOKED.mutant(
        "tensors_print_otherwise", "flags", "All tensors are printed with six digits from now on.",
        ('            torch.set_printoptions(profile="default")\n', "            pass\n"),
    ),
)  # fmt: skip
