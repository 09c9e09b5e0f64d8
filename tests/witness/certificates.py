"""Identities, certificates and signatures: PROTOCOL.md, sections 2 and 7."""

import re
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from answers import Refused, demand
from fabeo import sha256

CERTIFICATE_BYTES_MAX = 4096
# The order of the group of P-256 (SEC 2, section 2.4.2).
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
IDENTITY = re.compile(rf"smqtt://([0-9a-f]{{16}})/(device|broker|bridge|admin|authority)/([0-9a-f]{{32}})/({NAME})")


def check_signature(key: ec.EllipticCurvePublicKey, signature: bytes, signed: bytes) -> None:
    """r || s, of which s is at most half of the group order."""
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    demand(len(signature) == 64 and s <= P256_ORDER // 2, "Signature", "the larger s")
    try:
        key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(SHA256()))
    except InvalidSignature:
        raise Refused("Signature") from None


def tenant(root: x509.Certificate) -> bytes:
    """The first 8 bytes of the root's fingerprint."""
    info = root.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return sha256(info)[:8]


@dataclass(frozen=True)
class Identity:
    tenant: bytes
    role: str
    id: bytes
    name: str
    key: ec.EllipticCurvePublicKey


def identity(certificate: bytes, root: bytes, at: int) -> Identity:
    """Whom a certificate names, if it holds at a time."""
    demand(len(certificate) <= CERTIFICATE_BYTES_MAX, "Certificate/Malformed", "too long")
    try:
        leaf, issuer = x509.load_der_x509_certificate(certificate), x509.load_der_x509_certificate(root)
        extensions = list(leaf.extensions)
    except ValueError:
        raise Refused("Certificate/Malformed") from None
    check_issued(leaf, issuer)
    valid = leaf.not_valid_before_utc.timestamp() <= at <= leaf.not_valid_after_utc.timestamp()
    demand(valid, "Certificate/NotValidThen")
    uris = []
    for extension in extensions:
        value = extension.value
        if isinstance(value, x509.BasicConstraints):
            demand(not value.ca, "Certificate/Malformed", "a CA")
        elif isinstance(value, x509.ExtendedKeyUsage):
            client = x509.ExtendedKeyUsageOID.CLIENT_AUTH in value
            demand(client, "Certificate/Malformed", "not for clients")
        elif isinstance(value, x509.SubjectAlternativeName):
            uris = value.get_values_for_type(x509.UniformResourceIdentifier)
        elif not isinstance(value, x509.KeyUsage):
            demand(not extension.critical, "Certificate/Malformed", "a critical extension")
    match = IDENTITY.fullmatch(uris[0]) if len(uris) == 1 else None
    demand(match is not None, "Certificate/Malformed", "not one name of ours")
    key = leaf.public_key()
    demand(isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp256r1", "Certificate/Malformed", "no P-256")
    named = Identity(bytes.fromhex(match[1]), match[2], bytes.fromhex(match[3]), match[4], key)
    demand(named.tenant == tenant(issuer), "Certificate/Malformed", "another tenant")
    return named


def check_issued(leaf: x509.Certificate, issuer: x509.Certificate) -> None:
    """The root signed it. In X.509 both forms of a signature are taken."""
    try:
        issuer.public_key().verify(leaf.signature, leaf.tbs_certificate_bytes, ec.ECDSA(SHA256()))
    except InvalidSignature:
        raise Refused("Certificate/UnknownIssuer") from None
