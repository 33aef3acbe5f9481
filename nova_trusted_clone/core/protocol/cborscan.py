"""A look at CBOR before its library sees it (RFC 8949, 3): only what messages use, and bounded."""

from __future__ import annotations

from nova_trusted_clone.core.errors import MalformedInput

MAX_MESSAGE_BYTES = 1 << 20
MAX_DEPTH = 4
MAX_ITEMS = 65536  # the largest message, a page key with its regions, has a few thousand


def scan(data: bytes, what: str) -> None:
    """Raise :class:`MalformedInput` unless ``data`` is one CBOR item of the few kinds that messages
    use, within the limits."""
    if type(data) is not bytes or len(data) > MAX_MESSAGE_BYTES:
        raise MalformedInput(f"{what}: expected at most {MAX_MESSAGE_BYTES} bytes")
    offset, items = 0, 0
    left = [1]  # how many items are still to come, level by level
    while left:
        if left[-1] == 0:
            left.pop()
            continue
        left[-1] -= 1
        items += 1
        if items > MAX_ITEMS:
            raise MalformedInput(f"{what}: more than {MAX_ITEMS} items")
        major, argument, offset = _head(data, offset, what)
        if major in (2, 3):  # bytes, text
            offset += argument
        elif major in (4, 5):  # list, map
            left.append(argument * (1 if major == 4 else 2))
            if len(left) > MAX_DEPTH + 1 or left[-1] > len(data) - offset:
                raise MalformedInput(f"{what}: nested too deeply, or longer than its bytes")
        elif major != 0:
            raise MalformedInput(f"{what}: CBOR major type {major} at byte {offset} is not used")
        if offset > len(data):
            raise MalformedInput(f"{what}: it ends in the middle")
    if offset != len(data):
        raise MalformedInput(f"{what}: {len(data) - offset} bytes follow its end")


def _head(data: bytes, offset: int, what: str) -> tuple[int, int, int]:
    """Return major type, argument and the offset after them (RFC 8949, 3)."""
    if offset >= len(data):
        raise MalformedInput(f"{what}: it ends in the middle")
    major, info = data[offset] >> 5, data[offset] & 0x1F
    if info < 24:
        return major, info, offset + 1
    size = {24: 1, 25: 2, 26: 4, 27: 8}.get(info, 0)
    end = offset + 1 + size
    if size == 0 or end > len(data):
        raise MalformedInput(f"{what}: a length at byte {offset} is indefinite or cut off")
    return major, int.from_bytes(data[offset + 1 : end], "big"), end
