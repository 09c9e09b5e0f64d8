#!/usr/bin/env python3
"""Writes the frozen vectors of core into corpus/, one file a vector."""

import hashlib, json, pathlib

here = pathlib.Path(__file__).parent
vectors = {p.stem: json.loads(p.read_text()) for p in (here / "../core/tests/vectors").glob("*.json")}


def put(target, data):
    folder = here / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


def strings(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from strings(item)
    elif isinstance(value, str):
        yield value


def binary(text):
    try:
        return bytes.fromhex(text)
    except ValueError:
        return text.encode()


for text in strings(vectors["policy"]):
    put("policy", binary(text))
    for suite in b"\0\1":
        put("decapsulate", bytes([suite]) + b"\x40" + text.encode())
for text in strings(vectors["envelope"]):
    put("envelope", binary(text))
    put("token", binary(text))
for text in strings(vectors["envelope"]["bundle"]):
    put("bundle", binary(text))
for suite, name in enumerate(["fabeo-cp", "fabeo-kp"]):
    for text in strings(vectors.get(name, {})):
        put("key", binary(text))
        put("decapsulate", bytes([suite]) + b"\x21" + binary(text))
for text in strings(vectors["token"]):
    put("token", binary(text))
for at in range(0, 368, 16):
    for suite in b"\0\1":
        put("decapsulate", bytes([suite, 1, at >> 8, at & 255, 1]))
for suite in b"\0\1":
    for choice in range(4):
        for change in range(12):
            put("decapsulate", bytes([suite, 0x80 + choice, change, change // 4, 7 * change + 1]))
for text in ["kind=reading, ward=$1", "a", "a, b=$2, c=3"]:
    put("policy", text.encode())
put("token", b"ward/+/bed/#\nward/3/bed/7")
for packet in [
    "101000044d5154540402003c000461626364", "101100044d5154540502003c000000046162636400"[:38], "300700036162630102",
    "320900036162630001003132", "82080001000361626301", "8209000100000361626301", "c000", "d000", "e000", "40020001",
]:
    put("mqtt_codec", bytes.fromhex(packet))

# Conversations: who connects, what is asked for and sent, who comes back. The first byte says whether they are polite.
for manner in range(8):
    for qos in range(3):
        for version in range(2):
            connect = bytes([0x24 | version, 0x08])
            subscribe, publish, answer = bytes([6, qos, 1]), bytes([42, 4 | qos, 0]), bytes([17, 0, 0])
            talk = bytes([manner, 0]) + connect + subscribe + bytes([32]) + connect + publish * 3 + answer
            put("conversation", talk + bytes([4]) + publish * 2 + bytes([0]) + connect + answer * 2 + bytes([20, 2, 5, 0, 0]) + connect)
