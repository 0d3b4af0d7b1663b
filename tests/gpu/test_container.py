"""Dockerfile, compose file, start script and versions, as far as they go without a container."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from engines.versions import versions
from gateway.embedded import RunningS3
from gateway.settings import CHECKOUT

TRITON = CHECKOUT / "triton"
VERSIONS = versions()
DOCKERFILE = (TRITON / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((TRITON / "compose.yaml").read_text())
SERVERS = {name: item for name, item in COMPOSE["services"].items() if name.startswith("triton")}


def instructions() -> list[tuple[str, list[str]]]:
    """The Dockerfile's instructions with their words."""
    lines = re.sub(r"\\\n\s*", "", DOCKERFILE).splitlines()
    found = [line.split() for line in lines if line and not line.startswith("#")]
    return [(words[0], words[1:]) for words in found]


def pins(file: str) -> dict[str, str]:
    """Name and version of each pinned package; the newest Python's where there are several."""
    text = (CHECKOUT / "requirements" / file).read_text()
    return dict(re.findall(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE))


def test_the_image_is_the_one_that_is_written_down() -> None:
    container = VERSIONS["container"]
    froms = [words for instruction, words in instructions() if instruction == "FROM"]
    assert froms == [[f"{container['image']}:{container['tag']}"]]
    assert container["tag"] == f"{container['release']}-py3"


def test_the_dockerfile_copies_what_is_there_and_the_context_holds_it() -> None:
    ignored = (TRITON / "Dockerfile.dockerignore").read_text().splitlines()
    kept = [line[1:] for line in ignored if line.startswith("!")]
    for instruction, words in instructions():
        if instruction == "COPY":
            for source in words[:-1]:
                assert (CHECKOUT / source).exists(), source
                assert any(Path(source).is_relative_to(path) for path in kept), source


def test_packages_are_installed_by_hash_and_nothing_beside_them() -> None:
    runs = [" ".join(words) for instruction, words in instructions() if instruction == "RUN"]
    (install,) = [run for run in runs if "pip install" in run]
    for option in ("--require-hashes", "--no-deps", "--only-binary=:all:"):
        assert option in install
    assert not any(word in run for run in runs for word in ("curl", "wget", "apt-get"))


def test_every_layout_that_the_dockerfile_makes_is_what_the_scripts_expect() -> None:
    copied = {words[-1] for instruction, words in instructions() if instruction == "COPY"}
    assert {
        "/opt/nereid/scripts/build_engines.py",
        "/opt/nereid/scripts/engines",
        "/opt/nereid/triton/",
        "/opt/nereid/backends",
    } <= copied
    serve = (TRITON / "serve.sh").read_text()
    assert "/opt/nereid/scripts/build_engines.py" in serve
    assert "--backend-directory=/opt/nereid/backends" in serve
    assert ("CMD", ['["/opt/nereid/triton/serve.sh"]']) in instructions()
    assert os.access(TRITON / "serve.sh", os.X_OK)


def test_the_wheels_are_the_ones_that_are_written_down() -> None:
    inside = pins("container.txt")
    assert inside == pins("container.in")
    for name, version in VERSIONS["wheels"].items():
        assert inside[name] == version, name
    assert VERSIONS["wheels"]["tensorrt-cu12-bindings"] == VERSIONS["container"]["tensorrt"]


def test_our_backends_run_on_the_same_versions_as_in_the_embedded_server() -> None:
    inside, embedded = pins("container.txt"), pins("triton.txt")
    assert {name for name in embedded if name in inside} == set(embedded) - {"nvidia-pytriton"}
    for name in set(embedded) - {"nvidia-pytriton"}:
        assert inside[name] == embedded[name], name
    assert embedded["nvidia-pytriton"] == VERSIONS["embedded"]["wheel_version"]


def test_all_else_has_the_versions_that_the_tests_run_with() -> None:
    dev = pins("dev.txt")
    own = {*pins("triton.txt"), "tensorrt-cu12-bindings"}
    for name, version in pins("container.in").items():
        assert name in own or dev[name] == version, name


def test_our_python_reaches_down_to_the_containers() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    least = project["requires-python"].removeprefix(">=")
    container = VERSIONS["container"]["python"]
    assert tuple(map(int, least.split("."))) <= tuple(map(int, container.split(".")))
    recipes = (CHECKOUT / "justfile").read_text()
    lock = re.search(r"--python-version (\S+) .*container\.txt", recipes)
    assert lock is not None
    assert lock[1] == container


