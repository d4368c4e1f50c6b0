"""What the embedded model's training minimises."""

from __future__ import annotations

import random
from math import isqrt
from typing import Any

import torch

from vtr_ray.embedded.lessons import Batch
from vtr_ray.reduction import reduce_vision_tokens
from vtr_ray.schedule import Schedule


class Losses:
    """The losses of one model on a batch; compiled: encoder and decoder through `torch.compile`."""

    def __init__(self, model: Any, compiled: bool):
        self.model = model
        self.encoder: Any = model.model.vision_tower
        self.decoder: Any = model.model.language_model
        if compiled:  # clips and pictures differ in shape: a kernel for each, none for all
            self.encoder = torch.compile(self.encoder, dynamic=False)
            self.decoder = torch.compile(self.decoder, dynamic=False)

    def look(self, pixels: torch.Tensor) -> torch.Tensor:
        """[images, 3, height, width] -> projected vision tokens [images, tokens, width]."""
        core = self.model.model
        if hasattr(core, "pixel_shuffle"):
            patches = self.encoder(pixel_values=pixels).last_hidden_state[:, 1:]
            side = isqrt(patches.shape[1])
            cells = core.pixel_shuffle(patches.unflatten(1, (side, side)), self.model.config.downsample_ratio)
            tokens: torch.Tensor = core.multi_modal_projector(cells.flatten(1, 2))
            return tokens
        layers = self.model.config.vision_feature_layer
        if isinstance(layers, int):  # the last one
            patches = self.encoder(pixel_values=pixels).last_hidden_state[:, 1:]
        else:
            states = self.encoder(pixel_values=pixels, output_hidden_states=True).hidden_states
            patches = torch.cat([states[layer][:, 1:] for layer in layers], dim=-1)
        projected: torch.Tensor = core.multi_modal_projector(patches)
        return projected

    def see(self, batch: Batch) -> torch.Tensor:
        """Projected vision tokens [batch, vision tokens, width] of all tiles or frames of each row."""
        tokens = self.look(batch.pixels)
        return tokens.reshape(len(batch.tasks), -1, tokens.shape[-1])

    def patch_loss(self, vision: torch.Tensor, words: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-entropy of each patch against the embeddings of its words, and the share of patches right.

        A patch is right when its k best words are its k words.
        """
        logits = vision.float() @ self.model.get_input_embeddings().weight.float().T
        asked = words >= 0
        logs = logits.log_softmax(-1)
        chosen = logs.gather(-1, words.clamp(min=0))
        loss = -(chosen * asked).sum(-1) / asked.sum(-1)
        filled = asked.sum(-1) > 1
        weight = torch.where(filled, 1.0, 0.3)
        with torch.no_grad():
            threshold = chosen.masked_fill(~asked, 0.0).min(-1).values
            better = (logs > threshold[..., None] + 1e-6).sum(-1)
            right = (better < asked.sum(-1))[filled].float().mean()
        return (loss * weight).sum() / weight.sum(), right

    def answer_logits(self, batch: Batch, vision: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [answers, vocabulary] and targets [answers] of all answer tokens."""
        embeds = self._embedded(batch.ids, batch, vision)
        hidden = self.decoder(
            inputs_embeds=embeds,
            attention_mask=batch.mask(torch.float32).to(vision.device),
            position_ids=batch.positions,
            use_cache=False,
        ).last_hidden_state
        asked = batch.targets >= 0
        return self.model.lm_head(hidden[asked]).float(), batch.targets[asked]

    def reduced_loss(
        self, batch: Batch, vision: torch.Tensor, rng: random.Random, schedule: Schedule, turns: int = 1
    ) -> torch.Tensor:
        """Loss of some turns of each picture, each asked alone under a schedule."""
        device = vision.device
        first = batch.prefix
        asked = [
            (row, (batch.turns[row] == turn).nonzero().flatten())
            for row in range(len(batch.tasks))
            for turn in _some(rng, int(batch.turns[row].max()), turns)
        ]
        longest = first + max(len(places) for _, places in asked)
        shape = (len(asked), longest)
        ids = torch.full(shape, self.model.config.get_text_config().pad_token_id, device=device)
        labels = torch.full(shape, -100, device=device)
        mask = torch.zeros(shape, dtype=torch.long, device=device)
        prompt = torch.zeros(shape, dtype=torch.bool, device=device)
        for place, (row, places) in enumerate(asked):
            end = first + len(places)
            ids[place, :end] = torch.cat([batch.ids[row, :first], batch.ids[row, places]])
            targets = batch.targets[row, places]
            labels[place, first + 1 : end] = targets[:-1]
            mask[place, :end] = 1
            prompt[place, : first + 1 + int((targets >= 0).nonzero()[0])] = True
        seen = torch.zeros_like(prompt)
        seen[:, batch.places] = True
        embeds = self._embedded(ids, batch, vision[[row for row, _ in asked]])
        with reduce_vision_tokens(self.model, schedule, prompt_mask=prompt, vision_mask=seen):
            loss: torch.Tensor = self.model(
                inputs_embeds=embeds, attention_mask=mask, labels=labels, use_cache=False
            ).loss
        return loss

    def _embedded(self, ids: torch.Tensor, batch: Batch, vision: torch.Tensor) -> torch.Tensor:
        embeds: torch.Tensor = self.model.get_input_embeddings()(ids)
        return embeds.index_copy(1, batch.places, vision.to(embeds.dtype))


def _some(rng: random.Random, turns: int, count: int) -> list[int]:
    return rng.sample(range(1, turns + 1), min(count, turns))


def random_schedule(rng: random.Random, layers: int) -> Schedule:
    """A cut before layer 3 and a second one in the deeper half: hard, but not hopeless."""
    first, second = rng.uniform(0.2, 0.6), rng.randint(layers // 2, layers)
    deeper = first * rng.random()
    rates = [1.0, 1.0] + [first] * (second - 3) + [deeper] * (layers - second + 1)
    return Schedule.from_rates(rates)
