"""jobs.audio.prompt: a long recording's transcript, answered to its owner's prompt."""

from __future__ import annotations

import asyncio

from functions._kit.consume import Run, consume
from functions._kit.errors import RetryJob
from functions._kit.messages import Message
from functions._kit.policy import Policy
from functions._kit.ports import LanguageModel, LanguageModelError
from functions.audio._prompting import answer, wanted
from functions.audio.contracts import AudioJob, TranslationError

LONGEST_S = 3000.0
"""Of one attempt; below the policy's timeout, which would fail the task."""
POLICY = Policy(
    bands=True,
    concurrency=4,
    timeout_s=LONGEST_S + 600.0,
    attempts=4,
    backoff_s=(30.0, 120.0, 600.0),
)


class PromptResult(Message, frozen=True, kw_only=True):
    """What the step adds to the task's result."""

    translation: str | None = None
    translation_error: TranslationError | None = None


@consume("jobs.audio.prompt", policy=POLICY)
async def prompt(job: AudioJob, run: Run, language_model: LanguageModel) -> PromptResult:
    """Ask the language model. The task completes either way, with what was transcribed.

    Raises `RetryJob` where a later attempt may help and one is left.
    """
    user_prompt = job.user_prompt or ""
    if not wanted(user_prompt):
        return PromptResult()
    transcription = str(job.result["transcription"])
    try:
        async with asyncio.timeout(LONGEST_S):
            text = await answer(
                language_model, transcription, user_prompt, on_progress=run.progress
            )
    except LanguageModelError as error:
        if error.again and run.attempt < POLICY.attempts:
            raise RetryJob(error.code, error.message) from error
        return _without_translation(error.code, error.message)
    except TimeoutError:  # another attempt would take as long
        return _without_translation(
            "language_model_busy", f"the language model did not finish within {LONGEST_S:g} s"
        )
    return PromptResult(translation=text)


def _without_translation(code: str, message: str) -> PromptResult:
    return PromptResult(translation_error=TranslationError(code=code, message=message))
