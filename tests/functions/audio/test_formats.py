"""Subtitles that every player reads, and verbose_json as OpenAI's API has it."""

from __future__ import annotations

import re
from html import unescape

import pytest

from functions.audio._formats import compression_ratio, srt, verbose, vtt
from functions.audio.contracts import Segment, Transcript

SRT_TIME = r"\d{2,}:[0-5]\d:[0-5]\d,\d{3}"
VTT_TIME = r"\d{2,}:[0-5]\d:[0-5]\d\.\d{3}"
TRICKY = "a --> b & c < d > e <i>x</i> &amp;"


def transcript(*segments: tuple[float, float, str]) -> Transcript:
    return Transcript(
        text=" ".join(text for _, _, text in segments),
        language="en",
        duration=max((end for _, end, _ in segments), default=0.0),
        segments=tuple(
            Segment(
                start=start, end=end, text=text, tokens=(5, 6), avg_logprob=-0.25,
                no_speech_prob=0.125,
            )
            for start, end, text in segments
        ),
        model="moonshine-tiny-en",
        model_version="1",
    )  # fmt: skip


def srt_cues(text: str) -> list[tuple[str, str, str]]:
    """Start, end and text of each cue; fails where the file is not well-formed."""
    cues = []
    for number, block in enumerate(text.rstrip("\n").split("\n\n"), 1):
        index, times, *lines = block.split("\n")
        assert index == str(number)
        found = re.fullmatch(f"({SRT_TIME}) --> ({SRT_TIME})", times)
        assert found
        assert len(lines) == 1
        assert lines[0].strip()
        cues.append((found[1], found[2], lines[0]))
    assert text.endswith("\n")
    return cues


def vtt_cues(text: str) -> list[tuple[str, str, str]]:
    """Start, end and text of each cue; fails where the file is not well-formed (WebVTT, 4.1)."""
    header, *blocks = text.rstrip("\n").split("\n\n")
    assert header == "WEBVTT"
    cues = []
    for block in blocks:
        times, *lines = block.split("\n")
        found = re.fullmatch(f"({VTT_TIME}) --> ({VTT_TIME})", times)
        assert found
        assert len(lines) == 1
        assert lines[0].strip()
        assert "-->" not in lines[0]
        assert not re.search(r"<|&(?!amp;|lt;|gt;)", lines[0])
        cues.append((found[1], found[2], unescape(lines[0])))
    assert text.endswith("\n")
    return cues


def test_times_are_written_as_each_format_wants_them_and_go_on_after_an_hour() -> None:
    said = transcript(
        (0, 1.5, "one"), (59.9996, 61.25, "two"), (3599.9994, 3661.001, "three"),
        (360_000, 360_001, "a hundred hours"),
    )  # fmt: skip
    assert srt_cues(srt(said)) == [
        ("00:00:00,000", "00:00:01,500", "one"),
        ("00:01:00,000", "00:01:01,250", "two"),
        ("00:59:59,999", "01:01:01,001", "three"),
        ("100:00:00,000", "100:00:01,000", "a hundred hours"),
    ]
    dotted = [(a.replace(",", "."), b.replace(",", "."), t) for a, b, t in srt_cues(srt(said))]
    assert vtt_cues(vtt(said)) == dotted


def test_each_sentence_is_a_cue_and_they_share_their_segments_time() -> None:
    said = transcript((10, 20, "Two words. Is it so? Yes!"), (21, 22, "etc. and so on"))
    assert srt_cues(srt(said)) == [
        ("00:00:10,000", "00:00:14,348", "Two words."),
        ("00:00:14,348", "00:00:18,261", "Is it so?"),
        ("00:00:18,261", "00:00:20,000", "Yes!"),
        ("00:00:21,000", "00:00:21,308", "etc."),
        ("00:00:21,308", "00:00:22,000", "and so on"),
    ]


def test_text_that_looks_like_markup_stays_text() -> None:
    said = transcript((0, 1, TRICKY), (1, 2, "two\n\nparagraphs\r\nand a tab\t."))
    line = "two paragraphs and a tab ."
    assert [text for _, _, text in vtt_cues(vtt(said))] == [TRICKY, line]
    assert [text for _, _, text in srt_cues(srt(said))] == [TRICKY.replace("-->", "->"), line]


def test_no_cue_is_empty_or_ends_before_it_is_seen() -> None:
    said = transcript((0, 1, ""), (1, 2, " \n "), (2, 2.0001, "short"), (3, 4, "last"))
    for cues in (srt_cues(srt(said)), vtt_cues(vtt(said))):
        assert [text for _, _, text in cues] == ["short", "last"]
        assert cues[0][0] < cues[0][1]


def test_a_recording_without_a_word_has_no_cues() -> None:
    assert srt(transcript()) == ""
    assert vtt(transcript()) == "WEBVTT\n"


def test_verbose_json_holds_what_whisper_tells_of_a_segment() -> None:
    said = verbose(transcript((1.25, 2.5, "ha " * 50), (3, 4, "")))
    assert (said.task, said.language, said.duration) == ("transcribe", "english", 4)
    first, second = said.segments
    assert (first.id, first.seek, first.start, first.end) == (0, 125, 1.25, 2.5)
    assert (first.tokens, first.temperature) == ((5, 6), 0)
    assert (first.avg_logprob, first.no_speech_prob) == (-0.25, 0.125)
    assert first.compression_ratio > 8
    assert (second.id, second.compression_ratio) == (1, 0)


@pytest.mark.parametrize(
    ("text", "low", "high"), [("It was the best of times", 0.6, 1.0), ("no no " * 40, 15, 30)]
)
def test_text_that_repeats_itself_compresses_well(text: str, low: float, high: float) -> None:
    assert low <= compression_ratio(text) <= high
