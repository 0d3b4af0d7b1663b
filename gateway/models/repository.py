"""The model repository as Triton reads it: MODEL/config.pbtxt and MODEL/N/, N a version.

A version never changes and its number never comes again. The policy in config.pbtxt names the
versions that Triton loads; any other may lie there without harm.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import msgspec

from functions._kit.errors import Conflict, NotFound, Unprocessable
from gateway.models.config import differing_fields, parse_config, with_name, with_policy
from gateway.models.files import PARTIAL
from gateway.models.layout import (
    CONFIG,
    NAME,
    NAME_RULE,
    RECORD,
    REMOVED,
    is_config,
    is_model,
    used_config,
    version_numbers,
    whole_versions,
)
from gateway.models.reading import RepositoryReader, no_version
from gateway.models.record import new_record, sha256, version_sha256
from gateway.models.source import Source

InUse: TypeAlias = Callable[[str, str], str | None]
"""What a version of a model is used for, as `serves detect`; None where nobody needs it."""


class ModelRepository(RepositoryReader):
    """The models below one place, all in Triton's layout; see `Files` for where they lie."""

    async def ensure(self) -> None:
        """Put a file into a repository that has none: Triton takes no empty prefix of S3."""
        if not await self._files.paths():
            await self._files.write(REMOVED, b"{}")

    async def seal(self, model: str, version: str, source: str = "found in the repository") -> str:
        """Record what the version is, unless that is done; return its hash. Raises as `verify`."""
        if await self.record(model, version) is not None:
            return await self.verify(model, version)
        digest = await self.sha256(model, version)
        content = new_record(digest, source)
        await self._files.write(f"{model}/{version}/{RECORD}", content)
        return digest

    async def check_addable(self, model: str, source: Source) -> None:
        """Raise what `add_version` would, and write nothing."""
        await self._content(model, source)

    async def add_version(self, model: str, source: Source) -> str:
        """Add what `source` holds as the model's next version, or as the first of a new model.

        It is served only once it is admitted, or, in a new model, loaded. Returns its number.
        Raises `Unprocessable` (`model_name_invalid`, `config_invalid`, `config_missing`) and
        `Conflict` (`config_differs`, `version_exists`).
        """
        version, digest, is_new = await self._content(model, source)
        inside: dict[str, Path | bytes] = dict(source.files)
        inside[RECORD] = new_record(digest, source.origin)
        if not is_new:
            await self._files.put(f"{model}/{version}", inside)
            return version
        whole: dict[str, Path | bytes] = {f"{version}/{path}": inside[path] for path in inside}
        whole |= dict(source.beside)
        for path in sorted(source.configs, reverse=True):  # config.pbtxt is the last
            text = with_name(source.configs[path], model)
            whole[path] = with_policy(text, [version]).encode()
        await self._files.remove(model)  # what a half-done upload left, see `_check_free`
        await self._files.put(model, whole)
        return version

    async def admit(self, model: str, version: str) -> None:
        """Let Triton load the version too, when it is next told to load the model.

        Raises `NotFound` (`version_not_found`).
        """
        await self._version_paths(model, version)
        named = {*await self.admitted(model), version}
        await self._set_policy(model, sorted(named, key=int))

    async def withdraw(self, model: str, version: str) -> None:
        """Let Triton unload the version when it is next told to load the model.

        Raises `Conflict` (`version_needed`) for the only one that is admitted.
        """
        named = await self.admitted(model)
        if version not in named:
            return
        if named == [version]:
            raise Conflict(
                "version_needed",
                f"Version {version} is the only one of {model} that Triton may load: admit"
                " another one first, or remove the whole model.",
                field="version",
            )
        await self._set_policy(model, [other for other in named if other != version])

    async def remove_version(self, model: str, version: str) -> None:
        """Withdraw and delete a version; with the last one goes the model.

        One that was never whole is deleted too. Raises `NotFound` and `Conflict`.
        """
        others = [other for other in await self.versions(model) if other != version]
        if version not in version_numbers(model, await self._paths(model)):
            raise no_version(model, version, others)
        if not others:
            await self.remove_model(model)
            return
        await self.withdraw(model, version)
        await self._remember(model, int(version))
        await self._files.remove(f"{model}/{version}")

    async def remove_model(self, model: str) -> None:
        """Delete a model with all its versions. Raises `NotFound` (`model_not_found`)."""
        numbers = version_numbers(model, await self._paths(model))
        await self._remember(model, max(map(int, numbers), default=0))
        await self._files.remove(model)

    async def _content(self, model: str, source: Source) -> tuple[str, str, bool]:
        """The number and hash that the source would get, and whether the model is new."""
        if not NAME.fullmatch(model):
            message = f"name: {model!r} is not {NAME_RULE}."
            raise Unprocessable("model_name_invalid", message, field="name")
        paths = [path for path in await self._files.paths() if path.startswith(f"{model}/")]
        whole = {path: sha256(content) for path, content in source.served().items()}
        is_new = not is_model(model, paths)
        if is_new:
            if CONFIG not in source.configs:
                raise Unprocessable(
                    "config_missing",
                    f"There is no model {model}, and {source.origin} has no {CONFIG}: name a model"
                    " that there is, or add a folder with a config.",
                    field="source",
                )
            config = parse_config(with_name(source.configs[CONFIG], model), source.origin)
            self._check_free(model, paths)
        else:
            await self._check_configs(model, source)
            await self._check_beside(model, source, paths)
            config = parse_config(await self.config(model), f"{model}/{CONFIG}")
        digest = version_sha256(whole, config)
        for version in whole_versions(model, paths) if not is_new else ():
            record = await self.record(model, version)
            known = record.sha256 if record else await self.sha256(model, version)
            if known == digest:
                raise Conflict(
                    "version_exists",
                    f"{source.origin} holds what version {version} of {model} is already.",
                    field="source",
                )
        numbers = [int(number) for number in version_numbers(model, paths)]
        newest = max([*numbers, (await self._removed()).get(model, 0)])
        return str(newest + 1), digest, is_new

    async def _check_configs(self, model: str, source: Source) -> None:
        """Raise `Conflict` (`config_differs`) where the source's configs are not the model's."""
        paths = await self._paths(model)
        for path, text in source.configs.items():
            theirs = parse_config(with_name(text, model), f"{source.origin}/{path}")
            if f"{model}/{path}" not in paths:
                raise _config_differs(model, path, "the model has no such file")
            ours = parse_config((await self._files.read(f"{model}/{path}")).decode(), path)
            if fields := differing_fields(ours, theirs, generated=source.generated):
                raise _config_differs(model, path, f"{', '.join(fields)} differ")

    async def _check_beside(self, model: str, source: Source, paths: list[str]) -> None:
        """All versions share what lies beside the config, as they share the config itself."""
        for path, content in source.beside.items():
            has_one = f"{model}/{path}" in paths
            if not has_one:
                raise _config_differs(model, path, "the model has no such file")
            if sha256(await self._files.read(f"{model}/{path}")) != sha256(content):
                raise _config_differs(model, path, "its content differs")

    def _check_free(self, model: str, paths: list[str]) -> None:
        """Raise `Conflict` (`model_exists`) for a folder that no half-done upload has left."""
        if paths and f"{model}/{PARTIAL}" not in paths:
            raise Conflict(
                "model_exists",
                f"The repository has a folder {model!r} without a {CONFIG}: remove it or give"
                " another --name.",
                field="name",
            )

    async def _set_policy(self, model: str, versions: list[str]) -> None:
        """In every configuration of the model.

        Triton loads all versions anew where anything of the model but its configuration and its
        versions has changed, a configuration that it does not use among that.
        """
        paths = await self._paths(model)
        used = used_config(model, paths, self._config_name)
        for path in paths:
            if is_config(model, path):
                text = (await self._files.read(path)).decode()
                changed = with_policy(text, versions)
                if changed != text:
                    await self._files.write(path, changed.encode(), keep_times=path != used)

    async def _removed(self) -> dict[str, int]:
        try:
            content = await self._files.read(REMOVED)
        except NotFound:
            return {}
        return msgspec.json.decode(content, type=dict[str, int])

    async def _remember(self, model: str, number: int) -> None:
        """Keep the number from being given again."""
        removed = await self._removed()
        if number > removed.get(model, 0):
            content = msgspec.json.encode(removed | {model: number}, order="sorted")
            await self._files.write(REMOVED, content)


def _config_differs(model: str, path: str, how: str) -> Conflict:
    return Conflict(
        "config_differs",
        f"{path} is not that of the model {model}, which all its versions share: {how}. Make it"
        " the same, or add a model of its own with another --name.",
        field="config",
    )
