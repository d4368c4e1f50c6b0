"""The original InternVL2 in slow and obvious code, float64: what a converted checkpoint must compute.

From the published descriptions: InternViT blocks with layer scale, pixel shuffle v2, the `mlp1` projector,
decoders with rotary positions and grouped-query attention (InternLM2, Qwen2, Phi-3). Every head, patch and
position is a loop or a slice with its name on it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class OriginalModel:
    """An original checkpoint's `config.json` and tensors, and their logits."""

    def __init__(self, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
        self.config = config
        self.weights = {name: tensor.double() for name, tensor in weights.items()}

    def logits(self, ids: Tensor, tiles: Tensor, context_id: int) -> Tensor:
        """ids: [length]. tiles: [tiles, 3, side, side]. Gives [length, vocabulary]."""
        vision = torch.cat([self.vision_tokens(tile) for tile in tiles.double()])
        text = self.config["llm_config"]
        internlm2 = text["architectures"][0] == "InternLM2ForCausalLM"
        table = self._of(f"language_model.model.{'tok_embeddings' if internlm2 else 'embed_tokens'}.weight")
        rows, used = [], 0
        for token in ids.tolist():
            if token == context_id:
                rows.append(vision[used])
                used += 1
            else:
                rows.append(table[token])
        assert used == len(vision)
        hidden = torch.stack(rows)
        for index in range(text["num_hidden_layers"]):
            hidden = self._decoder_layer(f"language_model.model.layers.{index}", hidden, internlm2)
        hidden = _rms(hidden, self._of("language_model.model.norm.weight"), text["rms_norm_eps"])
        head = "language_model.output.weight" if internlm2 else "language_model.lm_head.weight"
        return hidden @ self.weights.get(head, table).T

    def vision_tokens(self, tile: Tensor) -> Tensor:
        """tile: [3, side, side]. Gives [tokens, language width]."""
        vision = self.config["vision_config"]
        patch = vision["patch_size"]
        grid = vision["image_size"] // patch
        kernel = self._of("vision_model.embeddings.patch_embedding.weight").flatten(1)
        bias = self._of("vision_model.embeddings.patch_embedding.bias")
        tokens = [self._of("vision_model.embeddings.class_embedding")[0, 0]]
        for row in range(grid):
            for column in range(grid):
                pixels = tile[
                    :, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch
                ].flatten()
                tokens.append(kernel @ pixels + bias)
        hidden = torch.stack(tokens) + self._of("vision_model.embeddings.position_embedding")[0]
        states = [hidden]
        for index in range(vision["num_hidden_layers"]):
            states.append(self._vision_layer(f"vision_model.encoder.layers.{index}", states[-1]))
        chosen = states[self.config["select_layer"]][1:]  # without the class token
        merged = []
        for row in range(0, grid, 2):
            for column in range(0, grid, 2):
                four = [(row, column), (row, column + 1), (row + 1, column), (row + 1, column + 1)]
                merged.append(torch.cat([chosen[i * grid + j] for i, j in four]))
        hidden = torch.stack(merged)
        hidden = F.layer_norm(
            hidden, hidden.shape[-1:], self._of("mlp1.0.weight"), self._of("mlp1.0.bias"), eps=1e-5
        )
        return self._linear("mlp1.3", F.gelu(self._linear("mlp1.1", hidden)))

    def _vision_layer(self, layer: str, hidden: Tensor) -> Tensor:
        vision = self.config["vision_config"]
        width = hidden.shape[-1]
        size = width // vision["num_attention_heads"]
        mixed = self._linear(f"{layer}.attn.qkv", self._vision_norm(f"{layer}.norm1", hidden))
        queries, keys, values = mixed[:, :width], mixed[:, width : 2 * width], mixed[:, 2 * width :]
        if vision["qk_normalization"]:
            queries = _rms(queries, self._of(f"{layer}.attn.q_norm.weight"), 1e-6)
            keys = _rms(keys, self._of(f"{layer}.attn.k_norm.weight"), 1e-6)
        heads = []
        for head in range(vision["num_attention_heads"]):
            rows = slice(head * size, (head + 1) * size)
            attention = (queries[:, rows] @ keys[:, rows].T / math.sqrt(size)).softmax(-1)
            heads.append(attention @ values[:, rows])
        hidden = hidden + self._of(f"{layer}.ls1") * self._linear(f"{layer}.attn.proj", torch.cat(heads, -1))
        inner = F.gelu(self._linear(f"{layer}.mlp.fc1", self._vision_norm(f"{layer}.norm2", hidden)))
        return hidden + self._of(f"{layer}.ls2") * self._linear(f"{layer}.mlp.fc2", inner)

    def _vision_norm(self, name: str, hidden: Tensor) -> Tensor:
        vision = self.config["vision_config"]
        if vision.get("norm_type", "rms_norm") == "rms_norm":
            return _rms(hidden, self._of(f"{name}.weight"), vision["layer_norm_eps"])
        weight, bias = self._of(f"{name}.weight"), self._of(f"{name}.bias")
        return F.layer_norm(hidden, hidden.shape[-1:], weight, bias, eps=vision["layer_norm_eps"])

    def _decoder_layer(self, layer: str, hidden: Tensor, internlm2: bool) -> Tensor:
        text = self.config["llm_config"]
        first, second = (
            ("attention_norm", "ffn_norm") if internlm2 else ("input_layernorm", "post_attention_layernorm")
        )
        normed = _rms(hidden, self._of(f"{layer}.{first}.weight"), text["rms_norm_eps"])
        queries, keys, values = self._heads(layer, normed, internlm2)
        per_group = len(queries) // len(keys)
        length, size = queries[0].shape
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        cos, sin = self._rotary(length, size)
        heads = []
        for index, query in enumerate(queries):
            group = index // per_group
            scores = _rotate(query, cos, sin) @ _rotate(keys[group], cos, sin).T / math.sqrt(size)
            heads.append(scores.masked_fill(future, -math.inf).softmax(-1) @ values[group])
        output = f"{layer}.attention.wo" if internlm2 else f"{layer}.self_attn.o_proj"
        hidden = hidden + self._linear(output, torch.cat(heads, -1))
        normed = _rms(hidden, self._of(f"{layer}.{second}.weight"), text["rms_norm_eps"])
        if internlm2:
            gate = self._linear(f"{layer}.feed_forward.w1", normed)
            up = self._linear(f"{layer}.feed_forward.w3", normed)
        elif text["architectures"][0] == "Phi3ForCausalLM":
            both = self._linear(f"{layer}.mlp.gate_up_proj", normed)
            gate, up = both[:, : text["intermediate_size"]], both[:, text["intermediate_size"] :]
        else:
            gate = self._linear(f"{layer}.mlp.gate_proj", normed)
            up = self._linear(f"{layer}.mlp.up_proj", normed)
        down = f"{layer}.feed_forward.w2" if internlm2 else f"{layer}.mlp.down_proj"
        return hidden + self._linear(down, F.silu(gate) * up)

    def _heads(
        self, layer: str, normed: Tensor, internlm2: bool
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Per head [length, size]: queries, keys, values."""
        text = self.config["llm_config"]
        heads, groups = text["num_attention_heads"], text["num_key_value_heads"]
        size = text["hidden_size"] // heads
        queries, keys, values = [], [], []
        if internlm2:
            fused = iter(self._linear(f"{layer}.attention.wqkv", normed).split(size, dim=-1))
            for _ in range(groups):
                queries += [next(fused) for _ in range(heads // groups)]
                keys.append(next(fused))
                values.append(next(fused))
        elif text["architectures"][0] == "Phi3ForCausalLM":
            fused = iter(self._linear(f"{layer}.self_attn.qkv_proj", normed).split(size, dim=-1))
            queries = [next(fused) for _ in range(heads)]
            keys = [next(fused) for _ in range(groups)]
            values = [next(fused) for _ in range(groups)]
        else:
            queries = list(self._linear(f"{layer}.self_attn.q_proj", normed).split(size, dim=-1))
            keys = list(self._linear(f"{layer}.self_attn.k_proj", normed).split(size, dim=-1))
            values = list(self._linear(f"{layer}.self_attn.v_proj", normed).split(size, dim=-1))
        return queries, keys, values

    def _rotary(self, length: int, size: int) -> tuple[Tensor, Tensor]:
        """cos and sin [length, size]: Su et al. 2021; dynamic NTK scaling; Phi-3's LongRoPE ("su")."""
        text = self.config["llm_config"]
        base, longest = float(text["rope_theta"]), text["max_position_embeddings"]
        scaling = text.get("rope_scaling") or {"type": "none"}
        stretch, gain = torch.ones(size // 2, dtype=torch.float64), 1.0
        if scaling["type"] == "dynamic" and length > longest:
            factor = scaling["factor"]
            base *= (factor * length / longest - (factor - 1)) ** (size / (size - 2))
        elif scaling["type"] == "su":
            short = text["original_max_position_embeddings"]
            stretch = torch.tensor(scaling["long_factor" if length > short else "short_factor"])
            gain = math.sqrt(1 + math.log(longest / short) / math.log(short))
        angles = torch.zeros(length, size, dtype=torch.float64)
        for pair in range(size // 2):
            frequency = 1 / (float(stretch[pair]) * base ** (2 * pair / size))
            for column in (pair, pair + size // 2):
                angles[:, column] = torch.arange(length) * frequency
        return angles.cos() * gain, angles.sin() * gain

    def _linear(self, name: str, hidden: Tensor) -> Tensor:
        output = hidden @ self._of(f"{name}.weight").T
        bias = self.weights.get(f"{name}.bias")
        return output if bias is None else output + bias

    def _of(self, name: str) -> Tensor:
        return self.weights[name]


def _rms(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * hidden / (hidden.square().mean(-1, keepdim=True) + eps).sqrt()


def _rotate(head: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = head.shape[-1] // 2
    return head * cos + torch.cat([-head[:, half:], head[:, :half]], -1) * sin
