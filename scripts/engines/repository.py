"""Models of the repository that are served as TensorRT engines, by their configs/tensorrt.pbtxt."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc.model_config_pb2 import ModelConfig

from engines.errors import EngineError

CONFIG = Path("configs", "tensorrt.pbtxt")
PLATFORM = "tensorrt_plan"


@dataclass(frozen=True)
class Model:
    """A folder of the repository."""

    folder: Path

    @property
    def name(self) -> str:
        """What Triton calls it."""
        return self.folder.name

    @cached_property
    def config(self) -> ModelConfig:
        """What Triton reads with `--model-config-name=tensorrt`. Raises EngineError."""
        file = self.folder / CONFIG
        try:
            return text_format.Parse(file.read_text(encoding="utf-8"), ModelConfig())
        except FileNotFoundError as error:
            raise EngineError(
                f"{self.name} has no {CONFIG}: write one with `just gpu-configs {self.name}`"
            ) from error
        except text_format.ParseError as error:
            raise EngineError(f"{file} is no model configuration: {error}") from error

    @property
    def parameters(self) -> dict[str, str]:
        """Parameters of the configuration."""
        return {key: value.string_value for key, value in self.config.parameters.items()}

    @property
    def is_engine(self) -> bool:
        """Whether Triton runs it with TensorRT."""
        return str(self.config.platform) == PLATFORM

    def served_versions(self) -> list[Path]:
        """The version folders that Triton loads, by the configuration's version policy."""
        numbers = sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdecimal())
        policy = self.config.version_policy
        if policy.HasField("specific"):
            numbers = [number for number in numbers if number in policy.specific.versions]
        elif not policy.HasField("all"):
            numbers = numbers[-(policy.latest.num_versions or 1) :]
        if not numbers:
            raise EngineError(f"{self.name} has no version to serve: run `just build-models`")
        return [self.folder / str(number) for number in numbers]


def engine_models(repository: Path, names: list[str]) -> list[Model]:
    """The models named, or all, that are engines. Raises EngineError for one that is not there."""
    if not repository.is_dir():
        raise EngineError(f"there is no model repository {repository}")
    folders = [repository / name for name in names] or sorted(
        path for path in repository.iterdir() if path.is_dir() and not path.name.startswith(".")
    )
    for folder in folders:
        if not folder.is_dir():
            raise EngineError(f"there is no model {folder.name} in {repository}")
    return [model for model in map(Model, folders) if model.is_engine]


def sha256(file: Path) -> str:
    """The file's checksum in hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
