"""The whole system over https: `nereid up` with a certificate."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import trustme

from tests.live.conftest import KEY, Nereid


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_nereid_up_answers_https_alone(
    own_system: Callable[..., Nereid], tmp_path: Path
) -> None:
    authority = trustme.CA()
    pair = authority.issue_cert("127.0.0.1")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in pair.cert_chain_pems))
    pair.private_key_pem.write_to_path(key)
    nereid = await asyncio.to_thread(own_system, tls_certificate=chain, tls_key=key)
    assert nereid.url.startswith("https://127.0.0.1:")
    assert nereid.running["gateway_metrics_url"].startswith(nereid.url)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    headers = {"X-API-Key": KEY.format("me")}
    async with httpx.AsyncClient(verify=context, base_url=nereid.url, headers=headers) as http:
        assert (await http.get("/health/ready")).status_code == 200
        answer = await http.get("/api/v1/media/processingTasks")
        assert (answer.status_code, answer.json()["items"]) == (200, [])
        assert "max-age=" in answer.headers["strict-transport-security"]
        with pytest.raises(httpx.HTTPError):
            await http.get(nereid.url.replace("https", "http") + "/health/live")
    await asyncio.to_thread(nereid.stop)
