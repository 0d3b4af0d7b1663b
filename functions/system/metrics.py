"""GET /metrics: the figures of the answering process, for Prometheus."""

from __future__ import annotations

from litestar import MediaType, Response, get

from functions._kit.http import Port
from functions._kit.policy import HttpPolicy
from functions._kit.ports import METRICS_MEDIA_TYPE, Metrics


@get(
    "/metrics",
    summary="Figures for Prometheus",
    media_type=MediaType.TEXT,
    opt={"policy": HttpPolicy(scope="system:read", concurrency=16)},
)
async def expose(metrics: Port[Metrics]) -> Response[str]:
    """Prometheus' text format. Each gateway and each worker tells its own; queues, a gateway."""
    return Response(await metrics.exposition(), media_type=METRICS_MEDIA_TYPE)
