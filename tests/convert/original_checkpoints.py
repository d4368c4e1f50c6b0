"""Original-layout InternVL2 checkpoints: the real ones' numbers, and tiny ones of random weights."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

VIT_300M = {
    "architectures": ["InternVisionModel"],
    "model_type": "intern_vit_6b",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_channels": 3,
    "patch_size": 14,
    "image_size": 448,
    "qkv_bias": True,
    "qk_normalization": False,
    "norm_type": "layer_norm",
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu",
    "dropout": 0.0,
    "drop_path_rate": 0.1,
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "initializer_factor": 1.0,
    "use_flash_attn": True,
}
VIT_6B = {
    **VIT_300M,
    "hidden_size": 3200,
    "intermediate_size": 12800,
    "num_hidden_layers": 45,
    "num_attention_heads": 25,
    "qkv_bias": False,
    "qk_normalization": True,
    "initializer_factor": 0.1,
    "initializer_range": 1e-10,
}
del VIT_6B["norm_type"]  # left to the default of the original class, rms_norm


def _internlm2(hidden: int, inner: int, layers: int, heads: int, groups: int) -> dict[str, Any]:
    return {
        "architectures": ["InternLM2ForCausalLM"],
        "auto_map": {"AutoModel": "modeling_internlm2.InternLM2ForCausalLM"},
        "model_type": "internlm2",
        "attn_implementation": "flash_attention_2",
        "bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "do_sample": True,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "max_position_embeddings": 32768,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": groups,
        "rms_norm_eps": 1e-5,
        "rope_scaling": {"factor": 2.0, "type": "dynamic"},
        "rope_theta": 1000000,
        "temperature": 1.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": 92553,
    }


_QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "attention_dropout": 0.0,
    "attn_implementation": "flash_attention_2",
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "pad_token_id": None,
    "hidden_act": "silu",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "max_window_layers": 24,
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 151655,
}
_PHI3 = {
    "architectures": ["Phi3ForCausalLM"],
    "auto_map": {"AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"},
    "model_type": "phi3",
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 32000,
    "pad_token_id": 32000,
    "embd_pdrop": 0.0,
    "resid_pdrop": 0.0,
    "hidden_act": "silu",
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "original_max_position_embeddings": 4096,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "rms_norm_eps": 1e-5,
    "rope_scaling": {
        "type": "su",
        "short_factor": [1.0 + 0.01 * i for i in range(48)],
        "long_factor": [1.0 + 0.5 * i for i in range(48)],
    },
    "rope_theta": 10000.0,
    "sliding_window": 262144,
    "tie_word_embeddings": False,
    "vocab_size": 32020,
}


def _chat(vision: dict[str, Any], text: dict[str, Any], template: str) -> dict[str, Any]:
    return {
        "architectures": ["InternVLChatModel"],
        "auto_map": {"AutoModel": "modeling_internvl_chat.InternVLChatModel"},
        "model_type": "internvl_chat",
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "force_image_size": 448,
        "llm_config": text,
        "max_dynamic_patch": 12,
        "min_dynamic_patch": 1,
        "pad2square": False,
        "ps_version": "v2",
        "select_layer": -1,
        "template": template,
        "torch_dtype": "bfloat16",
        "use_backbone_lora": 0,
        "use_llm_lora": 0,
        "use_thumbnail": True,
        "vision_config": vision,
    }


REAL = {
    "1B": _chat(VIT_300M, _QWEN2, "Hermes-2"),
    "2B": _chat(VIT_300M, _internlm2(2048, 8192, 24, 16, 8), "internlm2-chat"),
    "4B": _chat(VIT_300M, _PHI3, "phi3-chat"),
    "8B": _chat(VIT_300M, _internlm2(4096, 14336, 32, 32, 8), "internlm2-chat"),
    "26B": _chat(VIT_6B, _internlm2(6144, 16384, 48, 48, 8), "internlm2-chat"),
}
"""`config.json` of the five checkpoints, as far as it matters."""
PARAMETERS = {"1B": 0.94e9, "2B": 2.21e9, "4B": 4.15e9, "8B": 8.08e9, "26B": 25.5e9}
"""Published sizes."""


def original_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor of an original checkpoint, from the modules of the original code."""
    vision, text = config["vision_config"], config["llm_config"]
    width, inner = vision["hidden_size"], vision["intermediate_size"]
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    shapes: dict[str, tuple[int, ...]] = {
        "vision_model.embeddings.class_embedding": (1, 1, width),
        "vision_model.embeddings.patch_embedding.weight": (width, 3, *[vision["patch_size"]] * 2),
        "vision_model.embeddings.patch_embedding.bias": (width,),
        "vision_model.embeddings.position_embedding": (1, patches + 1, width),
    }
    for i in range(vision["num_hidden_layers"]):
        layer = f"vision_model.encoder.layers.{i}"
        shapes |= {f"{layer}.ls1": (width,), f"{layer}.ls2": (width,)}
        shapes |= _linear(f"{layer}.attn.qkv", width, 3 * width, bias=vision["qkv_bias"])
        shapes |= _linear(f"{layer}.attn.proj", width, width)
        shapes |= _linear(f"{layer}.mlp.fc1", width, inner) | _linear(f"{layer}.mlp.fc2", inner, width)
        if vision["qk_normalization"]:
            shapes |= {f"{layer}.attn.{name}.weight": (width,) for name in ("q_norm", "k_norm")}
        for norm in ("norm1", "norm2"):
            shapes[f"{layer}.{norm}.weight"] = (width,)
            if vision.get("norm_type") == "layer_norm":
                shapes[f"{layer}.{norm}.bias"] = (width,)
    hidden, inner = text["hidden_size"], text["intermediate_size"]
    shapes |= {"mlp1.0.weight": (4 * width,), "mlp1.0.bias": (4 * width,)}
    shapes |= _linear("mlp1.1", 4 * width, hidden) | _linear("mlp1.3", hidden, hidden)
    size = hidden // text["num_attention_heads"]
    queries, keys = text["num_attention_heads"] * size, text["num_key_value_heads"] * size
    kind = text["architectures"][0]
    if kind == "InternLM2ForCausalLM":
        names = ("tok_embeddings", "attention_norm", "ffn_norm", "output")
    else:
        names = ("embed_tokens", "input_layernorm", "post_attention_layernorm", "lm_head")
    embeddings, first, second, head = names
    shapes[f"language_model.model.{embeddings}.weight"] = (text["vocab_size"], hidden)
    shapes["language_model.model.norm.weight"] = (hidden,)
    if not text["tie_word_embeddings"]:
        shapes[f"language_model.{head}.weight"] = (text["vocab_size"], hidden)
    for i in range(text["num_hidden_layers"]):
        layer = f"language_model.model.layers.{i}"
        shapes |= {f"{layer}.{first}.weight": (hidden,), f"{layer}.{second}.weight": (hidden,)}
        if kind == "InternLM2ForCausalLM":
            bias = text["bias"]
            shapes |= _linear(f"{layer}.attention.wqkv", hidden, queries + 2 * keys, bias=bias)
            shapes |= _linear(f"{layer}.attention.wo", queries, hidden, bias=bias)
            shapes |= _linear(f"{layer}.feed_forward.w1", hidden, inner, bias=False)
            shapes |= _linear(f"{layer}.feed_forward.w2", inner, hidden, bias=False)
            shapes |= _linear(f"{layer}.feed_forward.w3", hidden, inner, bias=False)
            continue
        if kind == "Phi3ForCausalLM":
            shapes |= _linear(f"{layer}.self_attn.qkv_proj", hidden, queries + 2 * keys, bias=False)
            shapes |= _linear(f"{layer}.mlp.gate_up_proj", hidden, 2 * inner, bias=False)
        else:
            biased = kind == "Qwen2ForCausalLM"
            shapes |= _linear(f"{layer}.self_attn.q_proj", hidden, queries, bias=biased)
            shapes |= _linear(f"{layer}.self_attn.k_proj", hidden, keys, bias=biased)
            shapes |= _linear(f"{layer}.self_attn.v_proj", hidden, keys, bias=biased)
            shapes |= _linear(f"{layer}.mlp.gate_proj", hidden, inner, bias=False)
            shapes |= _linear(f"{layer}.mlp.up_proj", hidden, inner, bias=False)
        shapes |= _linear(f"{layer}.self_attn.o_proj", queries, hidden, bias=False)
        shapes |= _linear(f"{layer}.mlp.down_proj", inner, hidden, bias=False)
    return shapes


