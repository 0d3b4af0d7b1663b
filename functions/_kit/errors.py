"""Every error that Nereid raises on purpose.

NereidError
├── RequestError                 the caller's fault; HTTP answers `status`, a job fails at once
│   ├── Unauthenticated          401  no credentials, or ones that do not hold
│   ├── Forbidden                403  known, but without the scope
│   ├── NotFound                 404  absent, or another client's
│   ├── Conflict                 409  against what is already so
│   ├── TooLarge                 413  more bytes than the limit
│   ├── UnsupportedMedia         415  content of a type that no function reads
│   ├── Unprocessable            422  understood, and not possible
│   └── TooManyRequests          429  come back after `retry_after_s`
├── JobFailed                    this job can never succeed; it fails at once, with its code
├── RetryJob                     this job may succeed later; costs an attempt
└── Unavailable                  503  a backend is sick; jobs wait and no attempt is spent
    ├── QueueFull                     a stream is at its limit; HTTP answers 503 with Retry-After
    ├── OutOfMemory                   a backend answers, and has no memory for what is asked of it
    └── StillLoading                  a model's load goes on; jobs for it wait, and no others
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable


class NereidError(Exception):
    """A sentence for people (`message`) and a stable word for programs (`code`)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class RequestError(NereidError):
    """The caller can mend this. `field` names the part of the request that broke the rule."""

    status = 400

    def __init__(self, code: str, message: str, *, field: str | None = None) -> None:
        super().__init__(code, message)
        self.field = field


class Unauthenticated(RequestError):
    """No credentials, or ones that do not hold."""

    status = 401


class Forbidden(RequestError):
    """The client is known and lacks the scope."""

    status = 403


class NotFound(RequestError):
    """Absent, or not this client's to see."""

    status = 404


class Conflict(RequestError):
    """The request contradicts what is already so."""

    status = 409


class TooLarge(RequestError):
    """More bytes than the limit."""

    status = 413


class UnsupportedMedia(RequestError):
    """Content of a type that no function reads."""

    status = 415


class Unprocessable(RequestError):
    """Understood, and not possible."""

    status = 422


class TooManyRequests(RequestError):
    """Come back after `retry_after_s` seconds."""

    status = 429

    def __init__(self, code: str, message: str, *, retry_after_s: int) -> None:
        super().__init__(code, message)
        self.retry_after_s = retry_after_s


class JobFailed(NereidError):
    """The job itself is at fault and no retry can help: it fails at once."""


class RetryJob(NereidError):
    """The job went wrong in a way that another try may mend; costs one attempt."""


class Unavailable(NereidError):
    """A backend cannot be reached or is out of memory. Not the job's fault: no attempt is spent."""

    retry_after_s = 5

    def __init__(self, backend: str, message: str) -> None:
        super().__init__(f"{backend}_unavailable", message)
        self.backend = backend


class QueueFull(Unavailable):
    """The stream is at its limit; nothing was taken."""

    def __init__(self, message: str) -> None:
        super().__init__("queue", message)
        self.code = "queue_full"


class OutOfMemory(Unavailable):
    """The backend answers its probe and has no memory for requests."""


class StillLoading(Unavailable):
    """A model is not loaded yet; `loaded` returns when it is, and raises why it cannot be."""

    def __init__(self, message: str, loaded: Callable[[], Awaitable[None]]) -> None:
        super().__init__("triton", message)
        self.loaded = loaded
