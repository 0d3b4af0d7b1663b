"""Opens the ports over the real servers, and closes them backwards."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from functions._kit.in_flight import InFlight, open_in_flight
from functions._kit.ports import (
    AlertStore,
    AudioConverter,
    ClientStore,
    DeadLetters,
    Figures,
    Inference,
    KeyValue,
    LanguageModel,
    Limits,
    ModelServer,
    Objects,
    PictureDecoder,
    Probes,
    Stream,
    Tally,
    TaskStore,
    TokenIssuer,
)
from functions._kit.throttle import Throttle
from gateway.adapters.confined.converter import open_converter
from gateway.adapters.confined.pictures import open_pictures
from gateway.adapters.deadletters import JetStreamDeadLetters
from gateway.adapters.figures import open_figures
from gateway.adapters.inference import TritonInference
from gateway.adapters.jetstream import JetStream, StreamLimits, connect, ensure_streams
from gateway.adapters.keyvalue import ensure_buckets, open_key_values
from gateway.adapters.language import open_language_model
from gateway.adapters.objects import S3Address, open_objects
from gateway.adapters.observed import observed
from gateway.adapters.spare import open_spare
from gateway.adapters.tables import AlertTable, ClientTable, TaskTable, open_database
from gateway.adapters.tally import open_tally
from gateway.asgi import VERSION
from gateway.auth import Authenticator, Tokens
from gateway.first_models import still_loading
from gateway.metrics.capacity import Capacity
from gateway.metrics.process import ProcessMetrics
from gateway.settings import Settings, SettingsError
from gateway.tls import TlsFiles
from gateway.tracing import Tracing, open_tracing
from gateway.worker.sickness import reported

LOAD_PATIENCE_S = 20.0
"""Less than any function's own limit: a job waits for a model without an attempt being spent."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """Everything that a gateway or a worker runs on."""

    stream: JetStream
    objects: Objects
    inference: Inference
    triton: TritonInference
    tasks: TaskTable
    alerts: AlertTable
    clients: ClientTable
    values: KeyValue
    dead_letters: DeadLetters
    tally: Tally
    converter: AudioConverter
    pictures: PictureDecoder
    language_model: LanguageModel
    figures: Figures
    in_flight: InFlight
    limits: Limits
    metrics: ProcessMetrics
    tracing: Tracing
    tokens: Tokens
    authenticator: Authenticator
    scratch: Path
    data: Path

    @property
    def probes(self) -> Mapping[str, Callable[[], Awaitable[bool]]]:
        """Health checks by the name that `Unavailable.backend` uses."""
        return {
            "queue": self.stream.healthy,
            "s3": self.objects.healthy,
            "database": self.tasks.healthy,
            "triton": self.triton.healthy,
        }

    def by_name(self) -> dict[str, Any]:
        """Ports for HTTP handlers, by parameter name."""
        return {
            "stream": self.stream,
            "objects": self.objects,
            "inference": self.inference,
            "model_server": self.triton,
            "store": self.tasks,
            "alert_store": self.alerts,
            "values": self.values,
            "dead_letters": self.dead_letters,
            "converter": self.converter,
            "pictures": self.pictures,
            "language_model": self.language_model,
            "figures": self.figures,
            "in_flight": self.in_flight,
            "metrics": self.metrics,
            "clients": self.clients,
            "tokens": self.tokens,
            "limits": self.limits,
            "probes": Probes(
                self.probes, lambda: reported(self.values), lambda: still_loading(self.data)
            ),
            "scratch": self.scratch,
        }

    def by_type(self) -> dict[type, Any]:
        """Ports for NATS handlers, by the type they ask for."""
        return {
            Stream: self.stream,
            Objects: self.objects,
            Inference: self.inference,
            ModelServer: self.triton,
            TaskStore: self.tasks,
            AlertStore: self.alerts,
            KeyValue: self.values,
            DeadLetters: self.dead_letters,
            Tally: self.tally,
            AudioConverter: self.converter,
            PictureDecoder: self.pictures,
            LanguageModel: self.language_model,
            Figures: self.figures,
            ClientStore: self.clients,
            TokenIssuer: self.tokens,
            Limits: self.limits,
        }


