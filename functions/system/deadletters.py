"""/api/v1/deadletters: messages that no function could deal with, to read, send again, remove."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Annotated, Any, cast

import msgspec
from litestar import delete, get, post
from litestar.params import FromPath, QueryParameter

from functions._kit.cursors import invalid_cursor
from functions._kit.errors import Conflict, NotFound
from functions._kit.http import Port
from functions._kit.letters import MAX_PAYLOAD_BYTES
from functions._kit.messages import NO_JSON, Answer
from functions._kit.policy import HttpPolicy
from functions._kit.ports import DeadLetters, Letter, Stream, TaskStore
from functions._kit.submit import accepted_before, claim_task_id, new_task, submit
from functions.tasks.contracts import DeadLetter, Job, TaskAccepted

PATH = "/api/v1/deadletters"
MAX_LISTED_BYTES = 16 << 10
"""Longer payloads are shown by their letter alone."""
NEREID = ""
"""Whose claim keeps a letter from becoming two tasks; no client has this id."""

FunctionName = Annotated[str | None, QueryParameter(pattern=r"^[a-z_]{1,50}\.[a-z_]{1,50}$")]
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode
_decode_job = msgspec.json.Decoder(Job).decode


class LetterView(Answer, frozen=True, kw_only=True):
    """A dead letter. What is no JSON comes as base64; a list leaves long payloads out."""

    letter_id: str
    function: str
    subject: str
    code: str
    message: str
    attempts: int
    at: datetime
    size: int
    payload: Any = None
    payload_base64: str | None = None


class LetterPage(Answer, frozen=True, kw_only=True):
    """Letters, and the cursor that the next page begins after."""

    items: list[LetterView]
    next_cursor: str | None


class Resent(Answer, frozen=True, kw_only=True):
    """Where the message went; a task goes on as a new one, the old one has ended for good."""

    letter_id: str
    subject: str
    task_id: str | None = None
    status_url: str | None = None


class Removed(Answer, frozen=True, kw_only=True):
    """How many letters were removed."""

    removed: int


@get(PATH, summary="Dead letters, newest first", opt={"policy": HttpPolicy(scope="system:read")})
async def list_letters(
    dead_letters: Port[DeadLetters],
    function: FunctionName = None,
    cursor: Annotated[str | None, QueryParameter(max_length=20)] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=100)] = 50,
) -> LetterPage:
    """One page, of all functions or of one."""
    before = None if cursor is None else _valid_cursor(cursor)
    found = await dead_letters.page(function=function, before=before, limit=limit + 1)
    items = [_view(letter, most=MAX_LISTED_BYTES) for letter in found[:limit]]
    return LetterPage(items=items, next_cursor=items[-1].letter_id if len(found) > limit else None)


@get(
    PATH + "/{letter_id:str}",
    summary="One dead letter",
    opt={"policy": HttpPolicy(scope="system:read")},
)
async def get_letter(letter_id: FromPath[str], dead_letters: Port[DeadLetters]) -> LetterView:
    """The letter with its whole payload."""
    return _view(await _letter(dead_letters, letter_id), most=MAX_PAYLOAD_BYTES)


@post(
    PATH + "/{letter_id:str}",
    status_code=202,
    summary="Send a dead letter's message again",
    opt={"policy": HttpPolicy(scope="system:write"), "openapi_suffix": ":resend"},
)
async def resend(
    letter_id: FromPath[str],
    dead_letters: Port[DeadLetters],
    stream: Port[Stream],
    store: Port[TaskStore],
) -> Resent:
    """Publish the message where it came from and remove the letter.

    A task's job begins a new task. Repeated after a crash it begins no second one.
    """
    bare, colon, verb = letter_id.partition(":")
    if not colon or verb != "resend":
        raise NotFound("not_found", "the only action on a letter is ':resend'", field="letter_id")
    letter = await _letter(dead_letters, bare)
    content = letter.content
    _check_whole(content)
    job = _job_of(content)
    if job is None:
        await dead_letters.send_again(letter)
        return Resent(letter_id=bare, subject=content.subject)
    accepted = await _begin_again(stream, store, letter, job)
    await dead_letters.remove(letter.number)
    return Resent(
        letter_id=bare,
        subject=content.subject,
        task_id=accepted.task_id,
        status_url=accepted.status_url,
    )


@delete(
    PATH + "/{letter_id:str}",
    status_code=204,
    summary="Remove a dead letter",
    opt={"policy": HttpPolicy(scope="system:write")},
)
async def remove(letter_id: FromPath[str], dead_letters: Port[DeadLetters]) -> None:
    """The message is gone for good."""
    if not await dead_letters.remove(_number(letter_id)):
        raise _not_found(letter_id)


@delete(
    PATH,
    status_code=200,
    summary="Remove all dead letters",
    opt={"policy": HttpPolicy(scope="system:write")},
)
async def purge(dead_letters: Port[DeadLetters], function: FunctionName = None) -> Removed:
    """All of them, or those of one function."""
    return Removed(removed=await dead_letters.purge(function=function))


async def _begin_again(stream: Stream, store: TaskStore, letter: Letter, job: Job) -> TaskAccepted:
    """The job's task, at the step where it failed, under a new id."""
    key = f"deadletter:{letter.number}:{letter.content.at.isoformat()}"
    task_id = await claim_task_id(store, NEREID, key, letter.content)
    accepted = await accepted_before(store, task_id)
    if accepted is not None:
        return accepted
    old = job.task
    task = new_task(task_id, old.client_id, old.workflow, old.priority, old.callback_url)
    return await submit(stream, store, msgspec.structs.replace(job, task=task))


