# ruff: noqa: E501  (lines of quoted programs)
"""Tails that order, neighbours and averages look at; beams, ends of texts, temperatures; statistics and schedules of training."""

from __future__ import annotations

from .pair import Pair, control
from .parts import ADDRESSES, CAPTURE, CAPTURE_STEP, FUNCTIONAL


def rows(dim: int, low: int = 1, high: int = 12) -> str:
    """A target with rows that vary."""
    return (
        f'entry = "program:Net"\ninputs = {{ x = "float32[B, {dim}]" }}\ndims = {{ B = [{low}, {high}] }}\n'
    )


def padded(init: str, eager: str, run: str, output: str = "out.clone()", dim: int = 6) -> tuple[str, str]:
    """Before and after: rows in a bucket of 4, 8 or 16, a tail that is cleared, and the count on the device.

    ``eager`` reads ``x``; ``run`` reads ``x`` (the bucket), ``n`` (a device integer) and ``here`` (a mask).
    """

    def body(text: str, by: int) -> str:
        return "".join(f"{' ' * by}{line}\n" for line in text.strip("\n").splitlines())

    start = "\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n" + body(init, 8)
    before = FUNCTIONAL + start + "    def forward(self, x):\n" + body(eager, 8)
    after = (
        FUNCTIONAL
        + CAPTURE
        + ADDRESSES
        + start
        + "        self._graphs = {}\n    def _eager(self, x):\n"
        + body(eager, 8)
        + "    def _run(self, x, n, here):\n"
        + body(run, 8)
        + f"""    def forward(self, x):
        size = x.shape[0]
        if torch.is_grad_enabled() or not size:
            return self._eager(x)
        bucket = next(b for b in (4, 8, 16) if b >= size)
        key = (bucket, addresses(self))
        if key not in self._graphs:
            held = x.new_zeros(bucket, {dim}), torch.ones((), dtype=torch.int64, device=x.device), torch.ones(bucket, dtype=torch.bool, device=x.device)
            self._graphs[key] = (held, *capture(lambda: self._run(*held)))
        (static, n, here), graph, out = self._graphs[key]
        static[:size].copy_(x)
        static[size:].zero_()
        n.fill_(size)
        here.copy_(torch.arange(bucket, device=x.device) < size)
        graph.replay()
        return {output}
"""
    )
    return before, after


LIFT = "self.lift = nn.Linear(6, 6)"

