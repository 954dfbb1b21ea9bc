"""What a workload in Python saw, one line a thing."""

import hashlib
import re

# Longer values stand there as their length and digest.
SHOWN_MAX = 300


def shown(value):
    """A value as one line, the same one in every run: without the order of what has none, and without addresses."""
    if isinstance(value, dict):
        pairs = sorted((shown(key), shown(one)) for key, one in value.items())
        return "{" + ", ".join(f"{key}: {one}" for key, one in pairs) + "}"
    if isinstance(value, (set, frozenset)):
        return "{" + ", ".join(sorted(map(shown, value))) + "}"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(shown, value)) + ")"
    if isinstance(value, list):
        text = "[" + ", ".join(map(shown, value)) + "]"
        return text if len(text) <= SHOWN_MAX else f"<{len(value)} items, {digest(text)}>"
    if isinstance(value, BaseException):
        text = re.sub(r"127\.0\.0\.1:\d+", "ADDRESS", str(value))
        return f"{type(value).__module__}.{type(value).__qualname__}: {text}"
    text = repr(value)
    return text if len(text) <= SHOWN_MAX else f"<{type(value).__name__} of {len(value)}, {digest(text)}>"


def digest(text):
    return hashlib.sha1(text.encode()).hexdigest()[:12]


class Transcript:
    """Prints what happened, a line a thing."""

    def __init__(self):
        self.step = ""

    def say(self, what, value):
        print(f"{self.step}/{what}: {shown(value)}", flush=True)


SAID = Transcript()
say = SAID.say
