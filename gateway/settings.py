"""Settings: `NEREID_*` variables over one TOML file over defaults; unknown names are refused."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from gateway.edge.origins import check_origins, check_proxies
from gateway.models.place import S3Place, place_of
from gateway.tls import TlsFiles, check_files

CHECKOUT = Path(__file__).resolve().parents[1]
PREFIX = "NEREID_"
ALIASES = {
    "max_upload_size": "max_upload_bytes",
}
"""Further names of settings; the setting's own name wins."""
WITHOUT_PREFIX = frozenset(
    {"max_concurrent_audio_conversions", "audio_converter_workers", "max_upload_size"}
)
"""Settings that are also taken from a variable without `NEREID_`, which wins over it."""
SECRET_NAMES = ("_secret", "_key", "_previous", "_headers")
"""How the names of settings end that hold secrets."""
RUNNING = "running.json"
"""File of the data folder that tells where the embedded servers are, and the metrics."""


class SettingsError(Exception):
    """A setting is unknown or does not fit; the message says which and why."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything an operator may set. Addresses left out mean the embedded server."""

    data: Path = Path(".nereid")
    """Folder of everything that `nereid up` keeps."""
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    """HTTP port; 0 takes a free one."""
    log_level: str = "info"
    tls_certificate: Path | None = None
    """PEM file with the certificate, and its chain, that HTTP answers with: https."""
    tls_key: Path | None = None
    trusted_proxies: str | None = None
    """Addresses and networks, by commas, whose X-Forwarded-For and -Proto are believed."""
    cors_origins: str | None = None
    """Origins, by commas, whose pages may call."""
    requests_per_minute_per_client: Annotated[int, Meta(ge=1)] = 30_000
    """Of one gateway, as the next two."""
    requests_per_minute_per_address: Annotated[int, Meta(ge=1)] = 60_000
    wrong_keys_per_minute: Annotated[int, Meta(ge=1)] = 60
    """Unknown API keys that one address may send; beyond, its further ones are not looked up."""
    wrong_secrets_per_hour: Annotated[int, Meta(ge=1)] = 100
    """For one client id, from all addresses together; beyond, only familiar ones get tokens."""
    max_connections: Annotated[int, Meta(ge=1)] = 4096
    """Open connections to one gateway; beyond, HTTP answers 503."""

    nats_url: str | None = None
    """nats://user:password@host:port, or tls://; of a cluster several, with commas in between."""
    nats_ca: Path | None = None
    nats_certificate: Path | None = None
    nats_key: Path | None = None
    nats_sync: Annotated[str, Meta(pattern=r"^(always|[1-9]\d*(ms|s|m))$")] = "1s"
    """How often the embedded NATS has streams written through to the disk, as 500ms, 1s, 2m; or
    `always`: before it says that it has a message. A power cut loses what came since."""
    stream_replicas: Annotated[int, Meta(ge=1, le=5)] = 1
    """Copies of each stream in a NATS cluster."""
    jobs_max_messages: Annotated[int, Meta(ge=1)] = 1_000_000
    """Jobs of one function and priority band that may wait; beyond, HTTP answers 503."""
    frames_max_messages: Annotated[int, Meta(ge=1)] = 1_000_000
    """Frames of one camera that may wait; beyond, HTTP answers 503."""

    s3_endpoint: str | None = None
    s3_access_key: str | None = None
    s3_secret_key: str | None = None
    s3_bucket: str = "nereid"
    s3_region: str = "us-east-1"
    s3_public_endpoint: str | None = None
    """The address in presigned URLs, where clients reach S3 by another one than we do."""
    s3_ca: Path | None = None

    triton_url: str | None = None
    """host:port of Triton's gRPC service."""
    triton_tls: bool = False
    triton_ca: Path | None = None
    triton_certificate: Path | None = None
    triton_key: Path | None = None
    inference_timeout_s: Annotated[float, Meta(gt=0)] = 3600.0
    """Longest wait for one tile, queueing included; a Triton that hangs is noticed much sooner."""

    database_url: str | None = None
    """postgresql://user:password@host:port/name"""

    token_secret: Annotated[str, Meta(min_length=32)] | None = None
    """Signs bearer tokens; kept in the data folder unless set. The same on every gateway."""
    token_secret_previous: Annotated[str, Meta(min_length=32)] | None = None
    """The last one, while tokens and API keys of its time shall still hold."""
    token_lifetime_s: Annotated[int, Meta(ge=60, le=86_400)] = 3600
    token_requests_per_minute: Annotated[int, Meta(ge=1)] = 60
    """Token requests that one address may make."""
    webhook_secret: Annotated[str, Meta(min_length=32)] | None = None
    """Signs webhooks; kept in the data folder unless set."""
    allow_private_callbacks: bool = False
    """Whether callback_url may lead to private and loopback addresses."""

    max_upload_bytes: Annotated[int, Meta(ge=1)] = 2 << 30
    max_pixels: Annotated[int, Meta(ge=1)] = 100_000_000
    """Width times height of the largest photo that is taken."""
    max_frame_bytes: Annotated[int, Meta(ge=1)] = 32 << 20
    """Largest file of a camera's frame."""

    picture_decoders: Annotated[int, Meta(ge=2, le=256)] | None = None
    """Processes that decode pictures; as many as there are cores and two at least, unless set."""

    audio_converter_workers: Annotated[int, Meta(ge=1, le=256)] | None = None
    """Processes that convert sound; as many as there are cores, unless set."""
    max_concurrent_audio_conversions: Annotated[int, Meta(ge=1, le=256)] | None = None
    """Conversions that run at once in one process; as many as its workers, unless set."""
    max_waiting_audio_conversions: Annotated[int, Meta(ge=0)] = 256
    """Conversions that may wait for a worker; beyond, HTTP answers 429."""
    max_audio_s: Annotated[float, Meta(gt=0)] = 4 * 3600.0
    """Longest recording that is taken."""
    audio_cache_bytes: Annotated[int, Meta(ge=0)] = 2 << 30
    """Conversions that are kept for the next request with the same bytes; the oldest go first."""
    audio_cache_lifetime_s: Annotated[int, Meta(ge=0)] = 24 * 3600

    llm_url: str | None = None
    """A service that speaks OpenAI's chat completions, for `user_prompt`: http(s)://host/v1"""
    llm_key: str | None = None
    llm_model: str | None = None
    llm_requests_at_once: Annotated[int, Meta(ge=1)] = 4
    """By one process."""
    llm_requests_per_minute: Annotated[int, Meta(ge=1)] | None = None
    """By all processes together."""
    llm_requests_per_day: Annotated[int, Meta(ge=1)] | None = None
    """By all processes together, from midnight to midnight UTC; kept over restarts."""
    llm_timeout_s: Annotated[float, Meta(gt=0)] = 60.0
    """Longest wait for one answer."""

    scratch: Path | None = None
    """Folder for files in work; DATA/scratch unless set."""
    min_free_bytes: Annotated[int, Meta(ge=0)] = 256 << 20
    """What a disk of the data folder must have free; below, HTTP takes no work (503)."""
    drain_s: Annotated[float, Meta(ge=0)] = 20.0
    """How long a stopping worker finishes its jobs before it hands them back."""

    model_repository: str = str(CHECKOUT / "model_repository")
    """A folder, s3://bucket/prefix on our S3, or s3://http://host:port/bucket/prefix."""
    model_config_name: str = ""
    """Triton's --model-config-name: configs/NAME.pbtxt of a model is read where there is one."""
    model_repository_access_key: str | None = None
    """For a repository in S3; those of `s3_access_key` and `s3_secret_key` unless set."""
    model_repository_secret_key: str | None = None
    metrics_host: str = "127.0.0.1"
    """Address of a worker's GET /metrics; beyond loopback it asks for credentials."""
    metrics_port: Annotated[int, Meta(ge=0, le=65535)] = 0
    """0 takes a free one, which the worker's log tells, and `nereid up` keeps."""
    otlp_endpoint: str | None = None
    """An OTLP/HTTP collector that takes traces: http(s)://host:port"""
    otlp_headers: str | None = None
    """name=value,name=value: what the collector wants to know us by."""
    trace_ratio: Annotated[float, Meta(ge=0, le=1)] = 1.0
    """So many of all traces are kept, unless the caller has decided."""

    triton_environment: Path = CHECKOUT / ".triton"
    """The Python environment that holds Triton, for the embedded server."""

    def __post_init__(self) -> None:
        """Raise ValueError for what fits its type and still cannot be."""
        try:
            place_of(self.model_repository)
        except ValueError as error:
            raise ValueError(f"model_repository: {error}") from error
        check_origins(self.cors_origins or "")
        check_proxies(self.trusted_proxies or "")
        tls = {
            "tls": TlsFiles(certificate=self.tls_certificate, key=self.tls_key),
            "nats": self.nats_tls,
            "triton": self.triton_files,
            "s3": self.s3_tls,
        }
        for name, files in tls.items():
            if files:
                check_files(name, files)
        if "" in self.reserved_prefixes:
            raise ValueError(
                "model_repository: it is the whole bucket that holds photos and results, too; "
                "give it a prefix, as in s3://bucket/models"
            )

    @property
    def nats_tls(self) -> TlsFiles:
        """How to speak to NATS, where its URL says tls://."""
        return TlsFiles(ca=self.nats_ca, certificate=self.nats_certificate, key=self.nats_key)

    @property
    def triton_files(self) -> TlsFiles:
        """How to speak to Triton, where it has TLS."""
        return TlsFiles(ca=self.triton_ca, certificate=self.triton_certificate, key=self.triton_key)

    @property
    def s3_tls(self) -> TlsFiles:
        """How to speak to S3, where its address says https://."""
        return TlsFiles(ca=self.s3_ca)

    @property
    def url(self) -> str:
        """Where HTTP is answered."""
        scheme = "http" if self.tls_certificate is None else "https"
        return f"{scheme}://{self.host}:{self.port}"

    @property
    def reserved_prefixes(self) -> tuple[str, ...]:
        """Keys of our bucket that no function takes a file from: the model repository's."""
        place = place_of(self.model_repository)
        if (
            not isinstance(place, S3Place)
            or place.bucket != self.s3_bucket
            or place.endpoint not in {None, self.s3_endpoint}
        ):
            return ()
        return (f"{place.prefix}/" if place.prefix else "",)

    @property
    def scratch_dir(self) -> Path:
        """Where files in work lie."""
        return self.scratch or self.data / "scratch"