NEAREST = control(
    "nearest_other_row", "padding", "The distance to the nearest other row; padding is infinitely far away.", rows(6, 2),
    *padded(LIFT,
            "h = self.lift(x)\nd = (h[:, None] - h[None]).square().sum(-1)\nreturn d.masked_fill(torch.eye(len(x), dtype=torch.bool, device=x.device), float('inf')).amin(-1)",
            "h = self.lift(x)\nd = (h[:, None] - h[None]).square().sum(-1)\nout = torch.eye(len(x), dtype=torch.bool, device=x.device) | ~here\nreturn d.masked_fill(out, float('inf')).amin(-1)",
            "out[:size].clone()"),
)  # fmt: skip
CENTRED = control(
    "rows_less_their_mean", "padding", "Rows are centred by the mean of those that are there.", rows(6),
    *padded(LIFT, "h = self.lift(x)\nreturn h - h.mean(0)",
            "h = self.lift(x)\nreturn h - torch.where(here[:, None], h, 0.0).sum(0) / n", "out[:size].clone()"),
)  # fmt: skip
RETURNS = control(
    "sums_from_the_end", "padding", "Discounted sums from the end; a cleared tail adds nothing.", rows(6),
    *padded("self.gain = nn.Parameter(torch.ones(6))",
            "return (x * self.gain).flip(0).cumsum(0).flip(0)", "return (x * self.gain).flip(0).cumsum(0).flip(0)", "out[:size].clone()"),
)  # fmt: skip
LAST = control(
    "last_row_that_is_there", "padding", "The last row is looked up by its number on the device.", rows(6),
    *padded(LIFT, "h = torch.tanh(self.lift(x))\nreturn h[-1], h.amax(0)",
            "h = torch.tanh(self.lift(x))\nreturn h.index_select(0, (n - 1).view(1))[0], h.masked_fill(~here[:, None], float('-inf')).amax(0)",
            "tuple(t.clone() for t in out)"),
)  # fmt: skip
ROLLED = control(
    "difference_to_the_row_before", "padding", "Each row less the one before it, the first less the last.", rows(6),
    *padded(LIFT, "h = self.lift(x)\nreturn h - h.roll(1, 0)",
            "h = self.lift(x)\nbefore = torch.arange(len(x), device=x.device) - 1\nreturn h - h[torch.where(before < 0, n - 1, before)]", "out[:size].clone()"),
)  # fmt: skip
CONTRAST = control(
    "contrast_among_the_rows", "padding", "Every row against all others: padding is masked in both directions.", rows(6),
    *padded(LIFT, "h = F.normalize(self.lift(x), dim=-1)\ns = h @ h.T * 5\nreturn F.cross_entropy(s, torch.arange(len(x), device=x.device))",
            "h = F.normalize(self.lift(x), dim=-1)\ns = (h @ h.T * 5).masked_fill(~here, float('-inf'))\neach = F.cross_entropy(s, torch.arange(len(x), device=x.device), reduction='none')\nreturn torch.where(here, each, 0.0).sum() / n"),
)  # fmt: skip
FROM_END = control(
    "places_counted_from_the_end", "padding", "A weight falls with the distance from the last row.", rows(6),
    *padded(LIFT, "p = torch.arange(len(x), device=x.device)\nreturn self.lift(x) * 0.9 ** (len(x) - 1 - p)[:, None]",
            "p = torch.arange(len(x), device=x.device)\nreturn self.lift(x) * 0.9 ** (n - 1 - p)[:, None]", "out[:size].clone()"),
)  # fmt: skip
MEDIAN = control(
    "median_of_the_rows", "padding", "The lower median of every column, by sorting with infinity behind the rows.", rows(6),
    *padded(LIFT, "h = self.lift(x)\nreturn torch.nan_to_num(h).median(0).values",
            "h = torch.nan_to_num(self.lift(x)).masked_fill(~here[:, None], float('inf'))\nreturn h.sort(0).values.index_select(0, ((n - 1) // 2).view(1))[0]"),
)  # fmt: skip
NONE = control(
    "no_rows_at_all", "padding", "The mean of no rows is NaN, their sum zero.", rows(6, 0),
    *padded(LIFT, "h = self.lift(x)\nreturn h.mean(0), h.sum(0)",
            "h = torch.where(here[:, None], self.lift(x), 0.0)\nreturn h.sum(0) / n, h.sum(0)", "tuple(t.clone() for t in out)"),
)  # fmt: skip
NOISY = control(
    "noise_of_the_rows_alone", "rng", "Noise is drawn for the rows that are there, before it is padded.", rows(6),
    *padded("self.gain = nn.Parameter(torch.ones(6))", "return x * self.gain + torch.randn_like(x)", "return x * self.gain", "out[:size] + torch.randn_like(x)"),
)  # fmt: skip

DECODE = 'entry = "program:Net"\ninputs = { x = "float32[3, 5]", parents = "int64[3] in 0..2", restart = "bool" }\ndims = {}\n'
BEAMS = control(
    "beams_change_places",
    "state",
    "Caches of keys, scores and ends follow the beam they belong to; finished beams get nothing more.",
    DECODE,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(5, 5)
        self.register_buffer("keys", torch.zeros(3, 5))
        self.register_buffer("scores", torch.zeros(3))
        self.register_buffer("done", torch.zeros(3, dtype=torch.bool))
    def forward(self, x, parents, restart):
        if restart:
            self.keys.zero_()
            self.scores.zero_()
            self.done.zero_()
        h = torch.tanh(self.lift(x))
        done = self.done[parents]
        self.keys.copy_(0.5 * self.keys[parents] + h)
        self.scores.copy_(self.scores[parents] + torch.where(done, 0.0, h.mean(-1)))
        self.done.copy_(done | (h[:, 0] > 0.8))
        return self.keys.sum(-1), self.scores.clone()
""",
    FUNCTIONAL
    + CAPTURE_STEP
    + ADDRESSES
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(5, 5)
        self.register_buffer("keys", torch.zeros(3, 5))
        self.register_buffer("scores", torch.zeros(3))
        self.register_buffer("done", torch.zeros(3, dtype=torch.bool))
        self._graphs = {}
    def _step(self, x, parents):
        h = torch.tanh(self.lift(x))
        done = self.done.index_select(0, parents)
        self.keys.copy_(torch.add(h, self.keys.index_select(0, parents), alpha=0.5))
        self.scores.copy_(self.scores.index_select(0, parents) + h.mean(-1).masked_fill(done, 0.0))
        self.done.copy_(done | (h[:, 0] > 0.8))
        return self.keys.sum(-1), self.scores.clone()
    def forward(self, x, parents, restart):
        if restart:
            for t in (self.keys, self.scores, self.done):
                t.zero_()
        key = addresses(self)
        if key not in self._graphs:
            held = x.clone(), parents.clone()
            self._graphs[key] = (held, *capture_step(lambda: self._step(*held), (self.keys, self.scores, self.done)))
        held, graph, out = self._graphs[key]
        for static, given in zip(held, (x, parents)):
            static.copy_(given)
        graph.replay()
        return tuple(t.clone() for t in out)
""",
)

