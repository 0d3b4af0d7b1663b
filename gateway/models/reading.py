"""What lies in a model repository."""

from __future__ import annotations

from functions._kit.errors import Conflict, NotFound
from gateway.models.config import admitted_versions, parse_config
from gateway.models.files import Files
from gateway.models.layout import (
    CONFIG,
    GOLDEN,
    NAME,
    RECORD,
    content_of,
    is_beside,
    is_model,
    model_names,
    used_config,
    whole_versions,
)
from gateway.models.record import VersionRecord, read_record, sha256, version_sha256


class RepositoryReader:
    """Asks for models and versions; changes nothing."""

    def __init__(self, files: Files, config_name: str = "") -> None:
        """`config_name` is Triton's --model-config-name."""
        self._files = files
        self._config_name = config_name

    async def models(self) -> list[str]:
        """All models: folders that are whole and have a config.pbtxt."""
        return model_names(await self._files.paths())

    async def versions(self, model: str) -> list[str]:
        """Numbers of the model's whole versions, ascending. Raises `NotFound`."""
        return whole_versions(model, await self._paths(model))

    async def config(self, model: str, name: str = "") -> str:
        """The text of config.pbtxt; of configs/NAME.pbtxt where there is one, as Triton chooses.

        Raises `NotFound` (`model_not_found`).
        """
        path = used_config(model, await self._paths(model), name)
        return (await self._files.read(path)).decode()

    async def served_config(self, model: str) -> str:
        """The text of the configuration that our Triton uses. Raises as `config`."""
        return await self.config(model, self._config_name)

    async def files(self, model: str, version: str) -> dict[str, bytes]:
        """All of a version, and what lies beside the config, by path below the model's folder.

        Raises `NotFound` (`model_not_found`, `version_not_found`).
        """
        inside = await self._version_paths(model, version)
        beside = [path for path in await self._paths(model) if is_beside(model, path)]
        return {path.partition("/")[2]: await self._files.read(path) for path in inside + beside}

    async def admitted(self, model: str) -> list[str]:
        """The versions there are that Triton loads, ascending."""
        config = parse_config(await self.config(model), f"{model}/{CONFIG}")
        return admitted_versions(config, await self.versions(model))

    async def record(self, model: str, version: str) -> VersionRecord | None:
        """What version.json says; None for a version that nobody sealed."""
        if f"{model}/{version}/{RECORD}" not in await self._version_paths(model, version):
            return None
        content = await self._files.read(f"{model}/{version}/{RECORD}")
        return read_record(content)

    async def golden(self, model: str, version: str) -> bytes | None:
        """The bytes of the version's golden.npz, if it has one; see gateway/models/golden.py."""
        path = f"{model}/{version}/{GOLDEN}"
        has_one = path in await self._version_paths(model, version)
        return await self._files.read(path) if has_one else None

    async def sha256(self, model: str, version: str) -> str:
        """What the version is now, by its content; see `VersionRecord.sha256`."""
        paths = await self._version_paths(model, version)
        inside = {path.removeprefix(f"{model}/{version}/"): path for path in paths}
        served = content_of(inside)
        content = {name: sha256(await self._files.read(inside[name])) for name in served}
        return version_sha256(content, parse_config(await self.config(model), f"{model}/{CONFIG}"))

    async def verify(self, model: str, version: str) -> str:
        """The version's hash. Raises `Conflict` (`version_changed`) where it is not as recorded."""
        digest, record = await self.sha256(model, version), await self.record(model, version)
        if record is not None and record.sha256 != digest:
            raise Conflict(
                "version_changed",
                f"Version {version} of {model} is not what was added at"
                f" {record.added_at:%Y-%m-%d %H:%M}: its files or the model's config were changed"
                f" (sha256 {digest[:12]}, recorded {record.sha256[:12]}). Put them back, or add"
                " the new content as a version of its own with `nereid models add`.",
                field="version",
            )
        return digest

    async def _paths(self, model: str) -> list[str]:
        """Paths of the model's files. Raises `NotFound` (`model_not_found`)."""
        paths = await self._files.paths(model) if NAME.fullmatch(model) else []
        if not is_model(model, paths):
            raise NotFound("model_not_found", f"model: there is no model {model!r}.", field="model")
        return paths

    async def _version_paths(self, model: str, version: str) -> list[str]:
        """Paths of a whole version's files. Raises `NotFound` (`version_not_found`)."""
        paths = await self._paths(model)
        versions = whole_versions(model, paths)
        if version not in versions:
            raise no_version(model, version, versions)
        return [path for path in paths if path.startswith(f"{model}/{version}/")]


def no_version(model: str, version: str, versions: list[str]) -> NotFound:
    """The error of a version that is not there."""
    there = ", ".join(versions) or "none"
    message = f"version: {model} has no version {version!r}; there are: {there}."
    return NotFound("version_not_found", message, field="version")
