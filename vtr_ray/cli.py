"""The command line: options in, one line and exit status 2 for every user's mistake."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from vtr_ray.commands import options
from vtr_ray.errors import InputError, Stopped
from vtr_ray.interrupts import Interrupted, interruptible

# Imported inside the commands: Ray, torch and lmms-eval take seconds that --help should not.

app = typer.Typer(
    help="Searches how many vision tokens each layer of a multimodal LLM must keep.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def gsearch(
    model: options.Model = "embedded",
    samples: options.Samples = None,
    images: options.Images = None,
    test: options.Test = None,
    test_images: options.Images = None,
    task: options.Task = None,
    test_task: options.TestTask = None,
    include_path: options.IncludePath = None,
    score: options.Score = None,
    labels: options.Labels = "given",
    label_tokens: options.LabelTokens = 32,
    question: options.Question = None,
    dtype: options.Dtype = "auto",
    attn: options.Attn = "sdpa",
    batch: options.Batch = 16,
    max_pixels: options.MaxPixels = None,
    cache: options.Cache = "4GiB",
    frames: options.Frames = 8,
    stride: options.Stride = 3,
    initial: options.Initial = 10,
    iterations: options.Iterations = 5,
    weight: Annotated[float, Option(help="lambda: what a keeping rate of 1 costs in units of E")] = 0.01,
    surrogate: options.Surrogate = "shape",
    objective: options.Objective = "paper",
    stop_early: options.StopEarly = False,
    seed: options.Seed = 0,
    parallel: options.Parallel = 1,
    actors: options.Actors = 1,
    cpus: options.Cpus = None,
    gpus: options.Gpus = None,
    out: options.Out = None,
    resume: options.Resume = False,
    compare: options.Compare = True,
    ui_port: options.UiPort = None,
) -> None:
    """Searches how few vision tokens each layer can do with, accuracy weighed against tokens (Scenario I).

    Without options: on the embedded model and its own questions, on this machine. The last lines say whether
    accuracy was kept.
    """
    from vtr_ray.commands import gsearch as command
    from vtr_ray.commands.inputs import DataOptions, ModelOptions, PoolOptions
    from vtr_ray.commands.searching import RunOptions

    command.gsearch(
        ModelOptions(model, dtype, attn, batch, max_pixels, cache, frames),
        DataOptions(
            samples,
            images,
            test,
            test_images,
            tuple(task or ()),
            tuple(test_task or ()),
            include_path,
            score,
            labels,
            label_tokens,
            question,
        ),
        command.GSearchOptions(
            stride, initial, iterations, weight, seed, parallel, surrogate, objective, stop_early
        ),
        PoolOptions(actors, cpus, gpus),
        RunOptions(out, resume, compare, ui_port),
        _console(),
    )


@app.command()
def psigmoid(
    budget: Annotated[
        list[float] | None, Option(help="mean keeping rate over layers 3..L; repeat for more searches")
    ] = None,
    match: Annotated[
        list[str] | None,
        Option(
            help="find the best curve at the FLOPs of a strategy or schedule file: fastv:0.875 (its drop), "
            "pyramid_drop:0.5 (keep), vtw:16 (withdraw_after), s.json; repeat for more searches"
        ),
    ] = None,
    k_max: Annotated[float, Option(help="largest steepness searched")] = 2.0,
    force: options.Force = False,
    initial: Annotated[int, Option(help="uniformly spread points per search")] = 10,
    iterations: Annotated[int, Option(help="Bayesian optimisation steps per search")] = 15,
    model: options.Model = "embedded",
    samples: options.Samples = None,
    images: options.Images = None,
    test: options.Test = None,
    test_images: options.Images = None,
    task: options.Task = None,
    test_task: options.TestTask = None,
    include_path: options.IncludePath = None,
    score: options.Score = None,
    labels: options.Labels = "given",
    label_tokens: options.LabelTokens = 32,
    question: options.Question = None,
    dtype: options.Dtype = "auto",
    attn: options.Attn = "sdpa",
    batch: options.Batch = 16,
    max_pixels: options.MaxPixels = None,
    cache: options.Cache = "4GiB",
    frames: options.Frames = 8,
    seed: options.Seed = 0,
    parallel: options.Parallel = 1,
    actors: options.Actors = 1,
    cpus: options.Cpus = None,
    gpus: options.Gpus = None,
    out: options.Out = None,
    resume: options.Resume = False,
    compare: options.Compare = True,
    ui_port: options.UiPort = None,
) -> None:
    """Finds the most accurate P-Sigmoid curve within each budget of vision tokens or FLOPs (Scenario II).

    Several budgets are searches one after the other over the same actors, each with a folder in the run
    directory and an MLflow run of its own.
    """
    from vtr_ray.commands import psigmoid as command
    from vtr_ray.commands.inputs import DataOptions, ModelOptions, PoolOptions
    from vtr_ray.commands.searching import RunOptions

    command.psigmoid(
        ModelOptions(model, dtype, attn, batch, max_pixels, cache, frames),
        DataOptions(
            samples,
            images,
            test,
            test_images,
            tuple(task or ()),
            tuple(test_task or ()),
            include_path,
            score,
            labels,
            label_tokens,
            question,
        ),
        command.PSigmoidOptions(
            tuple(budget or ()), tuple(match or ()), k_max, initial, iterations, seed, parallel, force
        ),
        PoolOptions(actors, cpus, gpus),
        RunOptions(out, resume, compare, ui_port),
        _console(),
    )


@app.command()
def pareto(
    model: options.Model = "embedded",
    samples: options.Samples = None,
    images: options.Images = None,
    test: options.Test = None,
    test_images: options.Images = None,
    task: options.Task = None,
    test_task: options.TestTask = None,
    include_path: options.IncludePath = None,
    score: options.Score = None,
    labels: options.Labels = "given",
    label_tokens: options.LabelTokens = 32,
    question: options.Question = None,
    dtype: options.Dtype = "auto",
    attn: options.Attn = "sdpa",
    batch: options.Batch = 16,
    max_pixels: options.MaxPixels = None,
    cache: options.Cache = "4GiB",
    frames: options.Frames = 8,
    trials: Annotated[int, Option(help="trials of the search itself, the initial ones included")] = 40,
    initial: Annotated[int, Option(help="quasi-random points before the model proposes")] = 12,
    reference: Annotated[
        int, Option(help="trials of FastV, PDrop, VTW and random points each, for comparison; 0: none")
    ] = 10,
    k_max: Annotated[float, Option(help="largest steepness k")] = 2.0,
    max_tflops: Annotated[
        float | None, Option(min=0, help="pick the best E within so many executed TFLOPs of a prefill")
    ] = None,
    max_prefill_ms: Annotated[
        float | None, Option(min=0, help="pick the best E within this prefill time, measured on this device")
    ] = None,
    max_drop: Annotated[
        float | None,
        Option(min=0, help="pick the cheapest within so many points of E of no reduction; default: 0.5"),
    ] = None,
    seed: options.Seed = 0,
    parallel: options.Parallel = 1,
    actors: options.Actors = 1,
    cpus: options.Cpus = None,
    gpus: options.Gpus = None,
    out: options.Out = None,
    resume: options.Resume = False,
    compare: options.Compare = True,
    ui_port: options.UiPort = None,
) -> None:
    """Finds the front of E against executed FLOPs, and picks a schedule from it by the limits given.

    Limits may be given together, and others with --resume: a finished search only picks again.
    """
    from vtr_ray.commands import pareto as command
    from vtr_ray.commands.inputs import DataOptions, ModelOptions, PoolOptions
    from vtr_ray.commands.searching import RunOptions

    command.pareto(
        ModelOptions(model, dtype, attn, batch, max_pixels, cache, frames),
        DataOptions(
            samples,
            images,
            test,
            test_images,
            tuple(task or ()),
            tuple(test_task or ()),
            include_path,
            score,
            labels,
            label_tokens,
            question,
        ),
        command.ParetoOptions(trials, initial, reference, k_max, seed, parallel),
        command.Limits(max_tflops, max_prefill_ms, max_drop),
        PoolOptions(actors, cpus, gpus),
        RunOptions(out, resume, compare, ui_port),
        _console(),
    )


@app.command()
def evaluate(
    schedules: options.Schedules = None,
    schedule: options.Schedule = None,
    strategy: Annotated[
        list[str] | None,
        Option(
            help="none, fastv, vtw, pyramid_drop, p_sigmoid with their options (fastv:drop=0.875; "
            "pyramid_drop:layers=8/16/24,keep=0.5); repeat for more"
        ),
    ] = None,
    memory_cost: Annotated[
        float | None, Option(help="solve every --strategy for this mean keeping rate over all layers")
    ] = None,
    find_k: Annotated[
        bool,
        Option("--find-k", help="with --strategy vtw: search its layer on 20 of the samples, as VTW does"),
    ] = False,
    controls: Annotated[
        bool,
        Option(
            "--controls/--no-controls",
            "--random/--no-random",
            help="beside each schedule that chooses tokens its controls: random tokens at its rates, and one "
            "cut with its ranking and memory cost",
        ),
    ] = True,
    seed: Annotated[int, Option(min=0, help="of the random control")] = 0,
    decode_every: Annotated[
        int | None,
        Option(help="again, with vision tokens dropped from the cache after every so many decoded tokens"),
    ] = None,
    decode_keep: Annotated[
        float, Option(help="with --decode-every: the share of a cache's vision tokens that stays each time")
    ] = 0.5,
    model: options.Model = "embedded",
    samples: Annotated[
        Path | None, Option(help="LLaVA-format JSON; default: the embedded test split")
    ] = None,
    images: options.Images = None,
    task: Annotated[
        list[str] | None, Option(help="documents of an lmms-eval task: NAME or NAME:LIMIT; repeat for more")
    ] = None,
    include_path: options.IncludePath = None,
    score: options.Score = None,
    labels: options.Labels = "given",
    label_tokens: options.LabelTokens = 32,
    question: options.Question = None,
    dtype: options.Dtype = "auto",
    attn: options.Attn = "sdpa",
    batch: options.Batch = 16,
    max_pixels: options.MaxPixels = None,
    cache: options.Cache = "4GiB",
    frames: options.Frames = 8,
    suite: Annotated[
        list[str] | None,
        Option(
            help="lmms-eval benchmarks instead, recorded in a folder and in MLflow: paper, video, embedded, "
            "or a task's name; repeat for more"
        ),
    ] = None,
    limit: Annotated[
        int | None, Option(min=1, help="with --suite: documents of each task, question groups kept whole")
    ] = None,
    responses: Annotated[
        Path | None, Option(help="with --suite: file of known answers; default: responses.sqlite")
    ] = None,
    out: Annotated[
        Path | None, Option(help="with --suite: folder of the results; default: a new one under runs/")
    ] = None,
    ui_port: options.UiPort = None,
    force: options.Force = False,
    actors: options.Actors = 1,
    cpus: options.Cpus = None,
    gpus: options.Gpus = None,
) -> None:
    """Compares schedules and published strategies with no reduction on the same samples."""
    from vtr_ray.commands.evaluate import StrategyOptions
    from vtr_ray.commands.evaluate import evaluate as command
    from vtr_ray.commands.inputs import DataOptions, ModelOptions, PoolOptions
    from vtr_ray.commands.suite import SuiteOptions
    from vtr_ray.reduction import DecodeReduction

    chosen = ModelOptions(model, dtype, attn, batch, max_pixels, cache, frames)
    named = StrategyOptions(tuple(strategy or ()), memory_cost, find_k, seed, controls)
    data = DataOptions(
        test=samples,
        test_images=images,
        test_tasks=tuple(task or ()),
        include=include_path,
        score=score,
        labels=labels,
        label_tokens=label_tokens,
        question=question,
    )
    decode = None if decode_every is None else DecodeReduction(decode_every, decode_keep)
    pool = PoolOptions(actors, cpus, gpus)
    benchmarks = None
    if suite:
        if samples or task:
            raise InputError("--suite asks benchmarks, --samples and --task samples; give one of them")
        if score:
            raise InputError("--score goes with --task; of a benchmark its own metrics are reported")
        data = DataOptions(labels=labels)
        benchmarks = SuiteOptions(tuple(suite), include_path, limit, out, responses, ui_port=ui_port)
    elif limit or responses or out:
        raise InputError("--limit, --responses and --out go with --suite; a task takes NAME:LIMIT")
    command(_both(schedules, schedule), chosen, data, pool, _console(), named, decode, benchmarks, force)


@app.command()
def compare(
    runs: Annotated[
        list[str],
        Argument(
            metavar="RUN...", help="run directories of evaluations and searches, or runs:/RUN_ID of MLflow"
        ),
    ],
    out: Annotated[Path | None, Option(help="the page's folder; default: a new one under runs/")] = None,
) -> None:
    """Sets runs side by side on one HTML page, with its figures and data; MLflow gets it, too."""
    from vtr_ray.commands.compare import compare as command

    command(runs, out, _console())


@app.command()
def samples(
    source: Annotated[Path, Argument(help="LLaVA-format JSON, e.g. llava_v1_5_mix665k.json")],
    per_source: Annotated[int, Option(help="samples drawn from each source")] = 100,
    out: Annotated[Path | None, Option(help="default: NAME_split.json beside the source")] = None,
    max_words: Annotated[
        int, Option(help="longest answer in words; two characters of a script without spaces are a word")
    ] = 5,
    tokenizer: Annotated[
        str | None,
        Option(help="count this model's tokens instead of words: a checkpoint as --model takes it"),
    ] = None,
    max_tokens: Annotated[int | None, Option(min=1, help="longest answer in its tokens; default: 8")] = None,
    images: Annotated[
        Path | None,
        Option(help="sources are its folders; default: those below what absolute paths have in common"),
    ] = None,
    seed: Annotated[int, Option(help="of the draw")] = 0,
    force: Annotated[bool, Option("--force", help="overwrite a file that is there already")] = False,
) -> None:
    """Makes a search split of LLaVA-format data: first turns, short answers, stratified by source."""
    from vtr_ray import embedded
    from vtr_ray.evaluation.split import make_split

    split = make_split(
        source,
        out,
        per_source=per_source,
        seed=seed,
        max_words=max_words,
        tokenizer=None if tokenizer is None else embedded.checkpoint(tokenizer),
        max_tokens=max_tokens,
        images=images,
        force=force,
    )
    say = partial(_console().print, soft_wrap=True, highlight=False, markup=False)
    for name, count in split.chosen.items():
        say(f"{name}: {count} of {split.candidates[name]}")
    if split.dropped:
        say(f"Dropped {sum(split.dropped.values())} of {split.read} entries:")
        for reason, count in split.dropped.items():
            say(f"  {count}: {reason}")
    say(f"Wrote {split.path}")


@app.command()
def convert(
    source: Annotated[Path, Argument(metavar="DIR", help="an original-layout InternVL2 checkpoint")],
    out: Annotated[Path | None, Option(help="default: DIR-native")] = None,
) -> None:
    """Writes an original InternVL2 checkpoint in the native layout; no code of the checkpoint runs."""
    from vtr_ray.commands.convert import convert as command

    command(source, out, _console())


@app.command()
def study(
    name: Annotated[
        str,
        Argument(
            help="correlation, attention, curves, tradeoff, budgets, exchange, ontop, training, "
            "benchmarks, efficiency or video"
        ),
    ],
    runs: Annotated[
        list[Path] | None,
        Argument(
            help="run directories of searches, to compare or to use instead of searching anew; "
            "of efficiency schedule files too"
        ),
    ] = None,
    count: Annotated[int, Option(min=1, help="samples whose scores are read")] = 60,
    suite: Annotated[
        list[str] | None,
        Option(help="benchmarks, as evaluate takes them; default: the paper's, or the embedded model's own"),
    ] = None,
    limit: Annotated[int | None, Option(min=1, help="documents of each benchmark")] = None,
    iterations: Annotated[int, Option(min=0, help="of each P-Sigmoid search, after ten initial points")] = 15,
    steps: Annotated[int, Option(min=1, help="of training: of each model from the start")] = 400,
    tuning_steps: Annotated[int, Option(min=1, help="of training: from the shipped weights")] = 100,
    repeats: Annotated[int, Option(min=1, help="of efficiency: timed turns of each row")] = 15,
    model: options.Model = "embedded",
    samples: options.Samples = None,
    images: options.Images = None,
    task: options.Task = None,
    include_path: options.IncludePath = None,
    score: options.Score = None,
    labels: options.Labels = "given",
    label_tokens: options.LabelTokens = 32,
    question: options.Question = None,
    dtype: options.Dtype = "auto",
    attn: options.Attn = "sdpa",
    batch: Annotated[
        int | None,
        Option(min=1, help="samples of one forward pass; default: 16, of a timed one 1 as in the paper"),
    ] = None,
    max_pixels: options.MaxPixels = None,
    cache: options.Cache = "4GiB",
    frames: options.Frames = 8,
    seed: options.Seed = 0,
    actors: options.Actors = 1,
    cpus: options.Cpus = None,
    gpus: options.Gpus = None,
    force: options.Force = False,
    out: Annotated[Path | None, Option(help="folder of the study; default: a new one under runs/")] = None,
) -> None:
    """Runs a study of the paper: figure, data and what was measured, beside the paper's claim."""
    from vtr_ray.commands.inputs import DataOptions, ModelOptions, PoolOptions
    from vtr_ray.commands.study import study as command
    from vtr_ray.commands.study_job import StudyOptions

    command(
        name,
        ModelOptions(model, dtype, attn, batch or ModelOptions.batch, max_pixels, cache, frames),
        DataOptions(
            samples,
            images,
            tasks=tuple(task or ()),
            include=include_path,
            score=score,
            labels=labels,
            label_tokens=label_tokens,
            question=question,
        ),
        StudyOptions(
            tuple(runs or ()),
            count,
            tuple(suite or ()),
            limit,
            iterations,
            seed,
            steps=steps,
            tuning_steps=tuning_steps,
            repeats=repeats,
            timed_batch=batch or 1,
            force=force,
        ),
        PoolOptions(actors, cpus, gpus),
        out,
        _console(),
    )


