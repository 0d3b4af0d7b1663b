from __future__ import annotations

import asyncio

import pytest

from functions._kit.errors import TooManyRequests
from functions._kit.guessing import HOUR_S, Guesses
from functions._kit.throttle import Throttle


class Clock:
    """Time that passes when told."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_as_many_as_allowed_go_at_once_and_then_one_by_one() -> None:
    clock = Clock()
    throttle = Throttle(3, 60.0, clock=clock)
    assert [throttle.take("a") for _ in range(3)] == [0, 0, 0]
    assert throttle.take("a") == pytest.approx(20)
    assert throttle.take("b") == 0, "keys do not share"
    clock.now += 20
    assert throttle.wait_s("a") == pytest.approx(0)
    clock.now += 0.001
    assert throttle.take("a") == 0
    assert throttle.take("a") > 19
    clock.now += 1000
    assert [throttle.take("a") for _ in range(3)] == [0, 0, 0], (
        "rest is not saved beyond the amount"
    )
    assert throttle.take("a") > 0


def test_a_refusal_costs_nothing() -> None:
    clock = Clock()
    throttle = Throttle(1, 60.0, clock=clock)
    throttle.take("a")
    for _ in range(100):
        assert throttle.take("a") == pytest.approx(60)
    clock.now += 60.001
    assert throttle.take("a") == 0


def test_memory_is_bounded_by_the_number_of_keys() -> None:
    clock = Clock()
    throttle = Throttle(2, 60.0, most_keys=10, clock=clock)
    for number in range(1000):
        throttle.take(str(number))
        throttle.take("busy")
    assert len(throttle._paid_at) <= 11
    assert throttle.take("busy") > 0, "whoever calls all the time is not forgotten"


def test_no_amount_is_no_limit_but_a_mistake() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Throttle(0, 60.0)


def test_slow_guessing_from_many_addresses_is_counted_for_the_one_id() -> None:
    clock = Clock()
    guesses = Guesses(per_hour=10, clock=clock)
    for number in range(10):
        guesses.check("alice", f"203.0.113.{number}")
        guesses.wrong("alice")
        clock.now += 1
    with pytest.raises(TooManyRequests) as caught:
        guesses.check("alice", "203.0.113.77")
    assert caught.value.code == "too_many_attempts"
    assert 0 < caught.value.retry_after_s <= HOUR_S / 10
    guesses.check("bob", "203.0.113.77")
    clock.now += HOUR_S / 10
    guesses.check("alice", "203.0.113.77")


def test_an_address_that_knew_the_secret_is_not_locked_out_by_who_guesses() -> None:
    guesses = Guesses(per_hour=1)
    guesses.right("alice", "192.0.2.1")
    guesses.wrong("alice")
    guesses.check("alice", "192.0.2.1")
    with pytest.raises(TooManyRequests):
        guesses.check("alice", "192.0.2.2")


async def test_of_many_tries_at_once_no_more_than_are_left_are_made() -> None:
    guesses = Guesses(per_hour=2)
    tried: list[str] = []

    async def guess(address: str) -> None:
        async with guesses.turn("alice", address):
            guesses.check("alice", address)
            tried.append(address)
            await asyncio.sleep(0)  # its secret is hashed
            guesses.wrong("alice")

    guessing = (guess(f"203.0.113.{number}") for number in range(20))
    ended = await asyncio.gather(*guessing, return_exceptions=True)
    assert len(tried) == 2
    assert sum(isinstance(error, TooManyRequests) for error in ended) == 18


async def test_an_address_that_is_known_waits_for_nobody_who_guesses() -> None:
    guesses = Guesses(per_hour=1)
    guesses.right("alice", "192.0.2.1")
    async with (
        guesses.turn("alice", "203.0.113.1"),
        guesses.turn("bob", "203.0.113.1"),
        guesses.turn("alice", "192.0.2.1"),
    ):
        guesses.check("alice", "192.0.2.1")
