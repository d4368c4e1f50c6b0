"""What the embedded model's training minimises."""

from __future__ import annotations

import random
from typing import Any

import torch

from vtr_ray.embedded.architecture import LAYERS
from vtr_ray.embedded.lessons import Batch
from vtr_ray.reduction import reduce_vision_tokens
from vtr_ray.schedule import Schedule


class Losses:
    """The losses of one model on a batch; compiled: encoder and decoder through `torch.compile`."""

    def __init__(self, model: Any, compiled: bool):
        self.model = model
        self.encoder: Any = model.model.vision_tower
        self.decoder: Any = model.model.language_model
        if compiled:
            self.encoder, self.decoder = torch.compile(self.encoder), torch.compile(self.decoder)

    def look(self, pixels: torch.Tensor) -> torch.Tensor:
        """[batch, 3, 96, 96] -> projected vision tokens [batch, tokens, width]."""
        layers = self.model.config.vision_feature_layer
        if isinstance(layers, int):  # the last one
            patches = self.encoder(pixel_values=pixels).last_hidden_state[:, 1:]
        else:
            states = self.encoder(pixel_values=pixels, output_hidden_states=True).hidden_states
            patches = torch.cat([states[layer][:, 1:] for layer in layers], dim=-1)
        projected: torch.Tensor = self.model.model.multi_modal_projector(patches)
        return projected

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
        embeds = self.model.get_input_embeddings()(batch.ids)
        count = vision.shape[1]
        embeds = torch.cat([embeds[:, :1], vision.to(embeds.dtype), embeds[:, 1 + count :]], dim=1)
        hidden = self.decoder(
            inputs_embeds=embeds,
            attention_mask=batch.mask(torch.float32).to(vision.device),
            position_ids=batch.positions,
            use_cache=False,
        ).last_hidden_state
        asked = batch.targets >= 0
        return self.model.lm_head(hidden[asked]).float(), batch.targets[asked]

    def reduced_loss(self, batch: Batch, vision: torch.Tensor, rng: random.Random) -> torch.Tensor:
        """Loss of one turn of each picture under a random schedule of one or two cuts."""
        count, device = vision.shape[1], vision.device
        asked = [_turn(batch, row, rng) for row in range(len(batch.tasks))]
        longest = 1 + count + max(len(places) for places in asked)
        shape = (len(asked), longest)
        ids = torch.full(shape, self.model.config.get_text_config().pad_token_id, device=device)
        labels = torch.full(shape, -100, device=device)
        mask = torch.zeros(shape, dtype=torch.long, device=device)
        prompt = torch.zeros(shape, dtype=torch.bool, device=device)
        for row, places in enumerate(asked):
            end = 1 + count + len(places)
            ids[row, :end] = torch.cat([batch.ids[row, : 1 + count], batch.ids[row, places]])
            targets = batch.targets[row, places]
            labels[row, 2 + count : end] = targets[:-1]
            mask[row, :end] = 1
            prompt[row, : 2 + count + int((targets >= 0).nonzero()[0])] = True
        seen = torch.zeros_like(prompt)
        seen[:, 1 : 1 + count] = True
        embeds = self.model.get_input_embeddings()(ids)
        embeds = torch.cat([embeds[:, :1], vision.to(embeds.dtype), embeds[:, 1 + count :]], dim=1)
        with reduce_vision_tokens(self.model, _random_schedule(rng), prompt_mask=prompt, vision_mask=seen):
            loss: torch.Tensor = self.model(
                inputs_embeds=embeds, attention_mask=mask, labels=labels, use_cache=False
            ).loss
        return loss


def _turn(batch: Batch, row: int, rng: random.Random) -> torch.Tensor:
    turn = rng.randint(1, int(batch.turns[row].max()))
    return (batch.turns[row] == turn).nonzero().flatten()


def _random_schedule(rng: random.Random) -> Schedule:
    """A cut before layer 3 and a second one in the deeper half: hard, but not hopeless."""
    first, second = rng.uniform(0.2, 0.6), rng.randint(LAYERS // 2, LAYERS)
    deeper = first * rng.random()
    rates = [1.0, 1.0] + [first] * (second - 3) + [deeper] * (LAYERS - second + 1)
    return Schedule.from_rates(rates)