def load(
    environ: Mapping[str, str] | None = None, *, running: bool = True, **overrides: Any
) -> Settings:
    """Read the settings. `NEREID_CONFIG` names the TOML file. Raises `SettingsError`.

    Addresses, secrets and the model repository that nobody sets come from the `nereid up` that runs
    on the data folder, unless `running` is false: what a killed one left there is not true.
    """
    settings = _given(os.environ if environ is None else environ, overrides)
    file = settings.data / RUNNING
    if not running or not file.is_file():
        return settings
    shared: dict[str, str] = msgspec.json.decode(file.read_bytes())
    defaults = Settings()
    unset = {
        name: shared[name]
        for name in Settings.__struct_fields__
        if name in shared and getattr(settings, name) == getattr(defaults, name)
    }
    return msgspec.structs.replace(settings, **unset)


def secrets_of(settings: Settings) -> list[str]:
    """The values that no log may hold, passwords in addresses among them."""
    texts = {
        name: value
        for name, value in msgspec.structs.asdict(settings).items()
        if isinstance(value, str)
    }
    named = [text for name, text in texts.items() if name.endswith(SECRET_NAMES)]
    passwords = [urlsplit(text).password for name, text in texts.items() if name.endswith("_url")]
    return list(filter(None, (*named, *passwords)))


