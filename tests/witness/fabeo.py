"""Both suites, fabeo-cp and fabeo-kp: PROTOCOL.md, section 6.

Whatever is made is made with every value in between, for the vectors to be compared with.
"""

import functools
import hashlib
from dataclasses import dataclass

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

import cbor
import curve
from answers import Refused, demand
from curve import G1_BYTES, G2_BYTES, GT_BYTES, ORDER, g1, g2, power, product
from labels import check_labels
from policy import AND, K_OF, OR, check_access, children, is_gate, leaves

CP, KP = "fabeo-cp", "fabeo-kp"
D_BYTES = 32
KEY_BYTES_MAX = 1 << 20


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def hkdf(salt: str, ikm: bytes, info: bytes, size: int) -> bytes:
    return HKDF(SHA256(), size, salt.encode(), info).derive(ikm)


def scalar(salt: str, ikm: bytes, info: bytes) -> int:
    return int.from_bytes(hkdf(salt, ikm, info, 48), "big") % ORDER


def label_point(suite: str, label: bytes):
    """H(label)."""
    return curve.hash_to_g1(label, f"SMQTT-V01-{suite}-label-BLS12381G1_XMD:SHA-256_SSWU_RO_".encode())


def b_point():
    """b, which fabeo-cp alone has."""
    return curve.hash_to_g1(b"b", b"SMQTT-V01-fabeo-cp-b-BLS12381G1_XMD:SHA-256_SSWU_RO_")


# Params.


@dataclass(frozen=True)
class Params:
    suite: str
    y: bytes

    def encode(self) -> bytes:
        return cbor.encode([self.suite, self.y])

    @property
    def id(self) -> bytes:
        return sha256(self.encode())[:16]

    @classmethod
    def decode(cls, data: bytes) -> "Params":
        demand(len(data) <= KEY_BYTES_MAX, "Malformed", "too long")
        item = cbor.decode(data)
        demand(cbor.is_array(item, 2) and item[0] in (CP, KP), "Malformed", "no params of a suite")
        demand(cbor.is_bytes(item[1], GT_BYTES), "Malformed", "material")
        params = cls(*item)
        y_of(params)
        return params


def setup(suite: str, coins: bytes) -> tuple[int, Params]:
    """alpha, which is the master secret key, and the params."""
    alpha = scalar(f"SMQTT-V01 {suite} setup", coins, b"")
    y = curve.gt_power(curve.pairings([(g1, g2)]), alpha)
    return alpha, Params(suite, curve.encode_gt(y))


# Keys.


@dataclass(frozen=True)
class Key:
    """A user secret key; `scope` is the labels of fabeo-cp or the access formula of fabeo-kp."""

    suite: str
    params_id: bytes
    epoch: int
    scope: object
    material: bytes

    def encode(self) -> bytes:
        return cbor.encode([self.suite, self.params_id, self.epoch, self.scope, self.material])

    @classmethod
    def decode(cls, data: bytes) -> "Key":
        demand(len(data) <= KEY_BYTES_MAX, "Malformed", "too long")
        item = cbor.decode(data)
        demand(cbor.is_array(item, 5) and item[0] in (CP, KP), "Malformed", "no key of a suite")
        suite, params_id, epoch, scope, material = item
        demand(cbor.is_bytes(params_id, 16) and cbor.is_uint(epoch) and cbor.is_bytes(material), "Malformed", "no key")
        if suite == CP:
            check_labels(scope)
        else:
            check_access(scope)
        key = cls(suite, params_id, epoch, scope, material)
        key.points()
        return key

    def points(self) -> tuple[list, list]:
        """The points of G2 and those of G1, each checked to be in its group."""
        if self.suite == CP:
            count2, count1 = 1, 1 + len(self.scope)
        else:
            count2, count1 = tau(leaves(self.scope)), len(leaves(self.scope))
        return points(self.material, count2, count1)


@functools.cache
def points(material: bytes, count2: int, count1: int) -> tuple[list, list]:
    demand(len(material) == count2 * G2_BYTES + count1 * G1_BYTES, "Malformed", "the length of the material")
    parts2, parts1 = cut(material, count2, count1)
    return (
        [curve.check_group(curve.decode_g2(part)) for part in parts2],
        [curve.check_group(curve.decode_g1(part)) for part in parts1],
    )


def cut(data: bytes, count2: int, count1: int) -> tuple[list[bytes], list[bytes]]:
    """So many points of G2, then so many of G1."""
    end = count2 * G2_BYTES
    return (
        [data[i : i + G2_BYTES] for i in range(0, end, G2_BYTES)],
        [data[i : i + G1_BYTES] for i in range(end, end + count1 * G1_BYTES, G1_BYTES)],
    )


