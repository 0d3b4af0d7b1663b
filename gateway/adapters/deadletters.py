"""The port `DeadLetters` over the stream DEAD: a letter's number is its sequence there."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import msgspec
import nats.js.errors
from nats.aio.msg import Msg

from functions._kit.errors import Unavailable
from functions._kit.letters import letter_subject, read_letter
from functions._kit.messages import now
from functions._kit.ports import Letter
from gateway.adapters.jetstream import JetStream
from gateway.adapters.reaching import ASK_TIMEOUT_S, check_connected, translated

STREAM = "DEAD"
LAST_SEQUENCE = (1 << 64) - 1
NOT_FOUND = {10037, 10043, 10057}
"""JetStream's error codes for a message that is not there."""


@dataclass(frozen=True, slots=True)
class _Slice:
    """Letters in a row, and how many there are from the first of them to the stream's end."""

    letters: list[Letter]
    count: int


class JetStreamDeadLetters:
    """Reads DEAD by direct gets in batches (NATS 2.11 or newer), which leave nothing behind."""

    def __init__(self, stream: JetStream) -> None:
        self._stream = stream
        self._client = stream.client
        self._js = stream.client.jetstream(timeout=ASK_TIMEOUT_S)

    async def page(self, *, function: str | None, before: int | None, limit: int) -> list[Letter]:
        """See `DeadLetters.page`. JetStream reads forwards only, so the place is searched first."""
        check_connected(self._client)
        subject = letter_subject(function)
        with translated():
            state = (await self._js.stream_info(STREAM)).state
            end = state.last_seq + 1 if before is None else min(before, state.last_seq + 1)
            if end <= state.first_seq:
                return []
            beyond = (await self._read(subject, end, 1)).count
            start = await self._start(subject, state.first_seq, end, beyond, limit)
            letters: list[Letter] = []
            while start < end and len(letters) < limit:
                found = (await self._read(subject, start, limit - len(letters))).letters
                letters += [letter for letter in found if letter.number < end]
                if not found:
                    break
                start = found[-1].number + 1
        return letters[::-1]

    async def get(self, number: int) -> Letter | None:
        """See `DeadLetters.get`."""
        check_connected(self._client)
        if not 0 < number <= LAST_SEQUENCE:
            return None
        with translated():
            try:
                message = await self._js.get_msg(STREAM, seq=number)
            except nats.js.errors.NotFoundError:
                return None
        at = message.time or now()
        return read_letter(number, message.subject or "", message.data or b"", at)

    async def send_again(self, letter: Letter) -> None:
        """See `DeadLetters.send_again`."""
        await self._stream.publish_bytes(
            letter.content.subject, letter.content.payload, message_id=f"again:{letter.number}"
        )
        await self.remove(letter.number)

    async def remove(self, number: int) -> bool:
        """See `DeadLetters.remove`."""
        check_connected(self._client)
        if not 0 < number <= LAST_SEQUENCE:
            return False
        with translated():
            try:
                return await self._js.delete_msg(STREAM, number)
            except nats.js.errors.APIError as error:
                if error.err_code in NOT_FOUND:
                    return False
                raise

    async def purge(self, *, function: str | None) -> int:
        """See `DeadLetters.purge`."""
        check_connected(self._client)
        ask = msgspec.json.encode({"filter": letter_subject(function)})
        with translated():
            answer = await self._client.request(
                f"$JS.API.STREAM.PURGE.{STREAM}", ask, timeout=ASK_TIMEOUT_S
            )
            done = msgspec.json.decode(answer.data)
            if "error" in done:
                raise nats.js.errors.APIError.from_error(done["error"])
        return int(done["purged"])

    async def _start(self, subject: str, first: int, end: int, beyond: int, limit: int) -> int:
        """The newest place with `limit` letters between it and `end`, or the stream's `first`.

        Strides back that grow, then halving: some 20 requests among millions of letters.
        """
        wanted, stride = beyond + limit, limit
        high, low = end, max(first, end - stride)
        while low > first and (await self._read(subject, low, 1)).count < wanted:
            stride *= 4
            high, low = low, max(first, low - stride)
        while high - low > 1:
            middle = (low + high) // 2
            count = (await self._read(subject, middle, 1)).count
            if count == wanted:
                return middle
            low, high = (middle, high) if count > wanted else (low, middle)
        return low

    async def _read(self, subject: str, start: int, size: int) -> _Slice:
        """Up to `size` letters on `subject` from sequence `start` on."""
        inbox = await self._client.subscribe(self._client.new_inbox())
        try:
            ask = msgspec.json.encode({"seq": start, "next_by_subj": subject, "batch": size})
            await self._client.publish(f"$JS.API.DIRECT.GET.{STREAM}", ask, reply=inbox.subject)
            letters: list[Letter] = []
            count = 0
            while True:
                message = await inbox.next_msg(timeout=ASK_TIMEOUT_S)
                headers = message.headers or {}
                if "Status" in headers:
                    _check_end(message)
                    return _Slice(letters, count)
                if not letters:
                    count = int(headers["Nats-Num-Pending"]) + 1
                letters.append(_letter(headers, message.data))
        finally:
            await inbox.unsubscribe()


def _check_end(message: Msg) -> None:
    """The server's last word of a batch: 204 that was all, 404 there was nothing."""
    status = (message.headers or {})["Status"]
    if status not in {"204", "404"}:
        raise Unavailable("queue", f"JetStream does not read its dead letters: status {status}")


def _letter(headers: dict[str, str], data: bytes) -> Letter:
    at = msgspec.convert(headers["Nats-Time-Stamp"], datetime)
    return read_letter(int(headers["Nats-Sequence"]), headers["Nats-Subject"], data, at)
