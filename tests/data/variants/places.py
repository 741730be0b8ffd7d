"""Places, sizes, steps and host state; each marked line is a hazard of the code named."""

import random

import numpy as np
import torch
import torch.nn as nn


class Net(nn.Module):
    def __init__(self, n=4):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(n)])
        self.n = n
        self.register_buffer("table", torch.zeros(10, 4))
        self.cache = {}

    def forward(self, x: torch.Tensor, idx: torch.Tensor):
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i == self.n - 1:
                x = x.relu()
        rows = self.table[idx]  # unknown dtype: ok
        sel = x[[0, 2]]  # ! CG403
        x[0, 0] = 1.0
        y = x.view(-1)
        top, ind = y.topk(2)
        y[ind] = 0.0  # ! CG406
        z = torch.where(y > 0)[0]  # ! CG202
        q = torch.masked_select(y, y > 0)  # ! CG202
        u = y.unique()  # ! CG202
        r = y.repeat_interleave(2)
        c = torch.bincount(ind)  # ! CG202
        s = torch.linalg.svd(x)  # ! CG106
        e = torch.linalg.norm(x)
        ar = y.argsort()[: x.shape[0] // 2]
        return rows, sel, z, q, u, r, c, s, e, ar


def train(model, loader, opt, crit, scaler):
    total = 0.0
    for step, (x, y) in enumerate(loader):
        opt.zero_grad()
        loss = crit(model(x), y)
        if loss.item() > 100:  # ! CG301
            loss = loss / 2
        scaler.scale(loss).backward()
        scaler.step(opt)
        scaler.update()
        total += loss.item()
        if step % 10 == 0:
            print(total / (step + 1))
    return total


@torch.no_grad()
def generate(model, ids, n):
    for _ in range(n):
        logits = model(ids)
        nxt = logits[:, -1].argmax(-1, keepdim=True)
        ids = torch.cat([ids, nxt], 1)
        if (nxt == 2).all():
            break
    return ids


class Aug(nn.Module):
    def __init__(self, p):
        super().__init__()
        self.p = p
        self.steps = 0

    def forward(self, x: torch.Tensor):
        if random.random() < self.p:  # ! CG602
            x = x.flip(-1)
        self.steps += 1  # ! CG601
        self.last = x.mean()  # ! CG603
        noise = torch.from_numpy(np.random.randn(3)).to(x.device)  # ! CG602
        return x + noise


class Attn(nn.Module):
    def forward(self, q: torch.Tensor, k: torch.Tensor, mask=None):
        B, H, L, D = q.shape
        att = q @ k.transpose(-2, -1) / D**0.5
        if mask is not None and mask.dim() == 2:
            att = att.masked_fill(mask[:, None, None] == 0, float("-inf"))
        if L != k.size(2):
            att = att[..., : k.size(2)]
        causal = torch.ones(L, L, dtype=torch.bool, device=q.device).tril()
        att = att.masked_fill(~causal, -1e9)
        w = att.softmax(-1)
        n = w.numel() // B
        assert w.shape[-1] == L
        assert (w.sum(-1) > 0).all(), "bad"  # ! CG104
        return w.reshape(B, n)


class Pipe(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(*[Blk(i) for i in range(3)])
        self.post = [Post()]

    def forward(self, x):
        for blk in self.blocks:
            x = blk(x)
        return self.post[0](x)


class Blk(nn.Module):
    def __init__(self, i):
        super().__init__()
        self.i = i
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        if self.scale > 0:  # ! CG301
            return x * self.scale
        return x.to(self.scale.dtype)


class Post(nn.Module):
    def forward(self, x):
        return x.cpu().numpy()  # ! CG102


class Hooked(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.acts = []
        self.fc.register_forward_hook(lambda m, i, o: self.acts.append(o.tolist()))  # ! CG101

    def forward(self, x):
        return self.fc(x)


class Deco(nn.Module):
    @torch.no_grad()
    def update(self, x):
        if x.numel() == 0:
            return
        self.thr = float(x.max())  # ! CG101

    def forward(self, x: torch.Tensor):
        self.update(x)
        lo, hi = x.aminmax()
        if lo == hi:  # ! CG301
            return x
        k = max(1, int(x.shape[-1] * 0.5))
        v, _ = x.topk(k)
        return v.clamp(min=lo, max=hi)
