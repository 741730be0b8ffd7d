"""Small models with random weights, and inputs for them, from a model's type alone: nothing is downloaded.

A builder is a Python file with these functions, so that any library can go through ``benchmarks/models.py``:

    packages(name) -> tuple of import names whose source is copied and rewritten
    recipes(name, errors) -> iterator of (module, (args, kwargs)); the first whose forward runs is taken
    warm(packages): optional; imports what many models need, before any is built

This one knows ``hf/TYPE`` (a transformers model type), ``tv/NAME`` (torchvision), ``timm/NAME`` and
``pyg/NAME`` (a line of ``zoo_pyg.txt``); `names` lists what there is. The rules are about kinds of settings
and inputs, never about one model: widths shrink by a common factor, heads divide widths, layers and experts
become few, an input is made for each known parameter of ``forward``.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import zoo_pyg
from torch import nn

Call = tuple[tuple[Any, ...], dict[str, Any]]
LARGEST = ((120_000_000, (4, 8, 16)), (450_000_000, (4, 2, 8, 16, 1)))
"""Most parameters, and what widths are divided by to get there. Reading many hides what launching takes."""
LAYERS = 4
PICTURE = 512  # pixels a side
VOCABULARY = 500
_PACKAGES = {"hf": ("transformers",), "tv": ("torchvision",), "timm": ("timm",), "pyg": ("torch_geometric",)}


def packages(name: str) -> tuple[str, ...]:
    """The packages a model's code lives in."""
    return _PACKAGES[name.partition("/")[0]]


def warm(packages: Sequence[str]) -> None:
    """Import what most models of the packages import."""
    for package in packages:
        importlib.import_module(package)
        if package == "transformers":
            importlib.import_module("transformers.modeling_utils")
            importlib.import_module("transformers.models.auto.modeling_auto")


def recipes(name: str, errors: list[str]) -> Iterator[tuple[nn.Module, Call]]:
    """Attempts at one model, the most telling first; why some could not be built goes to ``errors``."""
    library, _, rest = name.partition("/")
    makers = {"hf": _transformers, "tv": _torchvision, "timm": _timm, "pyg": zoo_pyg.recipes}
    yield from makers[library](rest, errors)


def names(only: Sequence[str] = ()) -> list[str]:
    """Every model there is a recipe for, of the libraries named (all but torchvision's if none is).

    Libraries and kinds of models are mixed evenly: a run that is cut short still saw all of them.
    """
    listed = {"pyg": zoo_pyg.names, "timm": _timm_names, "hf": _transformers_names, "tv": _torchvision_names}
    columns = [[f"{key}/{name}" for name in listed[key]()] for key in only or ("pyg", "timm", "hf")]
    places = [((i + 0.5) / len(column), name) for column in columns for i, name in enumerate(column)]
    return [name for _, name in sorted(places)]


# -- torchvision and timm


def _torchvision_names() -> list[str]:
    import torchvision

    return list(torchvision.models.list_models())


def _torchvision(name: str, errors: list[str]) -> Iterator[tuple[nn.Module, Call]]:
    import torchvision

    build = torchvision.models.get_model_builder(name)
    accepted = inspect.signature(build).parameters
    options: dict[str, Any] = {"weights": None}
    if "weights_backbone" in accepted:
        options["weights_backbone"] = None
    model = build(**options)
    family = type(model).__module__
    image = torch.rand(2, 3, 224, 224)
    if ".detection" in family:
        yield model, (([torch.rand(3, 256, 320), torch.rand(3, 256, 320)],), {})
    elif ".optical_flow" in family:
        yield model, ((torch.rand(1, 3, 128, 128) * 2 - 1, torch.rand(1, 3, 128, 128) * 2 - 1), {})
    elif ".video" in family:
        for frames, side in ((16, 224), (16, 112), (32, 224)):
            yield model, ((torch.randn(1, 3, frames, side, side),), {})
    else:
        yield model, ((image,), {})
        yield model, ((torch.rand(2, 3, 299, 299),), {})


def _timm_names() -> list[str]:
    """Up to three of each file, small ones and other families first."""
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


