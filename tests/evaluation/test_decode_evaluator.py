"""E under decode-time reduction: every sample generates, step by step, as generate() does alone."""

import torch
from quiz_files import picture

from vtr_ray import strategies
from vtr_ray.evaluation.evaluator import Evaluator
from vtr_ray.evaluation.images import read_image
from vtr_ray.evaluation.samples import Sample, SampleSet
from vtr_ray.models import load_model
from vtr_ray.reduction import DecodeReduction, reduce_vision_tokens
from vtr_ray.schedule import Schedule

ENDS = [2, *range(56, 64)]
SCHEDULES = [strategies.none(5), Schedule.from_rates([1, 1, 0.7, 0.4, 0.4])]
SETTINGS = DecodeReduction(2, 0.3)


def test_answers_are_those_of_generate_whatever_the_batch(tiny_llava_dir):
    model, processor = load_model(str(tiny_llava_dir), device="cpu")
    model.generation_config.eos_token_id = ENDS
    with torch.no_grad():  # decoding drops special tokens
        model.lm_head.weight[[0, 1, 3, 4]] = 0
    samples = SampleSet(
        tuple(
            Sample(
                f"{i:02}",
                "quiz",
                picture(i, (16, 16)),
                " ".join(["what color ?", *(f"w{20 + (7 * i + j) % 20}" for j in range(i % 4))]),
                ("red",),
                exact=i % 2 == 0,
                max_new_tokens=8 + i % 3,
            )
            for i in range(12)
        )
    )
    changed = 0
    for schedule in SCHEDULES:
        alone = []
        for sample in samples:
            turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": sample.question}]}
            text = processor.apply_chat_template([turn], add_generation_prompt=True)
            inputs = processor(images=read_image(sample.image), text=text, return_tensors="pt")
            options = {"max_new_tokens": sample.max_new_tokens, "do_sample": False, "pad_token_id": 0}
            written = []
            for decode in (SETTINGS, None):
                with reduce_vision_tokens(model, schedule, decode=decode):
                    new = model.generate(**inputs, **options)[0, inputs["input_ids"].shape[1] :].tolist()
                stop = next((place for place, token in enumerate(new) if token in ENDS), len(new))
                written.append(processor.tokenizer.decode(new[:stop], skip_special_tokens=True))
            alone.append(written[0])
            changed += written[0] != written[1]
        for size in (1, 5):
            evaluator = Evaluator(model, processor, samples, batch_size=size, decode=SETTINGS)
            for _ in range(2):  # nothing kept from the first time changes the second
                outcomes = sorted(evaluator.evaluate(schedule), key=lambda outcome: outcome.sample_id)
                assert [outcome.answer for outcome in outcomes] == alone
    assert changed > 0
