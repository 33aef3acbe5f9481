"""Messages that anybody may put onto the broker: a clear error, and nothing changes."""

import copy

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nova_trusted_clone.conductor.endpoint import Endpoint
from nova_trusted_clone.db.engine import DatabaseAway
from nova_trusted_clone.rpc import CONDUCTOR_TOPIC, errors
from nova_trusted_clone.rpc.conductor import ConductorAPI
from tests.unit.conductor.cloud import GROUP, NONCE, SOURCE, server
from tests.unit.rpc.broker import broker, context, serving

REQUEST = {
    "group": GROUP,
    "source_server": SOURCE,
    "source_host": "compute-1",
    "count": 1,
    "vtpm": "new",
    "memory": "lazy",
    "nonce": NONCE,
    "name": "web",
    "project_id": "project",
    "user_id": "user",
    "request_id": "req-1",
}
GOOD = {
    "begin": {"request": REQUEST},
    "register": {"group": GROUP, "servers": [{"server": server(0), "name": "web-0"}]},
    "cancel": {"group": GROUP, "reason": "enough"},
    "claim": {"group": GROUP, "server": server(0), "host": "compute-2", "host_id": "right"},
    "report": {"clone_id": "ab" * 16, "status": {"phase": "fetching"}},
    "complete": {"clone_id": "ab" * 16, "evidence": {}},
    "fail": {
        "group": GROUP,
        "server": server(0),
        "clone_id": None,
        "reason": "r",
        "code": "c",
        "retry": True,
    },
    "list": {"filters": {}},
    "get": {"clone_id": server(0)},
    "evidence": {"clone_id": server(0)},
    "abort": {"clone_id": server(0), "reason": "r"},
}
NONSENSE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=300),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4)
    ),
    max_leaves=12,
)


def everything(cloud):
    """What stands in the database."""
    return (
        cloud.store.groups.get(GROUP),
        cloud.store.clones.matching({}),
        cloud.store.clones.attempts([server(n) for n in range(3)]),
        cloud.store.freezes.being_ordered(),
    )


@pytest.mark.parametrize("method", GOOD)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_nonsense_is_told_and_changes_nothing(cloud, method, data):
    endpoint = Endpoint(cloud.conductor)
    before = everything(cloud)
    arguments = copy.deepcopy(GOOD[method])
    name = data.draw(st.sampled_from([*arguments, "surprise"]))
    inner = arguments.get(name)
    if isinstance(inner, dict) and inner and data.draw(st.booleans()):
        inner[data.draw(st.sampled_from(sorted(inner)))] = data.draw(
            NONSENSE.filter(lambda v: not isinstance(v, str))
        )
    else:
        arguments[name] = data.draw(
            NONSENSE.filter(lambda v: v is not None and v != {} and not isinstance(v, str))
        )
    reply = getattr(endpoint, method)(context(), **arguments)
    if "error" in reply:
        assert errors.from_reply(reply["error"]).code != "trusted-clone.rpc.malformed-reply"
        assert everything(cloud) == before
    else:
        # What can be drawn and is good after all: a count, a flag, an empty filter.
        assert method in ("begin", "fail", "list")


@pytest.mark.parametrize("method", GOOD)
def test_an_argument_that_is_missing_is_named(cloud, method):
    endpoint = Endpoint(cloud.conductor)
    for name in GOOD[method]:
        if (method, name) == ("fail", "clone_id"):
            continue
        arguments = {key: value for key, value in GOOD[method].items() if key != name}
        reply = getattr(endpoint, method)(context(), **arguments)
        assert reply["error"]["kind"] == "invalid"
        assert f"{method}.{name}" in reply["error"]["text"]
    assert everything(cloud)[0] is None


def test_what_is_no_message_cannot_be_called(cloud):
    with broker() as transport, serving(transport, CONDUCTOR_TOPIC, "c", Endpoint(cloud.conductor)):
        import oslo_messaging as messaging
        from nova import rpc

        client = rpc.get_client(messaging.Target(topic=CONDUCTOR_TOPIC, version="1.0"))
        for method in ("_conductor", "__init__", "views", "prove"):
            with pytest.raises(Exception) as caught:
                client.prepare(timeout=5).call(context(), method)
            assert "NoSuchMethod" in repr(caught.value) or "RemoteError" in repr(caught.value)


def test_a_whole_clone_by_messages(cloud):
    """Through oslo.messaging and back, every reply checked by the client."""
    with broker() as transport, serving(transport, CONDUCTOR_TOPIC, "c", Endpoint(cloud.conductor)):
        api = ConductorAPI(insist_s=1)
        assert api.begin(context(), REQUEST) == NONCE
        (record,) = api.register(context(), GROUP, GOOD["register"]["servers"])
        assert (record["phase"], record["server_id"]) == ("scheduling", server(0))
        attempt = api.claim(context(), GROUP, server(0), "compute-2", "right")
        cloud.look()
        api.report(context(), attempt, {"phase": "fetching", "progress": {"pages_verified": 7}})
        assert api.get(context(), record["id"])["progress"] == {"pages_verified": 7}
        api.complete(context(), attempt, cloud.computes.evidence(attempt))
        (listed,) = api.list(context(), {"server": SOURCE})
        assert (listed["phase"], listed["attempt_id"]) == ("complete", attempt)
        assert api.evidence(context(), record["id"])["clone"]["clone_id"] == attempt
        with pytest.raises(errors.Conflict, match="complete"):
            api.abort(context(), record["id"], "too late")
        with pytest.raises(errors.Refused, match="does not hold"):
            api.complete(context(), attempt, {"format": "forged"})
        with pytest.raises(errors.NotFound):
            api.get(context(), server(5))
        assert api.list(context(), {"phase": "failed"}) == []


def test_a_database_that_is_away_is_worth_another_try(cloud, monkeypatch):
    def away(*args):
        raise DatabaseAway("the database: DBConnectionError")

    monkeypatch.setattr(cloud.conductor, "get", away)
    reply = Endpoint(cloud.conductor).get(context(), clone_id=server(0))
    assert reply["error"] == {
        "kind": "unavailable",
        "code": "trusted-clone.database.away",
        "text": "the database: DBConnectionError",
    }
