"""The same hazard in other words: whatever form a program gives it, it is found; its harmless twin is not."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from refactor.transforms import RULES

from refactor.analysis import Project, analyze
from refactor.findings import Severity
from refactor.place import place_of
from refactor.source import load

FORMS = {
    "an alias of torch": """
        import torch as th
        from torch import nn as mods
        class Model(mods.Module):
            def forward(self, x: th.Tensor):
                return x + th.tensor(1.0, device=x.device) + th.nonzero(x).sum()  # !
    """,
    "data that a training step fetches": """
        import random
        import numpy as np
        import torch
        class Buffer:
            def __init__(self, device):
                self.rows, self.device = np.zeros((9, 4), np.float32), device
            def sample(self, n):
                picked = np.random.randint(0, 9, n)
                return torch.from_numpy(self.rows[picked]).to(self.device)
        def get_batch(split, device):
            i = random.randrange(9)
            return torch.randn(8, 4)[i:].pin_memory().to(device)
        def train(model, optimizer, env, size, device):
            buffer, weights = Buffer(device), torch.tensor([1.0, 2.0])
            seen = env.reset()
            for step in range(1000):
                seen = env.step(model(torch.Tensor(seen).to(device)).cpu().numpy())
                if step > 10:
                    x = buffer.sample(size)
                    y = get_batch("train", device)
                    z = torch.as_tensor(seen[0]).to(device)
                    loss = (model(x) - y + z).mul(weights.to(device)).mean()  # !
                    if loss.item() > 3:  # !
                        loss = loss.clamp(max=3)
                    loss.backward()
                    optimizer.step()
    """,
    "a loss computed before the branch that calls backward": """
        import torch
        def train(model, optimizer, scaler, loader, device):
            for x, y in loader:
                loss = (model(x.to(device)) - torch.tensor(1.0, device=device)).mean()  # !
                if scaler is not None:
                    scaler.scale(loss).backward()
                    scaler.step(optimizer)
                else:
                    loss.backward()
                    optimizer.step()
    """,
    "a test that trains": """
        import unittest
        import torch
        class Training(unittest.TestCase):
            def test_loss_falls(self):
                for x in self.batches:
                    loss = self.model(x).mean() * torch.tensor(1.0, device="cuda")
                    assert loss.item() > 0
                    loss.backward()
                    self.optimizer.step()
    """,
    "names imported from torch": """
        import torch
        from torch import tensor, nonzero, Tensor, where as choose
        from torch.nn import Module
        class Model(Module):
            def forward(self, x: Tensor):
                a = tensor([1, 2], device=x.device)  # !
                b = choose(x > 0, x, 0.0)
                return a, nonzero(x), b  # !
    """,
    "an unbound method": """
        import torch
        from torch import nn
        class Model(nn.Module):
            def forward(self, x: torch.Tensor):
                n = torch.Tensor.item(x.sum())  # !
                y = torch.Tensor.cpu(x)  # !
                return torch.Tensor.view(x, -1), n, y
    """,
    "keyword arguments": """
        import torch
        from torch import nn
        class Model(nn.Module):
            def forward(self, x: torch.Tensor, mask: torch.BoolTensor, r: torch.LongTensor):
                a = torch.masked_select(input=x, mask=mask)  # !
                b = torch.repeat_interleave(input=x, repeats=r)  # !
                c = torch.repeat_interleave(input=x, repeats=r, output_size=8)
                d = torch.where(condition=mask, input=x, other=x)
                e = torch.as_tensor(data=[1.0], device=x.device)  # !
                return a, b, c, d, e, torch.nn.functional.one_hot(tensor=r, num_classes=4)
    """,
    "a walrus": """
        import torch
        from torch import nn
        class Model(nn.Module):
            def forward(self, x: torch.Tensor):
                if (m := x.mean()) > 0:  # !
                    return x * m
                if (n := x.shape[0]) > 4:
                    return x[: n // 2]
                return x[: (k := x.argmax())]  # !
    """,
    "starred arguments": """
        import torch
        from torch import nn
        class Model(nn.Module):
            def forward(self, *tensors: torch.Tensor):
                a, b = tensors
                pair = (a, b)
                return self.both(*pair), torch.cat([*pair])
            def both(self, p, q):
                return p[q > 0]  # !
    """,
    "keywords out of a dict": """
        import torch
        from torch import nn
        class Model(nn.Module):
            def forward(self, x: torch.Tensor):
                options = {"device": x.device, "dtype": x.dtype}
                a = torch.tensor(0.5, **options)  # !
                return torch.zeros(3, **options) + a
    """,
    "a lambda and a partial": """
        import functools
        import torch
        from torch import nn
        class Model(nn.Module):
            def forward(self, x: torch.Tensor):
                pick = lambda t: t[t > 0]  # !
                read = functools.partial(scale, factor=2)
                return pick(x), read(x)
        def scale(t, factor):
            return t.max().item() * factor  # !
    """,
    "a property": """
        import torch
        from torch import nn
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("scale", torch.ones(1))
            @property
            def factor(self):
                return self.scale.item()  # !
            def forward(self, x: torch.Tensor):
                return x * self.factor
    """,
    "modules in containers": """
        import torch
        from torch import nn
        class Block(nn.Module):
            def forward(self, x):
                return x if x.any() else x + 1  # !
        class Other(nn.Module):
            def forward(self, x):
                return x[x > 0]  # !
        class Third(nn.Module):
            def forward(self, x):
                return x.nonzero()  # !
        class Model(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.blocks = nn.ModuleList([Block() for _ in range(n)])
                self.named = nn.ModuleDict({"a": Other()})
                self.chain = nn.Sequential(Third(), nn.ReLU())
            def forward(self, x: torch.Tensor):
                for i, block in enumerate(self.blocks):
                    x = block(x)
                for name, module in self.named.items():
                    x = module(x)
                return self.chain(x)
    """,
    "a module under a name made from a number": """
        import torch
        from torch import nn
        class Block(nn.Module):
            def forward(self, x, mask):
                return helper(x, mask)
        def helper(x, mask):
            return x[mask]
        class Model(nn.Module):
            def __init__(self, n):
                super().__init__()
                for i in range(n):
                    setattr(self, f"block{i}", Block())
                    self.add_module("other%d" % i, Block())
            def forward(self, x: torch.Tensor, mask: torch.BoolTensor):
                y = getattr(self, "block0")(x, mask)
                return y, x.sum().item()  # !
    """,
    "a mixin and super": """
        import torch
        from torch import nn
        class Pooling:
            def pool(self, x):
                return x[: int(x.sum())]  # !
        class Base(nn.Module):
            def forward(self, x):
                return x.tolist()  # !
        class Model(Pooling, Base):
            def forward(self, x: torch.Tensor):
                return super().forward(self.pool(x))
    """,
    "a dataclass of settings": """
        from dataclasses import dataclass
        import torch
        from torch import nn
        @dataclass
        class Settings:
            size: int = 4
            rate: float = 0.5
            deep: bool = False
        class Model(nn.Module):
            def __init__(self, settings: Settings):
                super().__init__()
                self.settings = settings
            def forward(self, x: torch.Tensor):
                if self.settings.deep and self.settings.size > x.shape[0]:
                    x = x[: self.settings.size]
                return x if x.max() > self.settings.rate else -x  # !
    """,
    "a generator": """
        import torch
        from torch import nn
        def parts(x):
            for row in x.unbind(0):
                yield row
        class Model(nn.Module):
            def forward(self, x: torch.Tensor):
                total = 0
                for part in parts(x):
                    if part.sum() > 0:  # !
                        total = total + part
                return total
    """,
    "a closure": """
        import torch
        from torch import nn
        class Model(nn.Module):
            def forward(self, x: torch.Tensor):
                limit = x.mean()
                def keep(t):
                    return t[t > limit]  # !
                return keep(x)
    """,
    "a decorator": """
        import functools
        import torch
        from torch import nn
        def checked(function):
            @functools.wraps(function)
            def wrapper(self, x, *args, **kwargs):
                return function(self, x, *args, **kwargs)
            return wrapper
        class Model(nn.Module):
            @checked
            @torch.no_grad()
            def forward(self, x: torch.Tensor):
                return x.nonzero()  # !
    """,
    "context managers": """
        import contextlib
        import torch
        from torch import nn
        @contextlib.contextmanager
        def quiet():
            yield
        class Model(nn.Module):
            def forward(self, x: torch.Tensor):
                with quiet(), torch.autocast("cuda"), torch.no_grad() as g:
                    return x[x > 0]  # !
    """,
    "a match": """
        import torch
        from torch import nn
        class Model(nn.Module):
            def __init__(self, kind="a"):
                super().__init__()
                self.kind = kind
            def forward(self, x: torch.Tensor):
                match self.kind:
                    case "a":
                        return x.relu()
                    case "b" if x.shape[0] > 1:
                        return x.sum().item()  # !
                    case _ if x.any():  # !
                        return x
                return x
    """,
    "comprehensions": """
        import torch
        from torch import nn
        class Model(nn.Module):
            def forward(self, x: torch.Tensor, xs: list[torch.Tensor]):
                sizes = [y.shape[0] for y in xs if y.dim() > 1]
                kept = [y for y in xs if y.sum() > 0]  # !
                table = {i: y.item() for i, y in enumerate(xs)}  # !
                return sizes, kept, table, sum(len(y) for y in xs)
    """,
    "a class wrapped by a call": """
        from dataclasses import dataclass
        import torch
        from torch import nn
        @dataclass
        class Chosen:
            index: torch.Tensor
            keep: torch.BoolTensor
        Chosen = torch.jit.script(Chosen)
        def pick(x, chosen):
            return x[chosen.index], x[chosen.keep]  # !
        pick = torch.compile(pick)
        class Model(nn.Module):
            def forward(self, x: torch.Tensor, chosen: Chosen):
                return pick(x, chosen)
    """,
    "a subclass of Tensor": """
        import torch
        from torch import nn
        class Image(torch.Tensor):
            pass
        class Model(nn.Module):
            def forward(self, x: Image):
                return x.as_subclass(torch.Tensor).cpu()  # !
    """,
    "sizes that are called by the first parameter": """
        import torch
        from torch import nn
        class Bias(nn.Module):
            def __init__(self):
                super().__init__()
                self.table = nn.Parameter(torch.zeros(8, 8))
            def forward(self, i, j):
                q = torch.arange(j - i, j, device=self.table.device)
                if self.table.shape[-2] >= i:
                    return self.table[-i:, -j:]
                return self.table[q > 0]  # !
    """,
    "code for another kind of device": """
        import torch
        from torch import nn
        class Model(nn.Module):
            def forward(self, x, y: torch.Tensor):
                if x.device.type == "mps":
                    return y.cpu()
                if y.is_xpu:
                    return y.tolist()
                return y.tolist() if x.device.type != "npu" else y  # !
    """,
    "tensors out of an unknown call": """
        import torch
        from torch import nn
        from elsewhere import encode
        class Model(nn.Module):
            def __init__(self, net: nn.Module):
                super().__init__()
                self.net = net
            def forward(self, x: torch.Tensor, mask: torch.BoolTensor):
                features, sizes = self.net(x)
                for size in sizes:
                    x = nn.functional.interpolate(x, size=size)
                h = encode(x)
                return h[mask], h[:, 0], encode(x).index.view(-1)[mask], features  # !
    """,
    "columns of the rows of a tensor": """
        import torch
        from torch import nn
        class Model(nn.Module):
            def forward(self, x: torch.Tensor, pairs: torch.LongTensor):
                rows, cols = zip(*pairs)
                x = x.clone()
                x[rows, cols] = 0.0  # !
                found = x.nonzero(as_tuple=False)  # !
                return x[found[:, 0]]
    """,
    "numbers written through indices": """
        import torch
        from torch import nn
        class Model(nn.Module):
            def forward(self, x: torch.Tensor, idx: torch.Tensor, level: int):
                mask = torch.zeros(4, dtype=torch.bool, device=x.device)
                mask[idx] = True  # !
                shapes = torch.empty((3, 2), device=x.device, dtype=torch.long)
                for k, feature in enumerate(unknown(level)):
                    height, width = feature.shape[-2:]
                    shapes[k, 0] = height  # !
                    shapes[k] = height
                return mask, shapes
    """,
    "a conversion to a sparse layout": """
        import torch
        from torch import nn
        class Model(nn.Module):
            def forward(self, x: torch.Tensor):
                return x.to_sparse_csr(), x.to_sparse()  # !
    """,
    "a demonstration that names no device": """
        import torch
        from torch import nn
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.table = nn.Parameter(torch.zeros(8, 8))
            def forward(self, x: torch.Tensor, tasks):
                return self.table[tasks] + x.any().float()
        if __name__ == "__main__":
            model = Model()
            tasks = torch.randint(0, 8, (2,))
            model(torch.randn(2, 8), tasks).sum().backward()
    """,
    "an autograd function": """
        import torch
        from torch import nn
        class Clip(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x, limit):
                ctx.save_for_backward(x)
                return x.clamp(max=torch.tensor(limit, device=x.device))  # !
        class Count(torch.autograd.Function):
            @staticmethod
            def forward(x):
                return x.nonzero()  # !
            @staticmethod
            def setup_context(ctx, inputs, output):
                pass
        class Model(nn.Module):
            def forward(self, x: torch.Tensor):
                return Clip.apply(x, 2.0), Count.apply(x)
    """,
    "a comparison that is a Python bool": """
        import torch
        from torch import nn
        class Model(nn.Module):
            def forward(self, x: torch.Tensor, y: torch.Tensor):
                same = torch.equal(x, y)  # !
                if not same:
                    x = x + 1
                return x if same else y
    """,
    "a random number on the host beside something unknown": """
        import torch
        from torch import nn
        from elsewhere import rate_of
        class Model(nn.Module):
            def forward(self, x: torch.Tensor):
                if torch.rand(1) > rate_of(x):
                    return x
                empty = torch.empty(0).to(x.device)
                return torch.complex(x, x), torch.cat([x, empty]), x.sum() if x.sum() > 0 else x  # !
    """,
    "single numbers beside tensors on the host": """
        import torch
        from torch import nn
        class Model(nn.Module):
            def forward(self, x: torch.Tensor):
                most = x.sum()
                weights = torch.ones(8)
                drawn = torch.multinomial(weights, most)  # !
                return x[drawn]  # !
    """,
    "distributions that check their arguments": """
        import torch
        import torch.distributions as D
        from torch import nn
        from torch.distributions.normal import Normal
        class Model(nn.Module):
            def forward(self, x: torch.Tensor, y: torch.Tensor):
                free = D.Independent(Normal(x, y.exp(), validate_args=False), 1)
                affine = D.transforms.AffineTransform(loc=x, scale=y)
                prior = Normal(0.0, 1.0)
                noise = free.rsample() + torch.normal(x, 1.0)
                scored = free.log_prob(noise) + D.Categorical(logits=x, validate_args=False).entropy()
                checked = D.Normal(loc=x, scale=y.exp())  # !
                drawn = checked.rsample()
                scored = scored + checked.log_prob(drawn)  # !
                if free.mean.sum() > 0:  # !
                    scored = scored + torch.normal(x, y.exp())  # !
                if drawn.max() > 1:  # !
                    nn.utils.clip_grad_norm_(self.parameters(), 1.0)
                    nn.utils.clip_grad_norm_(self.parameters(), 1.0, error_if_nonfinite=True)  # !
                return scored + free.sample(), torch.matrix_exp(x)  # !
    """,
    "tensors made into text": """
        import torch
        from torch import nn
        class Model(nn.Module):
            def forward(self, x: torch.Tensor):
                name = "{} of {}".format(x.shape, x.dtype) + str(x.device) + "%d" % x.shape[0]
                name += str(x.sum())  # !
                name += "{}".format(x.sum())  # !
                name += "%s and %s" % (x.shape, x)  # !
                return x, name
    """,
    "old constructors": """
        import torch
        from torch import nn
        class Model(nn.Module):
            def forward(self, x: torch.Tensor):
                a = x.new(2, 3).zero_() + torch.cuda.FloatTensor(2, 3)
                b = x.new([1.0, 2.0])  # !
                c = torch.cuda.LongTensor([1, 2])  # !
                return a, b, c, torch.full_like(x, 2.0), torch.full_like(x, x.max())  # !
    """,
    "unknown values in lists": """
        import torch
        from torch import nn
        from elsewhere import encode
        class Model(nn.Module):
            def forward(self, x: torch.Tensor):
                found = encode(x)
                kept = torch.where(x > 0, found.logits, found.bias)
                return torch.maximum(found.a, found.b), kept, x.any().item()  # !
    """,
    "numbers that a training step logs, and one that it computes with": """
        import torch
        from torch import nn
        def train(model: nn.Module, loader, optimizer):
            total, history = 0.0, []
            for x, y in loader:
                optimizer.zero_grad()
                with torch.autocast("cuda"):
                    out = model(x.cuda())
                    scale = y.cuda().abs().mean().item()  # !
                    loss = (out - y.cuda()).square().mean() / scale
                    best = loss.item()
                total += loss.item()
                total = 0.9 * total + 0.1 * best
                history.append(loss.item())
                print(f"{loss.item()}")
                loss.backward()
                norm = float(loss)
                optimizer.step()
    """,
    "training that runs once, and training in a loop": """
        import torch
        from torch import nn
        model = nn.Linear(2, 2).cuda()
        if __name__ == "__main__":
            inputs = torch.randn(4, 2).cuda()
            model(inputs).sum().backward()
            for inputs in [torch.randn(4, 2)] * 100:
                noise = torch.randn(4, 2)
                model(inputs.cuda() + noise.cuda()).sum().backward()  # !
    """,
}


def reported(code: str) -> set[int]:
    folder = Path("/nonexistent")
    facts = analyze(load(folder / "m.py", code.encode()), Project(folder))
    assert facts is not None
    return {
        place_of(facts.source, hit.event.node).line
        for rule in RULES
        for hit in rule.detect(facts)
        if (hit.severity or rule.severity) is Severity.BREAKS
    }


@pytest.mark.parametrize("form", FORMS)
def test_hazards_are_found_in_every_form_and_nothing_else(form: str) -> None:
    code = textwrap.dedent(FORMS[form])
    assert reported(code) == {n for n, line in enumerate(code.splitlines(), 1) if line.endswith("# !")}