def keygen_cp(params: Params, alpha: int, coins: bytes, labels: list[bytes], epoch: int) -> tuple[int, Key]:
    """t and the key for a set of labels."""
    t = scalar("SMQTT-V01 fabeo-cp keygen", coins, params.id + epoch.to_bytes(8, "big") + sha256(b"".join(labels)))
    material = curve.encode_g2(power(g2, t))
    material += curve.encode_g1(product([power(g1, alpha), power(b_point(), t)]))
    for label in labels:
        material += curve.encode_g1(power(label_point(CP, label), t))
    return t, Key(CP, params.id, epoch, labels, material)


@dataclass
class KeygenKp:
    drawn: list[int]
    shares: list[int]
    per_occurrence: list[int]
    key: Key


def keygen_kp(params: Params, alpha: int, coins: bytes, access, epoch: int) -> KeygenKp:
    """The key for an access formula."""
    info = params.id + epoch.to_bytes(8, "big") + sha256(cbor.encode(access))
    draw = Coins("SMQTT-V01 fabeo-kp keygen", coins, info)
    shares = share(access, alpha, draw)
    drawn = draw.drawn[:]
    rows = leaves(access)
    t = [draw() for _ in range(tau(rows))]
    material = b"".join(curve.encode_g2(power(g2, t_j)) for t_j in t)
    for label, lambda_i, j in zip(rows, shares, occurrences(rows)):
        material += curve.encode_g1(product([power(g1, lambda_i), power(label_point(KP, label), t[j])]))
    return KeygenKp(drawn, shares, t, Key(KP, params.id, epoch, access, material))


# Sharing along the formula.


class Coins:
    """Coins 0, 1, 2, .. in order; `drawn` keeps them."""

    def __init__(self, salt: str, ikm: bytes, info: bytes):
        self.salt, self.ikm, self.info = salt, ikm, info
        self.drawn = []

    def __call__(self) -> int:
        number = len(self.drawn).to_bytes(4, "big")
        self.drawn.append(scalar(self.salt, self.ikm, self.info + number))
        return self.drawn[-1]


def share(node, value: int, draw) -> list[int]:
    """The shares of the leaves, from left to right."""
    if not is_gate(node):
        return [value]
    count = len(children(node))
    if node[0] == OR:
        values = [value] * count
    elif node[0] == AND:
        values = [draw() for _ in range(count - 1)]
        values.append((value - sum(values)) % ORDER)
    else:
        a = [value] + [draw() for _ in range(node[1] - 1)]
        values = [sum(a_j * i**j for j, a_j in enumerate(a)) % ORDER for i in range(1, count + 1)]
    return [leaf for child, part in zip(children(node), values) for leaf in share(child, part, draw)]


def occurrences(rows: list[bytes]) -> list[int]:
    """occ: how many earlier leaves have the same label."""
    return [rows[:i].count(label) for i, label in enumerate(rows)]


def tau(rows: list[bytes]) -> int:
    return max(rows.count(label) for label in rows)


def choose(node, have: set[bytes], first: int = 0) -> dict[int, int] | None:
    """Leaves that satisfy the formula, by number from `first`, and the coefficient of each; None if there are none."""
    if not is_gate(node):
        return {first: 1} if node in have else None
    choices, at = [], first
    for x, child in enumerate(children(node), 1):
        choice = choose(child, have, at)
        if choice is not None:
            choices.append((x, choice))
        at += len(leaves(child))
    need = {AND: len(children(node)), OR: 1, K_OF: node[1]}[node[0]]
    if len(choices) < need:
        return None
    chosen = sorted(choices, key=lambda choice: len(choice[1]))[:need]
    omega = {}
    for x, choice in chosen:
        others = [other for other, _ in chosen if other != x]
        factor = lagrange(x, others) if node[0] == K_OF else 1
        omega.update({i: coefficient * factor % ORDER for i, coefficient in choice.items()})
    return omega


def lagrange(x: int, others: list[int]) -> int:
    """The coefficient at 0 of x among `others`."""
    result = 1
    for other in others:
        result = result * other * pow(other - x, -1, ORDER) % ORDER
    return result


# Encapsulation.


@dataclass
class Encapsulated:
    s: int
    drawn: list[int]
    shares: list[int]
    per_occurrence: list[int]
    c: bytes
    shared_element: bytes
    mask: bytes
    d: bytes
    encapsulation: bytes
    secret: bytes


def encapsulate(params: Params, scope, context: bytes, m: bytes) -> Encapsulated:
    """Under the access formula of fabeo-cp or the labels of fabeo-kp."""
    return make(params, cbor.encode(scope), context, m)