@app.command()
def reproduce(
    table: Annotated[int, Option(help="of the paper: 1 to 11")],
    runs: Annotated[
        list[Path] | None, Argument(help="run directories of searches, used instead of searching anew")
    ] = None,
    model: Annotated[
        list[str] | None,
        Option(
            "--model",
            "-m",
            help="checkpoint directory, hub id or embedded; repeat where the table has several",
        ),
    ] = None,
    beside: Annotated[
        list[str] | None,
        Option(help="the paper's model to stand beside, one for each --model; default: the nearest by name"),
    ] = None,
    suite: Annotated[
        list[str] | None,
        Option(help="benchmarks, as evaluate takes them; default: the paper's, or the embedded model's own"),
    ] = None,
    limit: Annotated[int | None, Option(min=1, help="documents of each benchmark")] = None,
    iterations: Annotated[int, Option(min=0, help="of each P-Sigmoid search, after ten initial points")] = 15,
    steps: Annotated[int, Option(min=1, help="of table 5: of each model from the start")] = 400,
    tuning_steps: Annotated[int, Option(min=1, help="of table 5: from the shipped weights")] = 100,
    repeats: Annotated[int, Option(min=1, help="of times: timed turns of each row")] = 15,
    samples: options.Samples = None,
    images: options.Images = None,
    task: options.Task = None,
    include_path: options.IncludePath = None,
    score: options.Score = None,
    labels: options.Labels = "given",
    label_tokens: options.LabelTokens = 32,
    question: options.Question = None,
    dtype: options.Dtype = "auto",
    attn: options.Attn = "sdpa",
    batch: options.Batch = 16,
    max_pixels: options.MaxPixels = None,
    cache: options.Cache = "4GiB",
    frames: options.Frames = 8,
    seed: options.Seed = 0,
    actors: options.Actors = 1,
    cpus: options.Cpus = None,
    gpus: options.Gpus = None,
    force: options.Force = False,
    out: Annotated[
        Path | None,
        Option(help="folder of it all, which a stopped one goes on in; default: a new one under runs/"),
    ] = None,
) -> None:
    """Runs the searches and studies behind a table of the paper; prints ours beside the paper's numbers."""
    from vtr_ray.commands.inputs import DataOptions, ModelOptions, PoolOptions
    from vtr_ray.commands.reproduce import reproduce as command
    from vtr_ray.commands.study_job import StudyOptions

    models = tuple(model or ("embedded",))
    command(
        table,
        models,
        tuple(beside or ()),
        ModelOptions(models[0], dtype, attn, batch, max_pixels, cache, frames),
        DataOptions(
            samples,
            images,
            tasks=tuple(task or ()),
            include=include_path,
            score=score,
            labels=labels,
            label_tokens=label_tokens,
            question=question,
        ),
        StudyOptions(
            tuple(runs or ()),
            suite=tuple(suite or ()),
            limit=limit,
            iterations=iterations,
            seed=seed,
            steps=steps,
            tuning_steps=tuning_steps,
            repeats=repeats,
            force=force,
        ),
        PoolOptions(actors, cpus, gpus),
        out,
        _console(),
    )


