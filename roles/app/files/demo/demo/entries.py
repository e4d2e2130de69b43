"""What an entry may be. No Flask, no database."""

import re
import unicodedata
from dataclasses import dataclass

NAME_LENGTH = 60
TEXT_LENGTH = 1000
KEY = re.compile(r"[A-Za-z0-9_-]{8,64}")
# "source_uuid[:tag]:intervals, ...", as MySQL prints it
GTID_SET = re.compile(r"[0-9A-Za-z_:,\s-]{0,2000}")


@dataclass(frozen=True)
class Entry:
    """One entry; `key` makes writing it twice harmless."""

    key: str
    name: str
    text: str


def clean(value, newlines=False):
    """Normalise, and drop characters that are not for reading (control, format overrides, unpaired surrogates)."""
    value = unicodedata.normalize("NFC", str(value)).replace("\r\n", "\n").replace("\r", "\n")
    kept = "".join(
        character
        for character in value
        if unicodedata.category(character) not in ("Cc", "Cs") and character not in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
        or (newlines and character == "\n")
    )
    return kept.strip()


def check(key, name, text):
    """(entry, problems): an entry when there are no problems."""
    problems = {}
    values = {"id": key, "name": name, "text": text}
    for field, value in values.items():
        if not isinstance(value, str):
            problems[field] = "is missing" if value is None else "must be text"
    if problems:
        return None, problems
    name, text = clean(name), clean(text, newlines=True)
    if not KEY.fullmatch(key):
        problems["id"] = "must be 8 to 64 letters, digits, - or _"
    for field, value, limit in (("name", name, NAME_LENGTH), ("text", text, TEXT_LENGTH)):
        if not value:
            problems[field] = "is empty"
        elif len(value) > limit:
            problems[field] = f"is {len(value)} characters long, at most {limit} fit"
    return (None if problems else Entry(key, name, text)), problems


def hop(value):
    """The name of a server that a proxy gave in a header, fit to be shown."""
    return clean(value or "")[:64]
