# ruff: noqa: E501  # a program as text
"""A counterexample as a program: it imports both trees, draws the same inputs, and shows the difference."""

from __future__ import annotations

import json
from pathlib import Path

from .recipes import Json
from .targets import Target
from .trees import Trees

_INPUTS = Path(__file__).resolve().parent / "worker" / "inputs.py"

_HEAD = '''"""Counterexample of `refactor verify` for target {name!r}.

{reason}

Run it with the interpreter of the program: python THIS_FILE [BEFORE_TREE AFTER_TREE]
It needs {needs}. The two trees run in processes of their own and get the same inputs.
"""
import contextlib, copy, gc, importlib, importlib.util, os, pickle, random, subprocess, sys, tempfile, threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

BEFORE, AFTER = {before!r}, {after!r}
ROOTS = {roots!r}  # import roots, relative to a tree
HARNESS = {harness!r}
ENTRY, INIT, FACTORY, MODE, DEVICE, GRAD, SEED = {entry!r}, {init!r}, {factory!r}, {mode!r}, {device!r}, {grad!r}, {seed!r}
EMULATED = {emulated!r}
STEPS = {steps}

'''

_TAIL = """

def seed_everything(seed):
    torch.manual_seed(seed)
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)


def build(root, instance):
    seed_everything(7919 * (instance + 1))
    name, _, qualname = ENTRY.partition(":")
    if HARNESS and "HARNESS_LOADED" not in globals():
        stem = os.path.splitext(os.path.basename(HARNESS))[0]
        spec = importlib.util.spec_from_file_location(stem, HARNESS)
        sys.modules[stem] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[stem])
        globals()["HARNESS_LOADED"] = True
    found, outer = importlib.import_module(name), None
    for part in qualname.split("."):
        outer, found = found, getattr(found, part)
    if isinstance(outer, type) and not isinstance(found, type):
        owner = settle(outer(**INIT))
        return owner, getattr(owner, qualname.rpartition(".")[2])
    owner = settle(found(**INIT)) if FACTORY or isinstance(found, type) else found
    return owner, owner


def settle(built):
    return built.to(DEVICE).train(MODE == "train") if isinstance(built, torch.nn.Module) else built


def tensors(value):
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [t for v in value.values() for t in tensors(v)]
    if isinstance(value, (list, tuple)):
        return [t for v in value for t in tensors(v)]
    return [t for v in vars(value).values() for t in tensors(v)] if hasattr(value, "__dict__") else []


def copied(value):
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, Mapping):
        return {str(k): copied(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [copied(v) for v in value]
    return value if isinstance(value, (int, float, str, type(None))) else tensors(value) and [copied(t) for t in tensors(value)]


def renewed(t, generator, step):
    if not t.is_floating_point():
        return t.detach().clone()
    if step.get("shuffled"):
        return t.detach().flatten()[torch.randperm(t.numel(), generator=generator).to(t.device)].view(t.shape)
    noise = torch.rand(t.shape, generator=generator, dtype=torch.float32).to(t.device, t.dtype)
    return (t.detach() * (0.5 + noise) + 0.01).contiguous()


def chosen(items, step):
    return [items[step["only"] % len(items)]] if "only" in step and items else items


class Run:
    def __init__(self, root, state):
        self.owners, self.calls, self.state = {}, {}, state
        self.builders, self.seen, self.kept, self.optimizers = {}, [], [], {}
        self.grad, self.autocast = None, None
        for i in sorted({int(s.get("i", 0)) for s in STEPS} | {0}):
            self.owners[i], self.calls[i] = build(root, i)
            if isinstance(self.owners[i], torch.nn.Module):
                if i in self.state:
                    self.owners[i].load_state_dict(self.state[i])
                else:
                    self.state[i] = copied(dict(self.owners[i].state_dict()))
            self.builders[i] = Builder(DEVICE, tuple(GRAD))

    def mode(self):
        stack = contextlib.ExitStack()
        if self.grad is not None:
            stack.enter_context(torch.set_grad_enabled(self.grad))
        elif MODE == "inference":
            stack.enter_context(torch.inference_mode())
        if self.autocast:
            stack.enter_context(torch.autocast(DEVICE, dtype=getattr(torch, self.autocast)))
        return stack

    def invoke(self, i, given):
        positional = sorted((n for n in given if n[0] == "_" and n[1:].isdigit()), key=lambda n: int(n[1:]))
        try:
            result = self.calls[i](*(given[n] for n in positional), **{k: v for k, v in given.items() if k not in positional})
            return list(result) if hasattr(result, "__next__") else result, None
        except Exception as error:
            return None, f"raised {type(error).__name__}: {error}"

    def step(self, number, step):
        i, op = int(step.get("i", 0)), step["op"]
        owner = self.owners.get(i)
        network = owner if isinstance(owner, torch.nn.Module) else None
        if op == "call":
            if step.get("zero") and network:
                network.zero_grad(set_to_none=step["zero"] == "none")
            with self.mode():
                given = self.builders[i].arguments(step["a"])
                result, error = self.invoke(i, given)
                if step.get("backward") and error is None:
                    self.backward(i, network, result, step)
            self.builders[i].last_tensors = tensors(result)
            self.kept.append(result)
            seen = {"result": error or copied(result), "inputs": copied(given)}
            if network:
                seen["state"] = copied(dict(network.state_dict()))
                seen["gradients"] = {n: copied(p.grad) for n, p in network.named_parameters()}
                seen["attributes"] = {k: copied(v) for k, v in vars(network).items() if k[0] != "_" and k != "training"}
            self.seen.append((f"step {number}", seen))
        elif op == "write_out":
            for t in tensors(self.kept[-1] if self.kept else None):
                with contextlib.suppress(Exception), torch.no_grad(), self.mode():
                    t.fill_(7)
        elif op == "refill":
            for name, recipe in step["a"].items():
                held = self.builders[i].last_arguments.get(name)
                if isinstance(held, Tensor) and "t" in recipe and list(held.shape) == list(recipe["shape"]):
                    with contextlib.suppress(Exception), self.mode(), torch.no_grad():
                        held.copy_(tensor(recipe).to(held.device))
        elif op == "mode_switch" and network:
            network.train(bool(step["train"]))
        elif op == "rebind" and network:
            self.rebind(network, step)
        elif op == "attribute":
            for part in filter(None, step["at"].split(".")):
                owner = getattr(owner, part)
            setattr(owner, step["name"], step["value"])
        elif op == "seed":
            seed_everything(step["seed"])
        elif op == "churn":
            gc.collect()
            [torch.full((n,), 7.0e8, device=DEVICE) for n in (16, 64, 256, 1024, 4096, 16384) for _ in range(4)]
        elif op == "grad":
            self.grad = step["enabled"]
        elif op == "autocast":
            self.autocast = step["dtype"]
        elif op == "deepcopy" and network:
            again = (lambda n: pickle.loads(pickle.dumps(n)).to(DEVICE)) if step.get("pickled") else copy.deepcopy
            self.owners[i] = self.calls[i] = again(network)
        elif op == "threads":
            self.threads(number, i, step)
        elif op == "interleave":
            with self.mode():
                made = [self.calls[i](**self.builders[i].arguments(c["a"])) for c in step["calls"]]
                if all(hasattr(r, "__next__") for r in made):
                    drawn, going = [[] for _ in made], list(range(len(made)))
                    while going:
                        going = [k for k in going if drawn[k].append(next(made[k], None)) or drawn[k][-1] is not None]
                    made = drawn
            self.kept += made
            self.seen.append((f"step {number}", [copied(r) for r in made]))

    def backward(self, i, network, result, step):
        outputs = [t for t in tensors(result) if t.requires_grad and t.is_floating_point()]
        total = 0
        for k, output in enumerate(outputs):
            weights = torch.rand(output.shape, generator=torch.Generator().manual_seed(k + 1)) + 0.5
            total = total + (output * weights.to(output.device, output.dtype)).sum() / max(1, output.numel())
        if outputs:
            total.backward()
            if step.get("sgd") and network:
                self.optimizers.setdefault(i, torch.optim.SGD(network.parameters(), lr=0.01)).step()

    def rebind(self, network, step):
        generator, how = torch.Generator().manual_seed(int(step.get("seed", 1))), step["how"]
        if how == "to":
            network.to("cpu").to(DEVICE)
        elif how in ("assign", "load"):
            old = chosen(list(network.state_dict().items()), step)
            new = {k: renewed(v, generator, step) for k, v in old}
            network.load_state_dict(new, strict="only" not in step, assign=how == "assign")
        else:
            held = list(network.parameters())
            if "only" in step:
                held = chosen(list(network.state_dict(keep_vars=True).values()), step)
            with torch.no_grad():
                for p in held:
                    if how == "data":
                        p.data = renewed(p, generator, step)
                    else:
                        p.copy_(renewed(p, generator, step))

    def threads(self, number, i, step):
        with self.mode():
            given = [self.builders[i].arguments(c["a"]) for c in step["calls"]]
        results = [None] * len(given)

        def work(k):
            with self.mode():
                for _ in range(step.get("times", 1)):
                    results[k] = self.invoke(i, given[k])

        workers = [threading.Thread(target=work, args=(k,)) for k in range(len(given))]
        [w.start() for w in workers], [w.join() for w in workers]
        self.seen.append((f"step {number}", [error or copied(result) for result, error in results]))


def side(root, out, state_file):
    os.chdir(root)
    sys.path[:0] = [os.path.normpath(os.path.join(root, r)) for r in ROOTS]
    torch.set_num_threads(1)
    if EMULATED:
        from refactor.verify.emulator import install
        install()
    run = Run(root, torch.load(state_file) if os.path.exists(state_file) else {})
    if not os.path.exists(state_file):
        torch.save(run.state, state_file)
    seed_everything(SEED)
    for number, step in enumerate(STEPS):
        run.step(number, step)
    run.seen.append(("at the end", {"kept": [copied(r) for r in run.kept]}))
    torch.save(run.seen, out)


def show(a, b, at):
    if isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and a.dtype == b.dtype:
        if not torch.equal(a.nan_to_num(7e7), b.nan_to_num(7e7)):
            gap = (a.double() - b.double()).abs().nan_to_num(float("inf")).max().item()
            print(f"{at}: off by {gap:.3g} where values reach {a.double().abs().max().item():.3g}")
    elif isinstance(a, Mapping) and isinstance(b, Mapping) and list(a) == list(b):
        [show(a[k], b[k], f"{at} {k}") for k in a]
    elif isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        [show(x, y, f"{at}[{k}]") for k, (x, y) in enumerate(zip(a, b))]
    elif isinstance(a, Tensor) or isinstance(b, Tensor) or a != b:
        print(f"{at}: {str(a)[:160]} against {str(b)[:160]}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        side(*sys.argv[2:])
    else:
        trees = sys.argv[1:3] or [BEFORE, AFTER]
        with tempfile.TemporaryDirectory() as folder:
            outs = [os.path.join(folder, f"{n}.pt") for n in ("before", "after", "state")]
            for root, out in zip(trees, outs):
                subprocess.run([sys.executable, __file__, "--side", os.path.abspath(root), out, outs[2]], check=True)
            a, b = (torch.load(out, weights_only=False) for out in outs[:2])
        for (at, x), (_, y) in zip(a, b):
            show(x, y, at)
"""


def script(target: Target, trees: Trees, steps: list[Json], seed: int, reason: str, emulated: bool) -> str:
    """The text of a self-contained program (torch and the two trees are all it needs; emulated: this package too)."""
    body = _INPUTS.read_text("utf-8").split("from torch import Tensor\n", 1)[1]
    head = _HEAD.format(
        name=target.name,
        reason=reason.replace("\\", "/").replace('"""', "'''"),
        needs="a CUDA device" if target.device == "cuda" and not emulated else "no GPU",
        before=str(trees.before),
        after=str(trees.after),
        roots=["src", "."],
        harness=target.harness,
        entry=target.entry,
        init=dict(target.init),
        factory=target.factory,
        mode=target.mode,
        device=target.device,
        grad=list(target.grad),
        seed=seed,
        emulated=emulated,
        steps=_steps(steps),
    )
    return head + body.strip() + "\n" + _TAIL


def _steps(steps: list[Json]) -> str:
    literal = "\n".join(f"    {json.loads(json.dumps(s))!r}," for s in steps)
    return f"[\n{literal}\n]"