SAMPLER = control(
    "temperature_of_zero_is_greedy",
    "rng",
    "At temperature zero the best token is taken and nothing is drawn; else the likely ones alone are drawn from.",
    'entry = "program:Net"\ninputs = { x = "float32[B, 7]", temperature = "float in 0.0..1.0", top = "float in 0.1..1.0" }\ndims = { B = [1, 4] }\n',
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(7, 9)
    def forward(self, x, temperature, top):
        logits = torch.nan_to_num(self.head(x), nan=0.0, posinf=9.0, neginf=-9.0)
        if temperature == 0:
            return logits.argmax(-1)
        p, order = torch.sort((logits / temperature).softmax(-1), descending=True, stable=True)
        p = p.masked_fill(p.cumsum(-1) - p >= top, 0.0)
        return order.gather(-1, torch.multinomial(p, 1)).squeeze(-1)
""",
    FUNCTIONAL
    + CAPTURE
    + ADDRESSES
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(7, 9)
        self._graphs = {}
    def _greedy(self, x, temperature, top):
        return self._logits(x).argmax(-1)
    def _logits(self, x):
        return torch.nan_to_num(self.head(x), nan=0.0, posinf=9.0, neginf=-9.0)
    def _likely(self, x, temperature, top):
        p, order = torch.sort((self._logits(x) / temperature).softmax(-1), descending=True, stable=True)
        return p.masked_fill(p.cumsum(-1) - p >= top, 0.0), order
    def forward(self, x, temperature, top):
        run = self._likely if temperature else self._greedy
        key = (len(x), bool(temperature), addresses(self))
        if key not in self._graphs:
            held = x.clone(), torch.ones((), device=x.device), torch.ones((), device=x.device)
            self._graphs[key] = (held, *capture(lambda: run(*held)))
        held, graph, out = self._graphs[key]
        held[0].copy_(x)
        held[1].fill_(temperature)
        held[2].fill_(top)
        graph.replay()
        if not temperature:
            return out.clone()
        p, order = out
        return order.gather(-1, torch.multinomial(p, 1)).squeeze(-1)
""",
)

PENALTY = control(
    "repeated_tokens_are_less_likely",
    "state",
    "Logits of tokens seen before are divided by a penalty where they are positive, and multiplied where not.",
    'entry = "program:Net"\ninputs = { x = "float32[8]", token = "int64[1] in 0..7", restart = "bool" }\ndims = {}\n',
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 8)
        self.seen = []
    def forward(self, x, token, restart):
        if restart:
            self.seen.clear()
        self.seen.append(int(token))
        logits = self.head(x)
        ids = torch.tensor(sorted(set(self.seen)), device=x.device)
        some = logits[ids]
        return logits.index_put((ids,), torch.where(some > 0, some / 1.3, some * 1.3))
""",
    FUNCTIONAL
    + CAPTURE
    + ADDRESSES
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 8)
        self.seen = []
        self._graphs = {}
        self._known = None
    def _run(self, x, known):
        logits = self.head(x)
        return torch.where(known, torch.where(logits > 0, logits / 1.3, logits * 1.3), logits)
    def forward(self, x, token, restart):
        if restart:
            self.seen.clear()
        self.seen.append(int(token))
        if self._known is None:
            self._known = torch.zeros(8, dtype=torch.bool, device=x.device)
        key = addresses(self)
        if key not in self._graphs:
            static = x.clone()
            self._graphs[key] = (static, *capture(lambda: self._run(static, self._known)))
        static, graph, out = self._graphs[key]
        static.copy_(x)
        if len(self.seen) == 1:
            self._known.zero_()
        self._known.index_fill_(0, token, True)
        graph.replay()
        return out.clone()
""",
)

