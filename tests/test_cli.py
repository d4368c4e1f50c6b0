import json
import socket

import pytest
from transformers import LlamaConfig

from vtr_ray import Schedule
from vtr_ray.cli import main


def refused(capsys, *arguments):
    """The one line that a mistake gets."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("vtr-ray: ")
    return lines[0]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_unknown_model_path(capsys):
    assert "/no/such/model" in refused(capsys, "gsearch", "--model", "/no/such/model", "--samples", "x.json")


def test_directory_without_a_checkpoint(capsys, tmp_path):
    assert "config.json" in refused(capsys, "gsearch", "--model", str(tmp_path), "--samples", "x.json")


def test_family_not_supported(capsys, tmp_path):
    LlamaConfig(num_hidden_layers=2, architectures=["LlamaForCausalLM"]).save_pretrained(tmp_path / "llama")
    line = refused(capsys, "gsearch", "--model", str(tmp_path / "llama"), "--samples", "x.json")
    assert "Llama" in line and "LlavaForConditionalGeneration" in line


def test_own_model_needs_samples(capsys, tiny_llava_dir):
    assert "--samples" in refused(capsys, "gsearch", "--model", str(tiny_llava_dir))


def test_no_samples(capsys, tmp_path):
    (tmp_path / "none.json").write_text("[]")
    assert "none.json" in refused(capsys, "gsearch", "--samples", str(tmp_path / "none.json"))
    assert "gone.json" in refused(capsys, "gsearch", "--samples", str(tmp_path / "gone.json"))


def test_schedule_of_the_wrong_length(capsys, tmp_path):
    Schedule.from_rates([1, 1, 0.5]).save(tmp_path / "short.json")
    line = refused(capsys, "evaluate", str(tmp_path / "short.json"))
    assert "3 layers" in line and "12" in line


def test_decode_time_reduction_out_of_range(capsys):
    evaluate = ("evaluate", "--strategy", "fastv", "--decode-every")
    assert "every is 0" in refused(capsys, *evaluate, "0")
    assert "keep is 2" in refused(capsys, *evaluate, "1", "--decode-keep", "2")
    line = refused(capsys, "evaluate", "--strategy", "pyramid_drop", "--decode-every", "2")
    assert "pyramid_drop renumbers positions" in line


def test_frames_out_of_range(capsys):
    assert "frames" in refused(capsys, "gsearch", "--frames", "0")


@pytest.mark.parametrize("rates", [[1, 0.2, 0.5], [1, 1.2], [1, -0.1], [0.5, 0.5], [1, "x"], []])
def test_rates_that_are_none(capsys, tmp_path, rates):
    (tmp_path / "s.json").write_text(json.dumps({"rates": rates}))
    for command in ("evaluate", "show"):
        assert "s.json" in refused(capsys, command, str(tmp_path / "s.json"))


def test_busy_port(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert str(port) in refused(capsys, "gsearch", "--ui-port", str(port))


def test_resume_without_a_run(capsys, tmp_path):
    assert "no run" in refused(capsys, "gsearch", "--resume")
    assert "not a run" in refused(capsys, "gsearch", "--resume", "--out", str(tmp_path))


def test_unknown_option_and_command(capsys):
    assert "--helf" in refused(capsys, "gsearch", "--helf")
    assert "serch" in refused(capsys, "serch")
    assert "--stride" in refused(capsys, "gsearch", "--stride", "x")


@pytest.mark.parametrize(
    "option",
    [("--stride", "0"), ("--initial", "1"), ("--weight", "-1"), ("--parallel", "0"), ("--batch", "0")],
)
def test_numbers_out_of_range(capsys, option, tmp_path):
    refused(capsys, "gsearch", *option)
    assert not (tmp_path / "runs").exists()


def test_unknown_surrogates_and_objectives_and_too_few_samples_to_keep_accuracy(capsys, tmp_path):
    assert "use shape or paper" in refused(capsys, "gsearch", "--surrogate", "best")
    assert "keep-accuracy:POINTS" in refused(capsys, "gsearch", "--objective", "keep-accuracy")
    # 510 embedded search samples, where 0.1 points need 2325.
    line = refused(capsys, "gsearch", "--objective", "keep-accuracy:0.1")
    assert "510 search samples cannot show" in line and "give 2325 or more" in line
    assert not (tmp_path / "runs").exists()


def test_show_prints_counts_and_draws(capsys, tmp_path):
    Schedule.from_rates([1, 1, 0.5]).save(tmp_path / "s.json")
    with pytest.raises(SystemExit) as stop:
        main(["show", str(tmp_path / "s.json"), "--tokens", "144", "--figure", str(tmp_path / "s.png")])
    assert stop.value.code == 0
    assert "72" in capsys.readouterr().out
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")


def test_samples_makes_a_split(capsys, tmp_path):
    entries = [
        {
            "id": str(i),
            "image": f"coco/{i}.jpg",
            "conversations": [
                {"from": "human", "value": "<image>\nWhat?"},
                {"from": "gpt", "value": "a cat"},
            ],
        }
        for i in range(20)
    ]
    (tmp_path / "all.json").write_text(json.dumps(entries))
    with pytest.raises(SystemExit) as stop:
        main(["samples", str(tmp_path / "all.json"), "--per-source", "5"])
    assert stop.value.code == 0
    assert "coco: 5" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "all_split.json").read_text())) == 5
