"""The shipped variants, measured anew, and G-Search on top of each: what the paper's tables 2 and 7 ask."""

import json

import pytest
from safetensors import safe_open

from vtr_ray import strategies
from vtr_ray.embedded import TASKS, TASKS_FOLDER, VARIANTS, model_folder, search_tasks, test_tasks
from vtr_ray.evaluation.evaluator import EvaluatorSpec
from vtr_ray.evaluation.outcome import effectiveness
from vtr_ray.evaluation.samples import SampleSet
from vtr_ray.evaluation.suites import load_tasks
from vtr_ray.models import load_config
from vtr_ray.models.projectors import projector_settings
from vtr_ray.search import GSearch

test_tasks.__test__ = False


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_ships_is_a_llava_with_its_projector(variant):
    folder = model_folder(variant)
    config = load_config(str(folder))
    settings = projector_settings(config)
    assert (settings.name, settings.tokens, config.image_seq_length) == (variant, 36, 36)
    assert config.architectures == ["LlavaForConditionalGeneration"] and not hasattr(config, "auto_map")
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert any("multi_modal_projector" in name for name in weights.keys())  # noqa: SIM118  not a dict
    measured = json.loads((folder / "measured.json").read_text())
    card = (folder / "README.md").read_text()
    for figures in measured["accuracy"].values():
        for value in figures.values():
            assert f"{value:.3f}" in card


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_is_as_accurate_as_its_card_says(variant):
    samples = load_tasks(test_tasks(), TASKS_FOLDER)
    evaluator = EvaluatorSpec(str(model_folder(variant)), samples, batch_size=16, threads=1).build()
    assert evaluator.vision_tokens == 36
    outcomes = evaluator.evaluate(strategies.none(12))
    source = evaluator.sources()
    measured = json.loads((model_folder(variant) / "measured.json").read_text())["accuracy"]
    for task in TASKS:
        accuracy = effectiveness([one for one in outcomes if source[one.sample_id] == f"vtr_{task}"])
        assert accuracy == pytest.approx(measured["no reduction"][task], abs=0.011), task  # two samples
        assert accuracy > max(measured["blank image"][task], measured["text prior"][task]), task


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_gsearch_takes_tokens_away_on_top_of_a_variant(variant):
    samples = SampleSet(load_tasks(search_tasks(), TASKS_FOLDER).samples[::5])
    evaluator = EvaluatorSpec(str(model_folder(variant)), samples, batch_size=16, threads=1).build()
    search = GSearch(
        num_layers=12, vision_tokens=evaluator.vision_tokens, stride=9, initial=4, iterations=1, seed=0
    )
    while not search.finished:
        trial = search.ask()
        search.tell(trial, effectiveness(evaluator.evaluate(trial.schedule)))
    before = effectiveness(evaluator.evaluate(strategies.none(12)))
    assert search.best.memory_cost < 1  # layers 3 and 12: the last one needs no vision tokens
    # A rate is taken only where it loses at most its own 0.01 times what it saves.
    assert effectiveness(evaluator.evaluate(search.best)) >= before - 0.01 - 1e-9
