"""What a study compares: fixed strategies, and searches that were named or are made in its folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from vtr_ray import strategies
from vtr_ray.commands import gsearch, psigmoid
from vtr_ray.commands.named import Given
from vtr_ray.commands.searching import RunOptions
from vtr_ray.commands.study_job import Job
from vtr_ray.errors import InputError
from vtr_ray.evaluation.benchmarks.record import file_name
from vtr_ray.schedule import Schedule
from vtr_ray.studies.methods import DROP, G_SEARCH, P_SIGMOID, RANDOM, cut_of, fastv_name
from vtr_ray.tuning.directory import SEARCH, Settings, read_settings

_PAPER_STAGES = {24: (8, 16, 24)}  # of PDrop: those of 32 layers, so that the last one never fires


def named(job: Job, command: str, model: str) -> Iterator[tuple[Path, Settings]]:
    """The finished runs of a command on a model among those that the study was given."""
    for run in runs_in(job.options.runs):
        settings = read_settings(run)
        if settings.command == command and settings.parameters["model"] == model:
            yield run, settings


def runs_in(folders: Sequence[Path]) -> Iterator[Path]:
    """Runs of folders that are one, or hold several. Raises InputError: of one that is neither."""
    for folder in folders:
        if (folder / SEARCH).is_file():
            yield folder
            continue
        inside = sorted(path.parent for path in folder.glob(f"*/{SEARCH}"))
        if not inside:
            raise InputError(f"{folder} is no run of a search; name run directories")
        yield from inside


def g_search(job: Job, model: str | None = None) -> Path:
    """The G-Search run of a model, default the study's; searched in the study's folder if none was named."""
    model = model or job.model.model
    for run, _ in named(job, "gsearch", model):
        return run
    out = job.folder / "searches" / f"gsearch-{file_name(model)}"
    _announce(job, G_SEARCH, model)
    gsearch.gsearch(
        replace(job.model, model=model),
        job.data,
        gsearch.GSearchOptions(seed=job.options.seed),
        job.pool,
        RunOptions(out, (out / SEARCH).is_file(), compare=False),  # a finished one is checked, and stays
        job.console,
    )
    return out


def p_sigmoid(job: Job, drops: Sequence[float]) -> dict[float, Path]:
    """The P-Sigmoid runs at FastV's FLOPs for drops; searched in the study's folder where none was named."""
    wanted = {matching(drop): drop for drop in drops}
    found: dict[float, Path] = {}
    for run, settings in named(job, "psigmoid", job.model.model):
        drop = wanted.get(str(settings.parameters["match"]))
        if drop is not None:
            found.setdefault(drop, run)
    left = [drop for drop in drops if drop not in found]
    out = job.folder / "searches" / "psigmoid"
    if left:
        options = psigmoid.PSigmoidOptions(
            matches=tuple(matching(drop) for drop in left),
            iterations=job.options.iterations,
            seed=job.options.seed,
        )
        _announce(job, P_SIGMOID, job.model.model)
        where = RunOptions(out, any(out.glob(f"*/{SEARCH}")), compare=False)
        psigmoid.psigmoid(job.model, job.data, options, job.pool, where, job.console)
    return found | {drop: out / f"match-fastv-{drop:g}" for drop in left}


def _announce(job: Job, search: str, model: str) -> None:
    none = "None of the named runs serves" if job.options.runs else "No run is named"
    job.say(f"{none} as {search} of {model}; searching.")


def matching(drop: float) -> str:
    """What a P-Sigmoid search at FastV's FLOPs is told to match."""
    return f"fastv:{drop:g}"


def fixed(layers: int) -> dict[str, Given]:
    """The published strategies of the paper's Table 1, as it sets them."""
    return {
        "VTW": Given(strategies.vtw(layers)),
        "PDrop": Given(strategies.pyramid_drop(layers, _PAPER_STAGES.get(layers))),
        fastv_name(0.5): Given(strategies.fastv(layers, 0.5)),
    }


def one_cut(job: Job, name: str, found: Schedule) -> dict[str, Given]:
    """A found schedule's ranking and memory cost in a single cut, by a name; nothing where that cannot be."""
    try:
        return {name: Given(strategies.one_cut(found))}
    except InputError as error:
        job.say(f"No {name} beside what was found: {str(error).partition(';')[0]}.")
        return {}


def controls(job: Job, found: Schedule) -> dict[str, Given]:
    """What stands beside a schedule that G-Search found: random tokens at its rates, and one cut."""
    random = Given(strategies.random(found, job.options.seed))
    return {RANDOM: random, **one_cut(job, cut_of(G_SEARCH), found)}


def first_scenario(job: Job) -> dict[str, Given]:
    """Table 1's methods: the fixed ones, G-Search and its controls."""
    found = job.given(g_search(job))
    return {**fixed(job.model.num_layers()), G_SEARCH: found, **controls(job, found.schedule)}


def second_scenario(job: Job) -> dict[str, Given]:
    """Tables 3 and 9: FastV at `DROP`, P-Sigmoid at its FLOPs and that one's one cut."""
    found = job.given(p_sigmoid(job, [DROP])[DROP])
    return {
        fastv_name(DROP): Given(strategies.fastv(job.model.num_layers(), DROP)),
        P_SIGMOID: found,
        **one_cut(job, cut_of(P_SIGMOID), found.schedule),
    }
