"""Feeds `triage.answer` from plain tensors: its arguments are a service and a list of tickets."""

import torch
from torch import nn
from triage import Triage, answer
from triage.server import Ticket


class Service(nn.Module):
    """One call answers N tickets: rows of `ids` cut to `lengths`, with their metadata `columns`."""

    def __init__(self, batch_size: int = 4, **sizes: float) -> None:
        super().__init__()
        self.service = Triage(**sizes)
        self.batch_size = batch_size

    def forward(
        self, ids: torch.Tensor, lengths: torch.Tensor, columns: torch.Tensor
    ) -> tuple[torch.Tensor, int]:
        rows = zip(ids.tolist(), lengths.tolist(), columns.tolist(), strict=True)
        tickets = [Ticket(text[:n], numbers) for text, n, numbers in rows]
        return answer(self.service, tickets, ids.device, self.batch_size)
