"""`nereid models`: which models serve, and how another version comes to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.main import DATA, configured, run
from gateway.cli.model_add import add
from gateway.cli.model_remove import remove
from gateway.settings import Settings

if TYPE_CHECKING:
    from functions._kit.ports import KeyValue
    from functions._kit.rollout.changes import Rollouts
    from functions._kit.rollout.state import Target
    from gateway.adapters.inference import TritonInference
    from gateway.adapters.jetstream import JetStream
    from gateway.models.check import Checker
    from gateway.models.repository import ModelRepository

LATENCY = click.option(
    "--max-latency-ratio",
    type=click.FloatRange(min=0, min_open=True),
    help="How many times as long as the active version it may take.",
)
SHARE = click.FloatRange(0, 1)


@dataclass(frozen=True, slots=True)
class ModelPorts:
    """What the commands speak to."""

    triton: TritonInference
    values: KeyValue
    stream: JetStream
    repository: ModelRepository
    rollouts: Rollouts
    checker: Checker


@asynccontextmanager
async def model_ports(
    settings: Settings, max_latency_ratio: float | None = None
) -> AsyncIterator[ModelPorts]:
    """Connect to what runs. Raises `SettingsError` where nothing does, and `Unavailable`."""
    from functions._kit.rollout.changes import Rollouts
    from gateway.adapters.inference import TritonInference
    from gateway.adapters.jetstream import JetStream, connect
    from gateway.adapters.keyvalue import ensure_buckets, open_key_values
    from gateway.models.check import MAX_LATENCY_RATIO, Checker
    from gateway.models.opening import open_repository
    from gateway.runtime import required, triton_tls

    async with AsyncExitStack() as stack:
        triton = await stack.enter_async_context(
            TritonInference(required(settings, "triton_url"), tls=triton_tls(settings))
        )
        client = await connect(
            required(settings, "nats_url"), name="nereid-models", tls=settings.nats_tls
        )
        stack.push_async_callback(client.close)
        await ensure_buckets(client, settings.stream_replicas)
        values = await stack.enter_async_context(open_key_values(client))
        stream = JetStream(client)
        repository = await stack.enter_async_context(open_repository(settings))
        yield ModelPorts(
            triton=triton,
            values=values,
            stream=stream,
            repository=repository,
            rollouts=Rollouts(values, triton, triton, stream),
            checker=Checker(
                repository=repository,
                server=triton,
                inference=triton,
                values=values,
                max_latency_ratio=max_latency_ratio or MAX_LATENCY_RATIO,
                say=lambda text: click.echo(text, err=True),
            ),
        )


@click.group()
def models() -> None:
    """The models that Triton serves."""


models.add_command(add)
models.add_command(remove)


@models.command(name="list")
@DATA
def list_models(data: Path | None) -> None:
    """Show what serves each capability, what is on its way, and every version of every model."""
    run(_list(configured(data=data)))


async def _list(settings: Settings) -> None:
    from functions.models.available import available_now
    from gateway.cli.model_table import lines

    async with model_ports(settings) as ports:
        shown = await available_now(ports.triton, ports.triton, ports.values)
        there = {
            model: await ports.repository.versions(model)
            for model in await ports.repository.models()
        }
    for line in lines(shown, there):
        click.echo(line)


@models.command()
@click.argument("model")
@click.argument("version", required=False)
@LATENCY
@DATA
def check(
    model: str, version: str | None, max_latency_ratio: float | None, data: Path | None
) -> None:
    """Try MODEL's VERSION (the newest) beside what serves; load it for good if it is sound."""
    run(_check(configured(data=data), model, version, max_latency_ratio))


async def _check(
    settings: Settings, model: str, version: str | None, max_latency_ratio: float | None
) -> None:
    async with model_ports(settings, max_latency_ratio) as ports:
        target = await _target(ports, model, version)
        found = await ports.checker.check(target)
    if not found.passed:
        for problem in found.problems:
            click.echo(problem, err=True)
        raise click.ClickException(f"{target} failed its check; what serves was not touched")
    answers = "its golden answers" if found.golden else "the probes of its contract"
    took = "" if found.latency_s is None else f", {1000 * found.latency_s:.1f} ms a request"
    click.echo(f"{target} is sound by {answers}{took}, and loaded")


@models.command()
@click.argument("capability")
@click.argument("model")
@click.argument("version", required=False)
@LATENCY
@DATA
def switch(
    capability: str,
    model: str,
    version: str | None,
    max_latency_ratio: float | None,
    data: Path | None,
) -> None:
    """Let MODEL's VERSION (the newest) serve CAPABILITY from now on, in every process.

    It is checked first, unless it has passed before.
    """
    run(_switch(configured(data=data), capability, model, version, max_latency_ratio))


