"""The page of `melfront encoder --report OUT.html`: one clip, from samples to hidden states.

`measure.py` computes what is shown, `page.py` turns it into pictures and numbers, and the templates
hold the text. The result is one file with its style and script; it makes no network request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from melfront.command import replacing

from ..command.words import Word
from ..config import EncoderConfig
from ..model import WhisperEncoder
from .figures import pictures
from .measure import Seen, look
from .mistakes import Mistakes, all_drawn
from .page import render

NONE = Mistakes([], [], 0.0)


def html_of(
    name: str,
    n_samples: int,
    seen: Seen,
    config: EncoderConfig,
    about: Mapping[str, str],
    words: Sequence[Word] = (),
    mistakes: Mistakes = NONE,
) -> str:
    """The page of a clip of n_samples, of which `seen` shows the first window."""
    drawn = pictures(seen, config)
    made = all_drawn(mistakes, seen, drawn, config), mistakes.least_noise
    return render(name, n_samples, seen, drawn, config, about, words, made)


def write(
    file: Path,
    name: str,
    audio: NDArray[Any],
    model: WhisperEncoder,
    about: Mapping[str, str],
    words: Sequence[Word] = (),
    mistakes: Callable[[Seen, WhisperEncoder], Mistakes] | None = None,
) -> None:
    """Write the page of a clip (N,) called `name`; it shows the first window.

    about: model, device, dtype and versions, which the page states. words: what is said when, as
    `command.words.read` returns them. mistakes: `parity.pages.what_if.of_clip`, for a page that can
    show mistakes. Raises OSError; the file is written whole or not at all.
    """
    seen = look(audio, model)
    known = mistakes(seen, model) if mistakes else NONE
    html = html_of(name, len(audio), seen, model.config, about, words, known)
    with replacing(file) as temporary:
        temporary.write_text(html, encoding="utf-8")
