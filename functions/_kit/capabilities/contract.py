"""What each capability needs a model for, which one serves it by default, and what it must be."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from functions._kit.capabilities.detect import check_detector, compare_detections, probe_detector
from functions._kit.capabilities.rules import broken
from functions._kit.capabilities.speech import (
    check_speech_detector,
    check_transcriber,
    compare_speech,
    compare_words,
    probe_speech_detector,
    probe_transcriber,
)
from functions._kit.capabilities.upscale import check_upscaler, compare_pictures, probe_upscaler
from functions._kit.errors import Unprocessable
from functions._kit.ports import Inference, ServedModel

Answer = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """What a model of one kind must be."""

    check: Callable[[ServedModel], None]
    """Holds the contract against Triton's configuration. Raises `Unprocessable`."""
    probe: Callable[[Inference, ServedModel], Awaitable[None]]
    """Holds it against the answers to a few requests. Raises `Unprocessable`."""
    compare: Callable[[ServedModel, Answer, ServedModel, Answer], float]
    """How far two models' answers to one request lie apart; 0 is not at all."""
    max_difference: float
    """The mean of `compare` from which on a rollout goes back, unless its plan says otherwise."""
    alike: tuple[str, ...] = ()
    """Parameters in which two models must agree to be given the same request."""


CONTRACTS = {
    "upscale": Contract(
        check=check_upscaler,
        probe=probe_upscaler,
        compare=compare_pictures,
        max_difference=6.0,
        alike=("scale", "bits"),
    ),
    "detect": Contract(
        check=check_detector,
        probe=probe_detector,
        compare=compare_detections,
        max_difference=0.25,
        alike=("longest_side", "multiple_of", "labels"),
    ),
    "transcribe": Contract(
        check=check_transcriber,
        probe=probe_transcriber,
        compare=compare_words,
        max_difference=0.15,
        alike=("language",),
    ),
    "detect_speech": Contract(
        check=check_speech_detector,
        probe=probe_speech_detector,
        compare=compare_speech,
        max_difference=0.05,
    ),
}
"""By the name that the parameter `capability` has in a model's config.pbtxt."""

DEFAULT_MODELS = {
    "detect": "nanodet-g-416",
    "transcribe": "moonshine-tiny-en",
    "detect_speech": "silero-vad",
    "upscale.x2": "realesr-animevideov3-x2",
    "upscale.x3": "realesr-animevideov3-x3",
    "upscale.x4": "realesr-animevideov3-x4",
}
"""What serves a capability that nobody has switched. `upscale.NAME` is the upscaler NAME."""

UPSCALE = "upscale."
_UPSCALER = re.compile(r"upscale\.[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def contract_of(capability: str) -> Contract:
    """The contract of a capability. Raises `Unprocessable` (`unknown_capability`)."""
    kind = "upscale" if _UPSCALER.fullmatch(capability) else capability
    if (contract := CONTRACTS.get(kind)) is None or capability == "upscale":
        raise Unprocessable(
            "unknown_capability",
            f"capability: there is no {capability[:100]!r}; there are"
            f" {', '.join(DEFAULT_MODELS)}, and upscale.NAME for every upscaler by its name",
            field="capability",
        )
    return contract


def default_model(capability: str) -> str:
    """The name of the model that serves unless another is switched in."""
    return DEFAULT_MODELS.get(capability) or capability.removeprefix(UPSCALE)


def check_contract(model: ServedModel) -> str:
    """Check the model for the capability that its config names, and return that name.

    Raises `Unprocessable` (`model_contract`).
    """
    kind = model.parameters.get("capability", "")
    if kind not in CONTRACTS:
        said = f"is {kind!r}" if kind else "is missing"
        raise broken(
            model,
            f"the parameter `capability` of its config.pbtxt {said} and must be one of"
            f" {', '.join(CONTRACTS)}",
        )
    CONTRACTS[kind].check(model)
    return kind


async def check_served(inference: Inference, name: str, version: str | None = None) -> str:
    """Check a model where it is served, by its configuration and by its answers to probes.

    Returns the kind that its config names. Raises `NotFound`, `JobFailed` and `Unavailable` as
    the port does, and `Unprocessable` (`model_contract`).
    """
    model = await inference.model(name, version)
    kind = check_contract(model)
    await CONTRACTS[kind].probe(inference, model)
    return kind


def check_fits(capability: str, model: ServedModel) -> None:
    """Raise `Unprocessable` (`model_contract`) for a model that cannot serve the capability."""
    contract = contract_of(capability)
    kind = check_contract(model)
    if CONTRACTS[kind] is not contract:
        raise broken(model, f"it is a model for {kind}, not {capability}")
    if kind == "upscale" and model.parameters["bits"] != "8":
        raise broken(model, "it takes 16 bits: switch the model of 8 bits, which it goes with")
    scale = capability.removeprefix("upscale.x")
    if scale in {"2", "3", "4"} and model.parameters["scale"] != scale:
        raise broken(model, f"it enlarges by {model.parameters['scale']}, not by {scale}")


def differ_in(active: ServedModel, candidate: ServedModel, alike: tuple[str, ...]) -> list[str]:
    """What keeps the two from being given the same request, by name; empty where nothing does."""
    tensors = {
        "inputs": active.inputs != candidate.inputs,
        "outputs": active.outputs != candidate.outputs,
    }
    return [name for name, differ in tensors.items() if differ] + [
        name for name in alike if active.parameters.get(name) != candidate.parameters.get(name)
    ]
