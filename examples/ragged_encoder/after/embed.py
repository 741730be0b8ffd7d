"""Embed a pile of documents of very different length, a few thousand tokens at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from encoder import Encoder
from cuda_graphs import graphed

Documents = Sequence[Sequence[int]]


def ragged_batches(
    documents: Documents, token_budget: int, multiple: int = 8
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """Shortest first, as many documents as the token budget allows: every batch is another size."""
    order = sorted(range(len(documents)), key=lambda i: len(documents[i]))
    while order:
        chosen: list[int] = []
        length = 0
        while order:
            rounded = -(-max(len(documents[order[0]]), 1) // multiple) * multiple
            if chosen and rounded * (len(chosen) + 1) > token_budget:
                break
            length = rounded
            chosen.append(order.pop(0))
        tokens = torch.zeros(len(chosen), length, dtype=torch.long)
        for row, i in enumerate(chosen):
            tokens[row, : len(documents[i])] = torch.tensor(documents[i], dtype=torch.long)
        yield chosen, tokens, (tokens != 0).long()


@torch.inference_mode()
def embed(
    model: Encoder, documents: Documents, device: torch.device | str = "cpu", token_budget: int = 128
) -> torch.Tensor:
    """Unit vectors, (len(documents), dim), in the order of the documents."""
    model.eval()
    vectors, order = [], []
    graphed_model = graphed(
        model,
        pad={"tokens": "B S", "mask": "B S"},
        buckets={"S": sorted({min(2**i, model.positions.num_embeddings) for i in range(20)})},
    )
    for chosen, tokens, mask in ragged_batches(documents, token_budget):
        tokens = tokens.to(device, non_blocking=True)
        mask = mask.to(device, non_blocking=True)
        vectors.append(graphed_model(tokens, mask))
        order.extend(chosen)
    # back to the order the caller knows
    place = torch.tensor(order, device=device).argsort()
    return torch.cat(vectors)[place]


def main() -> None:
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Encoder().to(device)
    lengths = torch.randint(1, 60, (200,)).tolist()
    documents = [torch.randint(1, 200, (n,)).tolist() for n in lengths]
    vectors = embed(model, documents, device)
    closest = (vectors @ vectors[0]).topk(4)
    print(f"{len(documents)} documents, {sum(lengths)} tokens -> {tuple(vectors.shape)} on {device}")
    print("closest to the first:", closest.indices.tolist())


if __name__ == "__main__":
    main()
