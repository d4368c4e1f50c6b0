"""The command line: options in, one line and exit status 2 for every user's mistake."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from vtr_ray.errors import InputError

# Imported inside the commands: Ray, torch and lmms-eval take seconds that --help should not.

app = typer.Typer(
    help="Searches how many vision tokens each layer of a multimodal LLM must keep.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Model = Annotated[
    str, Option(help="checkpoint directory, hub id, or embedded (embedded:deco, ...): what ships")
]
Dtype = Annotated[str, Option(help="auto, float32, bfloat16 or float16")]
Attn = Annotated[str, Option(help="attention implementation, as transformers names it")]
Batch = Annotated[int, Option(min=1, help="samples of one forward pass")]
MaxPixels = Annotated[int | None, Option(min=1, help="shrink larger images to this many pixels")]
Actors = Annotated[int, Option(min=1, help="evaluator actors that share each trial")]
Cpus = Annotated[float | None, Option("--cpus-per-actor", help="default: an even share")]
Gpus = Annotated[
    float | None, Option("--gpus-per-actor", help="default: an even share; 0.5 packs two on one")
]
Images = Annotated[Path | None, Option(help="folder of the images; default: the folder of the JSON")]
VisionTokens = Annotated[
    int | None, Option(min=1, help="vision tokens of a sample; default: one image's, five tiles' where tiled")
]
TextTokens = Annotated[int, Option(min=1, help="text tokens of a sample's prompt")]
ImageSize = Annotated[
    list[str] | None,
    Option("--image", help="HEIGHTxWIDTH of a sample's image, for families that ask; repeat"),
]


@app.command()
def gsearch(
    model: Model = "embedded",
    samples: Annotated[Path | None, Option(help="search samples, LLaVA-format JSON")] = None,
    images: Images = None,
    test: Annotated[Path | None, Option(help="held-out samples for the table, LLaVA-format JSON")] = None,
    test_images: Images = None,
    dtype: Dtype = "auto",
    attn: Attn = "sdpa",
    batch: Batch = 16,
    max_pixels: MaxPixels = None,
    stride: Annotated[int, Option(help="layers from one searched layer to the next")] = 3,
    initial: Annotated[int, Option(help="uniformly spread points per layer")] = 10,
    iterations: Annotated[int, Option(help="Bayesian optimisation steps per layer")] = 5,
    weight: Annotated[float, Option(help="lambda: what a keeping rate of 1 costs in units of E")] = 0.01,
    seed: Annotated[int, Option(help="of the search and of the random control")] = 0,
    parallel: Annotated[int, Option(help="trials of one round, evaluated at the same time")] = 1,
    actors: Actors = 1,
    cpus: Cpus = None,
    gpus: Gpus = None,
    out: Annotated[Path | None, Option(help="run directory; default: a new one under runs/")] = None,
    resume: Annotated[bool, Option("--resume", help="go on with the run in --out (default: newest)")] = False,
    compare: Annotated[bool, Option(help="end with the table of strategies")] = True,
    ui_port: Annotated[int | None, Option(help="port in the line that opens the MLflow UI")] = None,
) -> None:
    """Finds the fewest vision tokens per layer without losing accuracy (Scenario I).

    Without options: on the embedded model and its own questions, on this machine.
    """
    from vtr_ray.commands import gsearch as command
    from vtr_ray.commands.inputs import ModelOptions, PoolOptions

    command.gsearch(
        ModelOptions(model, dtype, attn, batch, max_pixels),
        command.DataOptions(samples, images, test, test_images),
        command.GSearchOptions(stride, initial, iterations, weight, seed, parallel),
        PoolOptions(actors, cpus, gpus),
        command.RunOptions(out, resume, compare, ui_port),
        _console(),
    )


@app.command()
def evaluate(
    schedules: Annotated[list[Path] | None, Argument(help="schedule files, as gsearch writes them")] = None,
    strategy: Annotated[
        list[str] | None,
        Option(
            help="none, fastv, vtw, pyramid_drop, p_sigmoid with their options (fastv:drop=0.875; "
            "pyramid_drop:layers=8/16/24,keep=0.5), or random: the control of all others; repeat for more"
        ),
    ] = None,
    memory_cost: Annotated[
        float | None, Option(help="solve every --strategy for this mean keeping rate over all layers")
    ] = None,
    find_k: Annotated[
        bool,
        Option("--find-k", help="with --strategy vtw: search its layer on 20 of the samples, as VTW does"),
    ] = False,
    seed: Annotated[int, Option(min=0, help="of the random control")] = 0,
    model: Model = "embedded",
    samples: Annotated[
        Path | None, Option(help="LLaVA-format JSON; default: the embedded test split")
    ] = None,
    images: Images = None,
    dtype: Dtype = "auto",
    attn: Attn = "sdpa",
    batch: Batch = 16,
    max_pixels: MaxPixels = None,
    actors: Actors = 1,
    cpus: Cpus = None,
    gpus: Gpus = None,
) -> None:
    """Compares schedules and published strategies with no reduction on the same samples."""
    from vtr_ray.commands.evaluate import StrategyOptions
    from vtr_ray.commands.evaluate import evaluate as command
    from vtr_ray.commands.inputs import ModelOptions, PoolOptions

    options = ModelOptions(model, dtype, attn, batch, max_pixels)
    named = StrategyOptions(tuple(strategy or ()), memory_cost, find_k, seed)
    command(schedules or [], options, samples, images, PoolOptions(actors, cpus, gpus), _console(), named)


@app.command()
def samples(
    source: Annotated[Path, Argument(help="LLaVA-format JSON, e.g. llava_v1_5_mix665k.json")],
    per_source: Annotated[int, Option(help="samples drawn from each source")] = 100,
    out: Annotated[Path | None, Option(help="default: NAME_split.json beside the source")] = None,
    max_words: Annotated[int, Option(help="longest answer, in words")] = 5,
    seed: Annotated[int, Option(help="of the draw")] = 0,
) -> None:
    """Makes a search split of LLaVA-format data: first turns, short answers, stratified by source."""
    from vtr_ray.evaluation.llava import make_split

    split = make_split(source, out, per_source=per_source, seed=seed, max_words=max_words)
    console = _console()
    for name, count in split.chosen.items():
        console.print(f"{name}: {count}", highlight=False)
    console.print(f"Wrote {split.path}", soft_wrap=True, highlight=False)


@app.command()
def convert(
    source: Annotated[Path, Argument(metavar="DIR", help="an original-layout InternVL2 checkpoint")],
    out: Annotated[Path | None, Option(help="default: DIR-native")] = None,
) -> None:
    """Writes an original InternVL2 checkpoint in the native layout; no code of the checkpoint runs."""
    from vtr_ray.commands.convert import convert as command

    command(source, out, _console())


@app.command()
def show(
    schedule: Annotated[Path, Argument(help="a schedule file")],
    tokens: Annotated[int | None, Option(help="vision tokens N: show counts too")] = None,
    model: Annotated[
        str | None, Option(help="show FLOPs and KV cache on this model, as plan takes it")
    ] = None,
    text_tokens: TextTokens = 75,
    figure: Annotated[
        Path | None, Option(help="draw the keeping-rate curve into this png, svg or pdf")
    ] = None,
) -> None:
    """Shows a schedule: ranking, memory cost, keeping rate by layer."""
    from rich.table import Table

    from vtr_ray.schedule import Schedule

    loaded = Schedule.load(schedule)
    console = _console()
    console.print(
        f"{loaded.num_layers} layers, memory cost {loaded.memory_cost:.3f}, {loaded.ranking} ranking"
    )
    table = Table(box=None)
    counts = loaded.counts(tokens) if tokens is not None else []
    for column in ("layer", "keeping rate", *(["tokens"] if counts else [])):
        table.add_column(column, justify="right")
    for layer, rate in enumerate(loaded.rates, start=1):
        table.add_row(str(layer), f"{rate:.4f}", *([str(counts[layer - 1])] if counts else []))
    console.print(table)
    if model is not None:
        from vtr_ray.commands.costs import cost_lines

        for line in cost_lines(loaded, model, tokens, text_tokens):
            console.print(line, highlight=False, soft_wrap=True)
    if figure is not None:
        from vtr_ray.report.curve import draw_curve

        console.print(f"Wrote {draw_curve({schedule.stem: loaded}, figure)}", soft_wrap=True)


@app.command()
def plan(
    schedules: Annotated[list[Path] | None, Argument(help="schedule files to cost")] = None,
    model: Annotated[
        str, Option(help="checkpoint directory, config.json, hub id, or a shape as llava-1.5-7b; embedded")
    ] = "embedded",
    vision_tokens: VisionTokens = None,
    text_tokens: TextTokens = 75,
    image: ImageSize = None,
    stride: Annotated[int, Option(help="layers from one searched layer to the next")] = 3,
    initial: Annotated[int, Option(help="uniformly spread points per layer")] = 10,
    iterations: Annotated[int, Option(help="Bayesian optimisation steps per layer")] = 5,
    samples: Annotated[int, Option(min=1, help="search samples")] = 1000,
    answer_tokens: Annotated[int, Option(min=0, help="target tokens of a sample")] = 5,
    batch: Batch = 16,
    gpus: Annotated[int, Option(min=1, help="devices that share each trial")] = 1,
    gpu: Annotated[
        str | None, Option(help="kind of GPU, as h100: its peak at an assumed utilisation")
    ] = None,
    tflops_per_gpu: Annotated[
        float | None, Option(help="TFLOP/s that a device achieves; default: measured on this one")
    ] = None,
    expect: Annotated[float, Option(help="memory cost that the search is assumed to end with")] = 0.6,
    overhead: Annotated[float, Option(min=0, help="seconds between trials")] = 0.1,
    dtype: Annotated[str, Option(help="of weights and cache: bfloat16, float16 or float32")] = "bfloat16",
    layers: Annotated[bool, Option("--layers", help="also by layer")] = False,
    json: Annotated[Path | None, Option(help="write it all to this file")] = None,
) -> None:
    """Costs schedules and a search before a cluster is paid for, from the configuration alone."""
    from vtr_ray.commands import plan as command
    from vtr_ray.commands.costs import SampleOptions

    command.plan(
        model,
        schedules or [],
        SampleOptions(vision_tokens, text_tokens, tuple(image or ())),
        command.SearchOptions(stride, initial, iterations, samples, batch, answer_tokens),
        command.DeviceOptions(gpus, gpu, tflops_per_gpu, expect, overhead),
        dtype,
        layers,
        json,
        _console(),
    )


@app.command()
def bench(
    schedules: Annotated[list[Path] | None, Argument(help="schedule files to time")] = None,
    model: Annotated[
        str,
        Option(help="checkpoint directory or hub id; with --random-weights also a config.json or a shape"),
    ] = "embedded",
    random_weights: Annotated[
        bool, Option("--random-weights", help="load nothing: speed does not depend on the values")
    ] = False,
    vision_tokens: VisionTokens = None,
    text_tokens: TextTokens = 75,
    image: ImageSize = None,
    new_tokens: Annotated[int, Option(min=1, help="tokens decoded, the prefill's own included")] = 5,
    batch: Annotated[int, Option(min=1, help="equal samples at once")] = 1,
    encoder: Annotated[bool, Option(help="time encoder and projector as part of the prefill")] = True,
    dtype: Dtype = "auto",
    attn: Annotated[str, Option(help="sdpa, sdpa-flash (its flash kernel alone), eager, ...")] = "sdpa",
    device: Annotated[str, Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    warmup: Annotated[int, Option(min=0, help="untimed turns")] = 2,
    repeats: Annotated[int, Option(min=1, help="timed turns")] = 9,
    json: Annotated[Path | None, Option(help="write it all to this file")] = None,
) -> None:
    """Times prefill and decode with and without schedules, beside what the FLOPs promise.

    Without schedule files: FastV 50 % and a P-Sigmoid curve of memory cost 0.34. The protocol is the paper's
    (75 text tokens in, 5 out) unless options say otherwise.
    """
    from vtr_ray.commands import bench as command
    from vtr_ray.commands.costs import SampleOptions

    options = command.BenchOptions(
        random_weights, dtype, attn, device, batch, new_tokens, encoder, warmup, repeats
    )
    sample = SampleOptions(vision_tokens, text_tokens, tuple(image or ()))
    command.bench(model, schedules or [], sample, options, json, _console())


def _console() -> Any:
    from rich.console import Console

    # Job logs are no terminals: 80 columns would cut the tables.
    return Console() if sys.stdout.isatty() else Console(width=120)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Exit status 2 and one line for a user's mistake, 128 + signal after an interrupt."""
    os.environ.setdefault("LOGURU_LEVEL", "WARNING")  # lmms-eval's debug lines
    try:
        status = typer.main.get_command(app).main(arguments and list(arguments), standalone_mode=False)
    except InputError as error:
        _fail(str(error))
    except KeyboardInterrupt as error:
        print(f"vtr-ray: interrupted ({error or 'Ctrl-C'}); --resume goes on", file=sys.stderr)
        sys.exit(128 + getattr(error, "signum", signal.SIGINT))
    except Exception as error:
        # typer keeps its own copy of click; its errors all know how to say what is wrong.
        if not hasattr(error, "format_message"):
            raise
        _fail(error.format_message() + "; see vtr-ray --help")
    sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str) -> None:
    print(f"vtr-ray: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
