"""Calibrate the decision rule of the verifier: how often it rejects right rewrites, and misses wrong ones.

    python benchmarks/calibrate.py [--device cpu|cuda] [--seeds N] [--only SUBSTR]

Every case computes one thing in two ways that differ in the order of additions, in the kernel or in where
half precision is rounded; the wrong ones have a small mistake. Each runs on several fills and seeds. A line
gives, for one dtype, how many results were rejected, and the largest error over its allowance: 1 is the
limit. The constants are K, M and C of `verify/worker/measure.py`.

The second part asks the same of errors below the resolution of half precision, which
`verify/worker/finer.py` looks for over several inputs together: a target is eight of them, and those of one
fill and those of mixed fills count apart. Exits 1 if a right one is rejected.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from refactor.verify.worker import finer, reference
from refactor.verify.worker.episode import disturbed
from refactor.verify.worker.judge import Comparison, Suspect
from refactor.verify.worker.measure import measure, obvious
from refactor.verify.worker.observe import same_bits
from torch import Tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
RUNS = ("rerun", "double", *(f"perturbed{n}" for n in range(1, 9)))
FIRST = ("rerun", "double")
MORE = RUNS[:4]
FILLS: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": lambda x: x,
    "large": lambda x: x * 30,
    "small": lambda x: x * 1e-3,
    "shifted": lambda x: x + 10,
    "one large row": lambda x: torch.cat([x[:1] * 1e3, x[1:]]),
    "mixed scales": lambda x: x * torch.logspace(-3, 1, x.shape[-1], dtype=x.dtype),
}
Compute = Callable[..., Tensor]


@dataclass(frozen=True)
class Case:
    """Two ways to compute a thing of an input of ``shape`` and weights of other shapes."""

    name: str
    shape: tuple[int, ...]
    weights: tuple[tuple[int, ...], ...]
    original: Compute
    rewrite: Compute
    right: bool = True
    halves: bool = False  # right in half precision alone


def padded(compute: Compute, rows: int = 64) -> Compute:
    """The same with rows of zeros below the input, cut off the result."""

    def run(x: Tensor, *weights: Tensor) -> Tensor:
        return compute(torch.cat([x, x.new_zeros(rows - len(x), *x.shape[1:])]), *weights)[: len(x)]

    return run


def mlp(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """As a ranker's: two layers, a norm, a score for each row."""
    h = F.gelu(x @ up) @ down
    return F.layer_norm(h, h.shape[-1:]).sum(-1)