@app.command()
def register(
    schedule: Annotated[Path, Argument(help="a schedule file, or the run directory of a search")],
    name: Annotated[str, Argument(help="of the model whose schedule it is, as llava-1.5-7b")],
    alias: Annotated[str, Option(help="promote it to mlflow:NAME@ALIAS; empty: to none")] = "champion",
) -> None:
    """Puts a schedule into MLflow's model registry; commands then take it as mlflow:NAME@champion."""
    from vtr_ray.commands.register import register as command

    command(schedule, name, alias, _console())


@app.command()
def show(
    schedule: Annotated[Path, Argument(help="a schedule file")],
    tokens: Annotated[int | None, Option(min=1, help="vision tokens N: show counts too")] = None,
    model: Annotated[
        str | None, Option(help="show FLOPs and KV cache on this model, as plan takes it")
    ] = None,
    text_tokens: options.TextTokens = 75,
    fit: Annotated[
        bool, Option("--fit", help="fit P-Sigmoid's b, k and alpha; R² says how well it describes it")
    ] = False,
    figure: Annotated[
        Path | None, Option(help="draw the keeping-rate curve into this png, svg or pdf")
    ] = None,
    force: options.Force = False,
) -> None:
    """Shows a schedule: ranking, memory cost, keeping rate by layer."""
    from vtr_ray.commands.show import show as command

    command(schedule, tokens, model, text_tokens, fit, figure, _console(), force)


