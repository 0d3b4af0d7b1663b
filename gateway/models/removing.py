"""Removes versions from the model repository, when nobody uses them any more."""

from __future__ import annotations

from functions._kit.errors import Conflict
from functions._kit.ports import ModelServer
from gateway.models.repository import InUse, ModelRepository


async def remove(
    repository: ModelRepository,
    model: str,
    version: str | None,
    *,
    in_use: InUse,
    server: ModelServer | None,
) -> list[str]:
    """Remove a version, or the whole model without one; return the versions that went.

    Triton unloads it before its files go. Raises `NotFound` and `Conflict` (`version_in_use`,
    `version_needed`).
    """
    versions = await repository.versions(model)
    gone = versions if version is None else [version]
    for one in gone:
        if user := in_use(model, one):
            raise Conflict(
                "version_in_use",
                f"Version {one} of {model} cannot be removed, for it {user}: switch to another one"
                " first.",
                field="version",
            )
    if version is None or versions == [version]:
        if server is not None:
            await server.unload(model)
        await repository.remove_model(model)
        return gone
    if version in versions:
        was_loaded = version in await repository.admitted(model)
        await repository.withdraw(model, version)
        if server is not None and was_loaded:
            await server.load(model)
    await repository.remove_version(model, version)
    return gone
