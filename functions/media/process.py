"""POST /api/v1/media:process: a workflow on a photo becomes a task."""

from __future__ import annotations

from typing import Annotated

from litestar import Response, post
from litestar.params import JSONBody
from msgspec import Meta, field

from functions._kit.callbacks import check_callback
from functions._kit.capabilities import UPSCALE
from functions._kit.errors import NotFound, Unavailable, Unprocessable
from functions._kit.http import IdempotencyKey, Port, Principal
from functions._kit.keys import check_readable, object_key
from functions._kit.messages import Request
from functions._kit.policy import HttpPolicy
from functions._kit.ports import Inference, Limits, Objects, Stream, TaskStore
from functions._kit.submit import accepted_before, claim_task_id, new_task, submit
from functions.media.contracts import (
    COMING_WORKFLOWS,
    NAS,
    PROFESSIONAL,
    PUBLISHED_SCALES,
    WORKFLOWS,
    Format,
    MediaJob,
)
from functions.tasks.contracts import Task, TaskAccepted


class ImageEnhance(Request, frozen=True, kw_only=True):
    """How a photo is enlarged and cleaned."""

    scale_factor: Annotated[int, Meta(ge=1, le=4)] = 2
    denoise_strength: Annotated[float, Meta(ge=0, le=1)] = 0.0
    model: Annotated[str, Meta(min_length=1, max_length=100)] | None = None


class Output(Request, frozen=True, kw_only=True):
    """How the result is written; without `format`, as the photo came."""

    format: Format | None = None
    quality: Annotated[int, Meta(ge=1, le=100)] = 90
    keep_metadata: bool = True


class Parameters(Request, frozen=True, kw_only=True):
    """What the workflow may vary."""

    image_enhance: ImageEnhance = field(default_factory=ImageEnhance)
    output: Output = field(default_factory=Output)


class ProcessRequest(Request, frozen=True, kw_only=True):
    """A photo in the bucket, and what shall be done with it."""

    file_path: Annotated[str, Meta(min_length=1, max_length=2048)]
    workflow: Annotated[str, Meta(min_length=1, max_length=100)]
    parameters: Parameters = field(default_factory=Parameters)
    priority: Annotated[int, Meta(ge=1, le=10)] = 5
    callback_url: Annotated[str, Meta(max_length=2048)] | None = None


@post(
    "/api/v1/media:process",
    status_code=202,
    summary="Start a workflow on a photo",
    opt={"policy": HttpPolicy(scope="media:write")},
)
async def process(
    data: JSONBody[ProcessRequest],
    principal: Port[Principal],
    stream: Port[Stream],
    objects: Port[Objects],
    inference: Port[Inference],
    store: Port[TaskStore],
    limits: Port[Limits],
    idempotency_key: IdempotencyKey = None,
) -> Response[TaskAccepted]:
    """Take the task durably, then answer 202 with where its status is."""
    key = object_key(data.file_path, "file_path")
    check_workflow(data.workflow)
    if data.callback_url is not None:
        check_callback(data.callback_url, allow_private=limits.allow_private_callbacks)
    enhance = data.parameters.image_enhance
    capability = await choose_capability(data.workflow, enhance, inference)
    await check_readable(key, principal, store, limits.reserved_prefixes)
    if await objects.head(key) is None:
        raise NotFound("file_not_found", f"there is no file {key!r}", field="file_path")
    task_id = await claim_task_id(store, principal.client_id, idempotency_key, data)
    accepted = await accepted_before(store, task_id) if idempotency_key is not None else None
    if accepted is None:
        task = new_task(
            task_id, principal.client_id, data.workflow, data.priority, data.callback_url
        )
        accepted = await submit(stream, store, media_job(task, data, key, capability))
    return Response(accepted, headers={"Location": accepted.status_url})


def media_job(task: Task, data: ProcessRequest, key: str, capability: str) -> MediaJob:
    """The job that the workflow's first step takes."""
    enhance, output = data.parameters.image_enhance, data.parameters.output
    return MediaJob(
        task=task,
        steps=WORKFLOWS[data.workflow],
        file_path=key,
        capability=capability,
        scale_factor=enhance.scale_factor,
        denoise_strength=enhance.denoise_strength,
        format=output.format,
        quality=output.quality,
        keep_metadata=output.keep_metadata,
        lossless=data.workflow == "professional-photo-processing" and output.format is None,
    )


def check_workflow(name: str) -> None:
    """Raise `Unprocessable` for a workflow that is not built (yet)."""
    if name in WORKFLOWS:
        return
    known = ", ".join(WORKFLOWS)
    if name in COMING_WORKFLOWS:
        raise Unprocessable(
            "workflow_not_available",
            f"workflow {name!r} is planned and not built yet; available: {known}; "
            f"planned: {', '.join(COMING_WORKFLOWS)}",
            field="workflow",
        )
    raise Unprocessable(
        "unknown_workflow",
        f"there is no workflow {name!r}; available: {known}; "
        f"planned: {', '.join(COMING_WORKFLOWS)}",
        field="workflow",
    )


async def choose_capability(workflow: str, enhance: ImageEnhance, inference: Inference) -> str:
    """That of the model that the caller named, or the workflow's own.

    Raises `Unprocessable` (codes `unknown_model`, `scale_not_supported`). A custom model's scale
    is known to the server alone, so the worker checks that.
    """
    if enhance.model is None:
        if workflow == "professional-photo-processing":
            return PROFESSIONAL
        return NAS[enhance.scale_factor]
    scale = PUBLISHED_SCALES.get(enhance.model)
    if scale is None:
        await _check_known(enhance.model, inference)
    elif enhance.scale_factor > scale:
        raise Unprocessable(
            "scale_not_supported",
            f"{enhance.model} enlarges by {scale} at most; ask for a smaller scale_factor "
            "or another model",
            field="parameters.image_enhance.scale_factor",
        )
    return UPSCALE + enhance.model


async def _check_known(model: str, inference: Inference) -> None:
    try:
        names = await inference.model_names()
    except Unavailable:  # a sick backend is no reason to refuse; the worker will know
        return
    if model not in names:
        known = ", ".join(sorted(names | set(PUBLISHED_SCALES)))
        raise Unprocessable(
            "unknown_model",
            f"there is no model {model!r}; known: {known}",
            field="parameters.image_enhance.model",
        )
