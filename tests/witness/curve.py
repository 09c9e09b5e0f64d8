"""BLS12-381 as the protocol writes it, over py_ecc: PROTOCOL.md, section 6.

Groups are written multiplicatively: `power(g1, 5)`, `product([a, b])`. Points are py_ecc's projective triples.
"""

import functools
import hashlib

from py_ecc.bls.hash_to_curve import hash_to_G1
from py_ecc.bls.point_compression import modular_squareroot_in_FQ2
from py_ecc.optimized_bls12_381 import (
    FQ,
    FQ2,
    FQ12,
    G1,
    G2,
    Z1,
    Z2,
    add,
    b,
    b2,
    curve_order,
    double,
    field_modulus,
    final_exponentiate,
    is_inf,
    multiply,
    neg,
    normalize,
    pairing,
)

from answers import Refused, demand

g1, g2 = G1, G2
ORDER = 0x73EDA753299D7D483339D80809A1D80553BDA402FFFE5BFEFFFFFFFF00000001
assert curve_order == ORDER
COORDINATE_BYTES = 48
G1_BYTES = 48
G2_BYTES = 96
GT_BYTES = 576
COMPRESSED, INFINITY, LARGER = 1 << 383, 1 << 382, 1 << 381


def power(point, exponent: int):
    """Double and add; the doublings are remembered, as the same few points are raised again and again."""
    exponent %= ORDER
    return product([part for i, part in enumerate(doublings(point)) if exponent >> i & 1], identity_of(point))


def doublings(point) -> list:
    """The point raised to 1, 2, 4, 8, .."""
    data = encode_g1(point) if isinstance(point[0], FQ) else encode_g2(point)
    if data not in DOUBLINGS:
        found = [point]
        while len(found) < ORDER.bit_length():
            found.append(double(found[-1]))
        DOUBLINGS[data] = found
    return DOUBLINGS[data]


DOUBLINGS = {}


def identity_of(point):
    return Z1 if isinstance(point[0], FQ) else Z2


def product(points, identity=Z1):
    result = identity
    for point in points:
        result = add(result, point)
    return result


def inverse(point):
    return neg(point)


@functools.cache
def hash_to_g1(message: bytes, tag: bytes):
    return hash_to_G1(message, tag, hashlib.sha256)


# Points as bytes: the first coordinate, with three flags in front.


def encode_g1(point) -> bytes:
    if is_inf(point):
        return (COMPRESSED | INFINITY).to_bytes(G1_BYTES, "big")
    x, y = normalize(point)
    flags = COMPRESSED | (LARGER if is_larger(y) else 0)
    return (flags | x.n).to_bytes(G1_BYTES, "big")


