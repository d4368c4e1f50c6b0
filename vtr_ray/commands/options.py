"""The options that commands share, as typer reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

Model = Annotated[
    str, Option(help="checkpoint directory, hub id, or embedded (embedded:deco, ...): what ships")
]
Dtype = Annotated[str, Option(help="auto, float32, bfloat16 or float16")]
Attn = Annotated[str, Option(help="attention implementation, as transformers names it")]
Batch = Annotated[int, Option(min=1, help="samples of one forward pass")]
Cache = Annotated[
    str,
    Option(
        help="what each actor may keep of the layers that trials share, on its device, in host memory and on "
        "disk (TMPDIR) together; 0: nothing"
    ),
]
MaxPixels = Annotated[int | None, Option(min=1, help="shrink larger images and frames to this many pixels")]
Frames = Annotated[int, Option(min=1, help="frames of a video, spread evenly over it")]

Samples = Annotated[
    Path | None,
    Option(
        help="search samples: LLaVA-format JSON; with --labels self also a folder of images, or a JSON list"
    ),
]
Images = Annotated[
    Path | None, Option(help="folder of the images and videos; default: the folder of the JSON")
]
Test = Annotated[Path | None, Option(help="held-out samples for the table, LLaVA-format JSON")]
Task = Annotated[
    list[str] | None,
    Option("--task", help="search on an lmms-eval task's documents: NAME or NAME:LIMIT; repeat for more"),
]
TestTask = Annotated[
    list[str] | None, Option("--test-task", help="held-out documents for the table: NAME or NAME:LIMIT")
]
IncludePath = Annotated[
    Path | None, Option("--include-path", help="folder of lmms-eval task YAMLs of your own")
]
Score = Annotated[str | None, Option(help="the tasks' metric that is E, where they have several")]
Labels = Annotated[
    str,
    Option(
        help="given: the samples' answers; self: the model's own answers without reduction, so that E is "
        "agreement with them"
    ),
]
LabelTokens = Annotated[int, Option(min=1, help="with --labels self: tokens of a label at most")]
Question = Annotated[
    str | None, Option(help="with --labels self: asked of images that have no question of their own")
]
Force = Annotated[
    bool, Option("--force", help="also take schedules that were found on another model, or on other weights")
]

Actors = Annotated[int, Option(min=1, help="evaluator actors that share each trial")]
Cpus = Annotated[float | None, Option("--cpus-per-actor", help="default: an even share")]
Gpus = Annotated[
    float | None, Option("--gpus-per-actor", help="default: an even share; 0.5 packs two on one")
]

Seed = Annotated[int, Option(help="of the search and of the random control")]
Parallel = Annotated[int, Option(help="trials of one round, evaluated at the same time")]
Out = Annotated[Path | None, Option(help="run directory; default: a new one under runs/")]
Resume = Annotated[bool, Option("--resume", help="go on with the run in --out (default: newest)")]
Compare = Annotated[bool, Option(help="end with the table of strategies")]
UiPort = Annotated[int | None, Option(help="port in the line that opens the MLflow UI")]

Stride = Annotated[int, Option(help="layers from one searched layer to the next")]
Initial = Annotated[int, Option(help="uniformly spread points per layer")]
Iterations = Annotated[int, Option(help="Bayesian optimisation steps per layer")]

Surrogate = Annotated[
    str, Option(help="shape: knows plateau and cliff; paper: a stationary Gaussian process")
]
Objective = Annotated[
    str,
    Option(
        help="paper: E - lambda r; keep-accuracy:0.5: least tokens with E within half a point of no "
        "reduction, by a paired 95 % bound"
    ),
]
StopEarly = Annotated[
    bool,
    Option("--stop-early", help="end trials that cannot beat the best before all samples are seen"),
]

VisionTokens = Annotated[
    int | None, Option(min=1, help="vision tokens of a sample; default: one image's, five tiles' where tiled")
]
TextTokens = Annotated[int, Option(min=1, help="text tokens of a sample's prompt")]
ImageSize = Annotated[
    list[str] | None,
    Option("--image", help="HEIGHTxWIDTH of a sample's image, for families that ask; repeat"),
]
Json = Annotated[Path | None, Option(help="write it all to this file")]

Schedules = Annotated[
    list[Path] | None,
    Argument(help="schedules: files, run directories of searches, or mlflow:NAME@ALIAS"),
]
Schedule = Annotated[list[Path] | None, Option("--schedule", help="the same as a schedule argument; repeat")]