def _given(environ: Mapping[str, str], overrides: Mapping[str, Any]) -> Settings:
    values: dict[str, Any] = {}
    config = environ.get(f"{PREFIX}CONFIG")
    if config:
        values |= _from_toml(Path(config))
    values |= {
        _known(name, name): environ[name.upper()]
        for name in WITHOUT_PREFIX
        if name.upper() in environ
    }
    given = {name for name in environ if name.startswith(PREFIX) and name != f"{PREFIX}CONFIG"}
    for name in sorted(given, key=lambda name: _field(name) not in ALIASES):
        values[_known(_field(name), name)] = environ[name]
    values |= {name: value for name, value in overrides.items() if value is not None}
    try:
        return msgspec.convert(values, Settings, strict=False, dec_hook=_path)
    except msgspec.ValidationError as error:
        raise SettingsError(f"a setting does not fit: {error}") from error


def _from_toml(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"NEREID_CONFIG={path}: {error}") from error
    names = sorted(table, key=lambda name: name not in ALIASES)
    return {_known(name, f"{name} in {path}"): table[name] for name in names}


def _field(variable: str) -> str:
    return variable.removeprefix(PREFIX).lower()


def _known(field: str, shown: str) -> str:
    field = ALIASES.get(field, field)
    fields = Settings.__struct_fields__
    if field not in fields:
        near = difflib.get_close_matches(field, fields, n=1)
        hint = f"; did you mean {PREFIX}{near[0].upper()}?" if near else ""
        raise SettingsError(f"unknown setting {shown}{hint}")
    return field


def _path(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value)
    raise NotImplementedError
