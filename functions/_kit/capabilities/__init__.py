"""What Nereid needs models for, which model does it, and what such a model must be.

A model is judged by what Triton says of it (`ServedModel`), so any machine can do it, and by its
answers to a few probes.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
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
from functions._kit.errors import OutOfMemory, Unavailable
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
        found = await inference.model(default_model(capability))
    else:
        found = await inference.model(active.model, active.version)
    return replace(found, capability=capability)


async def serve(
    capability: str,
    inference: Inference,
    values: KeyValue,
    work: Callable[[ServedModel], Awaitable[T]],
    *,
    unit: str,
) -> T:
    """Do `work` with the model that serves `capability`, the same one throughout.

    During a canary the candidate does its share of all `unit`s (ids of jobs). A job that it fails,
    however, is done by the active model; if that can do it, the failure was the candidate's.
    """
    candidate = serving_of(values, capability).candidate
    if candidate is None or not in_canary(candidate, unit):
        return await work(await serving(capability, inference, values))
    target = candidate.target
    told = ServedModel(target.model, target.version, {}, capability=capability)
    try:
        found = await inference.model(target.model, target.version)
        done = await work(replace(found, capability=capability))
    except Exception as error:  # noqa: BLE001 - whatever a candidate's answers lead to
        problem = error
    else:
        inference.report(told)
        return done
    log.warning("%s: the candidate %s failed a job: %r", capability, target, problem)
    done = await work(await serving(capability, inference, values))
    if isinstance(problem, OutOfMemory) or not isinstance(problem, Unavailable):
        inference.report(told, getattr(problem, "message", repr(problem)))
    return done
