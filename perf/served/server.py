"""The Triton that is measured: one of our own on a copy of one model, or one that runs already."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
from google.protobuf import json_format, text_format  # type: ignore[import-untyped]
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.grpc.model_config_pb2 import ModelConfig

from gateway.embedded import EmbeddedServers, EmbeddedSettings, RunningTriton, TritonSettings
from gateway.settings import CHECKOUT

REPOSITORY = CHECKOUT / "model_repository"


@contextlib.asynccontextmanager
async def own_triton(
    scratch: Path, model: str, config_name: str = ""
) -> AsyncIterator[RunningTriton]:
    """A Triton on a copy of the model's folder in `scratch`."""
    repository = scratch / "repository"
    shutil.copytree(REPOSITORY / model, repository / model)
    wanted = TritonSettings(repository=repository, config_name=config_name)
    settings = EmbeddedSettings(triton=wanted)
    async with EmbeddedServers(scratch / "data", want={"triton"}, settings=settings) as servers:
        yield servers.triton


def config_path(model: str, name: str = "") -> Path:
    """MODEL/config.pbtxt, or MODEL/configs/NAME.pbtxt."""
    folder = REPOSITORY / model
    return folder / "configs" / f"{name}.pbtxt" if name else folder / "config.pbtxt"


def read_config(text: str) -> Any:
    """The protobuf message of a config.pbtxt. Raises `text_format.ParseError`, with the line."""
    return text_format.Parse(text, ModelConfig())


async def load(url: str, model: str, config: Any = None) -> Any:
    """Load the model, with `config` instead of its folder's where given; what Triton serves by."""
    override = None
    if config is not None:
        override = json_format.MessageToJson(config, preserving_proto_field_name=True, indent=None)
    async with InferenceServerClient(url) as client:
        await client.load_model(model, config=override)
        return (await client.get_model_config(model)).config


async def versions(url: str, model: str) -> tuple[str, str]:
    """Triton's version and the model's."""
    async with InferenceServerClient(url) as client:
        server = await client.get_server_metadata()
        served = await client.get_model_metadata(model)
    return server.version, max(served.versions, key=int)


async def done(url: str, model: str) -> int:
    """Pictures that the model has answered since it was loaded."""
    async with InferenceServerClient(url) as client:
        statistics = await client.get_inference_statistics(model)
    return sum(int(one.inference_count) for one in statistics.model_stats)


def core_seconds(pid: int) -> float:
    """CPU time that a process and its children have used so far."""
    own = psutil.Process(pid)
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return sum(float(one.user + one.system) for one in times)


def digest(text: str) -> str:
    """Twelve hex digits that stand for a configuration."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def parameter(config: Any, name: str, default: str = "") -> str:
    """A parameter of the configuration."""
    return config.parameters[name].string_value if name in config.parameters else default


def instances(config: Any) -> int:
    """Instances of the model, over all of its groups."""
    return sum(max(1, group.count) for group in config.instance_group) or 1
