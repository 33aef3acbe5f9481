"""The requests, and replies that are not what they should be."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from nova_trusted_clone.client import errors, replies, rest
from nova_trusted_clone.client.rest import TrustedClones
from nova_trusted_clone.client.values import CloneRequest, Nic
from tests.unit.client.cloud import Cloud

NONCE = bytes(range(16))


def reply(cloud: Cloud, method: str, path: str, body: Any, status: int = 200, **more: Any) -> None:
    cloud.fail(method, path, status=status, body=body, **more)


class TestCreate:
    def test_everything_that_was_said_is_asked_for(self, cloud: Cloud, clones: TrustedClones):
        source = cloud.server("web")
        request = CloneRequest(
            name="größer 🦊",
            count=2,
            availability_zone="az",
            host="b",
            vtpm="derive",
            memory="eager",
            nonce=NONCE,
            metadata={"k": "v"},
            networks=[Nic(network_id="n", fixed_ip="10.0.0.9"), Nic(port_id="p")],
        )
        created = clones.create(source, request)
        assert cloud.requests("POST", f"/servers/{source}/action") == [
            {
                "trustedClone": {
                    "name": "größer 🦊",
                    "count": 2,
                    "availability_zone": "az",
                    "host": "b",
                    "vtpm": "derive",
                    "memory": "eager",
                    "nonce": NONCE.hex(),
                    "metadata": {"k": "v"},
                    "networks": [{"uuid": "n", "fixed_ip": "10.0.0.9"}, {"port": "p"}],
                }
            }
        ]
        assert [clone.name for clone in created.clones] == ["größer 🦊-1", "größer 🦊-2"]
        assert created.nonce == NONCE
        assert {clone.id for clone in created.clones} == set(cloud.records)

    def test_what_was_not_said_is_left_to_the_cloud(self, cloud: Cloud, clones: TrustedClones):
        source = cloud.server("web")
        created = clones.create(source, CloneRequest())
        assert cloud.requests("POST", "/action") == [{"trustedClone": {"count": 1}}]
        assert created.nonce == bytes(16)

    def test_a_cloud_that_changes_the_nonce_is_told(self, cloud: Cloud, clones: TrustedClones):
        source, server = cloud.server("web"), str(uuid.uuid4())
        made = {
            "group": "ab" * 16,
            "nonce": "ff" * 16,
            "servers": [{"id": server, "name": "x", "links": []}],
            "clones": [{"id": str(uuid.uuid4()), "server_id": server}],
        }
        reply(cloud, "POST", "/action", {"trusted_clones": made}, status=202)
        with pytest.raises(errors.BadReply, match=r"trusted_clones\.nonce: found ffff"):
            clones.create(source, CloneRequest(nonce=NONCE))

    def test_a_cloud_without_trusted_clones(self, cloud: Cloud, clones: TrustedClones):
        cloud.offers_clones = False
        with pytest.raises(errors.Unsupported, match="no trusted clones"):
            clones.create(cloud.server("web"), CloneRequest())
        assert not clones.supported()

    def test_it_is_never_asked_for_twice(self, cloud: Cloud, clones: TrustedClones):
        source = cloud.server("web")
        cloud.fail("POST", "/action", status=503)
        with pytest.raises(errors.Busy):
            clones.create(source, CloneRequest())
        assert len(cloud.requests("POST", "/action")) == 1

    @pytest.mark.parametrize(
        ("field", "value"), [("count", 0), ("nonce", b"short"), ("nonce", bytes(65))]
    )
    def test_what_could_never_be_right_is_not_sent(self, field: str, value: Any):
        with pytest.raises(ValueError, match=field):
            CloneRequest(**{field: value})


class TestRecords:
    def test_all_pages_are_read(self, cloud: Cloud, clones: TrustedClones):
        source = cloud.server("web")
        cloud.page_size = 2
        rows = [cloud.record(source, cloud.server(f"c{n}")) for n in range(5)]
        assert [clone.id for clone in clones.list(source)] == [row["id"] for row in rows]

    def test_no_page_more_than_what_is_wanted(self, cloud: Cloud, clones: TrustedClones):
        source = cloud.server("web")
        cloud.page_size = 2
        rows = [cloud.record(source, cloud.server(f"c{n}")) for n in range(6)]
        wanted = [rows[5]["id"], rows[3]["id"]]
        assert [clone.name for clone in clones.list(source, wanted)] == ["c2", "c3", "c4", "c5"]
        assert len(cloud.requests("GET", "/trusted-clones")) == 2

    def test_pages_that_repeat_themselves_end(self, cloud: Cloud, clones: TrustedClones):
        source = cloud.server("web")
        row = cloud.record(source, cloud.server("c"))
        page = {"trusted_clones": [row], "trusted_clones_links": [{"rel": "next"}]}
        cloud.fail("GET", "/trusted-clones", times=rest.MOST_PAGES, status=200, body=page)
        assert len(clones.list(source)) == 1
        assert len(cloud.requests("GET", "/trusted-clones")) == 2

    def test_a_record_with_everything(self, cloud: Cloud, clones: TrustedClones):
        source = cloud.server("web")
        attempt = {"host": "b", "reason": "no", "code": "trusted-clone.x", "ended_at": "then"}
        row = cloud.record(
            source,
            cloud.server("c"),
            phase="fetching",
            progress={"bytes_verified": 1, "bytes_total": 4, "rate_bytes_s": 2.5},
            pause_us=12,
            attempts=[attempt],
            lineage=[source],
            later="a field of a later API",
        )
        clone = clones.show(source, row["id"])
        assert (clone.progress.fraction, clone.progress.rate_bytes_s) == (0.25, 2.5)
        assert (clone.pause_us, clone.attempts[0].host) == (12, "b")
        assert clone.lineage == (source,)
        assert not clone.ended

    def test_another_record_than_the_one_asked_for(self, cloud: Cloud, clones: TrustedClones):
        source = cloud.server("web")
        row = cloud.record(source, cloud.server("c"))
        other = str(uuid.uuid4())
        reply(cloud, "GET", other, {"trusted_clone": row})
        with pytest.raises(errors.BadReply, match="which was asked for"):
            clones.show(source, other)

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"id": "x"}, r"\.id: expected a UUID"),
            ({"server_id": None}, r"\.server_id: expected a string"),
            ({"phase": 7}, r"\.phase: expected a string"),
            ({"phase": None}, r"\.phase: expected a string"),
            ({"reason": "x" * 5000}, r"\.reason: expected a string of at most 4096"),
            ({"pause_us": -1}, r"\.pause_us: expected a whole number"),
            ({"pause_us": True}, r"\.pause_us: expected a whole number"),
            ({"pause_us": 2**63}, r"\.pause_us: expected a whole number"),
            ({"progress": []}, r"\.progress: found list"),
            ({"progress": {"bytes_total": "1"}}, r"\.progress\.bytes_total"),
            ({"progress": {"rate_bytes_s": -1}}, r"\.progress\.rate_bytes_s"),
            ({"progress": {"rate_bytes_s": 10**400}}, r"\.progress\.rate_bytes_s"),
            ({"progress": {"rate_bytes_s": "fast"}}, r"\.progress\.rate_bytes_s"),
            ({"lineage": "x"}, r"\.lineage: expected a list"),
            ({"lineage": [1]}, r"\.lineage\[0\]: expected a string"),
            ({"attempts": {}}, r"\.attempts: expected a list"),
            ({"attempts": ["x"]}, r"\.attempts\[0\]: found str"),
        ],
    )
    def test_a_field_that_is_wrong_is_named(
        self, cloud: Cloud, clones: TrustedClones, change: dict[str, Any], named: str
    ):
        source = cloud.server("web")
        row = cloud.record(source, cloud.server("c"))
        reply(cloud, "GET", row["id"], {"trusted_clone": row | change})
        with pytest.raises(errors.BadReply, match=f"reply.trusted_clone{named}"):
            clones.show(source, row["id"])

    def test_texts_cannot_command_a_terminal(self, cloud: Cloud, clones: TrustedClones):
        source = cloud.server("web")
        row = cloud.record(
            source,
            cloud.server("c"),
            name="a\x1b[2J\u202eb\nc",
            reason="half of a pair: \ud800",
        )
        clone = clones.show(source, row["id"])
        assert clone.name == "a\ufffd[2J\ufffdb c"
        assert clone.reason == "half of a pair: \ufffd"
        clone.reason.encode()

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"[]",
            b"{",
            b"\xff\xfe",
            b'{"trusted_clones": 1}',
            b'{"trusted_clones": [], "trusted_clones": []}',
            b'{"trusted_clones": [], "trusted_clones_links": 1}',
            b"[" * 100000,
            b'{"trusted_clones": [NaN]}',
        ],
    )
    def test_what_is_no_list_of_records(self, cloud: Cloud, clones: TrustedClones, body: bytes):
        source = cloud.server("web")
        reply(cloud, "GET", "/trusted-clones", body)
        with pytest.raises(errors.BadReply, match="reply"):
            clones.list(source)

    def test_a_reply_without_end_is_not_read_to_the_end(
        self, cloud: Cloud, clones: TrustedClones, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(replies, "MAX_LIST_BYTES", 1000)
        source = cloud.server("web")
        reply(cloud, "GET", "/trusted-clones", b" " * 100_000)
        with pytest.raises(errors.BadReply, match="more than 1000 bytes"):
            clones.list(source)


class TestTheProject:
    def test_its_records_come_by_pages_newest_first(self, cloud: Cloud, clones: TrustedClones):
        source = cloud.server("web")
        made = [cloud.record(source, cloud.server(f"c-{n}"))["id"] for n in range(3)]
        page, more = clones.page(limit=2)
        assert ([clone.id for clone in page], more) == ([made[2], made[1]], True)
        page, more = clones.page(limit=2, marker=page[-1].id)
        assert ([clone.id for clone in page], more) == ([made[0]], False)

    def test_a_marker_is_an_id(self, clones: TrustedClones):
        with pytest.raises(ValueError, match="badly formed"):
            clones.page(limit=2, marker="x&all_projects=1")

    def test_a_cloud_that_knows_no_list_of_them(self, cloud: Cloud, clones: TrustedClones):
        """Version 1.0, and a cloud without trusted clones."""
        reply(cloud, "GET", "/trusted-clones", {"itemNotFound": {"message": "x"}}, 404)
        with pytest.raises(errors.NotFound):
            clones.page(limit=2)
        cloud.offers_clones = False
        reply(cloud, "GET", "/trusted-clones", {"itemNotFound": {"message": "x"}}, 404)
        with pytest.raises(errors.Unsupported):
            clones.page(limit=2)


class TestEvidence:
    def test_it_comes_as_the_bytes_of_a_file(self, cloud: Cloud, clones: TrustedClones, recorded):
        server = cloud.server("c")
        row = cloud.record(cloud.server("web"), server)
        cloud.evidence[row["id"]] = recorded.evidence
        assert json.loads(clones.evidence(server, row["id"])) == recorded.evidence

    @pytest.mark.parametrize("body", [{}, {"evidence": []}, {"evidence": {"format": "other"}}])
    def test_what_is_none(self, cloud: Cloud, clones: TrustedClones, body: Any):
        server = cloud.server("c")
        reply(cloud, "GET", "/evidence", body)
        with pytest.raises(errors.BadReply, match=r"reply\.evidence"):
            clones.evidence(server, str(uuid.uuid4()))


class TestRefusals:
    @pytest.mark.parametrize(
        ("status", "kind", "transient"),
        [
            (400, errors.BadRequest, False),
            (403, errors.Forbidden, False),
            (404, errors.NotFound, False),
            (409, errors.Conflict, False),
            (413, errors.Refused, False),
            (429, errors.Busy, True),
            (500, errors.Busy, True),
            (503, errors.Busy, True),
        ],
    )
    def test_each_status_has_its_error(
        self,
        cloud: Cloud,
        clones: TrustedClones,
        status: int,
        kind: type[errors.Refused],
        transient: bool,
    ):
        source = cloud.server("web")
        fault = {"someFault": {"code": status, "message": "PCI device\x1b attached"}}
        reply(cloud, "GET", "/trusted-clones", fault, status=status)
        with pytest.raises(kind, match="PCI device\ufffd attached") as caught:
            clones.list(source)
        assert type(caught.value) is kind
        assert (caught.value.status, caught.value.transient) == (status, transient)
        assert caught.value.request_id == "req-1"

    @pytest.mark.parametrize(
        "body",
        ["<html>502</html>", b"", b"{}", b'{"a": 1}', b'{"a": {"message": 1}}', b"x" * 10**6],
    )
    def test_a_refusal_without_a_reason(self, cloud: Cloud, clones: TrustedClones, body: Any):
        source = cloud.server("web")
        reply(cloud, "GET", "/trusted-clones", body, status=502)
        with pytest.raises(errors.Busy, match="the API answered 502 and no reason"):
            clones.list(source)

    @pytest.mark.parametrize(
        ("said", "meant"), [("7", 7), ("99999", 300), ("soon", None), ("-1", None), ("²", None)]
    )
    def test_how_long_to_wait(
        self, cloud: Cloud, clones: TrustedClones, said: str, meant: int | None
    ):
        source = cloud.server("web")
        header = ("Retry-After", said.encode().decode("latin-1"))
        reply(cloud, "GET", "/trusted-clones", "x", status=429, headers=(header,))
        with pytest.raises(errors.Busy) as caught:
            clones.list(source)
        assert caught.value.retry_after_s == meant

    def test_an_api_that_hangs_up(self, cloud: Cloud, clones: TrustedClones):
        source = cloud.server("web")
        reply(cloud, "GET", "/trusted-clones", {"trusted_clones": []}, cut=5)
        with pytest.raises(errors.ClientError) as caught:
            clones.list(source)
        assert caught.value.transient

    def test_nobody_there(self, cloud: Cloud, clones: TrustedClones):
        source = cloud.server("web")
        clones.list(source)
        clones._adapter.endpoint_override = "http://127.0.0.1:9/"
        with pytest.raises(errors.Unreachable) as caught:
            clones.list(source)
        assert caught.value.transient

    @pytest.mark.parametrize("bad", ["", "../../admin", "8f2bd6a1", "x" * 36])
    def test_nothing_but_a_uuid_gets_into_a_path(self, clones: TrustedClones, bad: str):
        with pytest.raises(ValueError, match="UUID"):
            clones.list(bad)
        with pytest.raises(ValueError, match="UUID"):
            clones.show(str(uuid.uuid4()), bad)


class TestTokens:
    def test_an_expired_token_is_renewed(self, cloud: Cloud, clones: TrustedClones):
        source = cloud.server("web")
        clones.list(source)
        cloud.expire_tokens()
        assert clones.list(source) == ()

    def test_a_password_that_is_not_right_any_more(self, cloud: Cloud, clones: TrustedClones):
        source = cloud.server("web")
        clones.list(source)
        cloud.expire_tokens()
        cloud.accepts_passwords = False
        with pytest.raises(errors.Unauthorized, match="not right any more"):
            clones.list(source)

    def test_keystone_down_when_the_token_expires(self, cloud: Cloud, clones: TrustedClones):
        source = cloud.server("web")
        clones.list(source)
        cloud.expire_tokens()
        cloud.fail("POST", "/auth/tokens", status=503)
        with pytest.raises(errors.Busy) as caught:
            clones.list(source)
        assert caught.value.transient
