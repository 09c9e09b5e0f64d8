"""The enrolment token: PROTOCOL.md, section 14."""

import base64
import re
from dataclasses import dataclass

import cbor
from answers import demand

PREFIX = "smqtt1."
TOKEN_CHARS_MAX = 1024
URL = re.compile(r"https://([^\s/?#@:\[\]]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")


@dataclass(frozen=True)
class Token:
    url: str
    fingerprint: bytes
    id: bytes
    secret: bytes
    expires: int

    def encode(self) -> str:
        data = cbor.encode([self.url, self.fingerprint, self.id, self.secret, self.expires])
        return PREFIX + base64.urlsafe_b64encode(data).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> "Token":
        text = text.strip()
        demand(text.startswith(PREFIX), "Prefix")
        demand(len(text) <= TOKEN_CHARS_MAX, "Malformed", "too long")
        letters = text.removeprefix(PREFIX)
        demand(re.fullmatch("[A-Za-z0-9_-]*", letters) is not None and len(letters) % 4 != 1, "Malformed", "no base64url")
        item = cbor.decode(base64.urlsafe_b64decode(letters + "=" * (-len(letters) % 4)))
        demand(cbor.is_array(item, 5) and isinstance(item[0], str) and URL.fullmatch(item[0]) is not None, "Malformed")
        demand(all(cbor.is_bytes(part, size) for part, size in zip(item[1:4], (32, 16, 16))), "Malformed")
        demand(cbor.is_uint(item[4]), "Malformed")
        token = cls(*item)
        demand(token.encode() == text, "Malformed", "another spelling")
        return token
