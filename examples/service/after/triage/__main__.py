"""``python -m triage``: a few tickets through an untrained model."""

import torch

from triage.model import Triage
from triage.server import Ticket, answer


def main() -> None:
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Triage().to(device)
    lengths = torch.randint(1, 30, (20,)).tolist()
    tickets = [
        Ticket(torch.randint(1, 200, (n,)).tolist(), [float(n), 1.0 + i % 3, 0.5, 10.0])
        for i, n in enumerate(lengths)
    ]
    scores, sure = answer(model, tickets, device)
    print(f"{len(tickets)} tickets on {device}: queues {scores.argmax(-1).tolist()}")
    print(f"answered by the short path: {sure} of {len(tickets)}")


if __name__ == "__main__":
    main()