def _linear(name: str, inputs: int, outputs: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": (outputs, inputs)}
    return shapes | {f"{name}.bias": (outputs,)} if bias else shapes


def tiny(size: str, vocab_size: int, **text: Any) -> dict[str, Any]:
    """The configuration of one of the five, shrunk: same layout, 16 px tiles of 4 vision tokens."""
    config = copy.deepcopy(REAL[size])
    heads = 3 if config["vision_config"]["qk_normalization"] else 2
    config["force_image_size"] = 16
    config["vision_config"] |= {
        "hidden_size": 8 * heads,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": heads,
        "patch_size": 4,
        "image_size": 16,
    }
    # Query heads per key/value head as in the real one, but not all alike.
    groups = {"1B": 2, "2B": 2, "4B": 4, "8B": 2, "26B": 1}[size]
    heads = {"1B": 4, "2B": 4, "4B": 4, "8B": 8, "26B": 3}[size]
    config["llm_config"] |= {
        "hidden_size": 8 * heads,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "vocab_size": vocab_size,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        **text,
    }
    if size == "4B":
        factors = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 2.0, 3.0, 4.0]}
        config["llm_config"]["rope_scaling"] = {"type": "su", **factors}
    return config


def random_weights(config: dict[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Float32 weights; attention is far from uniform, norms and scales are far from one, logits near it."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in original_shapes(config).items():
        values = torch.randn(shape, generator=generator)
        gain = ("norm" in name or name.startswith("mlp1.0") or ".ls" in name) and not name.endswith("bias")
        inputs = torch.Size(shape[1:]).numel() if len(shape) > 1 and "embedding" not in name else 16
        weights[name] = 1 + 0.3 * values if gain else 1.2 / inputs**0.5 * values
    return weights


def save(folder: Path, config: dict[str, Any], weights: dict[str, Tensor], shards: int = 1) -> None:
    """Writes `config.json` and the weights, in so many safetensors files."""
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return
    where = {}
    for index in range(shards):
        file = f"model-{index + 1:05d}-of-{shards:05d}.safetensors"
        part = dict(list(weights.items())[index::shards])
        save_file(part, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
