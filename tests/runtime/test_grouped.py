"""`grouped_mm` while a graph is captured: every group's rows by its own matrix, whatever the offsets are."""

from __future__ import annotations

import pytest
import torch

from refactor.runtime.cuda_graphs import grouped_mm

pytestmark = pytest.mark.usefixtures("device")

DIVISIONS = {
    "even groups": [4, 8, 12, 16],
    "empty groups": [0, 7, 7, 16],
    "all in the first": [16, 16, 16, 16],
    "all in the last": [0, 0, 0, 16],
    "rows behind the last group": [1, 2, 9, 11],
}


def expected(x: torch.Tensor, weight: torch.Tensor, ends: list[int]) -> torch.Tensor:
    result, start = torch.zeros(x.shape[0], weight.shape[2], device=x.device), 0
    for group, end in enumerate(ends):
        result[start:end] = x[start:end] @ weight[group]
        start = end
    return result


@torch.no_grad()
def test_one_graph_serves_every_division_of_the_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, 8, generator=generator).cuda()
    weight = torch.randn(4, 4, 8, generator=generator).cuda().transpose(1, 2)
    ends = torch.tensor([4, 8, 12, 16], dtype=torch.int32).cuda()
    torch.bmm(x[:, None], weight[:1].expand(16, -1, -1))  # a first call sets cuBLAS up
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = grouped_mm(x, weight, offs=ends)
    for division in DIVISIONS.values():
        ends.copy_(torch.tensor(division, dtype=torch.int32))
        graph.replay()
        want = expected(x, weight, division)
        torch.testing.assert_close(result, want, rtol=1e-5, atol=1e-5)
        assert not result[division[-1] :].any(), "rows behind the last group are zeros"


def test_outside_a_capture_and_on_a_cpu_it_is_the_function_of_torch() -> None:
    x, weight = torch.randn(6, 4), torch.randn(2, 4, 4)
    ends = torch.tensor([2, 6], dtype=torch.int32)
    assert torch.equal(grouped_mm(x, weight, offs=ends), torch.nn.functional.grouped_mm(x, weight, offs=ends))
