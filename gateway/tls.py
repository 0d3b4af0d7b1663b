"""TLS towards other servers: whom we believe, and who we are there."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """PEM files: the authorities to believe instead of the machine's own, and our certificate."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __bool__(self) -> bool:
        """Whether anything is set."""
        return any(path is not None for path in (self.ca, self.certificate, self.key))


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """Checks the server's certificate and name, TLS 1.2 at least. Raises OSError, ssl.SSLError."""
    context = ssl.create_default_context(cafile=files.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if files.certificate is not None:
        context.load_cert_chain(files.certificate, files.key, password=_none)
    return context


def _none() -> str:
    """The password of a key: OpenSSL would ask for one at the terminal, for ever."""
    return ""


def check_files(name: str, files: TlsFiles) -> None:
    """Raise ValueError, with the settings' names, for a file that is missing or does not fit."""
    if (files.certificate is None) != (files.key is None):
        raise ValueError(f"{name}_certificate and {name}_key belong together: set both or neither")
    try:
        client_context(files)
    except (OSError, ssl.SSLError) as error:
        given = {"ca": files.ca, "certificate": files.certificate, "key": files.key}
        which = ", ".join(f"{name}_{part}" for part, path in given.items() if path is not None)
        raise ValueError(f"{which}: {error}") from error
