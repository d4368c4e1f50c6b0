"""What the cards of the models that ship say, around the figures that `publish_embedded.py` measures."""

from vtr_ray.embedded.architecture import LEVELS

CARD = """# The embedded model

A LLaVA of {parameters:,} parameters (transformers' `LlavaForConditionalGeneration`: a CLIP encoder of 5
layers, a two-layer projector, a Llama decoder of 12 layers, width 128), made to give a search something
real to search on within minutes on two CPU cores. It answers short questions about 96 x 96 pictures of
the six kinds below and nothing else.

## Data

Pictures of coloured shapes, text, key-value documents and bar charts, drawn on the fly by
`vtr_ray.embedded.draw` with the DejaVu fonts, and the training split of
[easy-VQA](https://github.com/vzhou842/easy-VQA) (MIT licence), enlarged to 96 pixels. Training, search and
test splits share no image. The test split has 200 questions of each kind; easy-VQA's comes from its own
test split, balanced between shapes, colours and yes/no: as the data set comes, 68 % of its questions can
be answered from their text.

## Recipe

`python jobs/train_embedded.py FOLDER`, then `python jobs/publish_embedded.py FOLDER`. Seeds: weights {seed},
the stages' pictures {seed}, {second_seed}, {third_seed}. First the encoder and the projector alone: each
patch's vision token must point at the word embeddings of what the patch shows ({eyes_steps} steps of
{eyes_batch}). Then everything, on several question-answer turns per image in one sequence, masked so that
each turn sees only the image and itself ({mind_steps} steps of {mind_batch}), the patch targets kept as a
side task. Then {habit_steps} steps more of the same, with more to read, and with each of them one turn per
image under a random schedule (Sort & Reduce, 20 to 60 % of the vision tokens from layer 3 on, a second cut
in the deeper half), so that the instruction's attention in the first layers learns to point at what matters.
Matrices: Muon, the rest: AdamW; bfloat16 autocast on two CPU cores,
{hours:.1f} hours. All numbers are in `vtr_ray.embedded.training.Recipe`.

{history}

## Accuracy, as measured

On the test split, by the tasks' own metrics; weights rounded to half precision, run in float32.

| | {tasks} | average |
| --- | {dashes} | --- |
{rows}

F1 on existence: {f1:.3f}. *Blank image*: the picture replaced by a white one. *Text prior*: the most
frequent answer to the same question among 30 000 training pictures, whatever the picture; what a model
without eyes could reach.
"""

VARIANT_CARD = """# The embedded model with {name}

The embedded model (`../model`) with another projector:
{what}.
{parameters:,} parameters; an image is 36 vision tokens instead of 144, each of 2 x 2 patches. They are
this few before the language model sees the question, and any schedule can be searched on top:
`vtr-ray gsearch --model embedded:{projector}`. config.json names the projector as `vtr_ray_projector`;
`vtr_ray.load_model` builds it, no code comes with the weights.

## Recipe

`python jobs/train_embedded.py FOLDER --projector {projector}`, then `python jobs/publish_embedded.py FOLDER`.
Data, losses and optimisers of the embedded model's recipe (its card tells them), from the weights of the
embedded model as they shipped then;
{new}.
Stages: {eyes_steps} steps of {eyes_batch}, {mind_steps} of {mind_batch} and {habit_steps} of {mind_batch}
(these weights: step {step} of stage `{stage}`); seed {seed}; {hours:.1f} hours on two CPU cores.
In the dense side task a token must point at every word that its four patches show.

## Accuracy, as measured

On the test split, by the tasks' own metrics; weights rounded to half precision, run in float32.

| | {tasks} | average |
| --- | {dashes} | --- |
{rows}

F1 on existence: {f1:.3f}. The first row is the embedded model's own, with all its 144 tokens; the others mean
what they mean in its card.
"""

