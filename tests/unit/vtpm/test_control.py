"""The control channel against an swtpm that misbehaves."""

import contextlib
import socket
import struct
import threading

import pytest

from nova_trusted_clone.vtpm.base import MAX_BLOB, VtpmError, VtpmStateError
from nova_trusted_clone.vtpm.control import Blob, ControlChannel


@contextlib.contextmanager
def answering(path, answer):
    """One connection on ``path``: read the request, send ``answer``, close; yields the requests."""
    requests = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(1)

        def serve():
            connection, _ = server.accept()
            with connection:
                requests.append(connection.recv(4096))
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield requests
        thread.join(5)


def state(data=b"blob", *, result=0, flags=0, total=None):
    size = len(data) if total is None else total
    return struct.pack(">IIII", result, flags, size, len(data)) + data


def test_a_blob_is_read_whole_in_one_request(tmp_path):
    with answering(tmp_path / "c", state(b"x" * 9000)) as requests:
        assert ControlChannel(str(tmp_path / "c")).get_state(Blob.VOLATILE) == b"x" * 9000
    assert requests == [struct.pack(">IIII", 0x0C, 1, 2, 0)]


def test_no_saved_state_is_empty(tmp_path):
    with answering(tmp_path / "c", state(b"", result=0x800)):
        assert ControlChannel(str(tmp_path / "c")).get_state(Blob.SAVESTATE) == b""


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (state(b"", result=0x800), VtpmError),  # volatile state has to be there
        (state(result=9), VtpmError),
        (state(flags=2), VtpmStateError),
        (state(total=5), VtpmStateError),
        (struct.pack(">IIII", 0, 0, MAX_BLOB + 1, MAX_BLOB + 1), VtpmStateError),
        (state()[:-1], VtpmError),
        (b"", VtpmError),
    ],
)
def test_answers_that_are_none(tmp_path, answer, error):
    with answering(tmp_path / "c", answer), pytest.raises(error):
        ControlChannel(str(tmp_path / "c")).get_state(Blob.VOLATILE)


def test_a_refused_command_names_it(tmp_path):
    with (
        answering(tmp_path / "c", struct.pack(">I", 0x21)),
        pytest.raises(VtpmError, match="refused INIT: result 0x21"),
    ):
        ControlChannel(str(tmp_path / "c")).init()


def test_nobody_there(tmp_path):
    with pytest.raises(VtpmError, match="did swtpm end"):
        ControlChannel(str(tmp_path / "none")).init()
