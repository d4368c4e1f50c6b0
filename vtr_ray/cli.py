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

Model = Annotated[str, Option(help="checkpoint directory or hub id; embedded: the small one that ships")]
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
    schedules: Annotated[list[Path], Argument(help="schedule files, as gsearch writes them")],
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
    """Compares schedules with no reduction on the same samples."""
    from vtr_ray.commands.evaluate import evaluate as command
    from vtr_ray.commands.inputs import ModelOptions, PoolOptions

    options = ModelOptions(model, dtype, attn, batch, max_pixels)
    command(schedules, options, samples, images, PoolOptions(actors, cpus, gpus), _console())


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
def show(
    schedule: Annotated[Path, Argument(help="a schedule file")],
    tokens: Annotated[int | None, Option(help="vision tokens N: show counts too")] = None,
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
    if figure is not None:
        from vtr_ray.report.curve import draw_curve

        console.print(f"Wrote {draw_curve({schedule.stem: loaded}, figure)}", soft_wrap=True)


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