def permuted_mlp(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """The same with every sum in another order, as another kernel adds up."""
    order = [torch.randperm(n, generator=torch.Generator().manual_seed(n)).to(x.device) for n in up.shape]
    h = F.gelu(x[:, order[0]] @ up[order[0]][:, order[1]]) @ down[order[1]]
    return F.layer_norm(h, h.shape[-1:])[:, order[0]].sum(-1)


def softmax_by_logsumexp(x: Tensor) -> Tensor:
    """A softmax as the exponential of a difference."""
    centred = x.float() - x.float().amax(-1, keepdim=True)
    return (centred - centred.logsumexp(-1, keepdim=True)).exp().to(x.dtype)


def split(x: Tensor, w: Tensor) -> Tensor:
    """A product over halves of the inner dimension."""
    half = x.shape[-1] // 2
    return x[:, :half] @ w[:half] + x[:, half:] @ w[half:]


def wide_split(x: Tensor, w: Tensor) -> Tensor:
    """The same, added up in float32 and rounded once."""
    return split(x.float(), w.float()).to(x.dtype)


def attention(x: Tensor, w: Tensor) -> Tensor:
    """Attention by torch's own kernel."""
    q, k, v = (x @ w).chunk(3, -1)
    return F.scaled_dot_product_attention(q[None, None], k[None, None], v[None, None])[0, 0]


def attention_by_formula(x: Tensor, w: Tensor) -> Tensor:
    """Attention written out, the softmax in float32."""
    q, k, v = (x @ w).chunk(3, -1)
    scores = q.float() @ k.float().T * q.shape[-1] ** -0.5
    return scores.softmax(-1).to(x.dtype) @ v


def layer_norm(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Layer norm written out in float32."""
    wide = x.float()
    centred = wide - wide.mean(-1, keepdim=True)
    return (centred * (centred.square().mean(-1, keepdim=True) + eps).rsqrt()).to(x.dtype)


def backwards_in_pieces(x: Tensor) -> Tensor:
    """A sum over pieces, the last first."""
    total = x.new_zeros(len(x), dtype=torch.float32)
    for piece in reversed(x.float().split(37, -1)):
        total = total + piece.sum(-1)
    return total.to(x.dtype)


def convolution_by_unfolding(x: Tensor, w: Tensor) -> Tensor:
    """A convolution of one dimension as a matrix product."""
    columns = x[:, None].unfold(-1, w.shape[-1], 1).squeeze(1)
    return torch.einsum("nlk,ok->nol", columns, w[:, 0])


def rounded_late(x: Tensor, w: Tensor) -> Tensor:
    """A padded product with weights that are no half-precision numbers until they are rounded to them."""
    return padded(torch.matmul)(x, (w.double() * (1 + 2.0**-13)).to(x.dtype))


MLP = ((256, 1024), (1024, 256))
CASES = (
    Case("padded product", (5, 256), ((256, 64),), torch.matmul, padded(torch.matmul)),
    Case("padded mlp with norm", (13, 256), MLP, mlp, padded(mlp)),
    Case("padded to one row more", (1, 256), MLP, mlp, padded(mlp, 2)),
    Case("mlp in another order", (13, 256), MLP, mlp, permuted_mlp),
    Case("product over halves", (6, 512), ((512, 32),), torch.matmul, wide_split),
    Case("sum in pieces, backwards", (6, 1000), (), lambda x: x.sum(-1), backwards_in_pieces),
    Case(
        "mean as a product",
        (6, 513),
        (),
        lambda x: x.mean(-1),
        lambda x: (x.float() @ x.new_ones(513).float() / 513).to(x.dtype),
    ),
    Case("softmax by logsumexp", (6, 257), (), lambda x: x.softmax(-1), softmax_by_logsumexp),
    Case("layer norm written out", (6, 300), (), lambda x: F.layer_norm(x, (300,)), layer_norm),
    Case("attention written out", (17, 48), ((48, 96),), attention, attention_by_formula),
    Case(
        "convolution by unfolding",
        (4, 60),
        ((8, 1, 5),),
        lambda x, w: F.conv1d(x[:, None], w),
        convolution_by_unfolding,
    ),
    Case(
        "running sum in float32",
        (4, 400),
        (),
        lambda x: x.cumsum(-1),
        lambda x: x.float().cumsum(-1).to(x.dtype),
    ),
    Case(
        "norm by squares",
        (6, 400),
        (),
        lambda x: x.norm(dim=-1),
        lambda x: x.float().square().sum(-1).sqrt().to(x.dtype),
    ),
    Case("last term missing", (6, 1000), (), lambda x: x.sum(-1), lambda x: x[:, :-1].sum(-1), right=False),
    Case("mean over one less", (6, 513), (), lambda x: x.mean(-1), lambda x: x.sum(-1) / 512, right=False),
    Case(
        "last inner column missing",
        (6, 256),
        ((256, 32),),
        torch.matmul,
        lambda x, w: x[:, :-1] @ w[:-1],
        right=False,
    ),
    Case(
        "larger epsilon in a norm",
        (6, 300),
        (),
        lambda x: F.layer_norm(x, (300,)),
        lambda x: layer_norm(x, 5e-2),
        right=False,
    ),
    Case("scaled by a percent", (6, 256), ((256, 32),), torch.matmul, lambda x, w: x @ w * 1.01, right=False),
)


# What half precision does not show in any one result: found over eight inputs, or harmless.
FINE = (
    *(case for case in CASES if case.right),
    Case("weights rounded late", (6, 256), ((256, 32),), torch.matmul, rounded_late, halves=True),
    Case(
        "mean over 514", (6, 512), (), lambda x: x.mean(-1), lambda x: x.mean(-1) * (512 / 514), right=False
    ),
    Case(
        "scaled by half a percent",
        (6, 256),
        ((256, 32),),
        torch.matmul,
        lambda x, w: x @ (w * 1.005),
        right=False,
    ),
    Case(
        "small branch, four percent off",
        (6, 256),
        ((256, 256),),
        lambda x, w: x + 0.05 * torch.tanh(x @ w),
        lambda x, w: x + 0.052 * torch.tanh(x @ w),
        right=False,
    ),
    Case(
        "smaller epsilon in a norm",
        (6, 300),
        (),
        lambda x: F.layer_norm(x, (300,)),
        lambda x: layer_norm(x, 1e-6),
        right=False,
    ),
    Case(
        "root of two with six digits",
        (6, 256),
        ((256, 32),),
        lambda x, w: x @ w * 2**0.5,
        lambda x, w: x @ w * 1.41421,
        right=False,
    ),
    Case(
        "root of two with eight digits",
        (6, 256),
        ((256, 32),),
        lambda x, w: x @ w * 2**0.5,
        lambda x, w: x @ w * 1.4142136,
    ),
    Case(
        "gelu by tanh",
        (6, 256),
        ((256, 64),),
        lambda x, w: F.gelu(x @ w),
        lambda x, w: F.gelu(x @ w, approximate="tanh"),
        right=False,
    ),
)
TARGET = 8  # inputs


class Runs:
    """Further runs of the original, as the judge asks for them."""

    def __init__(self, original: Compute, given: list[Tensor]) -> None:
        self.original, self.given = original, given
        self.recording = reference.Recording()
        self.known: dict[str, Tensor] = {}

    def tensor(self, kind: str, suspect: Suspect) -> Tensor:
        """The result of one run on the CPU."""
        if kind not in self.known:
            self.known[kind] = self._run(kind).cpu()
        return self.known[kind]

    def _run(self, kind: str) -> Tensor:
        if kind == "rerun":
            with reference.Record(self.recording):
                return self.original(*self.given)
        if kind == "double":
            with reference.Promote(self.recording):
                return self.original(*(t.double() for t in self.given))
        number = int(kind.removeprefix("perturbed"))
        with reference.Disturb(number):
            return self.original(*(disturbed(t, number) for t in self.given))


def decided(case: Case, given: list[Tensor]) -> tuple[bool, float]:
    """Whether the rewrite is rejected, and its error over the allowance."""
    before, after = case.original(*given).cpu(), case.rewrite(*given).cpu()
    if before.dtype != after.dtype or same_bits(before, after):
        return before.dtype != after.dtype, 0.0
    suspect = Suspect(0, "result", "result", before, after, 0, before.dtype)
    ratio = obvious(suspect)
    if ratio is not None:
        return False, ratio
    runs = Runs(case.original, given)
    found = measure(suspect, runs, FIRST)  # type: ignore[arg-type]  # it has the one method that is asked for
    for kinds in (MORE, RUNS):
        if found.bad is not None:
            found = measure(suspect, runs, kinds)  # type: ignore[arg-type]
    return found.bad is not None, found.largest


def inputs(case: Case, dtype: torch.dtype, device: str, seeds: int) -> Iterator[list[Tensor]]:
    """Every fill with every seed."""
    for fill in FILLS.values():
        for seed in range(seeds):
            generator = torch.Generator().manual_seed(seed)
            x = fill(torch.randn(case.shape, generator=generator))
            weights = [torch.randn(s, generator=generator) * s[0] ** -0.5 for s in case.weights]
            yield [t.to(device, dtype) for t in (x, *weights)]


def fine(case: Case, given: list[list[Tensor]]) -> bool:
    """Whether a rewrite is rejected for what eight inputs show together."""
    sums = finer.Sums()
    for tensors in given:
        narrow = [compute(*tensors).cpu() for compute in (case.original, case.rewrite)]
        wide = []
        for compute in (case.original, case.rewrite):
            with reference.Promote(reference.Recording()):
                wide.append(compute(*(t.double() for t in tensors)).cpu())
        suspect = Suspect(0, "result", "result", *narrow, 0, narrow[0].dtype)
        if not finer.is_coarse(Comparison(suspects=[suspect])):
            continue
        sums.add(*finer.differences(*wide, *narrow))
        if sums.wrong:
            return True
    return False


def below_resolution(seeds: int, device: str, only: str) -> tuple[int, int, int, int]:
    """One line for each case of the second part; alarms and right ones, missed and wrong ones."""
    alarms = right = missed = wrong = 0
    for case in (c for c in FINE if only in c.name):
        for dtype in DTYPES[case.halves :]:
            found = list(inputs(case, dtype, device, seeds))
            mixed = [found[k::seeds] for k in range(seeds)]
            targets = [found[k : k + TARGET] for k in range(0, len(found), TARGET)] + mixed
            with torch.inference_mode():
                rejected = sum(fine(case, given) for given in targets)
            alarms, right = alarms + rejected * case.right, right + len(targets) * case.right
            wrong, missed = wrong + (not case.right), missed + (not case.right and not rejected)
            kind = "right" if case.right else "wrong"
            print(
                f"{kind}  {case.name:32}{dtype!s:16}rejected {rejected:4}/{len(targets)} targets", flush=True
            )
    return alarms, right, missed, wrong


def main() -> int:
    """Print one line for each case and dtype, then the rates, of both parts."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--seeds", type=int, default=10, help="for each fill")
    parser.add_argument("--only", default="", metavar="SUBSTR", help="part of a case's name")
    parser.add_argument("--part", choices=("1", "2", "both"), default="both")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = False
    alarms = right = missed = wrong = 0
    for case in (c for c in CASES if options.only in c.name and options.part != "2"):
        for dtype in DTYPES:
            with torch.inference_mode():
                found = [decided(case, g) for g in inputs(case, dtype, options.device, options.seeds)]
            rejected = sum(bad for bad, _ in found)
            alarms, right = alarms + rejected * case.right, right + len(found) * case.right
            wrong, missed = wrong + (not case.right), missed + (not case.right and not rejected)
            kind = "right" if case.right else "wrong"
            largest = max(ratio for _, ratio in found)
            told = f"rejected {rejected:4}/{len(found)}  largest {largest:8.3g}"
            print(f"{kind}  {case.name:28}{dtype!s:16}{told}")
    print(f"false alarms {alarms}/{right}; wrong ones never rejected {missed}/{wrong}")
    if options.part != "1":
        more, right, missed, wrong = below_resolution(options.seeds, options.device, options.only)
        print(f"below resolution: false alarms {more}/{right}; wrong ones never rejected {missed}/{wrong}")
        alarms += more
    return 1 if alarms else 0


if __name__ == "__main__":
    sys.exit(main())
