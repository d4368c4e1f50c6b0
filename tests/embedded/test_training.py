import json

import pytest
import torch

from vtr_ray.embedded.architecture import build_model, build_processor
from vtr_ray.embedded.lessons import LENGTH, Teacher
from vtr_ray.embedded.training import Recipe, train

SMALL = Recipe(eyes_steps=3, eyes_batch=4, mind_steps=4, mind_batch=4, habit_steps=3, warmup=2)


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
    assert batch.ids.shape == (6, LENGTH)
    tokenizer = processor.tokenizer
    for row in range(6):
        for turn in range(1, int(batch.turns[row].max()) + 1):
            here = batch.turns[row] == turn
            said = tokenizer.decode(batch.ids[row, here]).split("<answer>")[1].removesuffix("</s>")
            wanted = batch.targets[row, here]
            assert tokenizer.decode(wanted[wanted >= 0]).removesuffix("</s>").strip() == said.strip()


@pytest.mark.slow
def test_stopped_and_resumed_is_the_undisturbed_training(tmp_path):
    def run(name, *stops):
        for stop in stops:
            train(SMALL, tmp_path / name, frozenset(), compiled=False, stop=stop)
        return torch.load(tmp_path / name / "trained.pt", weights_only=True)

    never = float("inf")
    whole = run("whole", never)
    # Time that is up already stops after one step, whichever stage it is in.
    parts = run("parts", 0, 0, 0, 0, 0, 0, never)
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
