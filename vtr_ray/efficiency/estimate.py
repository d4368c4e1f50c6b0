"""How long a search will take, from stated assumptions: before anything is paid for."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vtr_ray.efficiency.bench import sampled_p_sigmoid
from vtr_ray.efficiency.decoder import decoder_shape
from vtr_ray.efficiency.flops import Flops, count_flops
from vtr_ray.efficiency.latency import synchronise
from vtr_ray.efficiency.workloads import Picture
from vtr_ray.errors import InputError
from vtr_ray.prefixes import GENERATIONS, first_layers
from vtr_ray.schedule import Schedule

# Dense half-precision peak, TFLOP/s, of the makers' data sheets.
PEAKS = {
    "a10": 125.0,
    "a100": 312.0,
    "b200": 2250.0,
    "h100": 989.0,
    "h200": 989.0,
    "l4": 121.0,
    "l40s": 362.0,
    "rtx3090": 71.0,
    "rtx4090": 165.0,
    "t4": 65.0,
    "v100": 125.0,
}
UTILISATION = 0.4  # of the peak, in batched prefills of several hundred tokens
OVERHEAD = 0.1  # seconds a trial: the proposal, Ray Tune, the pool, the ledger
MEMORY_COST = 0.6  # that the search ends with: on the cautious side, the paper's end between 0.34 and 0.53


@dataclass(frozen=True)
class Load:
    """What one trial evaluates.

    samples, batch: as the evaluator takes them. vision_tokens, text_tokens, images: of one sample's prompt.
    answer_tokens: target tokens of the one forward pass that decides a sample.
    """

    samples: int
    vision_tokens: int
    text_tokens: int
    answer_tokens: int = 5
    batch: int = 16
    images: Sequence[Picture] | None = None


@dataclass(frozen=True)
class Speed:
    """FLOP/s that one device achieves, where the figure is from, and what to call the device."""

    flops: float
    source: str
    device: str = "GPU"


@dataclass(frozen=True)
class Estimate:
    """A search's expected cost.

    trials: at most. encoder_flops: once. trial_flops: one trial's on average, as the prefix cache lets it
    run. whole_flops: the same from layer 1 on. cache_bytes: what the cache holds of all samples at once, at
    most. seconds_encoding, seconds_trials, seconds_overhead: of the wall clock; `seconds` their sum. devices:
    that share each trial.
    """

    trials: int
    encoder_flops: float
    trial_flops: float
    whole_flops: float
    cache_bytes: float
    seconds_encoding: float
    seconds_trials: float
    seconds_overhead: float
    devices: int

    @property
    def seconds(self) -> float:
        """Wall clock of the search, without loading the model."""
        return self.seconds_encoding + self.seconds_trials + self.seconds_overhead

    @property
    def cache_ratio(self) -> float:
        """FLOPs of the trials with the prefix cache to those without."""
        return self.trial_flops / self.whole_flops

    @property
    def device_hours(self) -> float:
        """Hours of all devices together."""
        return self.seconds * self.devices / 3600


def expected_trials(
    num_layers: int,
    vision_tokens: int,
    stride: int = 3,
    initial: int = 10,
    iterations: int = 5,
    memory_cost: float = MEMORY_COST,
) -> list[Schedule]:
    """The schedules of a G-Search that ends at `memory_cost`, if its outcome is a P-Sigmoid curve (k = 0.3).

    At each searched layer the initial points are even on [0, the rate before], the further steps are at the
    rate it ends with.

    Raises:
        InputError: a memory cost that the curve cannot reach.
    """
    found = sampled_p_sigmoid(num_layers, memory_cost, stride=stride).rates
    trials = []
    for layer in range(2, num_layers, stride):
        top = found[layer - stride] if layer > 2 else 1.0
        known = layer > 2  # the upper end's E, from the layer before
        points = [top * number / (initial - 1) for number in range(initial - known)]
        points += [found[layer]] * iterations
        available = round(top * vision_tokens) + 1 - known
        for point in points[:available]:
            trials.append(Schedule.from_rates([*found[:layer], *[min(point, top)] * (num_layers - layer)]))
    return trials


def estimate_search(
    config: Any,
    trials: Sequence[Schedule],
    load: Load,
    speed: Speed,
    devices: int = 1,
    overhead: float = OVERHEAD,
) -> Estimate:
    """Cost of evaluating the trials: images encoded once, then one forward pass per sample and trial.

    Executed FLOPs over the achieved FLOP/s of all devices, whole batches dealt out, plus `overhead` seconds a
    trial. A trial runs from the layer whose entering state the evaluators keep.

    Raises:
        InputError: numbers below 1, and what `count_flops` refuses.
    """
    for name, value in (("samples", load.samples), ("batch", load.batch), ("GPUs", devices)):
        if value < 1:
            raise InputError(f"The number of {name} is {value}; use at least 1.")
    counts, cached = trial_flops(config, trials, load)
    encoder = load.samples * (counts[0].encoder + counts[0].projector)
    each = [load.samples * flops for flops in cached]
    batches = math.ceil(load.samples / load.batch)
    share = math.ceil(batches / devices) / batches  # of the device with the most batches
    return Estimate(
        trials=len(trials),
        encoder_flops=encoder,
        trial_flops=statistics.fmean(each),
        whole_flops=load.samples * statistics.fmean(flops.decoder for flops in counts),
        cache_bytes=_cache_bytes(config, load),
        seconds_encoding=encoder / speed.flops * share,
        seconds_trials=math.fsum(each) / speed.flops * share,
        seconds_overhead=overhead * len(trials),
        devices=devices,
    )


def trial_flops(config: Any, trials: Sequence[Schedule], load: Load) -> tuple[list[Flops], list[float]]:
    """Executed FLOPs of a sample in each trial: by part from layer 1 on, and those that the cache leaves."""
    whole, cached = [], []
    for schedule, first in first_layers(trials):
        flops = count_flops(
            config,
            schedule,
            load.vision_tokens,
            load.text_tokens + load.answer_tokens,
            "executed",
            instruction_tokens=load.text_tokens,
            images=load.images,
            logits_to_keep=load.answer_tokens + 1,
        )
        whole.append(flops)
        ending = flops.per_layer[-1] if first == 1 else _last_rows(config, flops, schedule, load)
        cached.append(math.fsum(flops.per_layer[first - 1 : -1]) + ending + flops.head)
    return whole, cached


def _last_rows(config: Any, flops: Flops, schedule: Schedule, load: Load) -> float:
    """The last layer where only the answer's rows go through it: keys and values of all tokens, the rest of
    those rows.
    """
    length = schedule.counts(load.vision_tokens)[-1] + load.text_tokens + load.answer_tokens
    shape = decoder_shape(config)
    part = min(load.answer_tokens + 1, length) / length
    products = 4.0 * shape.width * shape.keys * length * (1 + shape.fused * (1 + shape.attended / shape.keys))
    last = flops.layers[-1]
    return min(last.total, (last.linear + last.attention) * part + products * (1 - part))


def _cache_bytes(config: Any, load: Load) -> float:
    """Hidden states of all samples, 2 bytes a number, all tokens in them, of two layers."""
    length = load.vision_tokens + load.text_tokens + load.answer_tokens
    return 2.0 * GENERATIONS * decoder_shape(config).width * length * load.samples


def speed_of(name: str) -> Speed:
    """A device of the table at the assumed utilisation. Raises InputError for one that is not there."""
    key = name.lower().replace(" ", "").replace("-", "")
    if key not in PEAKS:
        raise InputError(
            f"No peak is known of {name!r}; give --tflops-per-gpu, or one of: {', '.join(PEAKS)}."
        )
    return Speed(PEAKS[key] * 1e12 * UTILISATION, f"{PEAKS[key]:g} TFLOP/s peak of {key} x {UTILISATION}")


def calibrate(config: Any, load: Load, trials: Sequence[Schedule], repeats: int = 5) -> Speed:
    """FLOP/s of this device in prefills of the language model's own layers, random weights.

    A few layers (one, of a large model) at the trials' mean length, in batches; float32 on a CPU, else
    bfloat16. Takes seconds.
    """
    import torch
    from transformers import AutoModel

    cuda = torch.cuda.is_available()
    device, dtype = torch.device("cuda" if cuda else "cpu"), torch.bfloat16 if cuda else torch.float32
    limit = 2e13 if cuda else 1e11  # FLOPs of one pass
    shape = decoder_shape(config)
    rates = [rate for trial in trials for rate in trial.rates]
    length = round(statistics.fmean(rates) * load.vision_tokens) + load.text_tokens + load.answer_tokens
    per_token = 2 * shape.width * (2 * shape.attended + 2 * shape.keys + 3 * shape.feed)
    one = length * per_token + 4 * length**2 * shape.attended  # a sample through a layer
    layers = max(1, min(shape.layers, 4, int(limit // one)))
    batch = max(1, min(load.batch, load.samples, int(limit // (layers * one))))
    text = copy.deepcopy(config.get_text_config(decoder=True))
    text.num_hidden_layers, text.vocab_size, text.pad_token_id = layers, 64, None
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]
    with device:
        model = AutoModel.from_config(text, dtype=dtype).eval()
        states = torch.randn(batch, length, shape.width, dtype=dtype)
    taken = []
    with torch.inference_mode():
        for _ in range(repeats + 2):
            synchronise(device)
            start = time.perf_counter()
            model(inputs_embeds=states, use_cache=False)
            synchronise(device)
            taken.append(time.perf_counter() - start)
    name = torch.cuda.get_device_name() if cuda else f"this CPU, {torch.get_num_threads()} threads"
    achieved = layers * batch * one / statistics.median(taken[2:])
    return Speed(
        achieved,
        f"measured on {name}: {layers} layers, batch {batch}, {length} tokens, "
        f"{str(dtype).removeprefix('torch.')}",
        "GPU" if cuda else "CPU",
    )
