"""A disk that was not read whole says so."""

from bench.hash_disk import GIB, Parts, row
from bench.sampling import Samples

PARTS = Parts((GIB, 2 * GIB), 8 * GIB)
FOUND = {
    GIB: {"product": Samples((1.0, 1.0, 1.1)), "openssl": Samples((0.5, 0.5, 0.5))},
    2 * GIB: {"product": Samples((2.1, 2.1, 2.1)), "openssl": Samples((1.0, 1.0, 1.0))},
}
HOLES = Samples((0.8, 0.8, 0.8))


def test_a_size_that_was_read_is_as_measured():
    assert row(GIB, FOUND, HOLES, PARTS) == {
        "gib": 1,
        "seconds": {"product": 1.0, "openssl": 0.5, "mostly-holes": 1.0},
        "extrapolated": {"product": False, "openssl": False, "mostly-holes": True},
    }


def test_a_larger_size_is_extrapolated_from_the_largest_that_was_read():
    assert row(64 * GIB, FOUND, HOLES, PARTS) == {
        "gib": 64,
        "seconds": {"product": 67.2, "openssl": 32.0, "mostly-holes": 7.35},
        "extrapolated": {"product": True, "openssl": True, "mostly-holes": True},
    }
