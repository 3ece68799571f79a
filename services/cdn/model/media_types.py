"""
Media types (RFC 9110, section 8.3.1): syntax, and which of them are text.
"""

from __future__ import annotations

import re

# RFC 9110, section 8.3.1: type "/" subtype, then parameters, of tokens and quoted strings.
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_MEDIA_TYPE = re.compile(rf'{_WORD}/{_WORD}(?:[ \t]*;[ \t]*{_WORD}=(?:{_WORD}|"[ !#-\[\]-~]*"))*')
_MOST_CHARACTERS = 255
MEDIA_TYPE_RULE = f"must be a media type such as text/plain, at most {_MOST_CHARACTERS} characters"


def is_media_type(text: str) -> bool:
    """
    Whether *text* is a media type, with parameters or without.
    """
    return len(text) <= _MOST_CHARACTERS and _MEDIA_TYPE.fullmatch(text) is not None


#: Declared by clients that do not know the type.
_UNKNOWN = frozenset({"", "application/octet-stream", "binary/octet-stream"})
_TEXT_SUFFIXES = ("+json", "+xml", "+yaml")
_TEXT_SUBTYPES = frozenset(
    {
        "application/ecmascript",
        "application/graphql",
        "application/javascript",
        "application/json",
        "application/json5",
        "application/jsonl",
        "application/jsonlines",
        "application/sql",
        "application/toml",
        "application/x-httpd-php",
        "application/x-javascript",
        "application/x-jsonlines",
        "application/x-ndjson",
        "application/ndjson",
        "application/x-sh",
        "application/x-tex",
        "application/x-yaml",
        "application/xml",
        "application/xml-dtd",
        "application/yaml",
    }
)


def essence(media_type: str) -> str:
    """
    *media_type* in lower case, without its parameters: ``text/plain`` of ``Text/Plain; charset=utf-8``.
    """
    return media_type.partition(";")[0].strip().lower()


def is_unknown(media_type: str) -> bool:
    """
    Whether *media_type* is unspecific.
    """
    return essence(media_type) in _UNKNOWN


def is_text(media_type: str) -> bool:
    """
    Whether *media_type* is human-readable text, of any encoding.
    """
    plain = essence(media_type)
    return plain.startswith("text/") or plain.endswith(_TEXT_SUFFIXES) or plain in _TEXT_SUBTYPES