@app.command()
def plan(
    schedules: options.Schedules = None,
    schedule: options.Schedule = None,
    model: Annotated[
        str, Option(help="checkpoint directory, config.json, hub id, or a shape as llava-1.5-7b; embedded")
    ] = "embedded",
    vision_tokens: options.VisionTokens = None,
    text_tokens: Annotated[
        int | None, Option(min=1, help="text tokens of a sample's prompt; default: 75, of embedded its own")
    ] = None,
    image: options.ImageSize = None,
    stride: options.Stride = 3,
    initial: options.Initial = 10,
    iterations: options.Iterations = 5,
    samples: Annotated[
        int | None, Option(min=1, help="search samples; default: 1000, of embedded its own 510")
    ] = None,
    answer_tokens: Annotated[
        int | None, Option(min=0, help="target tokens of a sample; default: 5, of embedded its own")
    ] = None,
    batch: options.Batch = 16,
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
    json: options.Json = None,
    force: options.Force = False,
) -> None:
    """Costs schedules and a search before a cluster is paid for, from the configuration alone."""
    from vtr_ray.commands import plan as command
    from vtr_ray.commands.costs import SampleOptions

    command.plan(
        model,
        _both(schedules, schedule),
        SampleOptions(vision_tokens, command.known(text_tokens, "text_tokens", model), tuple(image or ())),
        command.SearchOptions(
            stride,
            initial,
            iterations,
            command.known(samples, "samples", model),
            batch,
            command.known(answer_tokens, "answer_tokens", model),
        ),
        command.DeviceOptions(gpus, gpu, tflops_per_gpu, expect, overhead),
        dtype,
        layers,
        json,
        _console(),
        force,
    )


