"""Opens the model repository that the settings name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.adapters.objects import S3Address, open_objects
from gateway.models.folder import FolderFiles
from gateway.models.place import S3Place, place_of
from gateway.models.repository import ModelRepository
from gateway.models.s3 import S3Files
from gateway.settings import Settings, SettingsError


@asynccontextmanager
async def open_repository(settings: Settings) -> AsyncIterator[ModelRepository]:
    """The repository of the setting `model_repository`. Raises `SettingsError`."""
    place = place_of(settings.model_repository)
    if isinstance(place, Path):
        yield ModelRepository(FolderFiles(place), settings.model_config_name)
        return
    async with open_objects(repository_address(settings, place)) as objects:
        yield ModelRepository(S3Files(objects, place.prefix), settings.model_config_name)


def repository_address(settings: Settings, place: S3Place) -> S3Address:
    """Where the repository's S3 is and who we are there. Raises `SettingsError`."""
    endpoint = place.endpoint or settings.s3_endpoint
    access_key = settings.model_repository_access_key or settings.s3_access_key
    secret_key = settings.model_repository_secret_key or settings.s3_secret_key
    if endpoint is None or not access_key or not secret_key:
        raise SettingsError(
            f"the model repository lies in {settings.model_repository}, and no S3 is known: start"
            " `nereid up`, or set NEREID_S3_ENDPOINT, NEREID_S3_ACCESS_KEY, NEREID_S3_SECRET_KEY"
        )
    return S3Address(
        endpoint=endpoint,
        access_key=access_key,
        secret_key=secret_key,
        bucket=place.bucket,
        region=settings.s3_region,
        ca=settings.s3_ca,
    )
