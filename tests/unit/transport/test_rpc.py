"""Requests between agents: one question, one answer, and nothing that a stranger sends can do harm."""

import socket
import struct

import cbor2
import pytest

from nova_trusted_clone.transport import rpc


@pytest.fixture
def server():
    def echo(arguments):
        return {"said": arguments["word"]}

    def refuse(arguments):
        raise rpc.PublicError("not today", "trusted-clone.rejected")

    def break_down(arguments):
        raise ValueError("the secret is 42")

    server = rpc.Server(("127.0.0.1", 0), {"echo": echo, "refuse": refuse, "break": break_down})
    server.start()
    yield server
    server.close()


@pytest.fixture
def client(server):
    return rpc.Client(("127.0.0.1", server.port), timeout_s=5)


def exchange(server, raw):
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        return connection.recv(1 << 16)


def frame(value):
    raw = cbor2.dumps(value)
    return struct.pack(">I", len(raw)) + raw


def test_a_question_is_answered(client):
    assert client.call("echo", word=b"\x00\xff") == {"said": b"\x00\xff"}


def test_an_answer_is_waited_for_no_longer_than_asked():
    with socket.create_server(("127.0.0.1", 0)) as mute:
        client = rpc.Client(("127.0.0.1", mute.getsockname()[1]), timeout_s=300)
        with pytest.raises(rpc.Unreachable, match="no answer"):
            client.call("echo", limit_s=0.1)


def test_an_error_keeps_its_code(client):
    with pytest.raises(rpc.RpcError, match="not today") as caught:
        client.call("refuse")
    assert caught.value.code == "trusted-clone.rejected"


def test_an_inner_error_says_nothing_of_the_inside(client):
    with pytest.raises(rpc.RpcError) as caught:
        client.call("break")
    assert caught.value.code == "trusted-clone.internal"
    assert "42" not in str(caught.value)


def test_an_unknown_operation_is_named(client):
    with pytest.raises(rpc.RpcError, match="no operation 'fly' here"):
        client.call("fly")


def test_nobody_there_is_worth_another_try():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(rpc.Unreachable):
        rpc.Client(("127.0.0.1", port), timeout_s=1).call("echo")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x00\x00",
        struct.pack(">I", 0),
        struct.pack(">I", 0xFFFFFFFF),
        struct.pack(">I", 5) + b"\xa1",
        struct.pack(">I", 3) + b"\xff\xff\xff",
        frame([1, 2]),
        frame({1: 2}),
        struct.pack(">I", 60) + b"\x81" * 60,
        struct.pack(">I", 3) + b"\xbf\xff\x00",
    ],
    ids=[
        "nothing",
        "half a length",
        "empty",
        "giant",
        "cut",
        "no cbor",
        "no map",
        "no text keys",
        "deep",
        "indefinite",
    ],
)
def test_a_malformed_frame_is_dropped_and_the_next_caller_served(server, client, raw):
    assert exchange(server, raw) == b""
    assert client.call("echo", word="still here") == {"said": "still here"}


@pytest.mark.parametrize(
    "request_", [{}, {"op": "echo"}, {"op": 5, "args": {}}, {"op": "echo", "args": []}]
)
def test_a_request_of_the_wrong_shape_gets_an_error(server, request_):
    reply = cbor2.loads(exchange(server, frame(request_))[4:])
    assert reply["code"] == "trusted-clone.rpc.operation"