@asynccontextmanager
async def open_runtime(settings: Settings, *, name: str) -> AsyncIterator[Runtime]:
    """Connect to every server. Raises `SettingsError` for an address that is missing."""
    role = name.removeprefix("nereid-")
    secret = required(settings, "token_secret")
    scratch = settings.scratch_dir.absolute()
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        tracing = await stack.enter_async_context(
            _tracing(settings, name)
        )  # hears all that follows
        client = await connect(required(settings, "nats_url"), name=name, tls=settings.nats_tls)
        stack.push_async_callback(client.close)
        limits = StreamLimits(
            replicas=settings.stream_replicas,
            jobs_max_messages=settings.jobs_max_messages,
            frames_max_messages=settings.frames_max_messages,
        )
        await ensure_streams(client, limits)
        await ensure_buckets(client, settings.stream_replicas)
        clustered = settings.stream_replicas > 1
        stream = JetStream(client, tracing, clustered=clustered)
        if clustered:
            await stack.enter_async_context(open_spare(stream))
        database = await stack.enter_async_context(
            open_database(required(settings, "database_url"))
        )
        objects = await stack.enter_async_context(open_objects(s3_address(settings), tracing))
        triton = await stack.enter_async_context(
            TritonInference(
                required(settings, "triton_url"),
                infer_timeout_s=settings.inference_timeout_s,
                load_patience_s=LOAD_PATIENCE_S,
                tracing=tracing,
                tls=triton_tls(settings),
            )
        )
        values = await stack.enter_async_context(open_key_values(client))
        inference = await stack.enter_async_context(observed(triton, values))
        tally = await stack.enter_async_context(open_tally(stream))
        converter = await stack.enter_async_context(_converter(settings))
        pictures = await stack.enter_async_context(open_pictures(settings.picture_decoders))
        language_model = await stack.enter_async_context(_language_model(settings, values))
        figures = await stack.enter_async_context(open_figures(values, converter, name, role))
        in_flight = await stack.enter_async_context(open_in_flight(scratch))
        metrics = ProcessMetrics(role, VERSION)
        metrics.add(Capacity(converter, language_model, figures))
        clients = ClientTable(database)
        tokens = Tokens(secret, settings.token_lifetime_s, settings.token_secret_previous)
        yield Runtime(
            stream=stream,
            objects=objects,
            inference=inference,
            triton=triton,
            tasks=TaskTable(database),
            alerts=AlertTable(database),
            clients=clients,
            values=values,
            dead_letters=JetStreamDeadLetters(stream),
            tally=tally,
            converter=converter,
            pictures=pictures,
            language_model=language_model,
            figures=figures,
            in_flight=in_flight,
            limits=Limits(
                max_upload_bytes=settings.max_upload_bytes,
                max_pixels=settings.max_pixels,
                max_frame_bytes=settings.max_frame_bytes,
                max_audio_s=settings.max_audio_s,
                audio_cache_bytes=settings.audio_cache_bytes,
                audio_cache_lifetime_s=settings.audio_cache_lifetime_s,
                allow_private_callbacks=settings.allow_private_callbacks,
                webhook_secret=required(settings, "webhook_secret").encode(),
                reserved_prefixes=settings.reserved_prefixes,
            ),
            metrics=metrics,
            tracing=tracing,
            tokens=tokens,
            authenticator=Authenticator(
                clients,
                tokens,
                secret,
                settings.token_secret_previous,
                failures=Throttle(settings.wrong_keys_per_minute, 60.0),
            ),
            scratch=scratch,
            data=settings.data,
        )


def _tracing(settings: Settings, name: str) -> AbstractAsyncContextManager[Tracing]:
    return open_tracing(
        settings.otlp_endpoint,
        headers=settings.otlp_headers,
        ratio=settings.trace_ratio,
        service=name,
        version=VERSION,
    )


def _converter(settings: Settings) -> AbstractAsyncContextManager[AudioConverter]:
    workers = settings.audio_converter_workers or os.cpu_count() or 1
    return open_converter(
        workers=workers,
        max_concurrent=settings.max_concurrent_audio_conversions or workers,
        max_waiting=settings.max_waiting_audio_conversions,
    )


def _language_model(
    settings: Settings, values: KeyValue
) -> AbstractAsyncContextManager[LanguageModel]:
    return open_language_model(
        url=settings.llm_url,
        key=settings.llm_key,
        model=settings.llm_model,
        at_once=settings.llm_requests_at_once,
        per_minute=settings.llm_requests_per_minute,
        per_day=settings.llm_requests_per_day,
        timeout_s=settings.llm_timeout_s,
        values=values,
    )


def s3_address(settings: Settings) -> S3Address:
    """Where S3 is, from the settings."""
    return S3Address(
        endpoint=required(settings, "s3_endpoint"),
        access_key=required(settings, "s3_access_key"),
        secret_key=required(settings, "s3_secret_key"),
        bucket=settings.s3_bucket,
        region=settings.s3_region,
        public_endpoint=settings.s3_public_endpoint,
        ca=settings.s3_ca,
    )


def triton_tls(settings: Settings) -> TlsFiles | None:
    """How to speak to Triton: None is without TLS."""
    return settings.triton_files if settings.triton_tls or settings.triton_files else None


def required(settings: Settings, name: str) -> str:
    """A setting that has no default. Raises `SettingsError` with the ways out."""
    value = getattr(settings, name)
    if value is None:
        raise SettingsError(
            f"NEREID_{name.upper()} is not set, and no `nereid up` runs on the data folder "
            f"{settings.data}: set it, start `nereid up`, or name its folder with --data"
        )
    return str(value)
