"""The embedded model's recipe: eyes first, then the whole model; resumable, on a GPU or on CPU processes.

Stage `eyes` trains encoder and projector so that each patch points at the word embeddings of what it shows.
Stage `mind` trains everything on several question-answer turns per image, with the patch targets as a side
task. Stage `habit` goes on with that and asks one question per image under a random schedule as well, so that
the instruction's attention learns to point at what matters. Stage `reduced`, which no shipped model went
through, asks every question under one schedule (the paper's section 4.4, Table 5).

A variant with another projector goes through the same stages from the shipped model's weights: only what its
projector has of its own is new. The InternVL's decoder grows from the shipped model's, its eyes are new.
"""

from __future__ import annotations

import json
import math
import os
import random
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing.spawn import spawn
from torch.nn import functional as F

from vtr_ray.embedded.checkpoints import begin, sees
from vtr_ray.embedded.lessons import HABIT_WEIGHTS, WEIGHTS, Batch, Teacher
from vtr_ray.embedded.losses import Losses, random_schedule
from vtr_ray.embedded.recipe import STAGES, Recipe, build, views
from vtr_ray.schedule import Schedule
from vtr_ray.strategies import none

_SAVE_SECONDS = 240


def half_precision(device: torch.device) -> torch.autocast:
    """bfloat16 where the device has it. CPUs below AVX-512 emulate it, 17 times slower than float32."""
    slow = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2")
    return torch.autocast(device.type, torch.bfloat16, enabled=not slow)


class Trainer:
    """One process's share of the training; every process holds the same model."""

    def __init__(
        self, recipe: Recipe, folder: Path, held_out: frozenset[str], *, device: str, compiled: bool
    ):
        self.recipe, self.folder = recipe, folder
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        self.device = torch.device(device)
        self.processor, self.model = build(recipe)
        begin(self.model, recipe)
        self.model.to(self.device)
        # The flash kernel's backward is the slowest part on CPU; plain attention compiles to less.
        attention = "eager" if self.device.type == "cpu" else "sdpa"
        self.model.set_attn_implementation(attention)
        self.losses = Losses(self.model, compiled)
        self.teacher = Teacher(
            self.processor.tokenizer,
            held_out,
            views=views(recipe, self.processor, self.model),
            clips=recipe.clips,
        )
        self.log = folder / "log.jsonl"

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
        size = getattr(recipe, "mind_batch" if stage == "habit" else f"{stage}_batch") // self.world
        layers = self.model.config.get_text_config().num_hidden_layers
        schedule = Schedule.from_rates(recipe.rates) if recipe.rates else none(layers)
        warmup = max(1, min(recipe.warmup, steps // 10))
        parameters = dict(self._trained(stage))
        optimizers = self._optimizers(parameters, getattr(recipe, f"{stage}_lr"))
        start = self._restore(stage, optimizers)
        if start is None:
            return True
        began, saved, recent = time.time(), time.time(), []
        for step in range(start, steps):
            scale = min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / steps))
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["base_lr"] * max(scale, 0.01)
            batch = self._to_device(
                self.teacher.batch(
                    size,
                    seed=recipe.seed + STAGES.index(stage),
                    step=step,
                    rank=self.rank,
                    weights=HABIT_WEIGHTS if stage == "habit" else WEIGHTS,
                )
            )
            with half_precision(self.device):
                vision = self.losses.see(batch)
                loss, right = self.losses.patch_loss(vision, batch.patch_words)
                figures = {"patch_loss": loss.item(), "patches": right.item()}
                if stage != "eyes":
                    loss = recipe.eyes_weight * loss
                if stage in ("mind", "habit"):
                    logits, targets = self.losses.answer_logits(batch, vision)
                    answers = F.cross_entropy(logits, targets)
                    figures |= {"loss": answers.item()}
                    figures["tokens"] = (logits.argmax(-1) == targets).float().mean().item()
                    loss = loss + answers
                if stage in ("habit", "reduced"):
                    rng = random.Random(f"{step}/{self.rank}")
                    asked = (random_schedule(rng, layers), 1)
                    if stage == "reduced":
                        asked = (schedule, recipe.reduced_turns)
                    reduced = self.losses.reduced_loss(batch, vision, rng, *asked)
                    figures |= {"reduced": reduced.item()}
                    loss = loss + reduced
            loss.backward()  # type: ignore[no-untyped-call]
            self._average_gradients(parameters.values())
            figures["norm"] = nn.utils.clip_grad_norm_(parameters.values(), recipe.clip).item()
            for optimizer in optimizers:
                optimizer.step()
            self.model.zero_grad(set_to_none=True)  # also of what this stage does not train
            recent.append(figures)
            done = step + 1
            if done % 25 == 0:
                mean = {key: round(sum(f[key] for f in recent) / len(recent), 4) for key in figures}
                pace = round((time.time() - began) / (done - start), 3)
                self._write({"stage": stage, "step": done, **mean, "s_per_step": pace})
                recent = []
            if (done % 250 == 0 or done == steps) and stage != "eyes":
                self._write({"stage": stage, "step": done, "exact": self.validate()})
            if done % 250 == 0 or done == steps or time.time() - saved > _SAVE_SECONDS:
                self._save(stage, done, optimizers)
                saved = time.time()
            if self._time_is_up(stop):
                self._save(stage, done, optimizers)
                return False
        self._save(stage, steps, optimizers)
        return True

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Exact match of whole answers by task, on pictures of a stream that is never trained on."""
        right: dict[str, list[float]] = {}
        for part in range(self.recipe.checked // 16):
            batch = self._to_device(self.teacher.batch(16, seed=-1, step=part, rank=self.rank))
            with half_precision(self.device):
                logits, targets = self.losses.answer_logits(batch, self.losses.see(batch))
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
            # A grown decoder needs its words as they are.
            eyes = sees(name) and not (self.recipe.architecture == "internvl" and "embed_tokens" in name)
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
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        with socket.socket() as free:  # two trainings on one machine must not meet
            free.bind((os.environ["MASTER_ADDR"], 0))
            os.environ.setdefault("MASTER_PORT", str(free.getsockname()[1]))
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
        dist.init_process_group("gloo", rank=rank, world_size=processes)
    trainer = Trainer(recipe, folder, held_out, device=device, compiled=compiled)
    trainer.run(stop)
    if processes > 1:
        dist.barrier()
        dist.destroy_process_group()
