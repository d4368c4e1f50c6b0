"""The embedded model's recipe: eyes first, then the whole model; resumable, on a GPU or on CPU processes.

Stage `eyes` trains encoder and projector so that each patch points at the word embeddings of what it shows.
Stage `mind` trains everything on several question-answer turns per image, with the patch targets as a side
task. Stage `habit` goes on with that and asks one question per image under a random schedule as well, so that
the instruction's attention learns to point at what matters.
"""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing.spawn import spawn
from torch.nn import functional as F

from vtr_ray.embedded.architecture import LAYERS, build_model, build_processor
from vtr_ray.embedded.lessons import Batch, Teacher
from vtr_ray.reduction import reduce_vision_tokens
from vtr_ray.schedule import Schedule

STAGES = ("eyes", "mind", "habit")


@dataclass(frozen=True)
class Recipe:
    """Every number of the recipe.

    Batches are global: they are split over the processes; stage `habit` takes `mind_batch`. eyes_lr, mind_lr,
    habit_lr: of the matrices (Muon); all else (AdamW) learns at `other_lr` times that. eyes_weight: of the
    patch targets after stage `eyes`.
    """

    seed: int = 0
    eyes_steps: int = 1600
    eyes_batch: int = 64
    eyes_lr: float = 5e-3
    mind_steps: int = 2500
    mind_batch: int = 32
    mind_lr: float = 2e-3
    habit_steps: int = 300
    habit_lr: float = 6e-4
    other_lr: float = 0.6
    weight_decay: float = 0.02
    warmup: int = 100
    eyes_weight: float = 1.0
    clip: float = 1.0


