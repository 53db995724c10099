"""What counts as a device that hangs."""

from glm4v.process.watchdog import Watchdog


class Clock:
    """A clock that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_counter_that_stands_still_for_long_is_a_stall() -> None:
    clock = Clock()
    watchdog = Watchdog(10.0, clock)
    assert not watchdog.is_stalled(5, is_busy=True)
    clock.now = 9.9
    assert not watchdog.is_stalled(5, is_busy=True), "a slow layer"
    clock.now = 10.0
    assert watchdog.is_stalled(5, is_busy=True)
    assert not watchdog.is_stalled(6, is_busy=True), "it goes on"
    clock.now = 19.9
    assert not watchdog.is_stalled(6, is_busy=True)
    clock.now = 20.0
    assert watchdog.is_stalled(6, is_busy=True)


def test_an_idle_device_is_never_stalled() -> None:
    clock = Clock()
    watchdog = Watchdog(10.0, clock)
    assert not watchdog.is_stalled(5, is_busy=True)
    clock.now = 100.0
    assert not watchdog.is_stalled(5, is_busy=False)
    clock.now = 101.0
    assert not watchdog.is_stalled(5, is_busy=True), "its new work began just now"
