"""The page of `python -m encoder --report OUT.html`: one clip's way, from samples to hidden states.

`measure.py` computes what is shown, `page.py` makes pictures and numbers of it, `page.html.jinja`
has the words; style and script go into the one file. It opens from disk and asks for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from melfront.command import replacing

from ..model import WhisperEncoder
from .measure import look
from .page import render

__all__ = ["write"]


def write(
    file: Path, name: str, audio: NDArray[Any], model: WhisperEncoder, about: Mapping[str, str]
) -> None:
    """The page of a clip (N,) called `name`, of which the first window is shown.

    about: what the page says it was made with, by name. Raises OSError; the file is written whole
    or not at all.
    """
    html = render(name, len(audio), look(audio, model), model.config, about)
    with replacing(file) as temporary:
        temporary.write_text(html, encoding="utf-8")
