"""Dead letters in memory."""

from __future__ import annotations

from functions._kit.fakes.stream import FakeStream
from functions._kit.letters import letter_subject, read_letter
from functions._kit.messages import now
from functions._kit.ports import Letter, Record


class FakeDeadLetters:
    """Answers as `JetStreamDeadLetters` does, from what `stream` holds on `dead.>`."""

    def __init__(self, stream: FakeStream) -> None:
        self._stream = stream

    async def page(self, *, function: str | None, before: int | None, limit: int) -> list[Letter]:
        """See `DeadLetters.page`."""
        records = self._records(function)
        found = [r for r in reversed(records) if before is None or r.sequence < before]
        return [_letter(record) for record in found[:limit]]

    async def get(self, number: int) -> Letter | None:
        """See `DeadLetters.get`."""
        found = [record for record in self._records(None) if record.sequence == number]
        return _letter(found[0]) if found else None

    async def send_again(self, letter: Letter) -> None:
        """See `DeadLetters.send_again`."""
        await self._stream.publish_bytes(
            letter.content.subject, letter.content.payload, message_id=f"again:{letter.number}"
        )
        await self.remove(letter.number)

    async def remove(self, number: int) -> bool:
        """See `DeadLetters.remove`."""
        self._stream.check_health()
        return self._stream.remove("dead", number)

    async def purge(self, *, function: str | None) -> int:
        """See `DeadLetters.purge`."""
        return sum([self._stream.remove("dead", r.sequence) for r in self._records(function)])

    def _records(self, function: str | None) -> list[Record]:
        self._stream.check_health()
        return self._stream.records(letter_subject(function))


def _letter(record: Record) -> Letter:
    return read_letter(record.sequence, record.subject, record.data, now())