@app.command()
def bench(
    schedules: options.Schedules = None,
    schedule: options.Schedule = None,
    model: Annotated[
        str,
        Option(help="checkpoint directory or hub id; with --random-weights also a config.json or a shape"),
    ] = "embedded",
    random_weights: Annotated[
        bool, Option("--random-weights", help="load nothing: speed does not depend on the values")
    ] = False,
    vision_tokens: options.VisionTokens = None,
    text_tokens: options.TextTokens = 75,
    image: options.ImageSize = None,
    new_tokens: Annotated[int, Option(min=1, help="tokens decoded, the prefill's own included")] = 5,
    batch: Annotated[int, Option(min=1, help="equal samples at once")] = 1,
    encoder: Annotated[bool, Option(help="time encoder and projector as part of the prefill")] = True,
    dtype: options.Dtype = "auto",
    attn: Annotated[str, Option(help="sdpa, sdpa-flash (its flash kernel alone), eager, ...")] = "sdpa",
    device: Annotated[str, Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    warmup: Annotated[int, Option(min=0, help="untimed turns")] = 2,
    repeats: Annotated[
        int, Option(min=1, help="timed turns at most; fewer where all prefills are told apart")
    ] = 32,
    json: options.Json = None,
    force: options.Force = False,
) -> None:
    """Times prefill and decode with and without schedules, beside what the FLOPs promise.

    Without schedule files: FastV 50 % and a P-Sigmoid curve of memory cost 0.34. The protocol is the paper's
    (75 text tokens in, 5 out) unless options say otherwise.
    """
    from vtr_ray.commands import bench as command
    from vtr_ray.commands.costs import SampleOptions

    settings = command.BenchOptions(
        random_weights, dtype, attn, device, batch, new_tokens, encoder, warmup, repeats
    )
    sample = SampleOptions(vision_tokens, text_tokens, tuple(image or ()))
    command.bench(model, _both(schedules, schedule), sample, settings, json, _console(), force)


def _both(arguments: list[Path] | None, named: list[Path] | None) -> list[Path]:
    return [*(arguments or ()), *(named or ())]


def _console() -> Any:
    from rich.console import Console

    # Job logs are no terminals: 80 columns would cut the tables.
    return Console() if sys.stdout.isatty() else Console(width=120)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Exit status 2 and one line for a user's mistake, 1 for `Stopped`, 128 + signal."""
    os.environ.setdefault("LOGURU_LEVEL", "WARNING")  # lmms-eval's debug lines
    # BoTorch has torch look for a compiler, which complains where there is CUDA's but no GPU.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with interruptible():
            status = typer.main.get_command(app).main(words, standalone_mode=False)
    except InputError as error:
        _fail(str(error))
    except Stopped as error:
        _fail(str(error), 1)
    except Interrupted as error:
        resumes = bool({"gsearch", "psigmoid", "pareto"}.intersection(words[:1]))
        _fail(f"{error}{'; --resume goes on' if resumes else ''}", 128 + error.signum)
    except OSError as error:
        if (line := _named_path(error, sys.argv[1:] if arguments is None else arguments)) is None:
            raise
        _fail(line)
    except Exception as error:
        # typer keeps its own copy of click; its errors all know how to say what is wrong.
        if not hasattr(error, "format_message"):
            raise
        _fail(error.format_message() + "; see vtr-ray --help")
    sys.exit(status if isinstance(status, int) else 0)


def _named_path(error: OSError, arguments: Sequence[str]) -> str | None:
    """The line for a path that the user named and that cannot be used; None: the error is about another."""
    if error.strerror is None or not isinstance(error.filename, str):
        return None
    failed = Path(error.filename).absolute()
    for argument in arguments:
        option, equals, value = argument.partition("=")
        named = Path(value if option.startswith("-") and equals else argument).absolute()
        if named in (failed, *failed.parents) or failed in named.parents:
            return f"{error.filename}: {error.strerror}; name another path"
    return None


def _fail(message: str, status: int = 2) -> None:
    print(f"vtr-ray: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
