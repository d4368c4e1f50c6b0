import errno
import json
import os
import signal
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


@pytest.mark.parametrize(
    "rates", [[1, 0.2, 0.5], [1, 1.2], [1, -0.1], [0.5, 0.5], [1, "x"], [], [1, 10**400], None]
)
def test_rates_that_are_none(capsys, tmp_path, rates):
    deep = '{"rates": ' + "[" * 100_000
    (tmp_path / "s.json").write_text(deep if rates is None else json.dumps({"rates": rates}))
    for command in ("evaluate", "show"):
        assert "s.json" in refused(capsys, command, str(tmp_path / "s.json"))


def test_busy_port(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert str(port) in refused(capsys, "gsearch", "--ui-port", str(port))


@pytest.mark.parametrize("port", ["-1", "0", "65536", "70000"])
def test_a_port_that_is_none(capsys, port):
    assert f"port {port} is none" in refused(capsys, "gsearch", "--ui-port", port)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show", "s.json", "--tokens", "-5"), "--tokens"),
        (("show", "s.json", "--figure", "x.foo"), "x.foo"),
        (("show", "s.json", "--figure", "x"), "png"),
        (("show", "s.json", "--figure", "gone/x.png"), "gone/x.png: No such file"),
        (("show", "s.json", "--figure", "s.json/x.png"), "s.json/x.png: Not a directory"),
        (("samples", "quiz.json", "--out", "gone/split.json"), "gone/split.json: No such file"),
        (("samples", "quiz.json", "--out", "."), "cannot write ."),
        (("samples", "."), ". does not exist"),
        (("gsearch", "--out", "x" * 300), "File name too long"),
        (("psigmoid", "--budget", "0.5", "--out", "x" * 300), "File name too long"),
        (("gsearch", "--out", "s.json/run"), "s.json is a file"),
        (("gsearch", "--samples", "x" * 300), "File name too long"),
        (("gsearch", "--model", "x" * 300), "File name too long"),
        (("show", "x" * 300), "File name too long"),
    ],
)
def test_paths_that_cannot_be_used(capsys, tmp_path, arguments, said):
    Schedule.from_rates([1, 1, 0.5]).save(tmp_path / "s.json")
    turns = [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "a"}]
    (tmp_path / "quiz.json").write_text(json.dumps([{"id": "1", "image": "1.png", "conversations": turns}]))
    assert said in refused(capsys, *arguments)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["quiz.json", "s.json"]


@pytest.mark.parametrize("named", [["mine"], ["mine/run"], ["mine/run/deeper"], ["x", "--figure=mine/run"]])
def test_any_error_about_a_path_that_was_named_is_one_line(capsys, monkeypatch, tmp_path, named):
    def broken(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / path))

    monkeypatch.setattr(Schedule, "load", lambda _: broken("mine/run"))
    assert "mine/run: Permission denied" in refused(capsys, "show", *named)
    monkeypatch.setattr(Schedule, "load", lambda _: broken("other"))
    with pytest.raises(PermissionError):
        main(["show", *named])


@pytest.mark.parametrize(
    "shares",
    [("--cpus-per-actor", "nan"), ("--gpus-per-actor", "nan"), ("--gpus-per-actor", "1.5"),
     ("--gpus-per-actor", "inf"), ("--cpus-per-actor", "-1")],
)  # fmt: skip
def test_shares_that_no_actor_can_hold(capsys, shares):
    assert "cannot hold" in refused(capsys, "gsearch", *shares)
    assert "cannot hold" in refused(capsys, "evaluate", "--strategy", "fastv", *shares)


@pytest.mark.parametrize(
    "change", [{"text_config": 7}, {"text_config": {"model_type": "llama", "hidden_size": "x"}}]
)
def test_a_configuration_that_is_none(capsys, tiny_llava_dir, tmp_path, change):
    config = json.loads((tiny_llava_dir / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    for command in ("gsearch", "plan"):
        line = refused(capsys, command, "--model", str(tmp_path))
        assert "Validation error for field" in line and "got" in line


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
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line.split()[:3] for line in lines[:3]] == [
        *(["1", "1.0000", "144"], ["2", "1.0000", "144"], ["3", "0.5000", "72"])
    ]
    # As wide as the rates are large; the last one is the memory cost.
    whole, half, mean = (lines[row].count("█") for row in (0, 2, -2))
    assert whole >= 8 and half == whole / 2 and lines[1].count("█") == whole
    assert "mean" in lines[-2] and mean == int(whole * 2.5 / 3)
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_command_says_so_and_ends_with_its_signal(
    capsys, tmp_path, monkeypatch, signum, status
):
    from vtr_ray.commands import show

    monkeypatch.setattr(show, "show", lambda *_: os.kill(os.getpid(), signum))
    with pytest.raises(SystemExit) as stop:
        main(["show", str(tmp_path / "s.json")])
    assert stop.value.code == status
    assert capsys.readouterr().err == f"vtr-ray: stopped by {signum.name}\n"


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
    assert "coco: 5 of 20" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "all_split.json").read_text())) == 5
