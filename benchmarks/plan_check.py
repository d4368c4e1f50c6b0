"""`vtr-ray plan`'s estimate of a search time against a real search's ledger.

    vtr-ray gsearch --no-compare --out runs/check      # on the machine that is asked about, otherwise idle
    python benchmarks/plan_check.py runs/check         # there too: it measures the machine's speed

Writes benchmarks/plan_check.json (or --json FILE). Exit status 1 where estimate and ledger differ by more
than 30 %. The estimate knows what a user knows before: the search's settings, the samples' number and
lengths, the machine. What the search then found (where its trials' mean memory cost differs from the assumed
one) is printed to tell the estimate's two errors apart.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from pathlib import Path

from vtr_ray import embedded
from vtr_ray.efficiency import read_config
from vtr_ray.efficiency.estimate import (
    MEMORY_COST,
    OVERHEAD,
    Load,
    calibrate,
    estimate_search,
    expected_trials,
)
from vtr_ray.tuning.directory import read_ledger, read_search, write_json

BAR = 0.3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a finished run's directory")
    parser.add_argument("--samples", type=int, default=embedded.SEARCH_SAMPLES)
    parser.add_argument("--text-tokens", type=int, default=embedded.TEXT_TOKENS, help="of a prompt, median")
    parser.add_argument(
        "--answer-tokens", type=int, default=embedded.ANSWER_TOKENS, help="of a target, median"
    )
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--vision-tokens", type=int, default=144)
    parser.add_argument("--devices", type=int, default=1, help="actors that shared the trials")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of an actor")
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    entries = read_ledger(options.run)
    settings = read_search(options.run)["parameters"]
    config = read_config(embedded.checkpoint(settings["model"]))
    load = Load(
        options.samples, options.vision_tokens, options.text_tokens, options.answer_tokens, options.batch
    )
    trials = expected_trials(
        entries[0].schedule.num_layers,
        options.vision_tokens,
        settings["stride"],
        settings["initial"],
        settings["iterations"],
    )
    speed = calibrate(config, load, trials)
    estimate = estimate_search(config, trials, load, speed, options.devices)
    real = estimate_search(config, [entry.schedule for entry in entries], load, speed, options.devices)
    # The first trial began its own seconds before it ended; it encodes the images, as the estimate does.
    seconds = entries[-1].time - entries[0].time + entries[0].seconds
    off = estimate.seconds / seconds - 1
    print(f"ledger: {len(entries)} trials in {seconds:.1f} s, {seconds / len(entries):.2f} s each")
    print(f"estimate: {estimate.trials} trials in {estimate.seconds:.1f} s ({off:+.1%}; bar {BAR:.0%})")
    print(f"  speed: {speed.flops / 1e9:.1f} GFLOP/s ({speed.source})")
    achieved = sum((real.encoder_flops, real.trial_flops * len(entries))) / (
        seconds - OVERHEAD * len(entries)
    )
    print(f"  the search achieved {achieved / 1e9:.1f} GFLOP/s between overheads of {OVERHEAD} s")
    mean = statistics.fmean(entry.schedule.memory_cost for entry in entries)
    assumed = statistics.fmean(trial.memory_cost for trial in trials)
    print(f"  mean memory cost of the trials: {mean:.3f}, assumed {assumed:.3f} (to end at {MEMORY_COST})")
    known = real.seconds / seconds - 1
    print(f"  with the real trials the estimate would be {real.seconds:.1f} s ({known:+.1%})")
    found = {
        "trials": len(entries),
        "ledger_s": seconds,
        "estimate_s": estimate.seconds,
        "off": off,
        "with_the_real_trials_s": real.seconds,
        "gflops_per_s": speed.flops / 1e9,
        "mean_memory_cost": mean,
        "assumed_memory_cost": assumed,
    }
    write_json(options.json.absolute(), found)
    sys.exit(abs(off) > BAR)


if __name__ == "__main__":
    main()
