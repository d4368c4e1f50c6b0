"""Strategies by name on the command line, and VTW's search through the evaluator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from vtr_ray import strategies
from vtr_ray.cli import main
from vtr_ray.commands.inputs import ModelOptions
from vtr_ray.commands.named import named_schedule
from vtr_ray.errors import InputError
from vtr_ray.evaluation import prompts
from vtr_ray.evaluation.evaluator import Evaluator
from vtr_ray.evaluation.samples import Sample, SampleSet
from vtr_ray.models import load_model
from vtr_ray.withdrawal import find_withdrawal


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        ("none", strategies.none(24)),
        ("fastv", strategies.fastv(24)),
        ("fastv:drop=0.875,after_layer=3", strategies.fastv(24, 0.875, 3)),
        ("vtw", strategies.vtw(24)),
        ("vtw:withdraw_after=7", strategies.vtw(24, 7)),
        ("pyramid_drop:layers=8/16/24,keep=0.5", strategies.pyramid_drop(24, (8, 16, 24))),
        ("pyramid_drop:keep=0.5/0.25/0.125", strategies.pyramid_drop(24)),
        ("p_sigmoid:budget=0.2,k=0.4", strategies.p_sigmoid(24, 0.2, 0.4)),
    ],
)
def test_a_name_is_the_functions_schedule(text: str, schedule: strategies.Schedule) -> None:
    assert named_schedule(text, 24) == schedule


def test_a_memory_cost_is_solved_for() -> None:
    schedule = named_schedule("pyramid_drop:layers=8/16/24", 32, memory_cost=0.4)
    assert schedule == strategies.at_memory_cost("pyramid_drop", 32, 0.4, layers=(8, 16, 24))
    assert schedule.memory_cost == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to evaluate"),
        (("--strategy", "gsearch"), "no strategy 'gsearch'; use one of: none, fastv"),
        (("--strategy", "fastv:keep=0.5"), "fastv has no option 'keep'; it has: drop, after_layer"),
        (("--strategy", "fastv:drop=half"), "drop is 'half'; use a number"),
        (("--strategy", "fastv:drop=1.5"), "drop is 1.5"),
        (("--strategy", "fastv:drop"), "write fastv:OPTION=VALUE"),
        (("--strategy", "pyramid_drop:layers=8-16"), "use layers as 8/16/24"),
        (("--strategy", "p_sigmoid:k=0.3"), "p_sigmoid needs budget"),
        (("--strategy", "vtw:withdraw_after=2.5"), "use a layer"),
        (("--strategy", "random:seed=1", "--strategy", "fastv"), "random takes no options"),
        (("--strategy", "fastv", "--find-k"), "add --strategy vtw"),
        (("--strategy", "vtw", "--find-k", "--memory-cost", "0.5"), "give one of them"),
        (("--strategy", "fastv", "--memory-cost", "0.01"), "cannot reach a memory cost"),
        (("--strategy", "fastv", "--model", "embedded:resampler"), "use one of: embedded, embedded:deco"),
        (("--strategy", "fastv", "--model", "embedded:"), "no model 'embedded:' ships"),
    ],
)
def test_mistakes_are_one_line(capsys: Any, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", *arguments])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("vtr-ray: ") and message in line


def test_the_embedded_model_has_its_name() -> None:
    assert ModelOptions("embedded").embedded and ModelOptions("embedded:deco").embedded
    assert not ModelOptions("embedded-mine/model").embedded
    with pytest.raises(InputError, match="embedded:tokenpacker"):
        _ = ModelOptions("embedded:other").path


def test_the_evaluator_searches_on_prompts_spread_over_its_samples(
    tmp_path: Path, llava_factory: Any
) -> None:
    from tiny_llava import make_processor

    model = llava_factory(seed=2, num_hidden_layers=8, num_attention_heads=2, num_key_value_heads=1)
    model.save_pretrained(tmp_path)
    make_processor().save_pretrained(tmp_path)
    model, processor = load_model(str(tmp_path), device="cpu")
    samples = []
    for number in range(7):
        image = tmp_path / f"{number}.png"
        Image.new("RGB", (16, 16), (30 * number, 250 - 30 * number, 90)).save(image)
        samples.append(Sample(f"s{number}", "quiz", image, "what color " + "red " * number, ("red",), True))
    evaluator = Evaluator(model, processor, SampleSet(tuple(samples)))
    found = evaluator.find_withdrawal(count=3, threshold=1e9)
    inputs = [
        prompts.encode(
            processor,
            [[Image.open(samples[number].image)]],
            [prompts.prompt_text(processor, samples[number].question)],
        )
        for number in (0, 2, 4)
    ]
    assert all(int((one["input_ids"] == model.config.image_token_id).sum()) == 16 for one in inputs)
    assert found == find_withdrawal(model, inputs, threshold=1e9)
    assert found.layer == 5 and found.divergences[5] > 0
    every = evaluator.find_withdrawal(count=20, threshold=1e9)  # no more than there are
    assert every.divergences[5] != pytest.approx(found.divergences[5])


@pytest.mark.slow
def test_find_k_on_the_command_line(
    capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, llava_factory: Any, ray_here: None
) -> None:
    """A model whose layers 7 and 8 attend in vain: K is 6, and the comparison shows it beside the control."""
    from tiny_llava import make_processor

    model = llava_factory(num_hidden_layers=8, num_attention_heads=2, num_key_value_heads=1)
    with torch.no_grad():
        for layer in model.model.language_model.layers[6:]:
            layer.self_attn.o_proj.weight.zero_()
    model.save_pretrained(tmp_path / "model")
    make_processor().save_pretrained(tmp_path / "model")
    entries = []
    for number in range(6):
        Image.new("RGB", (16, 16), (40 * number, 250 - 40 * number, 90)).save(tmp_path / f"{number}.png")
        turns = [("human", f"<image>\nwhat color is the circle w{20 + number} ?"), ("gpt", "red")]
        conversations = [{"from": who, "value": text} for who, text in turns]
        entries.append({"id": str(number), "image": f"{number}.png", "conversations": conversations})
    (tmp_path / "samples.json").write_text(json.dumps(entries))
    monkeypatch.chdir(tmp_path)
    arguments = ["--strategy", "vtw", "--find-k", "--strategy", "fastv", "--strategy", "random"]
    arguments += ["--decode-every", "1", "--decode-keep", "0", "--cpus-per-actor", "1"]
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", *arguments, "--model", "model", "--samples", "samples.json"])
    out = capsys.readouterr().out
    assert stop.value.code == 0
    assert "VTW's K is 6 (mean KL divergence by K: 5: " in out and "vtw, K = 6 found" in out
    assert "fastv, random tokens" in out
    _, _, decoded = out.partition("after every 1 decoded tokens, each cache keeps 0 of its vision tokens")
    assert "no reduction" in decoded and "fastv, random tokens" in decoded
