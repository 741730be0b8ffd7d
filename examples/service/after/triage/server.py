"""The loop of the service: tickets in, scores out, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from .model import Triage
from .cuda_graphs import graphed


class Ticket(NamedTuple):
    text: list[int]
    columns: list[float]


def batches(
    tickets: Sequence[Ticket], batch_size: int, multiple: int = 8
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Tokens, mask and metadata of up to batch_size tickets; the last batch is smaller."""
    for start in range(0, len(tickets), batch_size):
        chunk = tickets[start : start + batch_size]
        longest = max(len(ticket.text) for ticket in chunk)
        tokens = torch.zeros(len(chunk), -(-longest // multiple) * multiple, dtype=torch.long)
        for row, ticket in enumerate(chunk):
            tokens[row, : len(ticket.text)] = torch.tensor(ticket.text, dtype=torch.long)
        yield tokens, (tokens != 0).long(), torch.tensor([ticket.columns for ticket in chunk])


def answer(
    service: Triage, tickets: Sequence[Ticket], device: torch.device | str = "cpu", batch_size: int = 8
) -> tuple[torch.Tensor, int]:
    """Scores (len(tickets), queues), and how many tickets the short path answered."""
    service.eval()
    encoder, metadata, decision = service.encoder, service.metadata, service.decision
    answers, sure = [], 0
    with torch.no_grad():
        graphed_encoder = graphed(encoder, pad="B ...")
        graphed_metadata = graphed(metadata, pad="B ...")
        for tokens, mask, columns in batches(tickets, batch_size):
            tokens, mask, columns = tokens.to(device), mask.to(device), columns.to(device)
            text = graphed_encoder(tokens, mask)
            scores, quick = decision(text, graphed_metadata(columns))
            answers.append(scores)
            sure += len(scores) if quick else 0
    return torch.cat(answers), sure
