"""The NATS side: takes messages by policy, runs handlers, and alone acknowledges."""

from gateway.worker.worker import Worker

__all__ = ["Worker"]
