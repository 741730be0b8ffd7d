"""What an H100 with torch 2.11 captured, what it refused and how, is captured and refused here alike."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

D = "cuda"
NOT_PERMITTED = "CUDA error: operation not permitted when stream is capturing"
INVALIDATED = "CUDA error: operation failed due to a previous error during capture"
UNPINNED = (
    "Cannot copy between CPU and CUDA tensors during CUDA graph capture unless the CPU tensor is pinned"
)


def tensors() -> SimpleNamespace:
    host = torch.Generator().manual_seed(0)

    def r(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=host).to(D)

    t = SimpleNamespace(x=r(4, 8), y=r(4, 8), image=r(1, 3, 8, 8), sequence=r(5, 2, 8))
    t.square = r(4, 4) @ r(4, 4) + 4 * torch.eye(4, device=D)
    t.positive = t.square @ t.square.T + torch.eye(4, device=D)
    t.grid = r(1, 4, 4, 2)
    t.odds = r(6, 2, 5).log_softmax(-1)
    t.targets = torch.ones(2, 3, dtype=torch.long, device=D)
    t.mask = t.x > 0
    t.index = torch.tensor([0, 2, 3], device=D)
    t.labels = torch.arange(4, device=D)
    t.repeats = torch.tensor([1, 2, 1, 1], device=D)
    t.scalar = torch.tensor(2, device=D)
    t.host = torch.ones(4, 8)
    t.host_index = torch.tensor([0, 2])
    t.host_scalar = torch.tensor(2.0)
    t.pinned = torch.ones(4, 8).pin_memory()
    t.pinned_out = torch.empty(4, 8).pin_memory()
    t.linear = nn.Linear(8, 8).to(D)
    t.conv = nn.Conv2d(3, 4, 3).to(D)
    t.lstm = nn.LSTM(8, 8).to(D)
    t.bag = nn.EmbeddingBag(10, 4).to(D)
    t.norm = nn.BatchNorm1d(8).to(D)
    t.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).to(D).eval()
    t.stream = torch.cuda.Stream()
    t.event = torch.cuda.Event()
    t.event.record()
    return t


def put(x: torch.Tensor, key: Any, value: Any) -> torch.Tensor:
    x = x.clone()
    x[key] = value
    return x


def train(t: SimpleNamespace) -> None:
    t.linear.zero_grad(set_to_none=True)
    t.linear(t.x).sum().backward()


def clip(t: SimpleNamespace, strict: bool = False) -> None:
    train(t)
    nn.utils.clip_grad_norm_(t.linear.parameters(), 1.0, error_if_nonfinite=strict)


def checkpointed(t: SimpleNamespace) -> None:
    from torch.utils.checkpoint import checkpoint

    x = t.x.detach().requires_grad_()
    checkpoint(lambda a: t.linear(a).relu(), x, use_reentrant=False).sum().backward()


def fork(t: SimpleNamespace) -> torch.Tensor:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        y = t.x * 2
    torch.cuda.current_stream().wait_stream(side)
    return y


def query_own_event(t: SimpleNamespace) -> None:
    event = torch.cuda.Event()
    event.record()
    event.query()


def ctc(t: SimpleNamespace, lengths: Any) -> torch.Tensor:
    return F.ctc_loss(t.odds, t.targets, lengths((6, 6)), lengths((3, 3)))


Idiom = Callable[[SimpleNamespace], Any]

CAPTURED: dict[str, Idiom] = {
    "a @ b": lambda t: t.x @ t.y.T,
    "torch.where(m, a, b)": lambda t: torch.where(t.mask, t.x, t.y),
    "torch.where(m, a, 1.0)": lambda t: torch.where(t.mask, t.x, 1.0),
    "x[mask] = 0": lambda t: put(t.x, t.mask, 0),
    "x[0] = 1": lambda t: put(t.x, 0, 1.0),
    "x[idx] = tensor": lambda t: put(t.x, t.index, t.x[:3]),
    "x[idx] = device scalar": lambda t: put(t.x, t.index, t.x.sum()),
    "x[idx]": lambda t: t.x[t.index],
    "x[None]": lambda t: t.x[None],
    "x[host mask]": lambda t: t.x[torch.tensor([True, False, True, False])],
    "index_select": lambda t: t.x.index_select(0, t.index),
    "index_add_": lambda t: t.x.clone().index_add_(0, t.index, t.y[:3]),
    "scatter_add": lambda t: t.x.scatter_add(0, t.labels[:, None].expand(4, 8), t.y),
    "masked_fill": lambda t: t.x.masked_fill(t.mask, 0.0),
    "masked_scatter": lambda t: t.x.masked_scatter(t.mask, t.y),
    "nonzero_static": lambda t: torch.nonzero_static(t.mask, size=8),
    "topk": lambda t: t.x.topk(2),
    "sort": lambda t: t.x.sort(),
    "cumsum": lambda t: t.x.cumsum(0),
    "median": lambda t: t.x.median(),
    "quantile": lambda t: torch.quantile(t.x, 0.5),
    "einsum": lambda t: torch.einsum("ij,kj->ik", t.x, t.y),
    "cdist": lambda t: torch.cdist(t.x, t.y),
    "cholesky_ex": lambda t: torch.linalg.cholesky_ex(t.positive),
    "inv_ex": lambda t: torch.linalg.inv_ex(t.square),
    "det": lambda t: torch.det(t.square),
    "qr": lambda t: torch.linalg.qr(t.square),
    "fft": lambda t: torch.fft.rfft(t.x),
    "stft": lambda t: torch.stft(t.x, 4, return_complex=True, window=torch.ones(4, device=D)),
    "conv2d": lambda t: t.conv(t.image),
    "LSTM": lambda t: t.lstm(t.sequence),
    "EmbeddingBag": lambda t: t.bag(t.labels, t.labels[:2] * 2),
    "BatchNorm in training": lambda t: t.norm(t.x),
    "TransformerEncoderLayer": lambda t: t.encoder(t.sequence),
    "interpolate": lambda t: F.interpolate(t.image, scale_factor=2),
    "grid_sample": lambda t: F.grid_sample(t.image, t.grid, align_corners=False),
    "cross_entropy": lambda t: F.cross_entropy(t.x, t.labels),
    "arange": lambda t: torch.arange(4, device=D),
    "full": lambda t: torch.full((3,), 2.0, device=D),
    "scalar_tensor": lambda t: torch.scalar_tensor(3.0, device=D),
    "empty_like": lambda t: torch.empty_like(t.x),
    "new_zeros": lambda t: t.x.new_zeros(3),
    "triu_indices": lambda t: torch.triu_indices(3, 3, device=D),
    "randn": lambda t: torch.randn(3, device=D),
    "randperm": lambda t: torch.randperm(4, device=D),
    "multinomial": lambda t: torch.multinomial(t.x.abs(), 2),
    "bernoulli": lambda t: torch.bernoulli(t.x.sigmoid()),
    "exponential_": lambda t: t.x.clone().exponential_(),
    "dropout": lambda t: F.dropout(t.x, 0.5),
    "Categorical without checks": lambda t: torch.distributions.Categorical(
        logits=t.x, validate_args=False
    ).sample(),
    "histc with bounds": lambda t: torch.histc(t.x, 4, -1, 1),
    "one_hot with num_classes": lambda t: F.one_hot(t.labels, 5),
    "repeat_interleave(x, 2)": lambda t: t.x.repeat_interleave(2, 0),
    "repeat_interleave with output_size": lambda t: torch.repeat_interleave(t.x, t.repeats, 0, output_size=5),
    "torch.tensor(device tensor)": lambda t: t.x.clone(),
    "to its own device": lambda t: t.x.to(D),
    "to another dtype": lambda t: t.x.half(),
    "pinned to the device": lambda t: t.pinned.to(D, non_blocking=True),
    "to the host without waiting": lambda t: t.x.to("cpu", non_blocking=True),
    "into a pinned tensor": lambda t: t.pinned_out.copy_(t.x, non_blocking=True),
    "a host scalar as operand": lambda t: t.x * t.host_scalar,
    "comparison with a host scalar": lambda t: t.x > t.host_scalar,
    "_assert_async": lambda t: torch._assert_async(t.mask.any() | True),
    "deepcopy": lambda t: __import__("copy").deepcopy(t.x),
    "load_state_dict": lambda t: t.linear.load_state_dict(t.linear.state_dict()),
    "a new module on the device": lambda t: nn.Linear(3, 3, device=D),
    "backward": train,
    "clip_grad_norm_": clip,
    "checkpoint": checkpointed,
    "fork and join": fork,
    "empty_cache": lambda t: torch.cuda.empty_cache(),
    "mem_get_info": lambda t: torch.cuda.mem_get_info(),
    "manual_seed": lambda t: torch.cuda.manual_seed(0),
    "a new stream": lambda t: torch.cuda.Stream(),
    "record_stream": lambda t: t.x.record_stream(t.stream),
    "pin_memory": lambda t: t.host.pin_memory(),
    "the shape in a string": lambda t: str(t.x.shape),
}

WAITS: dict[str, Idiom] = {
    "item": lambda t: t.x.sum().item(),
    "float": lambda t: float(t.x.sum()),
    "bool": lambda t: bool(t.x.sum() > 0),
    "if": lambda t: 1 if t.x.sum() > 0 else 0,
    "assert": lambda t: exec("assert t.mask.any()", {"t": t}),
    "min of two tensors": lambda t: min(t.x.sum(), t.y.sum()),
    "in": lambda t: 1.0 in t.x,
    "any of a row": lambda t: any(t.mask[0]),
    "print": lambda t: repr(t.x),
    "f-string": lambda t: f"{t.x.sum()}",
    "range": lambda t: list(range(t.scalar)),
    "x[:t]": lambda t: t.x[: t.scalar],
    "x[t]": lambda t: t.x[t.scalar],
    "arange(t)": lambda t: torch.arange(t.scalar, device=D),
    "full(t)": lambda t: torch.full((2,), t.x.sum(), device=D),
    "linspace(t)": lambda t: torch.linspace(t.x.min(), t.x.max(), 4, device=D),
    "int(max) + 1": lambda t: int(t.labels.max()) + 1,
    "tensor of tensors": lambda t: torch.tensor([t.x.sum(), t.x.mean()], device=D),
    "nonzero": lambda t: t.mask.nonzero(),
    "argwhere": lambda t: torch.argwhere(t.mask),
    "where(m)": lambda t: torch.where(t.mask),
    "x[mask]": lambda t: t.x[t.mask],
    "x[mask] = tensor": lambda t: put(t.x, t.mask, t.x[:, 0].mean()),
    "masked_fill(device scalar)": lambda t: t.x.masked_fill(t.mask, t.x.sum()),
    "masked_select": lambda t: t.x.masked_select(t.mask),
    "unique": lambda t: t.labels.unique(),
    "unique_consecutive": lambda t: torch.unique_consecutive(t.labels),
    "repeat_interleave(x, repeats)": lambda t: t.x.repeat_interleave(t.repeats, 0),
    "one_hot": lambda t: F.one_hot(t.labels),
    "combinations": lambda t: torch.combinations(t.labels),
    "cov": lambda t: torch.cov(t.x),
    "allclose": lambda t: torch.allclose(t.x, t.y),
    "equal": lambda t: torch.equal(t.x, t.y),
    "inverse": lambda t: torch.inverse(t.square),
    "cholesky": lambda t: torch.linalg.cholesky(t.positive),
    "solve": lambda t: torch.linalg.solve(t.square, t.square),
    "normal(mean, std)": lambda t: torch.normal(t.x, t.x.abs()),
    "clip_grad_norm_(error_if_nonfinite)": lambda t: clip(t, strict=True),
    "Categorical": lambda t: torch.distributions.Categorical(logits=t.x).sample(),
    "synchronize": lambda t: torch.cuda.synchronize(),
    "current stream synchronize": lambda t: torch.cuda.current_stream().synchronize(),
    "another stream synchronize": lambda t: t.stream.synchronize(),
    "another stream query": lambda t: t.stream.query(),
    "event synchronize": lambda t: t.event.synchronize(),
    "event query": lambda t: t.event.query(),
    "a pinned copy that waits": lambda t: t.pinned.to(D),
}

COPIES: dict[str, Idiom] = {
    "cpu": lambda t: t.x.cpu(),
    "to('cpu')": lambda t: t.x.to("cpu"),
    "cpu().numpy()": lambda t: t.x.cpu().numpy(),
    "tolist": lambda t: t.x.tolist(),
    "tolist of a scalar": lambda t: t.x.sum().tolist(),
    "split(t.tolist())": lambda t: t.x.split((t.scalar - t.scalar + 2).expand(2).tolist()),
    "torch.tensor(list)": lambda t: torch.tensor([1.0, 2.0], device=D),
    "torch.tensor(number)": lambda t: torch.tensor(1.0, device=D),
    "as_tensor(list).to": lambda t: torch.as_tensor([1.0, 2.0]).to(D),
    "asarray(list)": lambda t: torch.asarray([1.0], device=D),
    "from_numpy().to": lambda t: torch.from_numpy(np.ones(3)).to(D),
    "host.to": lambda t: t.host.to(D),
    "host.to without waiting": lambda t: t.host.to(D, non_blocking=True),
    "host.to(other)": lambda t: t.host.to(t.x),
    "host scalar.to": lambda t: t.host_scalar.to(D),
    "host.cuda": lambda t: t.host.cuda(),
    "copy_(host)": lambda t: t.x.clone().copy_(t.host),
    "pinned.to another dtype": lambda t: t.pinned.to(D, torch.float64, non_blocking=True),
    "new_tensor": lambda t: t.x.new_tensor([1.0]),
    "x[[0, 1, 2]]": lambda t: t.x[[0, 1, 2]],
    "x[..., [0]]": lambda t: t.x[..., [0]],
    "x[[True, False, …]]": lambda t: t.x[[True, False, True, False]],
    "x[host index]": lambda t: t.x[t.host_index],
    "x[idx] = 0": lambda t: put(t.x, t.index, 0),
    "where(m, x, host scalar)": lambda t: torch.where(t.mask, t.x, t.host_scalar),
    "bincount": lambda t: torch.bincount(t.labels),
    "bincount with minlength": lambda t: torch.bincount(t.labels, minlength=5),
    "histc without bounds": lambda t: torch.histc(t.x, 4),
    "ctc_loss with host lengths": lambda t: ctc(t, torch.tensor),
    "ctc_loss with tuples": lambda t: ctc(t, tuple),
    "svd": lambda t: torch.linalg.svd(t.square),
    "pinv": lambda t: torch.linalg.pinv(t.square),
    "matrix_exp": lambda t: torch.matrix_exp(t.square),
    "pickle": lambda t: pickle.dumps(t.x),
}

OTHER: dict[str, tuple[Idiom, str]] = {
    "an own generator": (
        lambda t: torch.randn(3, device=D, generator=t.generator),
        "Attempt to increase offset for a CUDA generator not in capture mode",
    ),
    "a new generator": (lambda t: torch.Generator(D), "Cannot construct a new CUDAGeneratorImpl"),
    "a replay": (lambda t: t.graph.replay(), "Cannot prepare for replay during capturing stage"),
    "a query of an event of the capture": (query_own_event, "an event last recorded in a capturing stream"),
}

NEEDS_GRAD = {"backward", "checkpoint", "clip_grad_norm_", "clip_grad_norm_(error_if_nonfinite)"}


def modes(name: str) -> list[bool]:
    return [False] if name in NEEDS_GRAD else [False, True]


def capture_once(t: SimpleNamespace, idiom: Idiom, inference: bool) -> tuple[Exception | None, Any]:
    """Warm up, capture; returns what the idiom itself raised and the graph, raises what the block did."""
    first: Exception | None = None
    with torch.inference_mode(inference):
        with torch.cuda.stream(torch.cuda.Stream()):
            idiom(t)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            try:
                idiom(t)
            except Exception as error:
                first = error
    return first, graph


def recording(idiom: Idiom, raised: list[Exception]) -> Idiom:
    def run(t: SimpleNamespace) -> Any:
        try:
            return idiom(t)
        except Exception as error:
            raised.append(error)
            raise

    return run


@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty")
@pytest.mark.parametrize("name", CAPTURED)
def test_captures_and_replays(name: str) -> None:
    for inference in modes(name):
        t = tensors()  # what a graph reads must live as long as the graph
        error, graph = capture_once(t, CAPTURED[name], inference)
        assert error is None
        graph.replay()
        torch.cuda.synchronize()


@pytest.mark.parametrize("name", WAITS)
def test_waits_for_the_device_and_so_breaks_the_capture(name: str) -> None:
    for inference in modes(name):
        raised: list[Exception] = []
        with pytest.raises(RuntimeError) as block:
            capture_once(tensors(), recording(WAITS[name], raised), inference)
        assert str(raised[0]).startswith(NOT_PERMITTED)
        assert str(block.value).startswith(INVALIDATED), "the end of the block hides the first cause"
        torch.cuda.set_stream(torch.cuda.default_stream())
        repair()


@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty")
@pytest.mark.parametrize("name", COPIES)
def test_copies_unpinned_memory_and_is_refused(name: str) -> None:
    for inference in modes(name):
        error, _ = capture_once(tensors(), COPIES[name], inference)
        assert isinstance(error, RuntimeError)
        assert str(error).startswith(UNPINNED)


def test_nothing_is_copied_for_a_tensor_without_elements() -> None:
    error, _ = capture_once(tensors(), lambda t: t.x + torch.tensor([], device=D).sum(), False)
    assert error is None


def test_histc_counts_whole_numbers() -> None:
    counts = torch.histc(torch.tensor([0, 2, 2, 3], dtype=torch.int32, device=D), bins=4, min=0, max=3)
    assert counts.dtype == torch.int32
    assert counts.tolist() == [1, 0, 2, 1]


@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty")
@pytest.mark.parametrize("name", OTHER)
def test_is_refused_in_words_of_its_own(name: str) -> None:
    idiom, words = OTHER[name]
    t = tensors()
    t.generator = torch.Generator(D)
    t.graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(t.graph):
        t.x * 2
    raised: list[Exception] = []
    with contextlib.suppress(RuntimeError):
        capture_once(t, recording(idiom, raised), False)
    assert words in str(raised[0])


def repair() -> None:
    """A capture that succeeds brings the generator back that a broken one left in capture mode."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        torch.zeros(1, device=D)
