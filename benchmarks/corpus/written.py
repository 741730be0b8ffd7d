# ruff: noqa: E501  (lines of quoted programs)
"""Files that calls write: tables that grow, tensors saved, checkpoints replaced, logs kept open."""

from __future__ import annotations

from .pair import Pair, control
from .parts import ADDRESSES, CAPTURE, FUNCTIONAL

H = FUNCTIONAL + CAPTURE + ADDRESSES
ROWS = 'entry = "program:Net"\ninputs = { x = "float32[B, 4]" }\ndims = { B = [1, 4] }\n'

NET = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 3)
        self._graphs = {}
    def _replayed(self, x):
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            static = x.clone()
            self._graphs[key] = (static, *capture(lambda: self.lift(static)))
        static, graph, out = self._graphs[key]
        static.copy_(x)
        graph.replay()
        return out
"""

TABLE = control(
    "table_grows_by_a_line",
    "state",
    "Every call appends a line to a table beside the program.",
    ROWS,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 3)
    def forward(self, x):
        h = self.lift(x)
        with open("scores.csv", "a") as f:
            f.write(f"{x.shape[0]},{h.mean().item():.4f}\\n")
        return h
""",
    H
    + NET
    + """
    def forward(self, x):
        h = self._replayed(x).clone()
        with open("scores.csv", "a") as f:
            f.write(f"{x.shape[0]},{h.mean().item():.4f}\\n")
        return h
""",
)

SAVED = control(
    "latest_is_saved",
    "state",
    "The latest embeddings are saved for another process, which reads them by name.",
    ROWS,
    "import os\n"
    + FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 3)
    def forward(self, x):
        h = self.lift(x)
        os.makedirs("out", exist_ok=True)
        torch.save({"rows": x.shape[0], "h": h.cpu()}, "out/latest.pt")
        return h.argmax(-1)
""",
    "import os\n"
    + H
    + NET
    + """
    def forward(self, x):
        h = self._replayed(x).clone()
        os.makedirs("out", exist_ok=True)
        torch.save({"rows": x.shape[0], "h": h.cpu()}, "out/latest.pt")
        return h.argmax(-1)
""",
)

ARRAYS = control(
    "array_beside_the_program",
    "state",
    "An array is written beside the program, with a description in JSON, which replaces the last one in one move.",
    ROWS,
    "import json\nimport os\nfrom pathlib import Path\nimport numpy as np\n"
    + FUNCTIONAL
    + """
HERE = Path(__file__).parent

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 3)
    def forward(self, x):
        h = self.lift(x)
        np.save(HERE / "h.npy", h.cpu().numpy())
        (HERE / "h.tmp").write_text(json.dumps({"rows": x.shape[0], "top": int(h.argmax())}))
        os.replace(HERE / "h.tmp", HERE / "h.json")
        return h.sum(-1)
""",
    "import json\nimport os\nfrom pathlib import Path\nimport numpy as np\n"
    + H
    + """
HERE = Path(__file__).parent
"""
    + NET
    + """
    def forward(self, x):
        h = self._replayed(x)
        np.save(HERE / "h.npy", h.cpu().numpy())
        top = int(h.argmax())
        (HERE / "h.tmp").write_text(json.dumps({"rows": x.shape[0], "top": top}))
        os.replace(HERE / "h.tmp", HERE / "h.json")
        return h.sum(-1)
""",
)

LOG = control(
    "log_that_stays_open",
    "state",
    "A file is opened once and written to in every call.",
    ROWS,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 3)
        self._log = open("calls.log", "w", buffering=1)
    def forward(self, x):
        h = self.lift(x)
        print("rows", x.shape[0], "greatest", round(h.max().item(), 3), file=self._log)
        return h
""",
    H
    + NET.replace(
        "        self._graphs = {}\n",
        '        self._graphs = {}\n        self._log = open("calls.log", "w", buffering=1)\n',
    )
    + """
    def forward(self, x):
        h = self._replayed(x).clone()
        print("rows", x.shape[0], "greatest", round(h.max().item(), 3), file=self._log)
        return h
""",
)

PAIRS: tuple[Pair, ...] = (
    TABLE,
    TABLE.mutant(
        "table_grows_by_captures", "files", "A line comes with a new graph only.",
        ("        h = self._replayed(x).clone()\n", "        known = len(self._graphs)\n        h = self._replayed(x).clone()\n"),
        ('        with open("scores.csv", "a") as f:\n', '        with open("scores.csv", "a") as f:\n          if len(self._graphs) > known:\n  '),
    ),
    TABLE.mutant(
        "table_of_the_row_before", "files", "The mean is that of the call before.",
        ("        h = self._replayed(x).clone()\n",
         "        last = getattr(self, \"_last\", None)\n        h = self._replayed(x).clone()\n        self._last = h if last is None else h\n        shown = h if last is None else last\n"),
        ("{h.mean().item():.4f}", "{shown.mean().item():.4f}"),
    ),
    TABLE.mutant(
        "table_written_anew", "files", "The table holds the last line only.",
        ('"scores.csv", "a"', '"scores.csv", "w"'),
    ),
    TABLE.mutant(
        "table_of_another_name", "files", "The table has another name.",
        ('"scores.csv"', '"scores.txt"'),
    ),
    SAVED,
    SAVED.mutant(
        "saved_once", "files", "What is saved is what came of the first call.",
        ('        torch.save(', '        if not os.path.exists("out/latest.pt"):\n          torch.save('),
    ),
    SAVED.mutant(
        "saved_logits_are_probabilities", "files", "What is saved has passed a softmax, of which the greatest is the same.",
        ('"h": h.cpu()', '"h": h.softmax(-1).cpu()'),
    ),
    SAVED.mutant(
        "saved_on_the_device", "files", "What is saved is on the device.",
        ('"h": h.cpu()', '"h": h'), cuda_only=True,
    ),
    ARRAYS,
    ARRAYS.mutant(
        "array_in_double", "files", "The array has another dtype.",
        ("h.cpu().numpy())", "h.cpu().double().numpy())"),
    ),
    ARRAYS.mutant(
        "description_left_beside", "files", "The description keeps its temporary name.",
        ('        os.replace(HERE / "h.tmp", HERE / "h.json")\n', ""),
    ),
    ARRAYS.mutant(
        "description_of_the_first_top", "files", "The place of the greatest is kept with the graph.",
        ("        top = int(h.argmax())\n", "        top = self.__dict__.setdefault(\"_top\", {}).setdefault(x.shape, int(h.argmax()))\n"),
    ),
    LOG,
    LOG.mutant(
        "log_of_the_first_call", "files", "What is logged is the greatest of the first call of each size.",
        ("round(h.max().item(), 3)", "self.__dict__.setdefault(\"_seen\", {}).setdefault(x.shape, round(h.max().item(), 3))"),
    ),
    LOG.mutant(
        "log_without_rows", "files", "The line has lost its first half.",
        ('"rows", x.shape[0], "greatest"', '"greatest"'),
    ),
)  # fmt: skip
