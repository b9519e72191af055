"""A loop outlives whatever its turns raise, and says how it fares."""

import threading

import pytest

from service.loops import Loop


def test_a_loop_goes_on_after_any_error_and_is_well_again_after_a_good_turn() -> None:
    loop, stop, turns, faults = Loop("outbox"), threading.Event(), [], []

    def turn() -> bool:
        turns.append(len(turns))
        if len(turns) <= 2:
            raise ZeroDivisionError
        faults.append(loop.fault)
        if len(turns) == 4:
            stop.set()
        return True

    loop.run(turn, stop, 0.001)
    assert len(turns) == 4
    assert loop.failures == 2
    assert faults == ["the loop outbox fails (the last 2 turns)", None]
    assert loop.fault is None


def test_a_failing_loop_waits_ever_longer_but_a_minute_at_most() -> None:
    loop = Loop("outbox")
    pauses = []
    for _ in range(20):
        assert loop.attempt(lambda: 1 // 0) is None
        pauses.append(loop.pause_seconds(1.0))
    assert pauses[:3] == [2.0, 4.0, 8.0]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 60.0


def test_a_loop_that_was_ended_from_within_says_so() -> None:
    loop = Loop("outbox")

    def turn() -> bool:
        raise SystemExit

    with pytest.raises(SystemExit):
        loop.run(turn, threading.Event(), 0.001)
    assert loop.fault == "the loop outbox has ended"


def test_a_turn_without_end_is_stuck() -> None:
    loop, stop, release, began = Loop("outbox", stuck_seconds=0.01), threading.Event(), threading.Event(), []

    def turn() -> bool:
        began.append(True)
        return release.wait(60)

    thread = threading.Thread(target=loop.run, args=(turn, stop, 0.001))
    thread.start()
    while loop.fault is None:
        assert thread.is_alive()
    assert loop.fault == "the loop outbox is stuck"
    stop.set()
    release.set()
    thread.join()
    assert (loop.fault, began) == (None, [True])
