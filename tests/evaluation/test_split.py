"""A search split of LLaVA's data: which entries are candidates, how they are drawn, what is written."""

import json

import pytest
from test_llava import entry, png, write

from vtr_ray import embedded
from vtr_ray.errors import InputError
from vtr_ray.evaluation.llava import load_llava
from vtr_ray.evaluation.split import count_words, make_split
from vtr_ray.models import load_tokenizer


def mixture():
    entries = [entry(f"c{i}", f"coco/{i}.jpg", answer=f"answer {i}") for i in range(50)]
    entries += [entry(f"g{i}", f"gqa/images/{i}.jpg") for i in range(30)]
    entries += [entry(f"o{i}", f"ocr/{i}.jpg") for i in range(4)]
    entries += [entry(f"long{i}", f"coco/{i}.jpg", answer="one two three four five six") for i in range(9)]
    entries += [entry(f"later{i}", f"coco/{i}.jpg", question="Hello", answer="hi") for i in range(9)]
    text_only = {"conversations": entry("t")["conversations"], "id": "t"}
    return [*entries, text_only, entry("five", "vg/1.jpg", answer="one two three four five")]


def test_a_split_is_stratified_and_keeps_the_rules(tmp_path):
    path = write(tmp_path / "mix.json", mixture())
    split = make_split(path, per_source=10, seed=3)
    assert split.path == tmp_path / "mix_split.json"
    assert split.chosen == {"coco": 10, "gqa": 10, "ocr": 4, "vg": 1}
    assert split.candidates == {"coco": 50, "gqa": 30, "ocr": 4, "vg": 1}
    assert split.read == 104
    written = json.loads(split.path.read_text())
    assert len(written) == 25
    originals = {raw["id"]: raw for raw in mixture()}
    for raw in written:
        assert raw == originals[raw["id"]]
        assert len(raw["conversations"][1]["value"].split()) <= 5
        assert "<image>" in raw["conversations"][0]["value"]
    assert len({raw["id"] for raw in written}) == 25
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


def test_a_split_keeps_only_the_first_turn(tmp_path):
    more = ({"from": "human", "value": "Why?"}, {"from": "gpt", "value": "A very long story about it all."})
    split = make_split(write(tmp_path / "mix.json", [entry("1", more=more)]))
    assert json.loads(split.path.read_text()) == [entry("1")]


def test_a_split_depends_on_the_seed_alone_and_draws_evenly(tmp_path):
    path = write(tmp_path / "mix.json", mixture())
    splits = [make_split(path, tmp_path / f"{s}.json", per_source=10, seed=s) for s in range(40)]
    contents = [split.path.read_text() for split in splits]
    assert make_split(path, tmp_path / "again.json", per_source=10, seed=5).path.read_text() == contents[5]
    assert len(set(contents)) == 40
    times = [sum(f'"c{i}"' in content for content in contents) for i in range(50)]
    assert sum(times) == 400
    assert min(times) >= 1  # each of 50 is expected 8 times in 40 draws of 10
    assert max(times) <= 20


def test_a_split_is_readable_as_samples(tmp_path):
    for raw in mixture():
        if "image" in raw:
            png(tmp_path / raw["image"].replace(".jpg", ".png"), size=(8, 8))
    entries = [{**raw, "image": raw["image"].replace(".jpg", ".png")} for raw in mixture() if "image" in raw]
    split = make_split(write(tmp_path / "mix.json", entries), per_source=3)
    assert load_llava(split.path).per_source == split.chosen


def test_no_candidates_or_a_bad_number_is_an_error(tmp_path):
    path = write(tmp_path / "mix.json", [entry("1", answer="far too many words for a search")])
    with pytest.raises(InputError, match=r"none of 1 entries .* 1: the answer has more than 5 words"):
        make_split(path)
    with pytest.raises(InputError, match="at least 1"):
        make_split(path, per_source=0)


