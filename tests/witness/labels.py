"""Attributes, versions and labels: PROTOCOL.md, section 3.

An attribute is `[0, name, value]` as in its CDDL, where value is None, an int or a str.
"""

import re
import unicodedata

import cbor
from answers import demand
from words import Reader

NAME_BYTES_MAX = 64
VALUE_BYTES_MAX = 256
ATTRIBUTES_MAX = 64
VERSIONS_MAX = 4096
LABELS_MAX = 2113
SEALED_LABELS_MAX = 256
UINT32_MAX = 2**32 - 1
BITS = 32


def value_of(text: str):
    """What a word means as a value: an integer if it is written as one, else text."""
    if re.fullmatch("0|[1-9][0-9]*", text) and int(text) <= UINT32_MAX:
        return int(text)
    return text


def attribute(name: str, value) -> list:
    """An attribute whose parts are within bounds."""
    check_text(name, NAME_BYTES_MAX)
    if isinstance(value, str):
        check_text(value, VALUE_BYTES_MAX)
        demand(value_of(value) == value, "Attribute", "an integer as text")
    else:
        demand(value is None or cbor.is_uint(value, UINT32_MAX), "Attribute", "no value")
    return [0, name, value]


def check_text(text, bytes_max: int) -> None:
    demand(isinstance(text, str), "Attribute", "not text")
    demand(1 <= len(text.encode()) <= bytes_max, "Attribute", "empty or too long")
    demand(all(unicodedata.category(c) != "Cc" for c in text), "Attribute", "a control character")


def order(attribute: list) -> tuple:
    """What attributes are sorted by: name, then no value before integers before text."""
    _, name, value = attribute
    if value is None:
        return name.encode(), 0, 0
    if isinstance(value, int):
        return name.encode(), 1, value
    return name.encode(), 2, value.encode()


def parse_attributes(text: str) -> list:
    """`role=nurse, ward=3`, sorted."""
    reader, found = Reader(text), []
    while reader.peek()[0] != "end":
        if found:
            reader.expect("sign", ",")
        name, value = reader.word(), None
        if reader.accept("operator", "="):
            value = value_of(reader.word())
        found.append(attribute(name, value))
    once = {order(one): one for one in found}
    return check_attributes([once[key] for key in sorted(once)])


def check_attributes(attributes: list) -> list:
    demand(len(attributes) <= ATTRIBUTES_MAX, "Attribute", "too many")
    check_ascending(attributes, order)
    return attributes


def check_ascending(items: list, key) -> None:
    """Sorted and without repeats."""
    keys = [key(item) for item in items]
    demand(all(a < b for a, b in zip(keys, keys[1:])), "Malformed", "out of order or repeated")


def decode_attribute(item) -> list:
    """An attribute from decoded CBOR."""
    demand(cbor.is_array(item, 3) and cbor.is_uint(item[0], 0), "Malformed", "no attribute")
    return attribute(item[1], item[2])


class Versions:
    """How often each attribute was raised; what is not listed has version 0."""

    def __init__(self, entries: list):
        """`entries` are `[attribute, version]`, sorted."""
        demand(cbor.is_array(entries) and len(entries) <= VERSIONS_MAX, "Malformed", "versions")
        for entry in entries:
            demand(cbor.is_array(entry, 2), "Malformed", "no entry of versions")
            decode_attribute(entry[0])
            demand(not isinstance(entry[0][2], int), "Malformed", "integers share the version of their name")
            demand(cbor.is_uint(entry[1], UINT32_MAX) and entry[1] > 0, "Malformed", "a version of 0")
        check_ascending(entries, lambda entry: order(entry[0]))
        self.entries = entries

    @classmethod
    def decode(cls, data: bytes) -> "Versions":
        return cls(cbor.decode(data))

    def encode(self) -> bytes:
        return cbor.encode(self.entries)

    def of(self, name: str, value) -> int:
        """The version of an attribute."""
        return next((version for attribute, version in self.entries if attribute == key_of(name, value)), 0)


def key_of(name: str, value) -> list:
    """What an attribute is looked up under: integers under the name without a value."""
    return [0, name, None if isinstance(value, int) else value]


def labels(attributes: list, versions: Versions, epoch: int) -> list[bytes]:
    """The labels of a set of attributes in an epoch, sorted by bytes."""
    found = {epoch_label(epoch)}
    for _, name, value in attributes:
        found.add(cbor.encode([0, name, value, versions.of(name, value)]))
    for name in {name for _, name, _ in attributes}:
        integer = only_integer(attributes, name)
        if integer is not None:
            for i in range(BITS):
                found.add(bit_label(name, i, integer >> i & 1, versions.of(name, integer)))
    return sorted(found)


def sealable(attributes: list) -> list:
    """Attributes to seal under in fabeo-kp: at least one, and not too many labels (PROTOCOL.md, section 4)."""
    check_attributes(attributes)
    # The epoch's label is not counted.
    count = len(labels(attributes, Versions([]), 0)) - 1
    demand(1 <= count <= SEALED_LABELS_MAX, "Malformed", "no labels, or too many")
    return attributes


def decode_attributes(data: bytes) -> list:
    items = cbor.decode(data)
    demand(cbor.is_array(items), "Malformed", "no attributes")
    return check_attributes([decode_attribute(item) for item in items])


def only_integer(attributes: list, name: str) -> int | None:
    """The integer of a name that has exactly one."""
    integers = [value for _, other, value in attributes if other == name and isinstance(value, int)]
    return integers[0] if len(integers) == 1 else None


def epoch_label(epoch: int) -> bytes:
    return cbor.encode([2, epoch])


def bit_label(name: str, index: int, bit: int, version: int) -> bytes:
    return cbor.encode([1, name, index, bit, version])


def check_label(data) -> bytes:
    """A label as bytes, of one of the three kinds."""
    demand(cbor.is_bytes(data), "Malformed", "no label")
    label = cbor.decode(data)
    demand(cbor.is_array(label) and len(label) > 0 and cbor.is_uint(label[0], 2), "Malformed", "no label")
    if label[0] == 0:
        demand(len(label) == 4 and cbor.is_uint(label[3], UINT32_MAX), "Malformed", "no label")
        attribute(label[1], label[2])
    elif label[0] == 1:
        demand(len(label) == 5 and cbor.is_uint(label[2], BITS - 1) and cbor.is_uint(label[3], 1), "Malformed", "no label")
        demand(cbor.is_uint(label[4], UINT32_MAX), "Malformed", "no label")
        attribute(label[1], None)
    else:
        demand(len(label) == 2 and cbor.is_uint(label[1]), "Malformed", "no label")
    return data


def check_labels(items, count_max: int = LABELS_MAX) -> list[bytes]:
    """Labels strictly ascending by bytes."""
    demand(cbor.is_array(items) and len(items) <= count_max, "Malformed", "no labels")
    for data in items:
        check_label(data)
    check_ascending(items, lambda data: data)
    return items