def test_the_page_on_gpus_has_the_table_of_versions() -> None:
    page = (CHECKOUT / "docs" / "gpu.md").read_text()
    container, driver = VERSIONS["container"], VERSIONS["driver"]
    told = [container[key] for key in ("tag", "triton", "tensorrt", "cuda", "python", "ubuntu")]
    told += [driver["minimum"], *driver["forward_compatible"]]
    told += [VERSIONS["gpu"]["minimum_compute_capability"], *VERSIONS["wheels"].values()]
    told += [VERSIONS["embedded"]["triton"], VERSIONS["embedded"]["release"]]
    assert [value for value in told if value not in page] == []


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_has_one_gpu_a_read_only_repository_and_is_watched(name: str) -> None:
    server = SERVERS[name]
    (device,) = server["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert device["capabilities"] == ["gpu"]
    assert len(device["device_ids"]) == 1
    assert server["volumes"] == ["../model_repository:/models:ro"]
    assert "/v2/health/ready" in server["healthcheck"]["test"][-1]
    compile(server["healthcheck"]["test"][-1], "healthcheck", "exec")
    assert {"shm_size", "ulimits", "restart", "stop_grace_period"} <= set(server)
    assert server["environment"]["TRITON_REPOSITORY"] == "${TRITON_REPOSITORY:-/models}"


def test_no_two_servers_share_a_gpu_or_a_port() -> None:
    gpus, ports = [], []
    for server in SERVERS.values():
        gpus += server["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"]
        ports += [port.rpartition(":")[0] for port in server["ports"]]
    assert gpus == ["0", "1", "2", "3"]
    assert len(set(ports)) == len(ports) == 12
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize(("profile", "count"), [(None, 1), ("two", 2), ("four", 4)])
def test_profiles_are_one_two_and_four_gpus(profile: str | None, count: int) -> None:
    started = [
        item for item in SERVERS.values() if "profiles" not in item or profile in item["profiles"]
    ]
    assert len(started) == count


def test_the_compose_file_knows_the_keys_that_compose_knows() -> None:
    known = {
        "image", "build", "environment", "volumes", "shm_size", "ulimits", "healthcheck", "restart",
        "stop_grace_period", "ports", "profiles", "command", "deploy",
    }  # fmt: skip
    assert set(COMPOSE) == {"name", "x-triton", "services"}
    for item in COMPOSE["services"].values():
        assert set(item) <= known
        assert (TRITON / item["build"]["context"] / item["build"]["dockerfile"]).exists()
        for volume in item["volumes"]:
            source = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", volume).split(":")[0]
            assert (TRITON / source).parent.exists(), volume


def test_engines_are_built_with_a_repository_to_write_into_on_one_gpu() -> None:
    engines: dict[str, Any] = COMPOSE["services"]["engines"]
    assert "../model_repository:/models" in engines["volumes"]
    words = engines["command"]
    assert words[1] == "/opt/nereid/scripts/build_engines.py"
    assert words[words.index("--repository") + 1] == "/models"
    assert "run --build --rm" in (CHECKOUT / "justfile").read_text()


# Writes down how it was called and, of a builder, which files it finds.
PROGRAM = """#!/bin/sh
echo "${0##*/} $*"
if [ "$2" = check ] && [ -d "$4" ]; then (cd "$4" && find . -type f); fi
test "$REFUSE" != "${0##*/}"
"""
RCLONE = CHECKOUT / ".venv" / "bin" / "rclone"


@pytest.fixture
def start(tmp_path: Path) -> Any:
    """Runs serve.sh with such programs for tritonserver and the builder."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("tritonserver", "python3"):
        (programs / name).write_text(PROGRAM)
        (programs / name).chmod(0o755)
    (programs / "rclone").symlink_to(RCLONE)

    def run(*words: str, **settings: str) -> subprocess.CompletedProcess[str]:
        known = {"PATH": f"{programs}:/usr/bin:/bin", "ENGINES_BUILDER": "build_engines.py"}
        return subprocess.run(
            [str(TRITON / "serve.sh"), *words],
            env=known | settings,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_the_container_checks_the_engines_and_then_becomes_triton(start: Any) -> None:
    done = start("--log-verbose=1")
    check, server = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert check == "python3 build_engines.py check --repository /models"
    assert server == (
        "tritonserver --model-repository=/models --backend-directory=/opt/nereid/backends"
        " --model-control-mode=explicit --model-config-name=tensorrt --load-model=* --log-verbose=1"
    )


def test_the_models_named_are_checked_and_loaded(start: Any) -> None:
    check, server = start(TRITON_MODELS="nanodet-g-416 silero-vad").stdout.splitlines()
    assert check.endswith("--repository /models nanodet-g-416 silero-vad")
    assert server.endswith("--load-model=nanodet-g-416 --load-model=silero-vad")


def test_triton_does_not_start_where_the_check_refuses(start: Any) -> None:
    done = start(REFUSE="python3")
    assert done.returncode == 1
    assert "tritonserver" not in done.stdout


def test_a_repository_in_s3_is_copied_for_the_check_and_served_from_there(
    start: Any, s3: RunningS3, tmp_path: Path
) -> None:
    address = f"{s3.endpoint}/{s3.bucket}/gpu/models"
    keys = {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key}
    manifest = tmp_path / "models" / "small" / "1" / "engine.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    subprocess.run(
        [RCLONE, "copy", "--config=/dev/null", tmp_path / "models", f":s3:{s3.bucket}/gpu/models"],
        env=keys
        | {"RCLONE_S3_ENV_AUTH": "true", "RCLONE_S3_PROVIDER": "Other"}
        | {"RCLONE_S3_ENDPOINT": s3.endpoint},
        check=True,
    )
    (tmp_path / "scratch").mkdir()
    done = start(TRITON_REPOSITORY=f"s3://{address}", TMPDIR=str(tmp_path / "scratch"), **keys)
    assert done.returncode == 0, done.stderr
    check, found, server = done.stdout.splitlines()
    assert re.search(r"check --repository \S+/scratch/", check)
    assert found == "./small/1/engine.json"
    assert f"--model-repository=s3://{address} " in server
    assert list((tmp_path / "scratch").iterdir()) == []
