"""How to build the models of `truth`: small, with random weights, and inputs that their forward takes.

A name is ``library/model``; `recipes` yields several attempts at the same model, the most telling first.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


def names(only: list[str]) -> list[str]:
    """Every model there is a recipe for, of the libraries named (all if none is)."""
    listed = {"pyg": _pyg_names, "timm": _timm_names, "hf": _hf_names}
    columns = [
        [f"{key}/{name}" for name in make()] for key, make in listed.items() if not only or key in only
    ]
    places = [((i + 0.5) / len(column), name) for column in columns for i, name in enumerate(column)]
    # Evenly mixed: a run that is cut short still saw every library.
    return [name for _, name in sorted(places)]


def recipes(name: str, errors: list[str]) -> Iterator[tuple[Any, Inputs]]:
    """Attempts at a model: each a fresh instance and its inputs."""
    library, _, rest = name.partition("/")
    yield from {"pyg": _pyg, "timm": _timm, "hf": _hf}[library](rest, errors)


# -- timm ----------------------------------------------------------------------------------------------------


def _timm_names() -> list[str]:
    import timm
    from timm.models._registry import _model_to_module

    small = re.compile(r"test|atto|femto|pico|nano|tiny|small|mini|xx?s\b|_s\b|_0\b|18|26|b0|lite|050|base")
    large = re.compile(
        r"large|huge|giant|gigant|_xl|_l\b|448|512|384|336|so400m|enormous|_h\b|101|152|200|256|xxl"
    )
    groups: dict[str, list[str]] = {}
    for name in timm.list_models():
        groups.setdefault(_model_to_module[name], []).append(name)
    chosen: list[str] = []
    for rank in range(3):
        for listed in groups.values():
            order = sorted(listed, key=lambda n: (bool(large.search(n)), not small.search(n), len(n), n))
            # The families inside one file differ by the first part of the name.
            by_family: dict[str, str] = {}
            for item in order:
                by_family.setdefault(item.split("_")[0], item)
            spread = [*by_family.values(), *order]
            spread = list(dict.fromkeys(spread))
            if rank < len(spread):
                chosen.append(spread[rank])
    return chosen


def _timm(name: str, errors: list[str]) -> Iterator[tuple[Any, Inputs]]:
    import timm

    model = timm.create_model(name, pretrained=False)
    size = (
        model.default_cfg.get("input_size", (3, 224, 224)) if hasattr(model, "default_cfg") else (3, 224, 224)
    )
    yield model, ((torch.randn(2, *size),), {})
    if "naflex" in name:
        patches = {
            "patches": torch.randn(2, 16, 768),
            "patch_coord": torch.randint(0, 4, (2, 16, 2)),
            "patch_valid": torch.arange(16)[None].expand(2, 16) < torch.tensor([[16], [12]]),
        }
        yield timm.create_model(name), ((patches,), {})


# -- PyTorch Geometric ---------------------------------------------------------------------------------------


def _graph(nodes: int = 24, edges: int = 96, channels: int = 16) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    index = torch.randint(0, nodes, (2, edges), generator=generator)
    index = index[:, index[0] != index[1]]
    index = torch.unique(torch.cat([index, index.flip(0)], 1), dim=1)
    count = index.size(1)
    return {
        "x": torch.randn(nodes, channels),
        "e": index,
        "w": torch.rand(count),
        "a": torch.randn(count, 8),
        "t": torch.randint(0, 3, (count,)),
        "pos": torch.randn(nodes, 3),
        "nt": torch.randint(0, 3, (nodes,)),
        "b": torch.arange(nodes) // 12,
        "z": torch.randint(1, 9, (nodes,)),
        "n": nodes,
        "normal": torch.nn.functional.normalize(torch.randn(nodes, 3)),
        "p3": torch.rand(count, 3),
    }


def _mlp(*sizes: int) -> torch.nn.Sequential:
    layers: list[torch.nn.Module] = []
    for i, (a, b) in enumerate(pairwise(sizes)):
        layers += [torch.nn.Linear(a, b)] + ([torch.nn.ReLU()] if i + 2 < len(sizes) else [])
    return torch.nn.Sequential(*layers)


def _pyg_rows() -> dict[str, tuple[str, str]]:
    """Code and inputs by name, from the list beside this file."""
    rows: dict[str, tuple[str, str]] = {}
    for line in Path(__file__).with_name("truth_pyg.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, code, wanted = line.split(" | ")
            rows[name] = (code, wanted)
    return rows


def _pyg_names() -> list[str]:
    return list(_pyg_rows())


def _values() -> dict[str, Any]:
    g = _graph()
    e, n = g["e"], g["n"]
    dense = torch.rand(2, 12, 12).round()
    return g | {
        "none": None,
        "x3": torch.randn(n, 3, 16),
        "esort": e[:, e[1].argsort()],
        "e0": e,
        "xs": [g["x"], g["x"]],
        "hx": {"p": g["x"], "q": torch.randn(10, 16)},
        "idx": torch.arange(6),
        "he": {("p", "to", "p"): e, ("p", "of", "q"): torch.stack([e[0], e[1] % 10])},
        "hw": torch.rand(n),
        "ha": torch.randn(n, 16),
        "dx": torch.randn(2, 12, 16),
        "dadj": dense,
        "ds": torch.randn(2, 12, 4),
        "deg": torch.bincount(torch.bincount(e[1], minlength=n)),
        "cl": torch.arange(n) // 3,
        "mask": torch.arange(n) % 2 == 0,
        "soft": torch.softmax(torch.randn(n, 3), -1),
        "nt6": g["nt"][:6],
        "m6": torch.arange(n) < 6,
        "face": torch.randint(0, n, (3, 20)),
        "coo": torch.sparse_coo_tensor(e, g["w"], (n, n)).coalesce(),
    }


class _Encoder(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        from torch_geometric.nn import GCNConv

        self.conv = GCNConv(16, 8)

    def forward(self, x: Any, e: Any) -> Any:
        h = self.conv(x, e)
        return h, h


def _pyg(name: str, errors: list[str]) -> Iterator[tuple[Any, Inputs]]:
    import torch_geometric.nn as nn
    import torch_geometric.utils as utils
    from torch_geometric.nn import dense, models, pool

    code, wanted = _pyg_rows()[name]
    values = _values()
    scope: dict[str, Any] = {
        **vars(utils),
        **vars(pool),
        **vars(dense),
        **vars(models),
        **vars(nn),
        "torch": torch,
    }
    scope |= {"mlp": _mlp, "VEnc": _Encoder, "deg": values["deg"], "e0": values["e"]}
    if "fixed" in code:
        edge, pos = values["e"], values["pos"]

        def fixed(at: Any, batch: Any) -> Any:
            index = edge.to(at.device) if at.device.type == "cpu" else fixed.index  # type: ignore[attr-defined]
            return index, (at[index[0]] - at[index[1]]).norm(dim=-1)

        fixed.index = edge.to("cuda") if torch.cuda.is_available() else edge  # type: ignore[attr-defined]
        assert pos is not None
        scope["fixed"] = fixed
    if "Message" in code:
        from torch_geometric.nn.models.tgn import IdentityMessage, LastAggregator

        scope |= {"IdentityMessage": IdentityMessage, "LastAggregator": LastAggregator}
    built = eval(code, scope)
    owner = getattr(built, "__self__", None)
    if isinstance(owner, torch.nn.Module) and torch.cuda.is_available():
        owner.to("cuda").eval()
    args = tuple(values[word] for word in wanted.split())
    yield built, (args, {})
    batched = ("b",)
    if args and any(word in batched for word in wanted.split()):
        yield built, (tuple(values[w] for w in wanted.split() if w not in batched), {})


# -- transformers --------------------------------------------------------------------------------------------


def _hf_names() -> list[str]:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return sorted(CONFIG_MAPPING.keys(), key=lambda n: (hash_of(n), n))


def hash_of(name: str) -> int:
    """A fixed shuffle, so that a run that is cut short still saw models of all kinds."""
    value = 7
    for char in name:
        value = (value * 131 + ord(char)) % 1_000_003
    return value


_LAYERS = re.compile(
    r"^(num_hidden_layers|n_layers?|num_layers|(num_)?(encoder|decoder)_layers|depth|num_blocks|num_.*_layers|.*_depth)$"
)
_EXPERTS = re.compile(
    r"^(num_(local_)?experts|n_routed_experts|moe_num_experts|num_routed_experts|n_experts)$"
)


def _shrink(config: Any, scale: int, vocab: int = 500) -> None:
    """Make a configuration small in place; ``scale`` divides its widths."""
    for name, value in list(vars(config).items()):
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            _shrink(value, scale, vocab)
        elif not isinstance(value, int) or isinstance(value, bool):
            continue
        elif _LAYERS.match(name) and value > 2:
            _assign(config, name, 2)
        elif name.endswith("vocab_size") and value > vocab:
            _assign(config, name, vocab)
        elif re.search(r"token_(id|index)$|_token$", name) and value >= vocab:
            _assign(config, name, value % 100 + vocab - 110)
        elif _EXPERTS.match(name) and value > 8:
            _assign(config, name, 8)
        elif (
            scale > 1
            and re.search(
                r"(hidden_size|intermediate_size|d_model|ffn_dim|n_embd|embed_dim|d_ff|_dim)$", name
            )
            and value >= 64 * scale
            and value % scale == 0
        ):
            _assign(config, name, value // scale)
    for name in ("layer_types", "mlp_layer_types"):
        kinds = getattr(config, name, None)
        layers = getattr(config, "num_hidden_layers", None)
        if isinstance(kinds, list) and isinstance(layers, int) and len(kinds) > layers:
            kept = list(dict.fromkeys(kinds))[:layers]
            _assign(config, name, (kept + kinds)[:layers])


def _assign(config: Any, name: str, value: Any) -> None:
    try:
        setattr(config, name, value)
    except Exception:  # a read-only attribute of one configuration class
        return


def _hf(name: str, errors: list[str]) -> Iterator[tuple[Any, Inputs]]:
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = CONFIG_MAPPING[name]
    for scale in (4, 1):
        config = AutoConfig.for_model(name) if not inspect.isabstract(kind) else None
        if config is None:
            return
        _shrink(config, scale)
        model = _hf_model(config, name, errors)
        if model is None:
            continue
        for inputs in _hf_inputs(model, config):
            yield model, ((), inputs)
        del model


_HEADS = ("Model", "Generation", "Detection", "Segmentation", "LM", "Classification")


def _hf_model(config: Any, name: str, errors: list[str]) -> Any:
    from transformers import AutoModel

    makers: list[Any] = [lambda: AutoModel.from_config(config)]
    module = importlib.import_module(type(config).__module__.replace("configuration_", "modeling_"))
    for cls_name in dir(module):
        cls = getattr(module, cls_name)
        fits = isinstance(cls, type) and getattr(cls, "config_class", None) is type(config)
        if fits and cls_name.endswith(_HEADS):
            makers.append(lambda cls=cls: cls(config))
    for make in makers[:3]:
        try:
            with torch.device("meta"):
                size = sum(p.numel() for p in make().parameters())
        except Exception:  # not every model can be built without memory
            size = 0
        if size > 600_000_000:
            errors.append(f"{size / 1e6:.0f} M parameters")
            return None
        try:
            return make()
        except Exception as error:  # the next class or scale may do
            errors.append(f"{type(error).__name__}: {str(error)[:200]}")
    return None


def _sub(config: Any, *names: str) -> Any:
    for name in names:
        found = getattr(config, name, None)
        if found is not None and hasattr(found, "to_dict"):
            return found
    return config


def _size(value: Any, default: int) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    if isinstance(value, list | tuple) and value:
        return int(value[0]), int(value[-1])
    if isinstance(value, dict) and "height" in value:
        return value["height"], value["width"]
    return default, default


def _hf_inputs(model: Any, config: Any) -> Iterator[dict[str, Any]]:
    parameters = inspect.signature(model.forward).parameters
    text = _sub(config, "text_config", "llm_config", "language_config", "decoder", "text_encoder")
    vision = _sub(config, "vision_config", "vision_encoder", "image_encoder")
    vocab = min(getattr(text, "vocab_size", 500) or 500, 300) - 5
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[1, -2:] = 0
    side = _size(getattr(vision, "image_size", None), 224)
    channels = getattr(vision, "num_channels", 3) or 3
    words: dict[str, Any] = {
        "input_ids": torch.randint(5, max(6, vocab), (2, 8)),
        "attention_mask": mask,
        "decoder_input_ids": torch.randint(5, max(6, vocab), (2, 6)),
        "bbox": torch.zeros(2, 8, 4, dtype=torch.long),
        "xpath_tags_seq": None,
    }
    pictures: dict[str, Any] = {"pixel_values": torch.randn(2, channels, *side)}
    frames = getattr(config, "num_frames", None)
    sounds: dict[str, Any] = {
        "input_values": torch.randn(2, 8000),
        "input_features": torch.randn(
            2,
            getattr(config, "num_mel_bins", 80) or 80,
            2 * (getattr(config, "max_source_positions", 100) or 100),
        ),
    }

    def pick(*groups: dict[str, Any]) -> dict[str, Any]:
        return {k: v for group in groups for k, v in group.items() if k in parameters and v is not None}

    tried: list[tuple[str, ...]] = []
    videos = {"pixel_values": torch.randn(1, frames, channels, *side)} if isinstance(frames, int) else {}
    features = {"input_features": torch.randn(2, 100, getattr(config, "num_mel_bins", 80) or 80)}
    if hasattr(config, "feature_size") and isinstance(config.feature_size, int):
        features = {"input_features": torch.randn(2, 100, config.feature_size)}
    spectra = {"input_values": torch.randn(2, 1024, 128)}
    series = {
        "past_values": torch.randn(
            2, getattr(config, "context_length", None) or 64, getattr(config, "num_input_channels", 1) or 1
        )
    }
    options = (
        (words, pictures),
        (words,),
        (pictures,),
        (videos,),
        (sounds,),
        (features,),
        (words, features),
        (words, sounds),
        (spectra,),
        (series,),
        ({"hidden_states": torch.randn(2, 8, getattr(config, "hidden_size", 64) or 64)},),
        ({"inputs_embeds": torch.randn(2, 8, getattr(config, "hidden_size", 64) or 64)},),
        ({"inputs": torch.randint(5, 200, (2, 64))},),
    )
    for groups in options:
        inputs = pick(*groups)
        key = tuple(sorted((k, tuple(v.shape)) for k, v in inputs.items()))  # type: ignore[arg-type]
        if inputs and key not in tried:
            tried.append(key)  # type: ignore[arg-type]
            yield inputs
