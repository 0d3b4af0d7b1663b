"""What Nereid needs models for, which model does it, and what such a model must be.

A model is judged by what Triton says of it (`ServedModel`), so any machine can do it, and by its
answers to a few probes.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from functions._kit.capabilities.contract import (
    CONTRACTS,
    DEFAULT_MODELS,
    UPSCALE,
    Contract,
    check_contract,
    check_fits,
    check_served,
    contract_of,
    default_model,
    differ_in,
)
from functions._kit.capabilities.detect import (
    GREY,
    MAX_DETECTIONS,
    Canvas,
    canvas_of,
    check_detector,
    check_rows,
    label_names,
    probe_pictures,
)
from functions._kit.errors import NereidError
from functions._kit.ports import Inference, KeyValue, ServedModel
from functions._kit.rollout.state import CAPABILITIES, in_canary, serving_of

__all__ = [
    "CAPABILITIES",
    "CONTRACTS",
    "DEFAULT_MODELS",
    "GREY",
    "MAX_DETECTIONS",
    "UPSCALE",
    "Canvas",
    "Contract",
    "canvas_of",
    "check_contract",
    "check_detector",
    "check_fits",
    "check_rows",
    "check_served",
    "contract_of",
    "default_model",
    "differ_in",
    "label_names",
    "probe_pictures",
    "serve",
    "serving",
]

T = TypeVar("T")

log = logging.getLogger(__name__)


async def serving(capability: str, inference: Inference, values: KeyValue) -> ServedModel:
    """The model that serves `capability` now, loaded; its contract is not checked here."""
    active = serving_of(values, capability).active
    if active is None:
        return await inference.model(default_model(capability))
    return await inference.model(active.model, active.version)


async def serve(
    capability: str,
    inference: Inference,
    values: KeyValue,
    work: Callable[[ServedModel], Awaitable[T]],
    *,
    unit: str,
) -> T:
    """Do `work` with the model that serves `capability`, the same one throughout.

    During a canary the candidate does its share of all `unit`s (ids of jobs); where it fails one,
    the active model does it, and the failure is told to whoever judges the candidate.
    """
    candidate = serving_of(values, capability).candidate
    if candidate is not None and in_canary(candidate, unit):
        target = candidate.target
        try:
            return await work(await inference.model(target.model, target.version))
        except NereidError as error:
            log.warning("%s: the candidate %s failed: %s", capability, target, error.message)
            inference.reject(ServedModel(target.model, target.version, {}), error.message)
    return await work(await serving(capability, inference, values))