def _timm(name: str, errors: list[str]) -> Iterator[tuple[nn.Module, Call]]:
    import timm

    model = timm.create_model(name, pretrained=False)
    size = getattr(model, "default_cfg", {}).get("input_size", (3, 224, 224))
    yield model, ((torch.randn(2, *size),), {})
    if "naflex" in name:
        patches = {
            "patches": torch.randn(2, 16, 768),
            "patch_coord": torch.randint(0, 4, (2, 16, 2)),
            "patch_valid": torch.arange(16)[None].expand(2, 16) < torch.tensor([[16], [12]]),
        }
        yield model, ((patches,), {})


# -- transformers

_LAYERS = re.compile(r"(^|_)(layers|n_layer|depth|num_blocks|num_hidden_layers)$|_layers$|_depth$")
_EXPERTS = re.compile(
    r"^(num_(local_)?experts|n_routed_experts|moe_num_experts|num_routed_experts|n_experts)$"
)
_WIDTHS = re.compile(
    r"(hidden_size|intermediate_size|d_model|ffn_dim|n_embd|embed_dim|d_ff|hidden_dim|mlp_dim)$"
)
_HEADED = ("Model", "Generation", "Detection", "Segmentation", "LM", "Classification")
_HEADS = re.compile(r"^(num_attention_heads|n_heads?|num_heads|attention_heads|encoder_attention_heads)$")