PAIRS: tuple[Pair, ...] = (
    NEAREST,
    NEAREST.mutant("nearest_is_the_padding", "result", "Padding is a row like any other.", ("device=x.device) | ~here\n", "device=x.device)\n")),
    CENTRED,
    CENTRED.mutant("mean_with_the_padding", "result", "The bias of padded rows is in the mean.", ("torch.where(here[:, None], h, 0.0).sum(0) / n", "h.sum(0) / n")),
    RETURNS,
    RETURNS.mutant("sums_from_a_stale_end", "result", "The tail of a longer call is added.", ("        static[size:].zero_()\n", "")),
    LAST,
    LAST.mutant("last_row_of_the_bucket", "result", "The last row of the bucket.", ("h.index_select(0, (n - 1).view(1))[0]", "h[-1]")),
    LAST.mutant("greatest_with_the_padding", "result", "Padded rows take part in the maximum.", (", h.masked_fill(~here[:, None], float('-inf')).amax(0)", ", h.amax(0)")),
    ROLLED,
    ROLLED.mutant("rolled_over_the_bucket", "result", "The first row is compared with the last of the bucket.", ("torch.where(before < 0, n - 1, before)", "before")),
    CONTRAST,
    CONTRAST.mutant("contrast_with_the_padding", "result", "Padded columns are in the denominator.", (".masked_fill(~here, float('-inf'))\n        each", "\n        each")),
    CONTRAST.mutant("contrast_of_the_padding", "result", "Padded rows are in the mean.", ("torch.where(here, each, 0.0).sum() / n", "torch.nan_to_num(each, posinf=0.0).sum() / n")),
    FROM_END,
    FROM_END.mutant("places_from_the_buckets_end", "result", "Distances are those from the end of the bucket.", ("0.9 ** (n - 1 - p)", "0.9 ** (len(x) - 1 - p)", )),
    MEDIAN,
    MEDIAN.mutant("median_of_the_bucket", "result", "The middle of the bucket.", ("((n - 1) // 2).view(1)", "((len(x) - 1) // 2 + 0 * n).view(1)")),
    MEDIAN.mutant("median_the_upper", "result", "The upper of two in the middle.", ("((n - 1) // 2)", "(n // 2)")),
    NONE,
    NONE.mutant("mean_of_no_rows_is_zero", "result|shapes", "No rows give zeros.", ("if torch.is_grad_enabled() or not size:", "if torch.is_grad_enabled():"), ("/ n, h.sum(0)", "/ n.clamp(min=1), h.sum(0)")),
    NOISY,
    NOISY.mutant("noise_of_the_bucket", "random|result", "Noise is drawn for the whole bucket, column by column.", ("out[:size] + torch.randn_like(x)", "(out + torch.randn(out.shape[1], out.shape[0], device=x.device).t())[:size]")),
    BEAMS,
    BEAMS.mutant("scores_keep_their_places", "result|state", "Scores do not follow their beam.", ("self.scores.index_select(0, parents)", "self.scores")),
    BEAMS.mutant("ends_keep_their_places", "result|state", "A beam's end stays where it was.", ("self.done.index_select(0, parents)", "self.done.clone()")),
    BEAMS.mutant("beams_copied_one_by_one", "result|state", "Rows are moved one after another: a row that was overwritten is read again.",
                 ("self.keys.copy_(torch.add(h, self.keys.index_select(0, parents), alpha=0.5))",
                  "for k in range(3):\n            self.keys[k].copy_((0.5 * self.keys.index_select(0, parents[k : k + 1]) + h[k])[0])")),
    BEAMS.mutant("beams_of_warmup", "result|state", "What the warmup did to the ends of beams stays.", ("(self.keys, self.scores, self.done)))", "(self.keys, self.scores)))")),
    BEAMS.mutant("finished_beams_go_on", "result|state", "Finished beams still gain.", (".masked_fill(done, 0.0)", "")),
    SAMPLER,
    SAMPLER.mutant("greedy_draws_all_the_same", "random|result", "At temperature zero a token is drawn from very sharp odds.",
                   ("held[1].fill_(temperature)", "held[1].fill_(temperature or 1e-4)"), ("run = self._likely if temperature else self._greedy", "run = self._likely"),
                   ("        if not temperature:\n            return out.clone()\n", "")),
    SAMPLER.mutant("likely_without_the_last", "result", "The token that crosses the bound is left out too.", ("p.cumsum(-1) - p >= top", "(p.cumsum(-1) >= top) & (p < p[:, :1])")),
    SAMPLER.mutant("bound_of_the_first_call", "result", "The bound is the one of capture.", ("        held[2].fill_(top)\n", "")),
    PENALTY,
    PENALTY.mutant("penalty_makes_negative_likelier", "result", "Negative logits are divided as well.", ("logits * 1.3)", "logits / 1.3)")),
    PENALTY.mutant("penalty_for_the_last_alone", "result", "Only the last token is remembered.", ("        if len(self.seen) == 1:\n            self._known.zero_()", "        self._known.zero_()")),
    PENALTY.mutant("penalty_never_forgotten", "result", "A new text starts with the old one's tokens.", ("        if len(self.seen) == 1:\n            self._known.zero_()\n", "")),
)  # fmt: skip