def _job_of(content: DeadLetter) -> Job | None:
    """The task's job in a letter, with all fields that its domain has added; None for others."""
    if not content.subject.startswith("jobs."):
        return None
    try:
        job, fields = _decode_job(content.payload), _decode_object(content.payload)
    except NO_JSON:
        return None
    if not job.steps:
        return None
    further = {
        name: value
        for name, value in fields.items()
        if name not in Job.__struct_fields__ and name.isidentifier()
    }
    kind = msgspec.defstruct(
        "FurtherJob",
        [(name, Any) for name in further],
        bases=(Job,),
        frozen=True,
        kw_only=True,
    )
    own = {name: getattr(job, name) for name in Job.__struct_fields__}
    return cast("Job", kind(**own, **further))


def _check_whole(content: DeadLetter) -> None:
    """Raise `Conflict` for a message that is not known whole, or not where it came from."""
    if not content.subject:
        raise Conflict(
            "letter_without_origin",
            "nobody knows where this message came from; read it, then remove it",
            field="letter_id",
        )
    if len(content.payload) >= MAX_PAYLOAD_BYTES and not _is_json(content.payload):
        raise Conflict(
            "letter_cut",
            f"the letter keeps the first {MAX_PAYLOAD_BYTES} bytes of a longer message; "
            "send the message again from where it was made, then remove the letter",
            field="letter_id",
        )


def _is_json(data: bytes) -> bool:
    try:
        msgspec.json.decode(data)
    except NO_JSON:
        return False
    return True


async def _letter(dead_letters: DeadLetters, letter_id: str) -> Letter:
    letter = await dead_letters.get(_number(letter_id))
    if letter is None:
        raise _not_found(letter_id)
    return letter


def _number(letter_id: str) -> int:
    if not (letter_id.isascii() and letter_id.isdecimal() and len(letter_id) <= 19):
        raise _not_found(letter_id)
    return int(letter_id)


def _not_found(letter_id: str) -> NotFound:
    return NotFound("letter_not_found", f"no dead letter {letter_id[:64]!r}", field="letter_id")


def _valid_cursor(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 19 and int(text) > 0):
        raise invalid_cursor()
    return int(text)


def _view(letter: Letter, *, most: int) -> LetterView:
    content = letter.content
    payload, encoded = None, None
    if len(content.payload) <= most:
        if _is_json(content.payload):
            payload = msgspec.Raw(content.payload)  # as it came: numbers of any size stay
        else:
            encoded = base64.b64encode(content.payload).decode()
    return LetterView(
        letter_id=str(letter.number),
        function=content.function,
        subject=content.subject,
        code=content.code,
        message=content.message,
        attempts=content.attempts,
        at=content.at,
        size=len(content.payload),
        payload=payload,
        payload_base64=encoded,
    )
