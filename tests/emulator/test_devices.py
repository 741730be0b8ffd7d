"""Where a tensor is, says and goes."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

D = torch.device("cuda", 0)
HOST = torch.device("cpu")


def test_a_host_program_computes_the_same_bits_and_stays_on_the_host(emulator: Any) -> None:
    def program() -> list[torch.Tensor]:
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
        optimizer = torch.optim.AdamW(model.parameters(), 0.01)
        x = torch.randn(5, 4)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(model(x), F.one_hot(torch.arange(5) % 2, 2).float()).backward()
            optimizer.step()
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
            low = model.eval()(x).softmax(-1)
        return [*model.state_dict().values(), low, x[x > 0], torch.linalg.qr(x).R, torch.rand(3)]

    under = program()
    emulator.uninstall()
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(under, program(), strict=True))
    assert {t.device for t in under} == {HOST}


def test_taking_it_out_leaves_torch_as_it_was(emulator: Any) -> None:
    emulator.uninstall()
    assert not torch.cuda.is_available()
    assert torch.Tensor.device is torch._C.TensorBase.device
    for owner in (torch, torch.cuda, torch.Tensor, torch.UntypedStorage, torch.fft):
        strange = [
            name
            for name, value in vars(owner).items()
            if "_emulator" in str(getattr(value, "__module__", ""))
        ]
        assert not strange
    with pytest.raises((RuntimeError, AssertionError)):
        torch.zeros(1, device="cuda")


def test_every_way_to_name_the_device_makes_a_tensor_on_it() -> None:
    host = torch.ones(2, 2)
    made = {
        "factory": torch.zeros(2, device="cuda"),
        "index": torch.zeros(2, device="cuda:0"),
        "object": torch.full((2,), 1.0, device=torch.device("cuda")),
        "like": torch.empty_like(host, device="cuda"),
        "new": host.new_zeros(2, device="cuda"),
        "tensor": torch.tensor([1.0], device="cuda"),
        "as_tensor": torch.as_tensor([1.0], device="cuda"),
        "cuda": host.cuda(),
        "cuda(0)": host.cuda(0),
        "to(str)": host.to("cuda"),
        "to(int)": host.to(0),
        "to(device, dtype)": host.to("cuda", torch.float64),
        "to(device=)": host.to(device="cuda", non_blocking=True),
        "to(other)": host.to(torch.zeros(1, device="cuda")),
        "type_as": host.to("cuda").type_as(torch.zeros(1, device="cuda", dtype=torch.float64)),
        "randn": torch.randn(2, device="cuda"),
        "sparse": torch.eye(2, device="cuda").to_sparse(),
    }
    assert {name: t.device for name, t in made.items() if t.device != D} == {}
    assert all(t.is_cuda and t.get_device() == 0 for t in made.values())
    with torch.device("cuda"):
        assert {torch.zeros(1).device, torch.tensor([1]).device, nn.Linear(1, 1).weight.device} == {D}
        assert torch.zeros(1, device="cpu").device == HOST
    torch.set_default_device("cuda")
    try:
        assert {torch.ones(1).device, torch.as_tensor([1]).device, (torch.rand(2) + 1).device} == {D}
    finally:
        torch.set_default_device(None)
    assert torch.zeros(1).device == HOST


def test_results_inherit_the_device_and_host_results_do_not() -> None:
    x = torch.randn(3, 4, device="cuda", requires_grad=True)
    on_device = [
        x + 1,
        x.t(),
        x[0],
        x.sum(),
        x.view(-1),
        x.detach(),
        *x.unbind(),
        *x.sort(),
        x.half(),
        x.long(),
        x.new_ones(2),
    ]
    on_device += [
        F.one_hot(x.argmax(1), 4),
        torch.where(x > 0, x, 1.0),
        torch.zeros_like(x),
        torch.cov(x),
        x @ x.T,
    ]
    assert {t.device for t in on_device} == {D}
    assert torch.zeros_like(x, device="cpu").device == HOST
    assert {x.cpu().device, x.to("cpu").device, torch.tensor(x.tolist()).device} == {HOST}
    (x * 2).sum().backward()
    assert x.grad is not None
    assert x.grad.device == D


def test_gradients_cross_devices_back_to_where_the_leaf_is() -> None:
    leaf = torch.ones(3, requires_grad=True)
    (leaf.to("cuda") * 2).sum().cpu().backward()
    assert leaf.grad is not None
    assert leaf.grad.device == HOST
    assert leaf.grad.tolist() == [2, 2, 2]
    there = torch.ones(3, device="cuda", requires_grad=True)
    (there.cpu() * torch.ones(3)).sum().backward()
    assert there.grad is not None
    assert there.grad.device == D


def test_a_module_moves_with_its_parameters_kept() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    before = [id(p) for p in model.parameters()]
    assert {t.device for t in model.cuda().state_dict().values()} == {D}
    assert [id(p) for p in model.parameters()] == before
    assert model.half()[0].weight.dtype is torch.float16
    assert {t.device for t in model.to("cpu", torch.float32).state_dict().values()} == {HOST}
    assert model.to(0)[0].weight.device == D
    model.load_state_dict({k: v.cpu() for k, v in model.state_dict().items()})
    assert model[0].weight.device == D
    model.load_state_dict({k: v.cpu() for k, v in model.state_dict().items()}, assign=True)
    assert model[0].weight.device == HOST
    with torch.device("meta"):
        empty = nn.Linear(2, 2)
    assert empty.to_empty(device="cuda").weight.device == D


@pytest.mark.parametrize("wrap", [torch.Tensor.detach, nn.Parameter], ids=["a tensor", "a parameter"])
def test_copies_and_pickles_keep_the_device(wrap: Any) -> None:
    x = wrap(torch.randn(3, device="cuda"))
    assert {copy.copy(x).device, copy.deepcopy(x).device, pickle.loads(pickle.dumps(x)).device} == {D}
    assert torch.equal(copy.deepcopy(x), x)

    def loaded(value: Any, **options: Any) -> torch.Tensor:
        buffer = io.BytesIO()
        torch.save({"x": value}, buffer)
        buffer.seek(0)
        return torch.load(buffer, **options)["x"]  # type: ignore[no-any-return]

    assert loaded(x).device == D
    assert loaded(x, map_location="cpu").device == HOST
    for where in ("cuda", torch.device("cuda:0"), lambda storage, _: storage.cuda()):
        assert loaded(x.cpu(), map_location=where).device == D


def test_data_and_set_take_the_device_of_the_new_memory() -> None:
    p = nn.Parameter(torch.ones(2))
    p.data = torch.ones(2, device="cuda")
    assert p.device == D
    p.data = p.data.cpu()
    assert p.device == HOST


def test_numpy_needs_the_host() -> None:
    with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
        torch.ones(1, device="cuda").numpy()
    assert torch.ones(1, device="cuda").numpy(force=True).tolist() == [1]
    assert torch.ones(1, device="cuda").cpu().numpy().tolist() == [1]
    assert "device='cuda:0'" in repr(torch.ones(1, device="cuda"))


HERE, THERE = "cpu", "cuda"
MIXED = {
    "add": lambda a, b: a + b,
    "add into the host": lambda a, b: b.add_(a),
    "a host scalar written to": lambda a, b: torch.zeros(()).add_(a.sum()),
    "matmul": lambda a, b: a @ b,
    "linear": lambda a, b: F.linear(b, a),
    "cat": lambda a, b: torch.cat([a, b]),
    "where": lambda a, b: torch.where(a > 0, a, b),
    "embedding": lambda a, b: F.embedding(torch.tensor([0]), a),
    "gather": lambda a, b: a.gather(0, torch.zeros(1, 1, dtype=torch.long)),
    "cross_entropy": lambda a, b: F.cross_entropy(a, torch.tensor([0, 1, 2])),
    "layer_norm": lambda a, b: F.layer_norm(b, (3,), a[0]),
    "conv": lambda a, b: F.conv1d(b[None], a[:, :, None]),
    "lstm": lambda a, b: nn.LSTM(3, 3).cuda()(b[None]),
    "out=": lambda a, b: torch.add(a, a, out=b),
    "clamp by a host scalar": lambda a, b: a.clamp(min=torch.tensor(0.0)),
}


@pytest.mark.parametrize("name", MIXED)
@pytest.mark.parametrize("inference", [False, True], ids=["eager", "inference"])
def test_mixing_devices_raises_as_torch_does(name: str, inference: bool) -> None:
    a, b = torch.ones(3, 3, device="cuda"), torch.ones(3, 3)
    with (
        torch.inference_mode(inference),
        pytest.raises(RuntimeError, match="Expected all tensors to be on the same device, but"),
    ):
        MIXED[name](a, b)


def test_what_cuda_takes_from_the_host_is_taken() -> None:
    a, scalar = torch.ones(3, device="cuda"), torch.tensor(2.0)
    taken = [
        a + scalar,
        scalar * a,
        a**scalar,
        a[torch.tensor([0, 1])],
        a.masked_fill(a > 0, scalar),
        a.copy_(torch.zeros(3)),
    ]
    assert {t.device for t in taken} == {D}
    with pytest.raises(RuntimeError, match="indices should be either on cpu or on the same device"):
        torch.ones(3)[torch.tensor([0], device="cuda")]
    with pytest.raises(RuntimeError, match="'lengths' argument should be a 1D CPU int64 tensor"):
        nn.utils.rnn.pack_padded_sequence(
            torch.ones(1, 2, 2, device="cuda"), torch.tensor([2], device="cuda")
        )
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        torch.zeros(1, device="cuda:1")


def test_packed_sequences_keep_their_sizes_on_the_host() -> None:
    x = torch.randn(2, 5, 4, device="cuda")
    packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([5, 3]), batch_first=True)
    out, _ = nn.GRU(4, 4, batch_first=True).cuda()(packed)
    padded, lengths = nn.utils.rnn.pad_packed_sequence(out, batch_first=True)
    assert (packed.data.device, packed.batch_sizes.device, padded.device, lengths.device) == (
        D,
        HOST,
        D,
        HOST,
    )


def test_pinned_memory_is_remembered_and_loaders_pin() -> None:
    x = torch.ones(4).pin_memory()
    assert x.is_pinned()
    assert x[1:].is_pinned()
    assert not torch.ones(4).is_pinned()
    assert torch.empty(2, pin_memory=True).is_pinned()
    data = torch.utils.data.TensorDataset(torch.arange(8.0))
    for (batch,) in torch.utils.data.DataLoader(data, batch_size=4, pin_memory=True):
        assert batch.is_pinned()
        assert batch.to("cuda", non_blocking=True).device == D


def test_kernels_the_host_lacks_in_half_precision_compute_in_float32_and_round() -> None:
    x = torch.randn(4, 4, device="cuda")
    x = x @ x.T + torch.eye(4, device="cuda")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ComplexHalf is experimental
        assert torch.fft.rfft(x.half()).dtype is torch.complex32
    for dtype in (torch.float16, torch.bfloat16):
        q, r = torch.linalg.qr(x.float())
        assert torch.histc(x.to(dtype), 4, -1, 1).dtype is dtype
        assert torch.equal(
            torch.cdist(x.to(dtype), x.to(dtype)).isnan(), torch.zeros(4, 4, device="cuda").bool()
        )
        assert q.device == r.device == D


def test_unwritten_memory_is_poisoned_on_request(emulator: Any) -> None:
    emulator.poison_empty(True)
    made = [torch.empty(3), torch.empty(3, device="cuda"), torch.empty_like(torch.ones(3, device="cuda"))]
    assert all(t.isnan().all() for t in made)
    assert (torch.empty(3, dtype=torch.int64, device="cuda") == torch.iinfo(torch.int64).min).all()
    emulator.poison_empty(False)


def test_the_device_answers_what_programs_ask() -> None:
    assert torch.cuda.is_available()
    assert (torch.cuda.device_count(), torch.cuda.current_device()) == (1, 0)
    assert torch.cuda.get_device_capability() == torch.cuda.get_device_capability(0)
    properties = torch.cuda.get_device_properties("cuda")
    assert properties.total_memory == torch.cuda.mem_get_info()[1]
    assert torch.cuda.get_device_name() == properties.name
    assert torch.cuda.memory_allocated() >= 0
    assert torch.accelerator.current_accelerator() == torch.device("cuda")
    with torch.cuda.device(0), torch.cuda.nvtx.range("a name"):
        torch.cuda.set_device(0)
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.empty_cache()
        torch.cuda.synchronize()


TRANSFORMS = {
    "vmap": lambda f, x: torch.func.vmap(f)(x),
    "grad": lambda f, x: torch.func.grad(lambda a: f(a).sum())(x),
    "compile": lambda f, x: torch.compile(f)(x),
    "compile as a decorator": lambda f, x: torch.compile(mode="reduce-overhead")(f)(x),
    "trace": lambda f, x: torch.jit.trace(f, x)(x),
    "fx": lambda f, x: torch.fx.symbolic_trace(nn.ReLU())(x),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TRANSFORMS)
def test_function_transforms_see_the_device(name: str) -> None:
    seen = []

    def f(a: torch.Tensor) -> torch.Tensor:
        seen.append(a.device)
        return (a * torch.ones(3, device=a.device)).relu()

    assert TRANSFORMS[name](f, torch.ones(2, 3, device="cuda")).device == D
    assert set(seen) <= {D}


def test_half_precision_modules_run_and_train() -> None:
    image = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.MaxPool2d(2),
        nn.ConvTranspose2d(8, 4, 2, 2),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.LayerNorm(16),
        nn.GELU(),
    )
    sequence = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    for dtype in (torch.float16, torch.bfloat16):
        y = image.to("cuda", dtype)(torch.randn(2, 3, 8, 8, device="cuda", dtype=dtype))
        y.float().sum().backward()
        x = torch.randn(2, 3, 8, device="cuda", dtype=dtype)
        z = sequence.to("cuda", dtype)(x)
        h, _ = nn.LSTM(8, 4, 2).to("cuda", dtype)(x)
        assert {y.dtype, z.dtype, h.dtype} == {dtype}
        assert all(p.grad.dtype is dtype and p.grad.device == D for p in image.parameters())
        image.zero_grad()


def test_older_and_rarer_ways_into_the_device_work() -> None:
    x = torch.cuda.FloatTensor([1, 2])
    assert (x.device, x.tolist()) == (D, [1, 2])
    assert torch.cuda.LongTensor(3).shape == (3,)
    assert isinstance(x, torch.cuda.FloatTensor)
    assert not isinstance(x, torch.cuda.HalfTensor)
    assert not isinstance(torch.ones(1), torch.cuda.FloatTensor)
    assert x.new(3).device == D
    assert x.type() == "torch.cuda.FloatTensor"
    q = torch.randn(1, 2, 4, 8, device="cuda")
    for backend in (torch.nn.attention.SDPBackend.EFFICIENT_ATTENTION, torch.nn.attention.SDPBackend.MATH):
        with torch.nn.attention.sdpa_kernel(backend):
            assert F.scaled_dot_product_attention(q, q, q).device == D
    assert nn.DataParallel(nn.Linear(2, 2).cuda())(torch.ones(2, 2, device="cuda")).device == D
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        x + 1
    assert profile.key_averages()
