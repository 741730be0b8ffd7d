"""Helpers that many hand-written CUDA-graph programs carry with them, as source text."""

from __future__ import annotations

TORCH = """
import torch
from torch import nn
"""

FUNCTIONAL = """
import torch
import torch.nn.functional as F
from torch import nn
"""

GRAPH = '''

class Graph:
    """One captured call: its static inputs, its static outputs and the graph between them."""

    def __init__(self, fn, *args):
        self.fn = fn  # what fn closes over must live as long as the graph
        self.inputs = [a.detach().clone() for a in args]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                fn(*self.inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.outputs = fn(*self.inputs)

    def __call__(self, *args):
        for static, arg in zip(self.inputs, args):
            static.copy_(arg)
        self.graph.replay()
        return self.outputs
'''

CAPTURE = '''

def capture(fn):
    """Warm fn up on a side stream, then record one run of it."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            fn()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = fn()
    return graph, out
'''

# Warmup runs the step for real: what it changed is put back before the capture.
CAPTURE_STEP = '''

def capture_step(step, tensors):
    """Warm step up, put every tensor of tensors back, then record one step."""
    saved = [t.detach().clone() for t in tensors]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    with torch.no_grad():
        for tensor, old in zip(tensors, saved):
            tensor.copy_(old)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step()
    return graph, out
'''

ADDRESSES = '''

def addresses(module):
    """A graph reads parameters by address: a rebound one needs a new graph."""
    return tuple(t.data_ptr() for t in (*module.parameters(), *module.buffers()))
'''