class Trainer:
    """One process's share of the training; every process holds the same model."""

    def __init__(
        self, recipe: Recipe, folder: Path, held_out: frozenset[str], *, device: str, compiled: bool
    ):
        self.recipe, self.folder = recipe, folder
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        self.device = torch.device(device)
        self.processor = build_processor()
        self.model = build_model(self.processor.tokenizer, recipe.seed).to(self.device)
        # The flash kernel's backward is the slowest part on CPU; plain attention compiles to less.
        attention = "eager" if self.device.type == "cpu" else "sdpa"
        self.model.set_attn_implementation(attention)
        self.encoder: Any = self.model.model.vision_tower
        self.decoder: Any = self.model.model.language_model
        if compiled:
            self.encoder, self.decoder = torch.compile(self.encoder), torch.compile(self.decoder)
        self.teacher = Teacher(self.processor.tokenizer, held_out)
        self.log = folder / "log.jsonl"

    # ---- losses

    def look(self, pixels: torch.Tensor) -> torch.Tensor:
        """[batch, 3, 96, 96] -> projected vision tokens [batch, 144, width]."""
        patches = self.encoder(pixel_values=pixels).last_hidden_state[:, 1:]
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
            attention_mask=batch.mask(torch.float32).to(self.device),
            position_ids=batch.positions,
            use_cache=False,
        ).last_hidden_state
        asked = batch.targets >= 0
        return self.model.lm_head(hidden[asked]).float(), batch.targets[asked]

    def reduced_loss(self, batch: Batch, vision: torch.Tensor, rng: random.Random) -> torch.Tensor:
        """Loss of one turn of each picture under a random schedule of one or two cuts."""
        count, device = vision.shape[1], vision.device
        asked = [self._turn(batch, row, rng) for row in range(len(batch.tasks))]
        longest = 1 + count + max(len(places) for places in asked)
        shape = (len(asked), longest)
        ids = torch.full(shape, self.processor.tokenizer.pad_token_id, device=device)
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

    @staticmethod
    def _turn(batch: Batch, row: int, rng: random.Random) -> torch.Tensor:
        turn = rng.randint(1, int(batch.turns[row].max()))
        return (batch.turns[row] == turn).nonzero().flatten()

    # ---- steps

    def run(self, stop: float = math.inf) -> None:
        """Trains to the end, or until the clock passes `stop` (seconds since 1970); resumes by itself."""
        for stage in STAGES:
            if not self._stage(stage, stop):
                return
        if self.rank == 0:
            torch.save(self.model.state_dict(), self.folder / "trained.tmp")
            (self.folder / "trained.tmp").rename(self.folder / "trained.pt")

    def _stage(self, stage: str, stop: float) -> bool:
        recipe = self.recipe
        steps: int = getattr(recipe, f"{stage}_steps")
        size = (recipe.eyes_batch if stage == "eyes" else recipe.mind_batch) // self.world
        warmup = max(1, min(recipe.warmup, steps // 10))
        parameters = dict(self._trained(stage))
        optimizers = self._optimizers(parameters, getattr(recipe, f"{stage}_lr"))
        start = self._restore(stage, optimizers)
        if start is None:
            return True
        began, recent = time.time(), []
        for step in range(start, steps):
            scale = min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / steps))
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["base_lr"] * max(scale, 0.01)
            batch = self._to_device(
                self.teacher.batch(size, seed=recipe.seed + STAGES.index(stage), step=step, rank=self.rank)
            )
            with torch.autocast(self.device.type, torch.bfloat16):
                vision = self.look(batch.pixels)
                loss, right = self.patch_loss(vision, batch.patch_words)
                figures = {"patch_loss": loss.item(), "patches": right.item()}
                if stage != "eyes":
                    logits, targets = self.answer_logits(batch, vision)
                    answers = F.cross_entropy(logits, targets)
                    figures |= {"loss": answers.item()}
                    figures["tokens"] = (logits.argmax(-1) == targets).float().mean().item()
                    loss = answers + recipe.eyes_weight * loss
                if stage == "habit":
                    reduced = self.reduced_loss(batch, vision, random.Random(f"{step}/{self.rank}"))
                    figures |= {"reduced": reduced.item()}
                    loss = loss + reduced
            loss.backward()  # type: ignore[no-untyped-call]
            self._average_gradients(parameters.values())
            figures["norm"] = nn.utils.clip_grad_norm_(parameters.values(), recipe.clip).item()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            recent.append(figures)
            done = step + 1
            if done % 25 == 0:
                mean = {key: round(sum(f[key] for f in recent) / len(recent), 4) for key in figures}
                pace = round((time.time() - began) / (done - start), 3)
                self._write({"stage": stage, "step": done, **mean, "s_per_step": pace})
                recent = []
            if done % 250 == 0 or done == steps:
                if stage != "eyes":
                    self._write({"stage": stage, "step": done, "exact": self.validate()})
                self._save(stage, done, optimizers)
            if self._time_is_up(stop):
                self._save(stage, done, optimizers)
                return False
        self._save(stage, steps, optimizers)
        return True

    @torch.no_grad()
    def validate(self, size: int = 96) -> dict[str, float]:
        """Exact match of whole answers by task, on pictures of a stream that is never trained on."""
        right: dict[str, list[float]] = {}
        for part in range(size // 16):
            batch = self._to_device(self.teacher.batch(16, seed=-1, step=part, rank=self.rank))
            with torch.autocast(self.device.type, torch.bfloat16):
                logits, targets = self.answer_logits(batch, self.look(batch.pixels))
            asked = batch.targets >= 0
            good = torch.zeros_like(batch.targets, dtype=torch.bool)
            good[asked] = logits.argmax(-1) == targets
            for row, task in enumerate(batch.tasks):
                for turn in range(1, int(batch.turns[row].max()) + 1):
                    here = asked[row] & (batch.turns[row] == turn)
                    right.setdefault(task, []).append(good[row][here].all().item())
        return {task: round(sum(v) / len(v), 3) for task, v in sorted(right.items())}

    def _trained(self, stage: str) -> Iterator[tuple[str, nn.Parameter]]:
        for name, parameter in self.model.named_parameters():
            eyes = "vision_tower" in name or "projector" in name or "embed_tokens" in name
            if stage != "eyes" or eyes:
                yield name, parameter

    def _optimizers(self, parameters: dict[str, nn.Parameter], rate: float) -> list[torch.optim.Optimizer]:
        recipe = self.recipe
        matrices = [p for n, p in parameters.items() if p.ndim == 2 and "embed" not in n]
        others = [p for n, p in parameters.items() if p.ndim != 2 or "embed" in n]
        muon = torch.optim.Muon(
            matrices, lr=rate, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        adam = torch.optim.AdamW(others, lr=rate * recipe.other_lr, betas=(0.9, 0.98), weight_decay=0.0)
        for optimizer in (muon, adam):
            for group in optimizer.param_groups:
                group["base_lr"] = group["lr"]
        return [muon, adam]

    def _average_gradients(self, parameters: Any) -> None:
        if self.world == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        flat /= self.world
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def _to_device(self, batch: Batch) -> Batch:
        tensors = {k: v.to(self.device) for k, v in vars(batch).items() if isinstance(v, torch.Tensor)}
        return replace(batch, **tensors)  # type: ignore[arg-type]

    # ---- files

    def _save(self, stage: str, step: int, optimizers: list[torch.optim.Optimizer]) -> None:
        if self.rank:
            return
        state = {
            "recipe": asdict(self.recipe),
            "stage": stage,
            "step": step,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        }
        torch.save(state, self.folder / "checkpoint.tmp")
        (self.folder / "checkpoint.tmp").rename(self.folder / "checkpoint.pt")

    def _restore(self, stage: str, optimizers: list[torch.optim.Optimizer]) -> int | None:
        """The step to go on from; None: this stage is over."""
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return 0
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        saved_stage = STAGES.index(state["stage"])
        if state["stage"] == stage:
            for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            return int(state["step"])
        return None if saved_stage > STAGES.index(stage) else 0

    def _write(self, entry: dict[str, Any]) -> None:
        if self.rank == 0:
            with self.log.open("a") as file:
                file.write(json.dumps(entry) + "\n")

    def _time_is_up(self, stop: float) -> bool:
        late = torch.tensor(float(time.time() > stop))
        if self.world > 1:
            dist.all_reduce(late)
        return bool(late.item() > 0)


def _random_schedule(rng: random.Random) -> Schedule:
    """A cut before layer 3 and a second one somewhere deeper."""
    first, second = rng.uniform(0.1, 1.0), rng.randint(4, LAYERS)
    deeper = first * rng.random()
    rates = [1.0, 1.0] + [first] * (second - 3) + [deeper] * (LAYERS - second + 1)
    return Schedule.from_rates(rates)


def train(
    recipe: Recipe,
    folder: Path,
    held_out: frozenset[str],
    *,
    processes: int = 1,
    compiled: bool = True,
    device: str = "cpu",
    stop: float = math.inf,
) -> None:
    """Trains into `folder` (checkpoint.pt, log.jsonl, trained.pt), resuming from what is there.

    On CPU one single-threaded process per core beats threads: they meet once a step, not once an operator.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arguments = (recipe, folder, held_out, processes, compiled, device, stop)
    if processes == 1:
        _work(0, *arguments)
    else:
        spawn(_work, args=arguments, nprocs=processes)  # type: ignore[no-untyped-call]


def _work(
    rank: int,
    recipe: Recipe,
    folder: Path,
    held_out: frozenset[str],
    processes: int,
    compiled: bool,
    device: str,
    stop: float,
) -> None:
    if processes > 1:
        torch.set_num_threads(1)
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", "29541")
        dist.init_process_group("gloo", rank=rank, world_size=processes)
    trainer = Trainer(recipe, folder, held_out, device=device, compiled=compiled)
    trainer.run(stop)
    if processes > 1:
        dist.barrier()
        dist.destroy_process_group()
