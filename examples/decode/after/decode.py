"""Text generation, one token a step, over a key/value cache of fixed size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from cuda_graphs import graphed


class Layer(nn.Module):
    """Causal attention over the cache, then a feed-forward."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(
        self, h: torch.Tensor, place: torch.Tensor, keep: torch.Tensor, cache: torch.Tensor
    ) -> torch.Tensor:
        """h (batch, new, dim); place (new,); keep (new, room); cache (2, batch, heads, room, head)."""
        batch, new, dim = h.shape
        qkv = self.qkv(self.norm_attention(h)).view(batch, new, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        cache[0].index_copy_(2, place, k)
        cache[1].index_copy_(2, place, v)
        mixed = F.scaled_dot_product_attention(q, cache[0], cache[1], attn_mask=keep)
        h = h + self.out(mixed.transpose(1, 2).reshape(batch, new, dim))
        return h + self.down(F.gelu(self.up(self.norm_mlp(h))))


class Decoder(nn.Module):
    """A GPT; the position lives on the device, so a step has the same shapes whatever came before."""

    def __init__(
        self, vocabulary: int = 96, dim: int = 32, heads: int = 4, layers: int = 2, room: int = 32
    ) -> None:
        super().__init__()
        self.heads, self.room = heads, room
        self.tokens, self.places = nn.Embedding(vocabulary, dim), nn.Embedding(room, dim)
        self.layers = nn.ModuleList(Layer(dim, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def new_cache(self, batch: int) -> torch.Tensor:
        """Zeros: a masked slot still meets the product with the values, and NaN would survive it."""
        weight = self.tokens.weight
        size = (len(self.layers), 2, batch, self.heads, self.room, weight.shape[1] // self.heads)
        return torch.zeros(size, dtype=weight.dtype, device=weight.device)

    def forward(self, ids: torch.Tensor, place: torch.Tensor, cache: torch.Tensor) -> torch.Tensor:
        """ids int64 (batch, new), at positions place (new,). Logits of the last, (batch, vocabulary)."""
        h = self.tokens(ids) + self.places(place)
        keep = torch.arange(self.room, device=ids.device) <= place[:, None]
        for layer, part in zip(self.layers, cache, strict=True):
            h = layer(h, place, keep, part)
        return F.linear(self.norm(h[:, -1]), self.tokens.weight)


@torch.inference_mode()
def generate(model: Decoder, prompt: torch.Tensor, steps: int) -> torch.Tensor:
    """Greedy continuation of prompt, int64 (batch, length); returns the new tokens, (batch, steps)."""
    batch, length = prompt.shape
    cache = model.new_cache(batch)
    place = torch.arange(length, device=prompt.device)
    # the prompt at once, then a token at a time
    token = model(prompt, place, cache).argmax(-1, keepdim=True)
    place = place[-1:] + 1
    new = [token]
    graphed_model = graphed(model)
    for _ in range(steps - 1):
        token = graphed_model(token, place, cache).argmax(-1, keepdim=True)
        new.append(token)
        place = place + 1
    return torch.cat(new, dim=1)


def main() -> None:
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Decoder().to(device).eval()
    prompt = torch.randint(0, 96, (1, 5), device=device)
    print(prompt[0].tolist(), "->", generate(model, prompt, 12)[0].tolist())


if __name__ == "__main__":
    main()
