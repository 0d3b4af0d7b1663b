"""An authority that nobody knows, and files of certificates that it has signed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from gateway.tls import TlsFiles


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files: an authority, a server's pair for localhost, a client's pair."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path

    @property
    def files(self) -> TlsFiles:
        """As one who believes the authority, with the client's certificate."""
        return TlsFiles(ca=self.ca, certificate=self.client, key=self.client_key)


def made_in(folder: Path) -> Certificates:
    authority = trustme.CA()
    server = authority.issue_cert("localhost", "127.0.0.1")
    client = authority.issue_cert("nereid@example.org")
    found = Certificates(
        *(folder / f"{name}.pem" for name in ("ca", "server", "server_key", "client", "client_key"))
    )
    authority.cert_pem.write_to_path(found.ca)
    for pair, chain, key in (
        (server, found.server, found.server_key),
        (client, found.client, found.client_key),
    ):
        chain.write_bytes(b"".join(blob.bytes() for blob in pair.cert_chain_pems))
        pair.private_key_pem.write_to_path(key)
        key.chmod(0o600)
    return found


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return made_in(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Of another authority."""
    return made_in(tmp_path_factory.mktemp("strangers"))
