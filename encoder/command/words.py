"""Words with their times: of Whisper's own JSON, of transformers', or of a Praat TextGrid."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

# An interval of a TextGrid, long form or short: two times and a text in quotes.
INTERVAL = re.compile(
    r'(?:xmin\s*=\s*)?([\d.]+)\s+(?:xmax\s*=\s*)?([\d.]+)\s+(?:text\s*=\s*)?"((?:[^"]|"")*)"'
)
FORMS = "openai-whisper's JSON with word timestamps, transformers' chunks, or a TextGrid"


class Word(NamedTuple):
    start: float  # seconds
    end: float
    text: str


def read(file: Path) -> list[Word]:
    """The words of a file, in order. Raises ValueError for a file that holds none, OSError."""
    text = file.read_bytes()
    encoding = "utf-16" if text[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        words = list(of_text(text.decode(encoding)))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):  # another form
        words = []
    words = [word for word in words if word.text and 0 <= word.start < word.end < float("inf")]
    if not words:
        raise ValueError(f"no words with times in it; expected {FORMS}")
    return sorted(words)


def of_text(text: str) -> Iterator[Word]:
    if "ooTextFile" in text[:200]:
        # The first tier of words, or else the first: phones have one of their own.
        tiers = re.split(r'"IntervalTier"', text)[1:]
        named = [tier for tier in tiers if re.match(r'[^"]*"[^"]*word', tier, re.IGNORECASE)]
        for start, end, word in INTERVAL.findall([*named, *tiers][0]):
            yield Word(float(start), float(end), word.replace('""', '"').strip())
        return
    for entry in entries(json.loads(text)):
        start, end = entry["timestamp"] if "timestamp" in entry else (entry["start"], entry["end"])
        yield Word(float(start), float(end), str(entry.get("word", entry.get("text"))).strip())


def entries(found: Any) -> list[dict[str, Any]]:
    """What holds a word and its times: in segments, chunks, words, or a list of them."""
    if isinstance(found, list):
        return found
    if "segments" in found:
        return [word for segment in found["segments"] for word in segment["words"]]
    return list(found["chunks"] if "chunks" in found else found["words"])
