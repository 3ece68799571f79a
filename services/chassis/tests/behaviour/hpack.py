"""
As much of HPACK as the tests need to read a server's headers: no dynamic table, printable ASCII only.

Source: RFC 7541, appendix A (static table) and appendix B (Huffman code, which is canonical, so that the lengths of
its codes say it all).
"""

from __future__ import annotations

Headers = list[tuple[str, str]]

_STATIC = """
:authority|:method=GET|:method=POST|:path=/|:path=/index.html|:scheme=http|:scheme=https|:status=200|:status=204|
:status=206|:status=304|:status=400|:status=404|:status=500|accept-charset|accept-encoding=gzip, deflate|
accept-language|accept-ranges|accept|access-control-allow-origin|age|allow|authorization|cache-control|
content-disposition|content-encoding|content-language|content-length|content-location|content-range|content-type|
cookie|date|etag|expect|expires|from|host|if-match|if-modified-since|if-none-match|if-range|if-unmodified-since|
last-modified|link|location|max-forwards|proxy-authenticate|proxy-authorization|range|referer|refresh|retry-after|
server|set-cookie|strict-transport-security|transfer-encoding|user-agent|vary|via|www-authenticate
"""
_TABLE = [tuple(entry.partition("=")[::2]) for entry in _STATIC.replace("\n", "").split("|")]

# The characters by the length of their codes. Of those that do not print, only NUL comes before a printable one.
_BY_LENGTH = {
    5: "012aceiost",
    6: " %-./3456789=A_bdfghlmnpru",
    7: ":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz",
    8: "&*,;XZ",
    10: '!"()?',
    11: "'+|",
    12: "#>",
    13: "\x00$@[]~",
    14: "^}",
    15: "<`{",
    19: "\\",
}


def _codes() -> dict[tuple[int, int], str]:
    found, code, last = {}, 0, 0
    for length, characters in _BY_LENGTH.items():
        for character in characters:
            code <<= length - last
            last = length
            found[length, code] = character
            code += 1
    return found


_CODES = _codes()


def encode(headers: Headers) -> bytes:
    """
    *headers* as literals that nobody has to remember.
    """
    return b"".join(b"\x00" + _literal(name) + _literal(value) for name, value in headers)


def decode(block: bytes) -> Headers:
    """
    The headers in *block*, from a server that was told to keep no table.
    """
    found: Headers = []
    at = 0
    while at < len(block):
        first = block[at]
        if first & 0x80:
            index, at = _integer(block, at, 7)
            name, value = _TABLE[index - 1]
            found.append((name, value))
        elif first & 0xE0 == 0x20:
            _, at = _integer(block, at, 5)  # the size of the table, once more
        else:
            index, at = _integer(block, at, 6 if first & 0x40 else 4)
            name = _TABLE[index - 1][0]
            if not index:
                name, at = _string(block, at)
            value, at = _string(block, at)
            found.append((name, value))
    return found


def _literal(text: str) -> bytes:
    raw = text.encode("latin-1")
    if len(raw) < 127:
        return bytes([len(raw)]) + raw
    # RFC 7541, section 5.1.
    length, left = bytearray([127]), len(raw) - 127
    while left > 127:
        length.append(left & 127 | 128)
        left >>= 7
    return bytes([*length, left]) + raw


def _integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    most = (1 << bits) - 1
    value = block[at] & most
    at += 1
    if value < most:
        return value, at
    shift = 0
    while True:
        octet = block[at]
        at += 1
        value += (octet & 127) << shift
        shift += 7
        if octet < 128:
            return value, at


def _string(block: bytes, at: int) -> tuple[str, int]:
    packed = block[at] & 0x80
    length, at = _integer(block, at, 7)
    raw = block[at : at + length]
    return (_unpacked(raw) if packed else raw.decode("latin-1")), at + length


def _unpacked(raw: bytes) -> str:
    found = []
    code = length = 0
    for octet in raw:
        for bit in range(7, -1, -1):
            code = code << 1 | octet >> bit & 1
            length += 1
            if (character := _CODES.get((length, code))) is not None:
                found.append(character)
                code = length = 0
    assert length < 8, "a character that does not print"
    return "".join(found)