# Words as a reader of the language counts them, and whether the answer is a short one.
@pytest.mark.parametrize(
    ("text", "words", "short"),
    [
        ("red", 1, True),
        ("a large red square", 4, True),
        ("A red square lies on a wooden table.", 8, False),
        ("à côté de la tasse", 5, True),
        ("빨간 사각형", 2, True),  # Korean has spaces
        ("红色", 1, True),
        ("红色的正方形", 3, True),
        ("图中有一个红色的正方形，它放在木桌子上。", 11, False),
        ("赤", 1, True),
        ("青いコップ", 2, True),
        ("机の上に赤い四角形が置かれていて、その隣にコップがあります。", 15, False),
        ("สีแดง", 1, True),
        ("มีสี่เหลี่ยมสีแดงวางอยู่บนโต๊ะไม้ข้างถ้วยสีน้ำเงิน", 12, False),
        ("ສີແດງ", 1, True),
        ("ມີຮູບສີ່ຫຼ່ຽມສີແດງຢູ່ເທິງໂຕະໄມ້ຂ້າງຈອກສີຟ້າ", 12, False),
        ("ក្រហម", 1, True),
        ("មានការ៉េពណ៌ក្រហមមួយនៅលើតុឈើក្បែរពែងពណ៌ខៀវ", 12, False),
        ("အနီ", 1, True),
        ("သစ်သားစားပွဲပေါ်မှာအနီရောင်စတုရန်းတစ်ခုရှိတယ်ခွက်အပြာဘေးမှာ", 12, False),
        ("དམར་པོ", 1, True),
        ("ཤིང་གི་ཅོག་ཙེའི་སྒང་ལ་གྲུ་བཞི་དམར་པོ་ཞིག་འདུག་དཀར་ཡོལ་སྔོན་པོའི་འགྲམ་ལ", 14, False),
        ("7月3日", 4, True),
        ("iPhone手机 2 台", 4, True),
        ("…", 1, True),
    ],
)
def test_words_are_counted_in_scripts_with_and_without_spaces(text, words, short):
    assert (count_words(text) <= 5) == short
    assert words / 2 <= count_words(text) <= 2 * words + 1


def test_a_tokenizer_counts_where_one_is_named(tmp_path):
    checkpoint = embedded.checkpoint("embedded")
    tokens = load_tokenizer(checkpoint)
    answers = ["red", "red square", "red square red", "one two three four five six"]
    path = write(tmp_path / "mix.json", [entry(answer, answer=answer) for answer in answers])
    for limit in (1, 2, 3, None):
        split = make_split(path, tokenizer=checkpoint, max_tokens=limit, force=True)
        right = [
            one for one in answers if len(tokens(one, add_special_tokens=False).input_ids) <= (limit or 8)
        ]
        assert [raw["id"] for raw in json.loads(split.path.read_text())] == right
    with pytest.raises(InputError, match="name the model with --tokenizer"):
        make_split(path, max_tokens=3, force=True)
    with pytest.raises(InputError, match="Cannot load a tokenizer"):
        make_split(path, tokenizer=str(tmp_path), force=True)


def test_nothing_is_overwritten_unless_it_is_said(tmp_path):
    path = write(tmp_path / "mix.json", mixture())
    split = make_split(path).path
    before = split.read_bytes(), path.read_bytes()
    with pytest.raises(InputError, match=r"mix_split\.json is there already; .*--force"):
        make_split(path, seed=1, per_source=2)
    (tmp_path / "link.json").symlink_to(path)
    for own in (path, tmp_path / "link.json"):
        with pytest.raises(InputError, match="is the file that is read"):
            make_split(path, own, force=True)
    assert (split.read_bytes(), path.read_bytes()) == before
    make_split(path, seed=1, per_source=2, force=True)
    assert split.read_bytes() != before[0]


def test_what_is_dropped_is_counted_by_reason(tmp_path):
    split = make_split(write(tmp_path / "mix.json", [*mixture(), {"id": 1, "image": "a.png"}]))
    assert split.dropped == {
        "the answer has more than 5 words": 9,
        "the first turn is not about an image (no <image>)": 9,
        "no image and no video": 1,
        "conversations: Field required": 1,
    }
    assert split.read == sum(split.candidates.values()) + sum(split.dropped.values())


def test_a_split_of_absolute_paths_draws_from_every_source(tmp_path):
    entries = [entry(f"{name}{i}", f"/data/all/{name}/{i}.jpg") for name in ("coco", "gqa") for i in range(9)]
    split = make_split(write(tmp_path / "mix.json", entries), per_source=4)
    assert split.chosen == {"coco": 4, "gqa": 4}
    assert make_split(tmp_path / "mix.json", images="/data", force=True).chosen == {"all": 18}