INTERNVL_CARD = """# The embedded InternVL

A model of {parameters:,} parameters (transformers' `InternVLForConditionalGeneration`: an encoder of 4
layers, pixel shuffle, a Qwen2 decoder of 16 layers, width 128), so that studies across models have a second
one of another architecture and depth: `vtr-ray gsearch --model embedded:internvl`. It answers what the
embedded LLaVA (`../model`) answers, and questions about clips of eight frames (`vtr_clips`).

A picture of 96 x 96 becomes four tiles and a thumbnail of 48 x 48 each, a frame one such tile; a tile has
8 x 8 patches, after pixel shuffle 16 vision tokens. So an image is 80 vision tokens, a clip 128.

## Data

The embedded LLaVA's (its card tells it), and clips that `vtr_ray.embedded.draw.clips` draws: of three to
five shapes one moves and one to three appear. What moved, where to, how many appeared and which of them
first or last is not in the last frame. Training, search and test splits share no image and no clip.

## Recipe

`python jobs/train_embedded.py FOLDER --architecture internvl`, then
`python jobs/publish_embedded.py FOLDER`. Encoder and projector are new. The decoder grows from the embedded
LLaVA's twelve layers as LLaMA Pro grows one: behind each three a new layer that adds nothing at first; so the
two models' decoders are relatives, and what they share need not be a law. Losses, optimisers and stages are
those of the LLaVA's recipe, seed {seed}: {eyes_steps} steps of {eyes_batch} (the words stay as they are),
{mind_steps} of {mind_batch} and {habit_steps} of {mind_batch} (these weights: step {step} of stage
`{stage}`), {clips:.0%} of them on clips; {hours:.1f} hours on two CPU cores. In the dense side task a token
must point at every word that its patches show.

The second stage followed a cosine over 1800 steps up to step 680, over its 1300 from there on.

What was tried: a decoder of its own, from scratch. After 1600, 1800 and 700 steps of the three stages it
answered 1.00 of easy_vqa, 0.68 of scenes, 0.60 of existence, 0.38 of text, 0.21 of documents, 0.67 of charts
and 0.60 of clips: letters lagged.

## Accuracy, as measured

On the test split, by the tasks' own metrics; weights rounded to half precision, run in float32.

| | {tasks} | average |
| --- | {dashes} | --- |
{rows}

F1 on existence: {f1:.3f}. The rows mean what they mean in the embedded LLaVA's card; a blank clip is white.
With a clip's last frame in place of all eight: {last_frame:.3f}.
"""

VARIANT_WORDS = {
    "deco": {
        "name": "DeCo",
        "what": "DeCo averages the patch features of each 2 x 2 cell before LLaVA's two linear layers",
        "new": "DeCo's linear layers have the names and shapes of LLaVA's own, so nothing is new",
    },
    "tokenpacker": {
        "name": "TokenPacker",
        "what": "TokenPacker's coarse tokens, the encoder's last features at half the resolution, attend\n"
        f"each to its own 2 x 2 patches in encoder layers {', '.join(map(str, LEVELS))}",
        "new": "its projector is new",
    },
}

HISTORY = """\
What was tried. With the second stage at the first one's learning rate (5e-3) and a weight of 0.3 for the
patch targets, the share of patches fully right fell from 0.94 to 0.65 within 300 steps, and the loss
stood at 0.9; at 2e-3 and a weight of 1 it stayed at 0.9. Without practice questions on where a colour
and a shape meet ("the red circle is at the?"), existence stood at chance (0.50) and documents at 0.22
after 750 steps; these questions came in at that step, and both were learnt by step 1500. More
comparisons of two things' places, and a heavier share of charts, came in at step 1750. So a run of the
recipe as it stands now sees these from its first step, and is not bit for bit the run behind these
weights. Their second stage stopped 500 steps before the end of a cosine over 3000. After it, with a third of
the vision tokens left from layer 3 on, E on the search split fell from 0.982 to 0.950: the first two
layers' attention did not know yet what the question would need. That is what the third stage is for. These
weights went through it twice: 900 steps of the second stage's mix with 10 to 80 % of the tokens and a second
cut anywhere (then 0.984 instead of 0.995 without reduction: documents lost most), and 1000 steps as the
recipe stands now, from seed 102 (0.988 instead of 0.995)."""
