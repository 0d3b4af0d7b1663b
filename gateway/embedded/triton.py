"""NVIDIA Triton on this machine's CPU, from the binaries in the wheel `nvidia-pytriton`."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gateway.embedded.folder import DataFolder
from gateway.embedded.process import NICE, Command, Process, StartError, http_status

log = logging.getLogger(__name__)

CHECKOUT = Path(__file__).resolve().parents[2]
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory lies on Linux
OK = 200
ASK_S = 30.0
STARTS = 3
"""Triton 2.51 aborts now and then while it starts on a busy machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Repository:
    """A model repository in S3. `url` is s3://http://host:port/bucket/prefix."""

    url: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonSettings:
    """How the embedded Triton runs. `models` are loaded at the start, others when asked for."""

    environment: Path = CHECKOUT / ".triton"
    backends: Path = CHECKOUT / "triton" / "backends"
    repository: Path | S3Repository = CHECKOUT / "model_repository"
    models: tuple[str, ...] = ()
    models_later: bool = False
    """Whether whoever starts the server has `models` loaded once it answers."""
    config_name: str = ""
    exit_on_error: bool = True
    """Whether one of `models` that cannot be loaded ends the server."""
    traces_url: str = ""
    """Where an OTLP/HTTP collector takes traces; Triton adds its own spans to its callers'."""
    traces_headers: str = ""
    """name=value,name=value"""
    arguments: tuple[str, ...] = ()
    """Further ones of tritonserver."""
    deadline_s: float = 120.0


@dataclass(frozen=True, slots=True)
class RunningTriton:
    """A Triton server: `url` is host:port for gRPC, the others are for HTTP."""

    url: str
    http_url: str
    metrics_url: str
    process: Process
    models: tuple[str, ...] = ()
    """Those that it was told to load."""
    broken: Mapping[str, str] = field(default_factory=dict)
    """Why those of the first models could not be loaded that could not."""


async def start(folder: DataFolder, settings: TritonSettings | None = None) -> RunningTriton:
    """Start Triton on the model repository, again where it crashes. Raises `StartError`."""
    settings = settings or TritonSettings()
    _check_models(settings)
    packages = _packages(settings.environment)
    ports = {name: folder.port(f"triton_{name}") for name in ("http", "grpc", "metrics")}
    regions = take_shared_memory(folder)
    at_once = () if settings.models_later else settings.models
    process = Process(
        Command(
            name="triton",
            argv=[
                str(packages / "pytriton" / "tritonserver" / "bin" / "tritonserver"),
                f"--model-repository={_where(settings.repository)}",
                f"--backend-directory={_backends(folder, settings, packages)}",
                f"--backend-config=python,shm-region-prefix-name={regions}",
                "--model-control-mode=explicit",
                *(f"--load-model={name}" for name in at_once),
                f"--exit-on-error={str(settings.exit_on_error).lower()}",
                # Else one model that cannot be loaded makes the whole server seem away.
                "--strict-readiness=false",
                *([f"--model-config-name={settings.config_name}"] if settings.config_name else []),
                *(f"--{name}-address=127.0.0.1" for name in ports),
                *(f"--{name}-port={port}" for name, port in ports.items()),
                *_tracing(settings.traces_url),
                *settings.arguments,
                "--exit-timeout-secs=5",
            ],
            log=folder.log("triton"),
            environment=_environment(settings.environment, packages)
            | _credentials(settings.repository)
            | {"OTEL_EXPORTER_OTLP_HEADERS": settings.traces_headers},
            keep_fds=(folder.lock_fd,),
            deadline_s=settings.deadline_s,
            nice=NICE,
        )
    )

    async def answers() -> bool:
        return await http_status(ports["http"], "/v2/health/ready") == OK

    for left in reversed(range(STARTS)):
        try:
            await process.start(answers)
            break
        except StartError as error:
            if not (error.crashed and left):
                raise
            log.warning("Triton is started again: %s", error)
            take_shared_memory(folder)
    http_url = f"http://127.0.0.1:{ports['http']}"
    try:
        broken = await _broken(http_url, settings)
    except BaseException:
        await process.stop()
        raise
    return RunningTriton(
        url=f"127.0.0.1:{ports['grpc']}",
        http_url=http_url,
        metrics_url=f"http://127.0.0.1:{ports['metrics']}/metrics",
        process=process,
        models=settings.models,
        broken=broken,
    )


