"""What Nereid needs models for, which model does it, and what such a model must be.

A model is judged by what Triton says of it (`ServedModel`), so any machine can do it, and by its
answers to a few probes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from functions._kit.capabilities.detect import (
    GREY,
    MAX_DETECTIONS,
    Canvas,
    canvas_of,
    check_detector,
    check_rows,
    label_names,
    probe_detector,
    probe_pictures,
)
from functions._kit.capabilities.rules import broken
from functions._kit.capabilities.speech import (
    check_speech_detector,
    check_transcriber,
    probe_speech_detector,
    probe_transcriber,
)
from functions._kit.ports import Inference, KeyValue, ServedModel

__all__ = [
    "CAPABILITIES",
    "CONTRACTS",
    "GREY",
    "MAX_DETECTIONS",
    "Canvas",
    "Contract",
    "canvas_of",
    "check_contract",
    "check_detector",
    "check_rows",
    "check_served",
    "label_names",
    "probe_pictures",
    "serving",
]

CAPABILITIES = "capabilities"
"""Bucket of the models that were switched in, by capability."""


@dataclass(frozen=True, slots=True)
class Contract:
    """What serves a capability unless another model is switched in, and what such a one must be."""

    model: str
    check: Callable[[ServedModel], None]
    """Holds the contract against Triton's configuration. Raises `Unprocessable`."""
    probe: Callable[[Inference, ServedModel], Awaitable[None]]
    """Holds it against the answers to a few requests. Raises `Unprocessable`."""


CONTRACTS = {
    "detect": Contract("nanodet-g-416", check_detector, probe_detector),
    "transcribe": Contract("moonshine-tiny-en", check_transcriber, probe_transcriber),
    "detect_speech": Contract("silero-vad", check_speech_detector, probe_speech_detector),
}
"""By the name that the parameter `capability` has."""


async def serving(capability: str, inference: Inference, values: KeyValue) -> ServedModel:
    """The model that serves `capability` now, loaded; its contract is not checked here."""
    switched = values.seen(CAPABILITIES).get(capability)
    name = CONTRACTS[capability].model if switched is None else switched.decode()
    return await inference.model(name)


def check_contract(model: ServedModel) -> str:
    """Check the model for the capability that its config names, and return that name.

    Raises `Unprocessable` (`model_contract`).
    """
    capability = model.parameters.get("capability", "")
    if capability not in CONTRACTS:
        said = f"is {capability!r}" if capability else "is missing"
        raise broken(
            model,
            f"the parameter `capability` of its config.pbtxt {said} and must be one of"
            f" {', '.join(CONTRACTS)}",
        )
    CONTRACTS[capability].check(model)
    return capability


async def check_served(inference: Inference, name: str) -> str:
    """Check a model where it is served, by its configuration and by its answers to probes.

    Returns its capability. Raises `NotFound`, `JobFailed` and `Unavailable` as the port does, and
    `Unprocessable` (`model_contract`).
    """
    model = await inference.model(name)
    capability = check_contract(model)
    await CONTRACTS[capability].probe(inference, model)
    return capability
