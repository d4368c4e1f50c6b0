"""The second embedded model's shape, and that training shows it what its processor shows it."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from vtr_ray import Schedule, embedded, reduce_vision_tokens, strategies
from vtr_ray.embedded import MODEL, TASKS_FOLDER, internvl
from vtr_ray.embedded.draw import DRAWS, Picture, clip
from vtr_ray.embedded.lessons import Teacher, fingerprint
from vtr_ray.embedded.losses import Losses
from vtr_ray.embedded.recipe import Recipe, build, internvl_recipe, views
from vtr_ray.embedded.tokenizer import build_tokenizer
from vtr_ray.embedded.training import train
from vtr_ray.errors import InputError
from vtr_ray.evaluation import prompts
from vtr_ray.evaluation.evaluator import Evaluator
from vtr_ray.evaluation.samples import SampleSet
from vtr_ray.evaluation.suites import load_tasks
from vtr_ray.evaluation.video import Clip as Watched
from vtr_ray.models import load_model

SMALL = replace(
    internvl_recipe(), eyes_steps=2, eyes_batch=4, mind_steps=2, mind_batch=4, habit_steps=2, warmup=1,
    checked=16, clips=0.5,
)  # fmt: skip


@pytest.fixture(scope="module")
def built():
    processor, model = build(internvl_recipe())
    return processor, model.eval()


@pytest.fixture(scope="module")
def saved(built, tmp_path_factory):
    folder = tmp_path_factory.mktemp("internvl")
    processor, model = build(internvl_recipe())
    model.half().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def teacher(built, **options):
    processor, model = built
    return Teacher(
        processor.tokenizer, frozenset(), views=views(internvl_recipe(), processor, model), **options
    )


def watched(drawn):
    frames = np.stack([np.asarray(frame.image) for frame in drawn.frames])
    metadata = {"total_num_frames": 8, "fps": 1.0, "duration": 8.0, "frames_indices": list(range(8))}
    return Watched(frames, metadata)


def test_the_model_has_the_promised_shape(built):
    processor, model = built
    assert type(model).__name__ == "InternVLForConditionalGeneration"
    text = model.config.text_config
    assert (text.model_type, text.num_hidden_layers, text.vocab_size) == (
        "qwen2",
        16,
        len(processor.tokenizer),
    )
    assert 2.5e6 < sum(parameter.numel() for parameter in model.parameters()) < 4e6
    same, other = (internvl.build_model(processor.tokenizer, seed) for seed in (20, 21))
    name = "model.language_model.layers.3.mlp.up_proj.weight"
    assert model.state_dict()[name].equal(same.state_dict()[name])
    assert not model.state_dict()[name].equal(other.state_dict()[name])


def test_the_tokenizer_is_the_llavas_with_more_behind():
    plain, tiled = build_tokenizer().get_vocab(), build_tokenizer(tiled=True).get_vocab()
    assert plain.items() < tiled.items()
    assert min(tiled[token] for token in tiled.keys() - plain.keys()) == len(plain)
    shipped = load_model(str(MODEL))[1].tokenizer
    assert shipped.get_vocab() == plain and shipped.chat_template == build_tokenizer().chat_template


@pytest.mark.parametrize("side", [64, 96])
def test_a_square_image_is_four_tiles_and_a_thumbnail(built, side):
    processor, model = built
    text = prompts.prompt_text(processor, "what is the name?")
    inputs = prompts.encode(processor, [[Image.new("RGB", (side, side))]], [text])
    assert inputs.pixel_values.shape == (5, 3, 48, 48)
    assert int((inputs.input_ids == model.config.image_token_id).sum()) == 80
    assert processor.tokenizer.unk_token_id not in inputs.input_ids


def test_a_clip_is_sixteen_tokens_a_frame(built):
    processor, model = built
    prompts.check_video(processor)
    text = prompts.prompt_text(processor, "what color is the object that moved?", video=True)
    inputs = prompts.encode(processor, [watched(clip(random.Random(0)))], [text])
    assert inputs.pixel_values.shape == (8, 3, 48, 48)
    assert int((inputs.input_ids == model.config.image_token_id).sum()) == 128
    assert processor.tokenizer.unk_token_id not in inputs.input_ids
    assert model(**inputs).logits.shape[:2] == inputs.input_ids.shape


@pytest.mark.parametrize("moving", [False, True])
def test_training_shows_what_the_processor_shows(built, moving):
    """Pixels, tokens and vision features of a lesson are those of the same question asked."""
    processor, model = built
    lessons = teacher(built, weights={"documents": 1, "scenes": 1}, clips=float(moving))
    batch = lessons.batch(2, seed=0, step=0)
    rng = random.Random("0/0/0")
    tasks = rng.choices(["clips"] if moving else ["documents", "scenes"], k=2)
    assert batch.tasks == tasks
    drawn = [lessons.picture(task, rng) for task in tasks]
    seen = [watched(one) if moving else [one.image] for one in drawn]
    texts = [prompts.prompt_text(processor, one.questions[0][0], moving) for one in drawn]
    for row, (one, text) in enumerate(zip(seen, texts, strict=True)):
        asked = prompts.encode(processor, [one], [text])
        here = batch.turns[row] == 1
        alone = torch.cat([batch.ids[row, : batch.prefix], batch.ids[row, here]])
        assert alone[: asked.input_ids.shape[1]].equal(asked.input_ids[0])
        assert batch.positions[row, here].equal(torch.arange(batch.prefix, len(alone)))
        tiles = len(asked.pixel_values)
        assert batch.pixels[row * tiles : (row + 1) * tiles].equal(asked.pixel_values)
        with torch.no_grad():
            features = model.get_image_features(pixel_values=asked.pixel_values).pooler_output
            learnt = Losses(model, compiled=False).see(batch)[row]
        torch.testing.assert_close(learnt, features.flatten(0, 1))
    assert batch.ids[0, batch.places].eq(model.config.image_token_id).all()
    assert (batch.ids[0] == model.config.image_token_id).sum() == len(batch.places)


@pytest.mark.parametrize("moving", [False, True])
def test_a_turn_is_trained_as_it_is_asked_alone(built, moving):
    model = built[1]
    batch = teacher(built, weights={"text": 1}, clips=float(moving)).batch(2, seed=0, step=0)
    losses = Losses(model, compiled=False)
    with torch.no_grad():
        vision = losses.see(batch)
        logits, targets = losses.answer_logits(batch, vision)
        expected = []
        for row in range(2):
            for turn in range(1, int(batch.turns[row].max()) + 1):
                here = batch.turns[row] == turn
                ids = torch.cat([batch.ids[row, : batch.prefix], batch.ids[row, here]])[None]
                embeds = model.get_input_embeddings()(ids)
                embeds[:, batch.places] = vision[row]
                hidden = model.model.language_model(inputs_embeds=embeds).last_hidden_state[0, batch.prefix :]
                expected.append(model.lm_head(hidden[batch.targets[row, here] >= 0]))
    assert len(logits) == len(targets) > 20
    torch.testing.assert_close(logits, torch.cat(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("row", [0, 3, 4, 7])
@pytest.mark.parametrize("column", [0, 2, 5])
def test_words_stand_at_the_token_that_sees_them(built, row, column):
    """A square that fills one 12 x 12 cell changes one token of the tiles and one of the thumbnail."""
    processor, model = built
    view, _ = views(internvl_recipe(), processor, model)
    box = (12 * column, 12 * row, 12 * column + 12, 12 * row + 12)
    image = Image.new("RGB", (96, 96), "white")
    blank = Picture(image.copy())
    ImageDraw.Draw(image).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill="red")
    picture = Picture(image, marks=[(box, ("red", "square"))])
    with torch.no_grad():
        patches = [
            model.model.vision_tower.embeddings.patch_embeddings(view.pixels([one])).unflatten(1, (8, 8))
            for one in (picture, blank)
        ]
        cells = [model.model.pixel_shuffle(one.contiguous(), 0.5).flatten(0, 2) for one in patches]
    change = (cells[0] - cells[1]).abs().sum(-1)
    told = torch.tensor([words == ("red", "square") for words in view.words(picture)])
    assert told.sum() == 2 and len(change) == 80
    assert change[:64].argmax() == told[:64].int().argmax()
    assert change[64:].argmax() == told[64:].int().argmax()
    assert (change[:64] > 0).sum() == 1


def test_a_frames_words_stand_at_its_tokens(built):
    _, view = views(internvl_recipe(), *built)
    drawn = clip(random.Random(3))
    words = view.words(drawn)
    assert len(words) == 128
    for number, frame in enumerate(drawn.frames):
        here = words[16 * number : 16 * number + 16]
        for (x0, y0, x1, y1), (color, shape) in frame.marks:
            cell = int((y0 + y1) / 2 // 24) * 4 + int((x0 + x1) / 2 // 24)
            assert {color, shape} <= set(here[cell])
        shown = {word for _, words_of in frame.marks for word in words_of}
        assert {word for cell in here for word in cell} - {"empty"} == shown


def test_a_batch_is_of_pictures_or_of_clips(built):
    lessons = teacher(built, weights={"text": 1}, clips=0.25)
    kinds = [lessons.batch(1, seed=0, step=step, rank=step % 2).tasks[0] for step in range(60)]
    assert 6 <= kinds.count("clips") <= 24 and set(kinds) == {"clips", "text"}
    for step in (kinds.index("clips"), kinds.index("text")):
        for rank in (0, 1):  # processes that average gradients agree on the kind
            assert lessons.batch(2, seed=0, step=step, rank=rank).tasks == [kinds[step]] * 2
    first, again = (lessons.batch(2, seed=0, step=kinds.index("clips")) for _ in range(2))
    assert first.ids.equal(again.ids) and first.pixels.equal(again.pixels)


def test_a_held_out_clip_is_drawn_again(built):
    rng = random.Random(1)
    first, second = clip(rng), clip(rng)
    lessons = teacher(built)
    lessons.held_out = frozenset({fingerprint(first.image)})
    assert lessons.picture("clips", random.Random(1)).questions == second.questions


def test_the_recipe_is_the_llavas_with_clips():
    recipe, whole = internvl_recipe(), Recipe()
    own = {name for name, value in vars(recipe).items() if value != getattr(whole, name)}
    assert own == {"architecture", "seed", "mind_steps", "mind_lr", "habit_steps", "clips"}
    assert recipe.clips > 0 == whole.clips


@torch.no_grad()
def test_the_grown_decoder_answers_as_the_llavas():
    model = build(internvl_recipe())[1]
    llava = load_model(str(MODEL), dtype="float32", device="cpu")[0]
    internvl.grow(model, llava.state_dict())
    shown = torch.randn(2, 40, internvl.WIDTH, generator=torch.Generator().manual_seed(0))
    ids = torch.randint(6, len(build_tokenizer()), (2, 12), generator=torch.Generator().manual_seed(1))
    words = [each.get_input_embeddings()(ids) for each in (llava, model)]
    assert words[0].equal(words[1])
    hidden = [
        each.model.language_model(inputs_embeds=torch.cat([shown, words[0]], dim=1)).last_hidden_state
        for each in (llava, model)
    ]
    assert hidden[0].std() > 0.1
    torch.testing.assert_close(hidden[0], hidden[1], rtol=1e-4, atol=1e-4)


def test_it_loads_like_any_checkpoint_and_runs_reduced(saved, built, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # where clips are written
    model, processor = load_model(str(saved), dtype="float32", device="cpu")
    for name, weight in built[1].state_dict().items():
        assert model.state_dict()[name].equal(weight.half().float()), name
    samples = load_tasks(["vtr_clips", "vtr_scenes"], TASKS_FOLDER, limit=3)
    evaluator = Evaluator(model, processor, samples, 4)
    assert evaluator.num_layers == 16
    half = Schedule.from_rates([1.0, 1.0] + [0.5] * 14)
    for schedule in (strategies.none(16), half):
        assert {outcome.sample_id for outcome in evaluator.evaluate(schedule)} == {one.id for one in samples}
    images = Evaluator(model, processor, SampleSet(samples.samples[3:]), 4)
    assert images.vision_tokens == 80
    text = prompts.prompt_text(processor, "how many objects are there?")
    image = DRAWS["scenes"](random.Random(0)).image
    inputs = prompts.encode(processor, [[image]], [text])
    with torch.no_grad():
        untouched = model(**inputs).logits
        with reduce_vision_tokens(model, strategies.none(16)):
            assert model(**inputs).logits.equal(untouched)
        with reduce_vision_tokens(model, half) as reduction:
            assert not model(**inputs).logits[0, -1].equal(untouched[0, -1])
    assert [int((kept >= 0).sum()) for kept in reduction.kept] == [80, 80] + [40] * 14


def test_a_name_that_does_not_ship_is_answered_with_those_that_do():
    with pytest.raises(InputError, match="embedded, embedded:deco, embedded:tokenpacker"):
        embedded.checkpoint("embedded:internlm")


@pytest.mark.slow
def test_stopped_and_resumed_is_the_undisturbed_training(tmp_path):
    def run(name, *stops):
        for stop in stops:
            train(SMALL, tmp_path / name, frozenset(), compiled=False, stop=stop)
        return torch.load(tmp_path / name / "trained.pt", weights_only=True)

    whole = run("whole", float("inf"))
    parts = run("parts", 0, float("inf"))
    assert whole.keys() == parts.keys()
    for name, weight in whole.items():
        assert weight.equal(parts[name]), name
    fresh = build(SMALL)[1].state_dict()
    for name in ("vision_tower.embeddings.patch_embeddings.projection", "multi_modal_projector.linear_1"):
        assert not whole[f"model.{name}.weight"].equal(fresh[f"model.{name}.weight"])
