"""The warm pool: bounded, refilled, closed cleanly, honest about failures."""

import threading
import time

import pytest

from nova_trusted_clone.vtpm.pool import WarmPool


class Workshop:
    """Makes numbered things and remembers what became of them."""

    def __init__(self):
        self.made, self.discarded, self.bad = 0, [], set()
        self.fail = False
        self._mutex = threading.Lock()

    def make(self):
        with self._mutex:
            if self.fail:
                raise OSError("no swtpm here")
            self.made += 1
            return self.made

    def pool(self, size):
        return WarmPool(self.make, self.discarded.append, lambda item: item not in self.bad, size)


def until(condition):
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_it_fills_to_its_size_and_no_further():
    shop = Workshop()
    pool = shop.pool(3)
    until(lambda: pool.ready == 3)
    time.sleep(0.02)
    assert shop.made == 3
    pool.close()


def test_what_was_taken_is_made_again():
    shop = Workshop()
    pool = shop.pool(2)
    until(lambda: pool.ready == 2)
    assert pool.take() == 1
    until(lambda: pool.ready == 2)
    assert shop.made == 3
    pool.close()


def test_an_item_that_went_bad_is_discarded_and_the_next_taken():
    shop = Workshop()
    pool = shop.pool(2)
    until(lambda: pool.ready == 2)
    shop.bad = {1}
    assert pool.take() == 2
    assert shop.discarded == [1]
    pool.close()


def test_closing_discards_what_is_ready_and_what_is_being_made():
    shop = Workshop()
    pool = shop.pool(2)
    until(lambda: pool.ready >= 1)
    pool.close()
    assert sorted(shop.discarded) == list(range(1, shop.made + 1))
    with pytest.raises(RuntimeError, match="closed"):
        pool.take()


def test_without_a_size_each_is_made_when_asked_for():
    shop = Workshop()
    pool = shop.pool(0)
    assert [pool.take(), pool.take()] == [1, 2]
    pool.close()


def test_a_failing_workshop_rests_and_tells_the_one_who_asks():
    shop = Workshop()
    shop.fail = True
    pool = shop.pool(1)
    until(lambda: pool.last_error is not None)
    with pytest.raises(OSError, match="no swtpm here"):
        pool.take()
    started = time.monotonic()
    pool.close()
    assert time.monotonic() - started < 1