async def _broken(http_url: str, settings: TritonSettings) -> dict[str, str]:
    """Which of the first models are not there, with Triton's reasons where it gives any."""
    if settings.exit_on_error or settings.models_later:
        return {}
    import httpx  # noqa: PLC0415 - it takes longer to import than Triton takes to start

    async with httpx.AsyncClient(trust_env=False, timeout=ASK_S) as client:
        answer = (await client.post(f"{http_url}/v2/repository/index", json={})).json()
    ready = {entry["name"] for entry in answer if entry.get("state") == "READY"}
    reasons = {
        entry["name"]: entry["reason"].partition("\n")[0] for entry in answer if entry.get("reason")
    }
    return {
        name: reasons.get(name, "Triton's log says why")
        for name in settings.models
        if name not in ready
    }


def _where(repository: Path | S3Repository) -> str:
    return repository.url if isinstance(repository, S3Repository) else str(repository)


def _credentials(repository: Path | S3Repository) -> dict[str, str]:
    """What Triton's S3 client takes from its environment, and from there alone."""
    if not isinstance(repository, S3Repository):
        return {}
    return {
        "AWS_ACCESS_KEY_ID": repository.access_key,
        "AWS_SECRET_ACCESS_KEY": repository.secret_key,
        "AWS_DEFAULT_REGION": repository.region,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


def _check_models(settings: TritonSettings) -> None:
    """Triton itself says only "failed to load all models" of a name that it cannot find."""
    if isinstance(settings.repository, S3Repository):
        return
    for folder in (settings.repository, *(settings.repository / name for name in settings.models)):
        if not folder.is_dir():
            raise StartError("triton", f"There is no model {folder}: run `just build-models`.")


def _tracing(url: str) -> list[str]:
    """Rate 0: requests that come with a trace's context, and no others."""
    if not url:
        return []
    names = ("mode=opentelemetry", "rate=0", "count=-1", "level=TIMESTAMPS")
    of_its_own = (f"url={url}", "resource=service.name=triton")
    return [
        *(f"--trace-config={name}" for name in names),
        *(f"--trace-config=opentelemetry,{name}" for name in of_its_own),
    ]


def _packages(environment: Path) -> Path:
    """The environment's site-packages; its parent's name holds the Python version."""
    found = sorted(environment.glob("lib/python3.*/site-packages/pytriton/tritonserver"))
    if not found:
        raise StartError(
            "triton", f"There is no Triton server in {environment}: run `just setup` to install it."
        )
    return found[0].parents[1]


def _environment(environment: Path, packages: Path) -> dict[str, str]:
    home = _setting(environment / "pyvenv.cfg", "home")
    prefix = Path(home).parent
    libraries = [packages / "nvidia_pytriton.libs", prefix / "lib", prefix / "lib64"]
    return {
        # The backend's stub takes its interpreter from the first python3 on PATH.
        "PATH": f"{environment / 'bin'}:/usr/local/bin:/usr/bin:/bin",
        "LD_LIBRARY_PATH": ":".join(str(path) for path in libraries),
        # Models come and go for months: what glibc would keep of their bytes, it gives back.
        "MALLOC_ARENA_MAX": "2",
        "MALLOC_TRIM_THRESHOLD_": str(1 << 20),
        "PYTHONNOUSERSITE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _setting(file: Path, name: str) -> str:
    lines = (line.partition("=") for line in file.read_text().splitlines())
    return next(value.strip() for key, _, value in lines if key.strip() == name)


def _backends(folder: DataFolder, settings: TritonSettings, packages: Path) -> Path:
    """DATA/triton/backends: Triton's python backend with its stub beside it, and our own."""
    server = packages / "pytriton" / "tritonserver"
    version = packages.parent.name.removeprefix("python")
    backends = folder.folder("triton") / "backends"
    if backends.exists():
        shutil.rmtree(backends)
    shutil.copytree(server / "backends" / "python", backends / "python")
    stub = backends / "python" / "triton_python_backend_stub"
    shutil.copyfile(server / "python_backend_stubs" / version / stub.name, stub)
    stub.chmod(0o755)
    for backend in settings.backends.iterdir() if settings.backends.is_dir() else ():
        if (backend / "model.py").is_file():
            (backends / backend.name).symlink_to(backend.resolve())
    return backends


def take_shared_memory(folder: DataFolder) -> str:
    """This data folder's name for shared memory; what a killed server left there is removed."""
    prefix = f"nereid_{hashlib.sha256(str(folder.path).encode()).hexdigest()[:12]}_"
    for region in shared_memory(prefix):
        region.unlink(missing_ok=True)
    return prefix


def shared_memory(prefix: str) -> list[Path]:
    """The regions whose names begin with `prefix`."""
    return list(SHARED_MEMORY.glob(f"{prefix}*"))
