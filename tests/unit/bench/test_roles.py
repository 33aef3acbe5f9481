"""Both ends of a transfer as processes: every byte arrives, and each end says what it needed."""

import contextlib

from bench import content
from bench.peer import MemoryWatch, peer

SIZE = 3 << 20


def test_a_region_moves_from_exporter_to_store_without_a_verifier(tmp_path):
    content.fill(tmp_path / "region", SIZE)
    given = {"directory": str(tmp_path), "file": str(tmp_path / "region"), "size": SIZE}
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(peer("export", **given, sealed=False))
        kept = str(tmp_path / "store")
        target = stack.enter_context(peer("store", directory=kept, size=SIZE, verified=False))
        watch = stack.enter_context(MemoryWatch({"store": lambda: target.pid}))
        source.ask(admit=target.hello["certificate"])
        found = target.ask(**source.hello)

        copied = (tmp_path / "store/pages/1/data").read_bytes()

    assert copied == (tmp_path / "region").read_bytes()
    assert found["seconds"] > 0 and found["cpu_s"] > 0 and not found["failed"]
    assert watch.peak_bytes["store"] > 1 << 20


def test_plain_tls_moves_every_byte_over_all_lines(tmp_path):
    content.fill(tmp_path / "region", SIZE)
    with contextlib.ExitStack() as stack:
        given = {"size": SIZE, "lines": 2, "secure": True}
        source = stack.enter_context(peer("send", file=str(tmp_path / "region"), **given))
        target = stack.enter_context(peer("receive", **given))
        source.ask(admit=target.hello["certificate"])

        assert not target.ask(**source.hello)["failed"]