def encode_g2(point) -> bytes:
    if is_inf(point):
        return (COMPRESSED | INFINITY).to_bytes(G2_BYTES // 2, "big") + bytes(G2_BYTES // 2)
    x, y = normalize(point)
    c0, c1 = (int(c) for c in x.coeffs)
    flags = COMPRESSED | (LARGER if is_larger(y) else 0)
    return (flags | c1).to_bytes(COORDINATE_BYTES, "big") + c0.to_bytes(COORDINATE_BYTES, "big")


def is_larger(y) -> bool:
    """Whether y is the larger of y and -y; in the quadratic field c1 decides before c0."""
    return coordinates(y) > coordinates(-y)


def coordinates(y) -> list[int]:
    return [y.n] if isinstance(y, FQ) else [int(c) for c in reversed(y.coeffs)]


def decode_g1(data: bytes):
    """A point on the curve, not the identity; its subgroup is checked by `check_group`."""
    demand(len(data) == G1_BYTES, "Point", "the length")
    x, larger = read_x(data)
    return point(FQ(x), FQ(b.n), square_root, larger)


def decode_g2(data: bytes):
    demand(len(data) == G2_BYTES, "Point", "the length")
    c1, larger = read_x(data[:COORDINATE_BYTES])
    c0 = int.from_bytes(data[COORDINATE_BYTES:], "big")
    demand(c0 < field_modulus, "Point", "a coordinate above the modulus")
    return point(FQ2([c0, c1]), b2, modular_squareroot_in_FQ2, larger)


def read_x(data: bytes):
    number = int.from_bytes(data, "big")
    demand(number & COMPRESSED != 0, "Point", "not compressed")
    demand(number & INFINITY == 0, "Point", "the identity")
    x = number % LARGER
    demand(x < field_modulus, "Point", "a coordinate above the modulus")
    return x, number & LARGER != 0


def point(x, constant, root, larger: bool):
    """The point (x, y) with y² = x³ + constant."""
    y = root(x * x * x + constant)
    if y is None or y * y != x * x * x + constant:
        raise Refused("Point", "not on the curve")
    return x, y if is_larger(y) == larger else -y, type(x).one()


def square_root(value: FQ) -> FQ:
    """A root if there is one, as the modulus is 3 mod 4."""
    return value ** ((field_modulus + 1) // 4)


def check_group(point):
    """The point, if it is in the group of prime order."""
    demand(is_inf(multiply(point, ORDER)), "Point", "outside the group")
    return point


# GT.


def pairings(pairs):
    """The product of e(P, Q) over pairs of a point of G1 and one of G2, with one final exponentiation.

    py_ecc raises to (p¹²-1)/r and takes x for positive; the protocol's pairing is the power -3 of that.
    """
    miller = FQ12.one()
    for p, q in pairs:
        if not is_inf(p) and not is_inf(q):
            miller *= miller_loop(p, q)
    textbook = final_exponentiate(miller)
    return FQ12.one() / (textbook * textbook * textbook)


def miller_loop(p, q) -> FQ12:
    """py_ecc's, remembered by the points' bytes: the vectors pair the same points many times."""
    points = encode_g1(p), encode_g2(q)
    if points not in MILLER_LOOPS:
        MILLER_LOOPS[points] = pairing(q, p, final_exponentiate=False)
    return MILLER_LOOPS[points]


MILLER_LOOPS = {}


def gt_power(element: FQ12, exponent: int) -> FQ12:
    return element ** (exponent % ORDER)


def encode_gt(element: FQ12) -> bytes:
    """Twelve coordinates of the tower.

    py_ecc has polynomials in w alone, with w^12 = 2 w^6 - 2. There v is w² and u is w^6 - 1, so that the coordinate a + b u
    of w^i v^j lies at n = i + 2j, as a - b, and at n + 6, as b.
    """
    coefficients = [int(c) for c in element.coeffs]
    data = b""
    for n in tower():
        high = coefficients[n + 6]
        low = (coefficients[n] + high) % field_modulus
        data += low.to_bytes(COORDINATE_BYTES, "big") + high.to_bytes(COORDINATE_BYTES, "big")
    return data


def decode_gt(data: bytes) -> FQ12:
    """An element of the group of prime order, not 1."""
    demand(len(data) == GT_BYTES, "GT", "the length")
    numbers = [int.from_bytes(data[i : i + COORDINATE_BYTES], "big") for i in range(0, GT_BYTES, COORDINATE_BYTES)]
    demand(all(number < field_modulus for number in numbers), "GT", "a coordinate above the modulus")
    coefficients = [0] * 12
    for place, n in enumerate(tower()):
        low, high = numbers[2 * place], numbers[2 * place + 1]
        coefficients[n], coefficients[n + 6] = (low - high) % field_modulus, high
    element = FQ12(coefficients)
    demand(element != FQ12.one() and element**ORDER == FQ12.one(), "GT", "outside the group")
    return element


def tower() -> list[int]:
    """The power of w of each coordinate c_i.c_j, in order."""
    return [i + 2 * j for i in range(2) for j in range(3)]
