"""Where a model repository lies: a folder, or a prefix in a bucket of S3."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
"""What S3 lets a bucket be called (its user guide, bucket naming rules)."""


@dataclass(frozen=True, slots=True)
class S3Place:
    """A prefix in a bucket. `endpoint` is None for the S3 of `NEREID_S3_ENDPOINT`."""

    bucket: str
    prefix: str = ""
    endpoint: str | None = None

    def url(self, endpoint: str) -> str:
        """The place as Triton wants it, on the S3 at `endpoint`: s3://http://host:port/b/p."""
        base = self.endpoint or endpoint
        # Triton takes the port from the text, also where the scheme says it.
        scheme, _, rest = base.rstrip("/").partition("://")
        port = "" if re.search(r":\d+$", rest) else f":{443 if scheme == 'https' else 80}"
        return f"s3://{scheme}://{rest}{port}/{'/'.join(filter(None, (self.bucket, self.prefix)))}"


def place_of(text: str) -> Path | S3Place:
    """A folder, `s3://bucket/prefix`, or Triton's form `s3://http://host:port/bucket/prefix`.

    Raises ValueError with the rule that the text breaks.
    """
    if not text:
        raise ValueError("it is empty and must be a folder or s3://bucket/prefix")
    if not text.startswith("s3://"):
        if "://" in text:
            raise ValueError(f"{text!r} must be a folder or s3://bucket/prefix")
        return Path(text)
    rest = text.removeprefix("s3://")
    endpoint = None
    found = re.match(r"(https?://[^/]+)/?", rest)
    if found:
        endpoint, rest = found[1], rest[found.end() :]
    bucket, _, prefix = rest.partition("/")
    if not BUCKET.fullmatch(bucket):
        raise ValueError(
            f"{text!r} names the bucket {bucket!r}, and must be s3://bucket/prefix or"
            " s3://http://host:port/bucket/prefix"
        )
    parts = [part for part in prefix.split("/") if part]
    if any(part in (".", "..") for part in parts):
        raise ValueError(f"{text!r} has '.' or '..' in its prefix")
    return S3Place(bucket, "/".join(parts), endpoint)
