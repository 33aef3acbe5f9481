"""The page of errors."""

from __future__ import annotations

import pytest
from nova import exception
from nova.api.openstack.compute import servers as novas
from webob import exc

from nova_trusted_clone.api import faults

NOVA_ERRORS = [kind for kind, _http, _next in faults.TABLE if isinstance(kind, type)]


def raised(kind: type[Exception]) -> Exception:
    """Nova's errors have texts with names to fill in."""
    if issubclass(kind, exception.NovaException):
        return kind(message="what is wrong")
    if kind.__module__.startswith("neutronclient"):
        return kind(message="what is wrong")
    return kind("what is wrong")


@pytest.mark.parametrize("kind", NOVA_ERRORS, ids=lambda kind: kind.__name__)
def test_every_row_is_reached(kind):
    """No wider row stands before a narrower one."""
    first = next(row for row in faults.TABLE if issubclass(kind, row[0]))
    assert first[0] is kind
    answer = faults.answer(raised(kind), for_operator=True)
    assert answer is not None
    assert answer.code in faults.EXPECTED
    assert "what is wrong" in answer.explanation
    assert answer.explanation.endswith(first[2] or answer.explanation)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (exception.TooManyInstances, 403),
        (exception.PortLimitExceeded, 403),
        (exception.MetadataLimitExceeded, 403),
        (exception.InstanceIsLocked, 409),
        (exception.PortInUse, 409),
        (exception.FlavorImageConflict, 400),
        (exception.InvalidRequest, 400),
    ],
)
def test_novas_errors_have_novas_statuses(kind, status):
    answer = faults.answer(kind(message="x"))
    assert answer is not None and answer.code == status


def test_what_nova_answers_with_400_for_a_flavor_and_an_image_is_known_too():
    for kind in novas.INVALID_FLAVOR_IMAGE_EXCEPTIONS:
        answer = faults.answer(kind(message="x"))
        assert isinstance(answer, exc.HTTPBadRequest)


def test_a_fault_of_ours_stays_one():
    assert faults.answer(KeyError("x")) is None


def test_sentences_end():
    answer = faults.answer(exception.InstanceIsLocked(message="Instance x is locked"))
    assert answer is not None
    assert answer.explanation == "Instance x is locked. Unlock it first."