@functools.cache
def make(params: Params, encoded: bytes, context: bytes, m: bytes) -> Encapsulated:
    """Remembered, as readers make again what publishers made."""
    scope = cbor.decode(encoded)
    draw = Coins(f"SMQTT-V01 {params.suite} coins", m, params.id + sha256(encoded))
    s = draw()
    c, shares, drawn, per_occurrence = curve.encode_g2(power(g2, s)), [], [], []
    if params.suite == CP:
        shares = share(scope, s, draw)
        drawn = draw.drawn[1:]
        rows = leaves(scope)
        per_occurrence = [draw() for _ in range(tau(rows))]
        c += b"".join(curve.encode_g2(power(g2, s_j)) for s_j in per_occurrence)
        for label, lambda_i, j in zip(rows, shares, occurrences(rows)):
            row = product([power(b_point(), lambda_i), power(label_point(CP, label), per_occurrence[j])])
            c += curve.encode_g1(row)
    else:
        c += b"".join(curve.encode_g1(power(label_point(KP, label), s)) for label in scope)
    shared = curve.encode_gt(curve.gt_power(y_of(params), s))
    mask = mask_of(params.suite, shared, c)
    d = xor(m, mask)
    encapsulation = c + d
    secret = hkdf(f"SMQTT-V01 {params.suite} secret", m, sha256(encapsulation) + context, 32)
    return Encapsulated(s, drawn, shares, per_occurrence, c, shared, mask, d, encapsulation, secret)


@functools.cache
def y_of(params: Params):
    """Y, checked to be in its group."""
    return curve.decode_gt(params.y)


def mask_of(suite: str, shared: bytes, c: bytes) -> bytes:
    return hkdf(f"SMQTT-V01 {suite} mask", shared, sha256(c), D_BYTES)


def xor(a: bytes, b: bytes) -> bytes:
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


# Decapsulation.


def decapsulate(params: Params, key: Key, scope, context: bytes, encapsulation: bytes) -> bytes:
    """The secret, or `OtherParams`, `Malformed`, `NotSatisfied`, `Inconsistent`, in this order."""
    demand(key.suite == params.suite and key.params_id == params.id, "OtherParams")
    if params.suite == CP:
        rows, formula, have, shared_of = leaves(scope), scope, key.scope, shared_cp
        counts = 1 + tau(rows), len(rows)
    else:
        rows = have = check_labels(scope)
        formula, shared_of, counts = key.scope, shared_kp, (1, len(rows))
    size = counts[0] * G2_BYTES + counts[1] * G1_BYTES
    demand(len(encapsulation) == size + D_BYTES, "Malformed", "the length")
    omega = choose(formula, set(have))
    demand(omega is not None, "NotSatisfied")
    c, d = encapsulation[:size], encapsulation[size:]
    try:
        z = shared_of(key, rows, omega, *cut(c, *counts))
    except Refused as refused:
        raise Refused("Inconsistent", str(refused)) from None
    m = xor(d, mask_of(params.suite, curve.encode_gt(z), c))
    again = encapsulate(params, scope, context, m)
    demand(again.c == c, "Inconsistent", "not the same when made again")
    return again.secret


def shared_cp(key: Key, rows: list[bytes], omega: dict[int, int], c_g2: list[bytes], c_g1: list[bytes]):
    """Z of fabeo-cp: rows and omega are those of the header's formula."""
    (k1,), (k3, *k_labels) = key.points()
    k_of_label = dict(zip(key.scope, k_labels))
    occ = occurrences(rows)
    pairs = [(k3, curve.decode_g2(c_g2[0]))]
    for j in sorted({occ[i] for i in omega}):
        raised = [power(k_of_label[rows[i]], omega[i]) for i in omega if occ[i] == j]
        pairs.append((product(raised), curve.decode_g2(c_g2[1 + j])))
    c3 = product(power(curve.decode_g1(c_g1[i]), omega[i]) for i in omega)
    pairs.append((curve.inverse(c3), k1))
    return curve.pairings(pairs)


def shared_kp(key: Key, labels: list[bytes], omega: dict[int, int], c_g2: list[bytes], c_g1: list[bytes]):
    """Z of fabeo-kp: omega is that of the key's formula, and `labels` are the header's."""
    k1, k2 = key.points()
    rows = leaves(key.scope)
    occ = occurrences(rows)
    c_of_label = dict(zip(labels, c_g1))
    pairs = [(product(power(k2[i], omega[i]) for i in omega), curve.decode_g2(c_g2[0]))]
    for j in sorted({occ[i] for i in omega}):
        raised = [power(curve.decode_g1(c_of_label[rows[i]]), omega[i]) for i in omega if occ[i] == j]
        pairs.append((curve.inverse(product(raised)), k1[j]))
    return curve.pairings(pairs)