def _transformers_names() -> list[str]:
    """All model types in a fixed shuffle."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return sorted(CONFIG_MAPPING.keys(), key=lambda name: (hashlib.sha1(name.encode()).digest(), name))


def _transformers(name: str, errors: list[str]) -> Iterator[tuple[nn.Module, Call]]:
    from transformers import AutoConfig

    for largest, scale in [(largest, scale) for largest, scales in LARGEST for scale in scales]:
        try:
            config = AutoConfig.for_model(name)
            _shrink(config, scale)
        except Exception as error:  # the next scale may do
            errors.append(f"scale {scale}: {type(error).__name__}: {error}")
            continue
        model = _model(config, largest, errors)
        if model is None:
            continue
        for inputs in _inputs(model, config):
            yield model, ((), inputs)


def _shrink(config: Any, scale: int) -> None:
    """Make a configuration small in place: ``scale`` divides its widths, layers and experts become few."""
    _fewer_layers(config)
    listed = {
        len(v) for n, v in vars(config).items() if isinstance(v, list | tuple) and "layer_types" not in n
    }
    for name, value in list(vars(config).items()):
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            _shrink(value, scale)
        elif not isinstance(value, int) or isinstance(value, bool):
            continue
        elif _LAYERS.search(name) and value > 2 and value not in listed:
            _assign(config, name, 2)
        elif name.endswith("vocab_size") and value > VOCABULARY:
            _assign(config, name, VOCABULARY)
        elif re.search(r"token_(id|index)$|_token$", name) and value >= VOCABULARY:
            _assign(config, name, value % 100 + VOCABULARY - 110)
        elif _EXPERTS.match(name) and value > 8:
            _assign(config, name, 8)
        elif name == "image_size" and value > PICTURE:
            _assign(config, name, PICTURE)
        elif scale > 1 and _WIDTHS.search(name) and value >= 64 * scale and value % scale == 0:
            _assign(config, name, value // scale)
    _agree(config)


def _fewer_layers(config: Any) -> None:
    """Shorten what has one entry a layer together with the number of layers: one layer of each kind stays."""
    for name, count in list(vars(config).items()):
        if type(count) is not int or count <= 2 * LAYERS or not _LAYERS.search(name):
            continue
        lists = {n: v for n, v in vars(config).items() if isinstance(v, list) and len(v) == count}
        if not lists:
            continue
        kinds = [repr([v[i] for v in lists.values()]) for i in range(count)]
        chosen = sorted({kinds.index(kind) for kind in kinds})[:LAYERS]
        chosen += [i for i in range(count) if i not in chosen][: max(0, 2 - len(chosen))]
        for other, value in lists.items():
            _assign(config, other, [value[i] for i in sorted(chosen)])
        _assign(config, name, len(chosen))


def _agree(config: Any) -> None:
    """Heads divide the width they split, and lists with one entry a layer are as long as there are layers."""
    width = next(
        (v for n in ("hidden_size", "d_model", "n_embd") if isinstance(v := getattr(config, n, None), int)), 0
    )
    for name, heads in list(vars(config).items()):
        if width and isinstance(heads, int) and _HEADS.match(name) and heads and width % heads:
            _assign(config, name, next(n for n in range(heads, 0, -1) if width % n == 0))
    layers = getattr(config, "num_hidden_layers", None)
    for name in ("layer_types", "mlp_layer_types"):
        kinds = getattr(config, name, None)
        if isinstance(kinds, list) and isinstance(layers, int) and len(kinds) > layers:
            spread = list(dict.fromkeys(kinds))[:layers]
            _assign(config, name, (spread + kinds)[:layers])


def _assign(config: Any, name: str, value: Any) -> None:
    try:
        setattr(config, name, value)
    except Exception:  # a read-only attribute of one configuration class
        return


def _model(config: Any, largest: int, errors: list[str]) -> nn.Module | None:
    from transformers import AutoModel

    makers: list[Any] = [lambda: AutoModel.from_config(config)]
    module = importlib.import_module(type(config).__module__.replace("configuration_", "modeling_"))
    for class_name, kind in vars(module).items():
        of_config = isinstance(kind, type) and getattr(kind, "config_class", None) is type(config)
        if of_config and class_name.endswith(_HEADED):
            makers.append(lambda kind=kind: kind(config))
    for make in makers[:3]:
        size = 0
        try:
            with torch.device("meta"):
                size = sum(p.numel() for p in make().parameters())
        except Exception as error:  # not every model can be built without memory
            errors.append(f"{type(error).__name__}: {str(error)[:200]}")
        if size > largest:
            errors.append(f"{size / 1e6:.0f} M parameters")
            return None
        try:
            return make()  # type: ignore[no-any-return]
        except Exception as error:  # the next class or scale may do
            errors.append(f"{type(error).__name__}: {str(error)[:200]}")
    return None


def _sub(config: Any, *names: str) -> Any:
    found = (getattr(config, name, None) for name in names)
    return next((sub for sub in found if hasattr(sub, "to_dict")), config)


def _side(value: Any, default: int) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    if isinstance(value, list | tuple) and value:
        return int(value[0]), int(value[-1])
    if isinstance(value, dict) and "height" in value:
        return value["height"], value["width"]
    return default, default


def _inputs(model: nn.Module, config: Any) -> Iterator[dict[str, Any]]:
    """Arguments for ``forward`` by the names it takes, one set of kinds after another."""
    taken = inspect.signature(model.forward).parameters
    text = _sub(config, "text_config", "llm_config", "language_config", "decoder", "text_encoder")
    vision = _sub(config, "vision_config", "vision_encoder", "image_encoder")
    highest = max(6, min(getattr(text, "vocab_size", None) or 500, 300) - 5)
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[1, -2:] = 0
    height, width = _side(getattr(vision, "image_size", None), 224)
    channels = getattr(vision, "num_channels", 3) or 3
    bins = getattr(config, "num_mel_bins", 80) or 80
    hidden = getattr(config, "hidden_size", 64) or 64
    positions = getattr(config, "max_source_positions", 100) or 100
    ids = torch.randint(5, highest, (2, 8))
    words = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": torch.randint(5, highest, (2, 6)),
             "bbox": torch.zeros(2, 8, 4, dtype=torch.long)}  # fmt: skip
    pictures = {"pixel_values": torch.randn(2, channels, height, width)}
    sounds = {"input_values": torch.randn(2, 8000),
              "input_features": torch.randn(2, bins, 2 * positions)}  # fmt: skip
    options: list[dict[str, Any]] = [words | pictures, words, pictures, sounds, words | sounds]
    frames = getattr(config, "num_frames", None)
    if isinstance(frames, int):
        options.append({"pixel_values": torch.randn(1, frames, channels, height, width)})
    size = getattr(config, "feature_size", None)
    features = {"input_features": torch.randn(2, 100, size if isinstance(size, int) else bins)}
    series = getattr(config, "num_input_channels", 1) or 1
    options += [
        features,
        words | features,
        {"input_values": torch.randn(2, 1024, 128)},
        {"past_values": torch.randn(2, getattr(config, "context_length", None) or 64, series)},
        {"hidden_states": torch.randn(2, 8, hidden)},
        {"inputs_embeds": torch.randn(2, 8, hidden)},
        {"inputs": torch.randint(5, 200, (2, 64))},
    ]
    tried: set[tuple[Any, ...]] = set()
    for option in options:
        given = {name: value for name, value in option.items() if name in taken}
        key = tuple(sorted((name, tuple(value.shape)) for name, value in given.items()))
        if given and key not in tried:
            tried.add(key)
            yield given
