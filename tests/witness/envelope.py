"""Header, message and envelope: PROTOCOL.md, sections 8 and 9."""

import hashlib
import hmac
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

import cbor
import certificates
import fabeo
import labels
import policy
from answers import Refused, demand
from fabeo import CP, KP, Key, Params, sha256
from labels import Versions
from topics import check_filter

TAG = 1_397_576_020
MAGIC = bytes.fromhex("da534d5154")
HEADER_BYTES_MAX = 65_536
HEADER_EXTERNAL = b"SMQTT-V01 header"


# COSE_Sign1, which headers and bundles are.


@dataclass(frozen=True)
class Signed:
    protected: bytes
    certificate: bytes
    payload: bytes
    signature: bytes

    @classmethod
    def decode(cls, data: bytes) -> "Signed":
        item = cbor.decode(data)
        demand(cbor.is_array(item, 4), "Malformed", "no COSE_Sign1")
        protected, unprotected, payload, signature = item
        demand(cbor.is_bytes(protected) and cbor.is_bytes(payload) and cbor.is_bytes(signature, 64), "Malformed")
        demand(unprotected == {}, "Malformed", "unprotected fields")
        fields = cbor.decode(protected)
        demand(isinstance(fields, dict) and fields.keys() == {1, 33}, "Malformed", "protected fields")
        demand(fields[1] == -7 and cbor.is_bytes(fields[33]), "Malformed", "no ES256 by one certificate")
        return cls(protected, fields[33], payload, signature)

    def signed(self, external: bytes) -> bytes:
        """What the signature is over."""
        return cbor.encode(["Signature1", self.protected, external, self.payload])


# Header.


@dataclass(frozen=True)
class Header:
    bytes: bytes
    signed: Signed
    suite: str
    params_id: bytes
    epoch: int
    versions: Versions
    policy: list | None
    attributes: list | None
    encapsulation: bytes
    publisher: bytes
    created: int
    expires: int
    filter: str
    messages_are_signed: bool

    @classmethod
    def parse(cls, data: bytes) -> "Header":
        demand(len(data) <= HEADER_BYTES_MAX, "Malformed", "too long")
        signed = Signed.decode(data)
        body = cbor.decode(signed.payload)
        demand(isinstance(body, dict) and isinstance(body.get(1), str), "Malformed", "no suite")
        demand(body[1] in (CP, KP), "UnknownSuite")
        target = {CP: 5, KP: 12}[body[1]]
        required = {1, 2, 3, 6, 7, 8, 9, 10, target}
        demand(required <= body.keys() <= required | {4, 11}, "Malformed", "fields")
        demand(cbor.is_bytes(body[2], 16) and cbor.is_bytes(body[7], 16), "Malformed", "no identifiers")
        demand(all(cbor.is_uint(body[field]) for field in (3, 8, 9)), "Malformed", "no numbers")
        demand(cbor.is_bytes(body.get(4, b"")) and cbor.is_bytes(body[target]) and cbor.is_bytes(body[6]), "Malformed")
        demand(body.get(4) != b"\x80", "Malformed", "versions, but none")
        demand(body.get(11, True) is True, "Malformed", "signed messages are said with true or not at all")
        versions = Versions.decode(body.get(4, b"\x80"))
        under = policy.decode(body[5]) if target == 5 else None
        attributes = labels.sealable(labels.decode_attributes(body[12])) if target == 12 else None
        return cls(
            data, signed, body[1], body[2], body[3], versions, under, attributes, body[6], body[7], body[8], body[9],
            check_filter(body[10]), 11 in body,
        )  # fmt: skip

    @property
    def hash(self) -> bytes:
        return sha256(self.bytes)

    @property
    def kid(self) -> bytes:
        return self.hash[:16]

    def verify(self, root: bytes) -> ec.EllipticCurvePublicKey:
        """The publisher's key, if the header is the publisher's."""
        signer = certificates.identity(self.signed.certificate, root, self.created)
        demand(signer.role == "device" and signer.id == self.publisher, "NotPublisher")
        certificates.check_signature(signer.key, self.signed.signature, self.signed.signed(HEADER_EXTERNAL))
        return signer.key

    def scope(self):
        """What the encapsulation is under: an access formula or labels."""
        if self.suite == CP:
            return policy.access(self.policy, self.versions, self.epoch)
        return labels.labels(self.attributes, self.versions, self.epoch)

    def open(self, params: Params, key: Key) -> bytes:
        """The secret."""
        demand(self.suite == params.suite and self.params_id == params.id, "OtherParams")
        return fabeo.decapsulate(params, key, self.scope(), HEADER_EXTERNAL, self.encapsulation)


def header_body(fields: dict) -> bytes:
    """The payload of a header; absent fields are None."""
    return cbor.encode({number: value for number, value in fields.items() if value is not None})


# Messages.


