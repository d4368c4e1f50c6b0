import json
import random
from dataclasses import replace

import pytest
import torch

from vtr_ray.embedded import MODEL, VARIANTS
from vtr_ray.embedded.architecture import build_model, build_processor
from vtr_ray.embedded.checkpoints import start_from
from vtr_ray.embedded.draw import DRAWS
from vtr_ray.embedded.lessons import Teacher
from vtr_ray.embedded.losses import Losses
from vtr_ray.embedded.recipe import Recipe, variant_recipe
from vtr_ray.embedded.training import train
from vtr_ray.embedded.views import cell_words
from vtr_ray.models import load_model

SMALL = Recipe(eyes_steps=2, eyes_batch=4, mind_steps=2, mind_batch=4, habit_steps=2, warmup=1, checked=16)


@pytest.fixture(scope="module")
def processor():
    return build_processor()


def test_the_model_has_the_promised_shape(processor):
    model = build_model(processor.tokenizer, 0)
    config = model.config
    assert 1e6 < sum(parameter.numel() for parameter in model.parameters()) < 4e6
    assert config.text_config.num_hidden_layers >= 12
    assert (config.vision_config.image_size // config.vision_config.patch_size) ** 2 == 144
    same, other = build_model(processor.tokenizer, 0), build_model(processor.tokenizer, 1)
    name, weight = next(iter(model.state_dict().items()))
    assert weight.equal(same.state_dict()[name]) and not weight.equal(other.state_dict()[name])


def test_a_turn_is_trained_as_it_is_asked_alone(processor):
    """Several turns in one masked sequence give the logits that each turn gives on its own."""
    torch.manual_seed(0)
    model = build_model(processor.tokenizer, 0).eval()
    teacher = Teacher(processor.tokenizer, frozenset(), weights={"text": 1, "documents": 1})
    batch = teacher.batch(2, seed=0, step=0)
    with torch.no_grad():
        features = model.get_image_features(pixel_values=batch.pixels).pooler_output
        embeds = model.get_input_embeddings()(batch.ids)
        embeds[:, 1:145] = torch.stack(list(features))
        together = model.model.language_model(
            inputs_embeds=embeds, attention_mask=batch.mask(torch.float32), position_ids=batch.positions
        ).last_hidden_state
        for row in range(2):
            for turn in (1, 2):
                here = batch.turns[row] == turn
                alone = torch.cat([embeds[row, :145], embeds[row, here]])[None]
                hidden = model.model.language_model(inputs_embeds=alone).last_hidden_state[0, 145:]
                assert torch.allclose(hidden, together[row, here], atol=1e-4)


def test_targets_are_the_answers(processor):
    teacher = Teacher(processor.tokenizer, frozenset())
    batch = teacher.batch(6, seed=0, step=0)
    assert batch.ids.shape == (6, 1 + 144 + 111)
    tokenizer = processor.tokenizer
    for row in range(6):
        for turn in range(1, int(batch.turns[row].max()) + 1):
            here = batch.turns[row] == turn
            said = tokenizer.decode(batch.ids[row, here]).split("<answer>")[1].removesuffix("</s>")
            wanted = batch.targets[row, here]
            assert tokenizer.decode(wanted[wanted >= 0]).removesuffix("</s>").strip() == said.strip()


def test_a_cell_shows_what_its_patches_show(processor):
    picture = DRAWS["documents"](random.Random(0))
    patches = picture.patch_words()
    assert cell_words(patches, 144) == [words[:3] for words in patches]
    cells = cell_words(patches, 36)
    assert len(cells) == 36
    for row in range(6):
        for column in range(6):
            shown = {
                word
                for y in (2 * row, 2 * row + 1)
                for x in (2 * column, 2 * column + 1)
                for word in patches[12 * y + x]
            }
            words = cells[6 * row + column]
            assert len(set(words)) == len(words)
            assert set(words) == (shown - {"empty"} or {"empty"})
    assert max(map(len, cells)) > 3 and ("empty",) in cells

    whole, reduced = (
        Teacher(processor.tokenizer, frozenset(), vision_tokens=n).batch(8, seed=3, step=1) for n in (144, 36)
    )
    assert whole.patch_words.shape == (8, 144, 3) and reduced.patch_words.shape == (8, 36, 12)
    assert reduced.ids.shape == (8, 1 + 36 + 111)
    # the same lessons, closer to the front
    assert whole.ids[:, 145:].equal(reduced.ids[:, 37:]) and whole.targets[:, 145:].equal(
        reduced.targets[:, 37:]
    )
    assert whole.pixels.equal(reduced.pixels)
    words, fewer = ({int(i) for i in batch.patch_words[0].flatten()} for batch in (whole, reduced))
    assert fewer <= words


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_has_36_tokens_and_the_shipped_models_other_weights(variant):
    processor = build_processor(variant)
    model = build_model(processor.tokenizer, 0, variant)
    assert 1e6 < sum(parameter.numel() for parameter in model.parameters()) < 4e6
    shipped = load_model(str(MODEL), dtype="float32", device="cpu")[0].state_dict()
    kept = start_from(model, shipped)
    assert all("multi_modal_projector" in name for name in kept)
    assert bool(kept) == (variant == "tokenpacker")  # DeCo's layers are LLaVA's own
    for name, weight in model.state_dict().items():
        if name not in kept:
            assert weight.equal(shipped[name]), name
    image = DRAWS["scenes"](random.Random(0)).image
    inputs = processor(
        images=image, text="<s><image>what?<answer>", add_special_tokens=False, return_tensors="pt"
    )
    assert int((inputs.input_ids == model.config.image_token_id).sum()) == 36
    with torch.no_grad():  # what training looks at is what the model sees
        seen = Losses(model, compiled=False).look(inputs.pixel_values)
        features = model.get_image_features(pixel_values=inputs.pixel_values).pooler_output
        assert model(**inputs).logits.shape[1] == inputs.input_ids.shape[1]
    assert seen.shape == (1, 36, 128)
    torch.testing.assert_close(seen[0], features[0])


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_trains_and_its_checkpoint_loads(tmp_path, variant):
    recipe = replace(SMALL, projector=variant)
    train(recipe, tmp_path / "run", frozenset(), compiled=False)
    processor = build_processor(variant)
    model = build_model(processor.tokenizer, 0, variant)
    model.load_state_dict(torch.load(tmp_path / "run" / "trained.pt", weights_only=True))
    model.half().save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    loaded, processor = load_model(str(tmp_path / "model"), dtype="float32", device="cpu")
    for name, weight in model.state_dict().items():
        assert loaded.state_dict()[name].equal(weight.float()), name
    entries = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert {"mind", "habit"} <= {entry["stage"] for entry in entries}


def test_a_variants_recipe_is_the_recipe_but_slower():
    for variant in VARIANTS:
        recipe, whole = variant_recipe(variant), Recipe()
        assert recipe.projector == variant and recipe.seed != whole.seed
        for name in ("eyes_batch", "mind_batch", "other_lr", "weight_decay", "eyes_weight", "clip"):
            assert getattr(recipe, name) == getattr(whole, name)


@pytest.mark.slow
def test_stopped_and_resumed_is_the_undisturbed_training(tmp_path):
    def run(name, *stops):
        for stop in stops:
            train(SMALL, tmp_path / name, frozenset(), compiled=False, stop=stop)
        return torch.load(tmp_path / name / "trained.pt", weights_only=True)

    never = float("inf")
    whole = run("whole", never)
    # Time that is up already stops after one step, whichever stage it is in.
    parts = run("parts", 0, 0, 0, never)
    assert whole.keys() == parts.keys()
    for name, weight in whole.items():
        assert weight.equal(parts[name]), name
    stages = [
        json.loads(line)["stage"] for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()
    ]
    assert {"mind", "habit"} <= set(stages)
    assert not torch.equal(
        whole["model.language_model.layers.0.self_attn.q_proj.weight"],
        build_model(build_processor().tokenizer, SMALL.seed).state_dict()[
            "model.language_model.layers.0.self_attn.q_proj.weight"
        ],
    )
