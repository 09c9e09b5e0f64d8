"""Deterministic CBOR (RFC 8949, section 4.2.1), as much as the protocol uses: PROTOCOL.md, section 2.

Integers, byte strings, text, arrays, maps, one tag, true, false and null are Python's int, bytes, str, list, dict, Tag,
bool and None.
"""

from dataclasses import dataclass

from answers import Refused, demand

# An access formula of 64 gates, two arrays each, within a key; more is refused before it can exhaust the stack.
NESTING_MAX = 160


@dataclass(frozen=True)
class Tag:
    number: int
    value: object


def encode(value) -> bytes:
    """The one encoding of a value."""
    if value is None:
        return b"\xf6"
    if value is True:
        return b"\xf5"
    if value is False:
        return b"\xf4"
    if isinstance(value, int):
        return head(0, value) if value >= 0 else head(1, -1 - value)
    if isinstance(value, bytes):
        return head(2, len(value)) + value
    if isinstance(value, str):
        text = value.encode()
        return head(3, len(text)) + text
    if isinstance(value, list):
        return head(4, len(value)) + b"".join(encode(item) for item in value)
    if isinstance(value, dict):
        pairs = sorted((encode(key), encode(item)) for key, item in value.items())
        return head(5, len(pairs)) + b"".join(key + item for key, item in pairs)
    if isinstance(value, Tag):
        return head(6, value.number) + encode(value.value)
    raise TypeError(f"not in our CBOR: {value!r}")


def head(major: int, number: int) -> bytes:
    """The shortest head: major type, and a number in as few bytes as it needs."""
    if number < 24:
        return bytes([major << 5 | number])
    for additional, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 256**size:
            return bytes([major << 5 | additional]) + number.to_bytes(size, "big")
    raise ValueError("above 64 bits")


def decode(data: bytes):
    """Reads all of `data`, writes it again and compares: whatever has another spelling is refused."""
    value, end = item(data, 0, 0)
    demand(end == len(data), "Malformed", "bytes left over")
    demand(encode(value) == data, "Malformed", "not deterministic")
    return value


def item(data: bytes, at: int, depth: int):
    """One item of any spelling: the value and where it ends. `decode` compares the spelling."""
    demand(depth <= NESTING_MAX, "Malformed", "too deep")
    first, at = take(data, at, 1)
    major, additional = first[0] >> 5, first[0] & 31
    if major == 7:
        simple = {20: False, 21: True, 22: None}
        demand(additional in simple, "Malformed", "a float or another simple value")
        return simple[additional], at
    number = additional
    if additional >= 24:
        demand(additional <= 27, "Malformed", "an indefinite length")
        digits, at = take(data, at, 1 << (additional - 24))
        number = int.from_bytes(digits, "big")
    if major == 0:
        return number, at
    if major == 1:
        return -1 - number, at
    if major == 2:
        return take(data, at, number)
    if major == 3:
        text, at = take(data, at, number)
        try:
            return text.decode(), at
        except UnicodeDecodeError:
            raise Refused("Malformed", "not UTF-8") from None
    if major == 4:
        items = []
        for _ in range(number):
            value, at = item(data, at, depth + 1)
            items.append(value)
        return items, at
    if major == 5:
        pairs = {}
        for _ in range(number):
            key, at = item(data, at, depth + 1)
            demand(isinstance(key, (int, str, bytes)), "Malformed", "a map's key")
            pairs[key], at = item(data, at, depth + 1)
        return pairs, at
    value, at = item(data, at, depth + 1)
    return Tag(number, value), at


def take(data: bytes, at: int, count: int):
    """The next `count` bytes and where they end."""
    demand(at + count <= len(data), "Malformed", "cut short")
    return data[at : at + count], at + count


def is_uint(value, most: int = 2**64 - 1) -> bool:
    """An unsigned integer up to `most`; Python's True is none."""
    return type(value) is int and 0 <= value <= most


def is_bytes(value, size: int | None = None) -> bool:
    return isinstance(value, bytes) and size in (None, len(value))


def is_array(value, size: int | None = None) -> bool:
    return isinstance(value, list) and size in (None, len(value))