@dataclass(frozen=True)
class Message:
    protected: bytes
    kid: bytes
    counter: int
    signature: bytes | None
    ciphertext: bytes

    @classmethod
    def of(cls, item) -> "Message":
        """A message from decoded CBOR."""
        demand(cbor.is_array(item, 3), "Malformed", "no message")
        protected, unprotected, ciphertext = item
        demand(cbor.is_bytes(protected) and cbor.is_bytes(ciphertext) and isinstance(unprotected, dict), "Malformed")
        fields = cbor.decode(protected)
        demand(isinstance(fields, dict) and fields.keys() == {1, 4, 6} and fields[1] == 3, "Malformed", "protected fields")
        kid, partial_iv = fields[4], fields[6]
        demand(cbor.is_bytes(kid, 16) and cbor.is_bytes(partial_iv) and len(partial_iv) <= 8, "Malformed")
        demand(partial_iv == counter_bytes(int.from_bytes(partial_iv, "big")), "Malformed", "the counter's encoding")
        demand(unprotected.keys() <= {12} and cbor.is_bytes(unprotected.get(12, bytes(64)), 64), "Malformed")
        return cls(protected, kid, int.from_bytes(partial_iv, "big"), unprotected.get(12), ciphertext)

    def encode(self) -> list:
        return [self.protected, {} if self.signature is None else {12: self.signature}, self.ciphertext]


def counter_bytes(counter: int) -> bytes:
    """In the fewest bytes, at least one."""
    return counter.to_bytes(max(1, (counter.bit_length() + 7) // 8), "big")


def parse(data: bytes) -> tuple[bytes | None, Message]:
    """Header, if the envelope is full, and message."""
    demand(data.startswith(MAGIC), "NotSealed")
    tagged = cbor.decode(data)
    demand(isinstance(tagged, cbor.Tag) and tagged.number == TAG, "Malformed")
    if cbor.is_array(tagged.value, 2):
        return cbor.encode(tagged.value[0]), Message.of(tagged.value[1])
    return None, Message.of(tagged.value)


def compact(message: Message) -> bytes:
    return MAGIC + cbor.encode(message.encode())


def full(header: Header, message: Message) -> bytes:
    return MAGIC + b"\x82" + header.bytes + cbor.encode(message.encode())


@dataclass(frozen=True)
class ContentKey:
    """What a header's secret becomes."""

    header: Header
    key: bytes
    iv: bytes

    @classmethod
    def derive(cls, header: Header, secret: bytes) -> "ContentKey":
        # HKDF-Extract is HMAC with the salt for key (RFC 5869, section 2.2).
        prk = hmac.digest(header.hash, secret, hashlib.sha256)
        key = HKDFExpand(SHA256(), 32, b"SMQTT-V01 key").derive(prk)
        iv = HKDFExpand(SHA256(), 12, b"SMQTT-V01 iv").derive(prk)
        return cls(header, key, iv)

    def nonce(self, counter: int) -> bytes:
        return fabeo.xor(self.iv, counter.to_bytes(12, "big"))

    def aad(self, topic: str) -> bytes:
        return cbor.encode(["SMQTT-V01 message", topic, self.header.hash, self.header.publisher])

    def enc_structure(self, protected: bytes, topic: str) -> bytes:
        return cbor.encode(["Encrypt0", protected, self.aad(topic)])

    def seal(self, topic: str, counter: int, payload: bytes) -> Message:
        """An unsigned message."""
        protected = cbor.encode({1: 3, 4: self.header.kid, 6: counter_bytes(counter)})
        aead_aad = self.enc_structure(protected, topic)
        ciphertext = AESGCM(self.key).encrypt(self.nonce(counter), payload, aead_aad)
        return Message(protected, self.header.kid, counter, None, ciphertext)

    def open(self, publisher: ec.EllipticCurvePublicKey, topic: str, message: Message) -> bytes:
        """The payload. The signature goes before the decryption, as the vectors have it."""
        demand(message.signature is not None or not self.header.messages_are_signed, "Signature", "none")
        if message.signature is not None:
            signed = cbor.encode(["CounterSignature0", message.protected, self.aad(topic), message.ciphertext])
            certificates.check_signature(publisher, message.signature, signed)
        try:
            aead_aad = self.enc_structure(message.protected, topic)
            return AESGCM(self.key).decrypt(self.nonce(message.counter), message.ciphertext, aead_aad)
        except (InvalidTag, ValueError):
            raise Refused("Altered") from None


def read(data: bytes, topic: str, root: bytes, params: Params, key: Key, header: bytes | None = None) -> bytes:
    """The payload of an envelope, with `STEP: ANSWER` as the refusal. A compact one needs its header beside it."""
    with Step("envelope"):
        carried, message = parse(data)
        header = carried or header
        demand(header is not None, "NoHeader")
    with Step("header"):
        parsed = Header.parse(header)
    with Step("verify"):
        publisher = parsed.verify(root)
    with Step("open", "Suite/"):
        content_key = ContentKey.derive(parsed, parsed.open(params, key))
    with Step("message"):
        return content_key.open(publisher, topic, message)


class Step:
    """Puts the step that failed before the answer."""

    def __init__(self, name: str, prefix: str = ""):
        self.before = f"{name}: {prefix}"

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, Refused):
            raise Refused(self.before + error.answer, str(error)) from error