async def _switch(
    settings: Settings,
    capability: str,
    model: str,
    version: str | None,
    max_latency_ratio: float | None,
) -> None:
    async with model_ports(settings, max_latency_ratio) as ports:
        target = await _sound(ports, capability, model, version)
        await ports.rollouts.switch(capability, target)
    click.echo(f"{capability} is served by {target}")


@models.command()
@click.argument("capability")
@click.argument("model")
@click.argument("version", required=False)
@click.option("--shadow", type=SHARE, help="Share of requests that it gets, too [0.2].")
@click.option("--canary", type=SHARE, help="Share of jobs that it answers then [0.1].")
@click.option("--requests", type=click.IntRange(1, 1_000_000), help="Of each stage [100].")
@click.option("--hold-s", type=click.FloatRange(min=0), help="Least time of a stage [30].")
@click.option("--max-error-rate", type=SHARE, help="Beyond, it goes back [0.01].")
@click.option("--max-difference", type=click.FloatRange(min=0), help="Mean, of its answers.")
@click.option("--watch", is_flag=True, help="Wait for its end; exit with 1 if it goes back.")
@LATENCY
@DATA
def stage(
    capability: str,
    model: str,
    version: str | None,
    data: Path | None,
    *,
    watch: bool,
    **plan: Any,
) -> None:
    """Try MODEL's VERSION (the newest) on real requests: shadowed, then a canary, then for all.

    Beyond a limit it goes back by itself and says why.
    """
    given = {name: value for name, value in plan.items() if value is not None}
    run(_stage(configured(data=data), capability, model, version, given, watch=watch))


async def _stage(
    settings: Settings,
    capability: str,
    model: str,
    version: str | None,
    given: dict[str, Any],
    *,
    watch: bool,
) -> None:
    from functions._kit.rollout.state import Plan

    async with model_ports(settings, _for_check(given.get("max_latency_ratio"))) as ports:
        target = await _sound(ports, capability, model, version)
        serving = await ports.rollouts.stage(capability, target, Plan(**given))
        assert serving.candidate is not None
        click.echo(f"{capability}: {target} is tried as a {serving.candidate.stage}")
        if watch:
            await _watch(ports, capability, serving.candidate.rollout_id)


def _for_check(ratio: float | None) -> float | None:
    """A rollout's limit widens the check's, which asks a few times only, and never narrows it."""
    from gateway.models.check import MAX_LATENCY_RATIO

    return None if ratio is None else max(ratio, MAX_LATENCY_RATIO)


async def _watch(ports: ModelPorts, capability: str, rollout_id: str) -> None:
    """Tell of every step of the rollout, to its end."""
    import msgspec

    from functions._kit.rollout.changes import ENDED, RolloutEvent, event_subject

    async for record in ports.stream.follow(event_subject(capability)):
        event = msgspec.json.decode(record.data, type=RolloutEvent)
        if event.rollout_id != rollout_id or event.what == "staged":
            continue
        click.echo(f"{capability}: {event.target} {event.what.replace('_', ' ')}: {event.why}")
        if event.what in ENDED:
            if event.what != "promoted":
                raise click.ClickException(f"{event.target} does not serve {capability}")
            return


@models.command()
@click.argument("capability")
@DATA
def rollback(capability: str, data: Path | None) -> None:
    """Give up what is tried for CAPABILITY, or go back to what served before."""
    run(_rollback(configured(data=data), capability))


async def _rollback(settings: Settings, capability: str) -> None:
    async with model_ports(settings) as ports:
        serving = await ports.rollouts.roll_back(capability)
    click.echo(f"{capability} is served by {serving.active}")


async def _target(ports: ModelPorts, model: str, version: str | None) -> Target:
    """The version that is meant. Raises `NotFound` where the repository has none."""
    from functions._kit.errors import NotFound
    from functions._kit.rollout.state import Target

    versions = await ports.repository.versions(model)
    if version is None and not versions:
        raise NotFound("version_not_found", f"{model} has no version: run `just build-models`")
    return Target(model=model, version=version or versions[-1])


async def _sound(ports: ModelPorts, capability: str, model: str, version: str | None) -> Target:
    """The version that is meant, checked and loaded, and fit for the capability."""
    from functions._kit.capabilities import contract_of

    contract_of(capability)
    target = await _target(ports, model, version)
    await ports.checker.ensure(target)
    return target
