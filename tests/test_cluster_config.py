"""cluster.yaml: valid by Ray's own schema, closed to the world, and installing what was tested."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from vtr_ray.commands.searching import HOME

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


@pytest.fixture(scope="module")
def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.lower().replace("_", "-").split("==") for line in lines if not line.startswith("#"))


def test_ray_accepts_it(config: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(config))


def test_nothing_is_open(config: dict[str, Any]) -> None:
    assert config["provider"]["use_internal_ips"] and config["auth"]["ssh_proxy_use_node_id"]
    for kind in config["available_node_types"].values():
        assert kind["node_config"]["SecurityGroupIds"]  # else Ray opens port 22
    head = " ".join(config["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in head and "mlflow server --host 127.0.0.1" in head
    assert "0.0.0.0" not in str(config)
    commands = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    assert all("node.sh" in command for command in commands if re.search(r"\bray |mlflow server", command))


def test_what_a_node_sources_is_shell_and_says_it_all(config: dict[str, Any], tmp_path: Path) -> None:
    """Runs the setup step that writes it, with the paths moved here."""
    script = next(command for command in config["setup_commands"] if "node.sh" in command)
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "vtr-ray").mkdir()
    (tmp_path / "venv" / "bin" / "activate").write_text("")
    (tmp_path / "vtr-ray" / "cluster.env").write_text("HF_TOKEN=secret\n")
    moved = script.replace("/home/ubuntu", str(tmp_path)).replace("ulimit", "true ulimit")
    subprocess.run(["bash", "-ec", moved], check=True)
    shown = subprocess.run(
        ["bash", "-ec", f". {tmp_path}/vtr-ray/node.sh; exec env"], check=True, capture_output=True, text=True
    ).stdout
    said = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    assert said["HF_TOKEN"] == "secret" and said["HF_HOME"].startswith("/opt/dlami/nvme")
    assert said["RAY_AUTH_MODE"] == "token" and said["RAY_AUTH_TOKEN_PATH"].endswith(".ray/auth_token")
    assert int(said["RAY_JOB_STOP_WAIT_TIME_S"]) >= 30  # the default of 3 s kills a search while it closes
    assert said["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5000"
    assert said[HOME] == "/shared"  # runs that nobody named a directory for survive the head, too
    made = next(command for command in config["setup_commands"] if "mkdir -p /opt/dlami" in command)
    assert f"mkdir -p {said['HF_HOME']} " in made and f"chown ubuntu {said['HF_HOME']}" in made


@pytest.mark.parametrize(("wheels", "installs"), [(1, True), (0, False), (2, False)])
def test_a_node_installs_the_one_wheel(
    config: dict[str, Any], tmp_path: Path, wheels: int, installs: bool
) -> None:
    """Runs the setup step, with the paths moved here and a pip that notes what it is asked for."""
    script = next(command for command in config["setup_commands"] if ".whl" in command)
    (tmp_path / "vtr-ray" / "dist").mkdir(parents=True)
    for number in range(wheels):
        (tmp_path / "vtr-ray" / "dist" / f"vtr_ray-0.{number}-py3-none-any.whl").touch()
    pip = tmp_path / "venv" / "bin" / "pip"
    pip.parent.mkdir(parents=True)
    pip.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    pip.chmod(0o755)
    moved = script.replace("/home/ubuntu", str(tmp_path)).replace("python3 -m venv", "true")
    done = subprocess.run(["bash", "-c", f"true && ({moved})"], capture_output=True, text=True)  # as Ray does
    assert (done.returncode == 0) == installs
    if installs:
        first, again = (tmp_path / "asked").read_text().splitlines()
        assert "--constraint constraints.txt dist/vtr_ray-0.0-py3-none-any.whl boto3==" in first
        assert again.endswith("--no-deps --force-reinstall dist/vtr_ray-0.0-py3-none-any.whl")
    else:
        assert "dist must hold one wheel" in done.stderr and not (tmp_path / "asked").exists()


def test_results_are_on_shared_storage(config: dict[str, Any]) -> None:
    head = " ".join(config["head_start_ray_commands"])
    assert "sqlite:////shared/" in head and "--artifacts-destination /shared/" in head
    assert any("mount -t nfs4" in command and " /shared" in command for command in config["setup_commands"])


def test_nodes_install_the_wheel_with_every_dependency_pinned(
    config: dict[str, Any], pinned: dict[str, str]
) -> None:
    install = next(command for command in config["setup_commands"] if ".whl" in command)
    assert "--constraint" in install and "./constraints.txt" in config["file_mounts"].values()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in map(Requirement, project["dependencies"]):
        name = requirement.name.lower()
        assert name in pinned, f"{name} is not in constraints.txt: write it again, as its head says"
        assert requirement.specifier.contains(pinned[name]), f"{name} {pinned[name]} is not {requirement}"
