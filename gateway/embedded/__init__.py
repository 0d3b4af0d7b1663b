"""The real servers, run as child processes on loopback with their state in one data folder."""

from __future__ import annotations

from gateway.embedded.cluster import RunningCluster, nats_cluster
from gateway.embedded.folder import DataFolder
from gateway.embedded.nats import NatsSettings, RunningNats
from gateway.embedded.postgres import PostgresSettings, RunningPostgres
from gateway.embedded.process import Process, StartError
from gateway.embedded.s3 import RunningS3, S3Settings
from gateway.embedded.servers import NAMES, EmbeddedServers, EmbeddedSettings, Name, OnS3
from gateway.embedded.triton import RunningTriton, S3Repository, TritonSettings

__all__ = [
    "NAMES",
    "DataFolder",
    "EmbeddedServers",
    "EmbeddedSettings",
    "Name",
    "NatsSettings",
    "OnS3",
    "PostgresSettings",
    "Process",
    "RunningCluster",
    "RunningNats",
    "RunningPostgres",
    "RunningS3",
    "RunningTriton",
    "S3Repository",
    "S3Settings",
    "StartError",
    "TritonSettings",
    "nats_cluster",
]
