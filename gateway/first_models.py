"""The first models are loaded while the system works already, and whoever asks is told how far."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from functions._kit.errors import Conflict, NereidError, OutOfMemory, Unavailable
from gateway.embedded.folder import DataFolder
from gateway.settings import Settings

if TYPE_CHECKING:
    from gateway.adapters.inference import TritonInference

LOADING = "loading.json"
"""File of the data folder while models are loaded: which one, and how many are left."""
RETRY_S = 0.5


class ModelProgress(msgspec.Struct, frozen=True, kw_only=True):
    """One of the first models: at its beginning without `seconds`, at its end with them."""

    model: str
    number: int
    total: int
    seconds: float | None = None
    problem: str | None = None
    """Why it could not be loaded."""


ModelReport = Callable[[ModelProgress], None]


class FirstModels:
    """Has Triton load `names` one after the other. What needs one sooner has it loaded itself."""

    def __init__(
        self, settings: Settings, folder: DataFolder, names: Sequence[str], report: ModelReport
    ) -> None:
        self.loaded = asyncio.Event()
        """Whether each was loaded or given up once."""
        self.broken: dict[str, str] = {}
        """Why those could not be loaded that could not."""
        self._settings = settings
        self._folder = folder
        self._names = names
        self._report = report
        self._wanted = asyncio.Event()
        if names:
            self._tell(ModelProgress(model=names[0], number=1, total=len(names)))
        else:
            self.forget()
            self.loaded.set()

    def again(self) -> None:
        """Triton has lost them: load them anew."""
        self._wanted.set()

    async def keep(self) -> None:
        """Load them, and again when asked to, until cancelled."""
        if not self._names or self._settings.triton_url is None:
            return
        from gateway.adapters.inference import TritonInference  # noqa: PLC0415 - see `gateway.system`

        try:
            async with TritonInference(self._settings.triton_url) as triton:
                while True:
                    self._wanted.clear()
                    await self._load_all(triton)
                    await self._wanted.wait()
        finally:
            self.forget()
            self.loaded.set()

    async def _load_all(self, triton: TritonInference) -> None:
        total = len(self._names)
        for number, name in enumerate(self._names, 1):
            begun = ModelProgress(model=name, number=number, total=total)
            self._tell(begun)
            self._report(begun)
            began = time.perf_counter()
            problem = await self._load(triton, name)
            if problem is None:
                self.broken.pop(name, None)
            else:
                self.broken[name] = problem
            seconds = time.perf_counter() - began
            self._report(msgspec.structs.replace(begun, seconds=seconds, problem=problem))
        self.forget()
        self.loaded.set()

    async def _load(self, triton: TritonInference, name: str) -> str | None:
        """Load one; return why that is not possible. Triton itself is waited for."""
        while True:
            try:
                await triton.load(name)
            except OutOfMemory as error:
                return error.message
            except Unavailable:
                await asyncio.sleep(RETRY_S)
            except NereidError:
                return await why_broken(self._settings, triton, name)
            else:
                return None

    def _tell(self, progress: ModelProgress) -> None:
        with suppress(Conflict):  # the disk is full: they are loaded all the same
            self._folder.write(LOADING, msgspec.json.encode(progress).decode())

    def forget(self) -> None:
        """Say no more that models are being loaded."""
        (self._folder.path / LOADING).unlink(missing_ok=True)


async def why_broken(settings: Settings, triton: TritonInference, name: str) -> str:
    """Triton's reason; of a config that does not parse it only says so in its log."""
    from gateway.models.config import parse_config  # noqa: PLC0415 - see `gateway.system`
    from gateway.models.opening import open_repository  # noqa: PLC0415

    try:
        async with open_repository(settings) as models:
            parse_config(await models.config(name), f"{name}/config.pbtxt")
        reasons = [found.reason for found in await triton.versions() if found.model == name]
    except NereidError as error:
        return error.message
    return next((r.partition("\n")[0] for r in reasons if r), "Triton's log says why")


def still_loading(data: Path) -> Mapping[str, str]:
    """A sentence on the models that `nereid up` on this data folder has yet to load, or nothing."""
    try:
        found = msgspec.json.decode((data / LOADING).read_bytes(), type=ModelProgress)
    except (OSError, msgspec.DecodeError):
        return {}
    return {"models": f"{found.model} is being loaded, {found.number} of {found.total}"}
