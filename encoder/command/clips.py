"""Which clips there are, and the file that each is written to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from melfront.audio import clip_path
from melfront.command import UsageError, check_output

# In a folder, a file with one of these endings is a clip. Whether it can be read is another matter:
# if not, it is named at the end, because a clip must not be missing in silence.
AUDIO_SUFFIXES = frozenset(
    """.3gp .aac .aif .aifc .aiff .amr .au .caf .flac .m4a .m4b .mka .mkv .mov .mp2 .mp3 .mp4
    .mpga .oga .ogg .opus .rf64 .snd .w64 .wav .webm .wma""".split()  # noqa: SIM905  # shorter than a list
)
OUTPUTS = (".npz", ".safetensors")


class Clip(NamedTuple):
    """An audio file, and its own place below the folder that it was found in."""

    path: Path
    place: Path  # relative; of a file given by itself, its name


class Job(NamedTuple):
    """A clip, and the file to write."""

    clip: Path
    out: Path | None
    n_samples: int | None = None  # if they were counted


def in_folder(folder: Path) -> Iterator[Clip]:
    """The clips in a folder and the folders in it, in order. Hidden ones are left out.

    macOS leaves a hidden ._NAME.wav, which is no audio, beside each file that it copies.
    """

    def unreadable(error: OSError) -> None:
        raise UsageError(f"{error.filename}: {error.strerror}; its clips would be missing")

    for parent, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(parent, name)
            if not name.startswith(".") and path.suffix.lower() in AUDIO_SUFFIXES:
                yield Clip(path, path.relative_to(folder))


def find(names: list[str]) -> tuple[list[Clip], bool]:
    """The clips of these names, and whether one of the names is a folder. Raises UsageError."""
    clips: list[Clip] = []
    has_folder = False
    for name in names or ["sample"]:
        path = clip_path(name)
        if not path.is_dir():
            clips.append(Clip(path, Path(path.name)))
            continue
        found = list(in_folder(path))
        if not found:
            raise UsageError(f"{path}: a folder without audio files, such as wav or flac")
        clips += found
        has_folder = True
    return clips, has_folder


def jobs_of(names: list[str], out: str | None) -> list[Job]:
    """Every clip of these names, and the file that it is written to.

    out: a file, or a folder, which need not exist where it is written with a slash at its end, or
        for several clips, or for a folder of clips.

    Raises UsageError, before any work is done, if one of the files cannot be written.
    """
    clips, has_folder = find(names)
    if out is None:
        return [Job(clip.path, None) for clip in clips]
    option, target = f"-o {out}", Path(out)
    many = has_folder or len(clips) > 1
    if target.suffix in OUTPUTS and not target.is_dir():
        if many:
            raise UsageError(f"{option}: one file cannot hold {len(clips)} clips; name a folder")
        check_output(target, option)
        return [Job(clips[0].path, target)]
    separators = tuple(filter(None, (os.sep, os.altsep)))
    if not (many or target.is_dir() or out.endswith(separators)):
        raise UsageError(f"{option}: unknown ending; expected {', '.join(OUTPUTS)}, or a folder")
    taken: dict[Path, Path] = {}
    for clip in clips:
        file = target / clip.place.with_suffix(OUTPUTS[-1])
        if file in taken:
            both = f"{taken[file]} and {clip.path}"
            raise UsageError(f"{option}: {both} would both be written as {file}; rename one")
        if file.is_dir():
            raise UsageError(f"{option}: {file} is a folder, and the name of a file to write")
        taken[file] = clip.path
    # Each folder, because this removes what a run that was killed has left in it.
    for folder in {existing(file.parent) for file in taken}:
        if not folder.is_dir():
            raise UsageError(f"{option}: {folder} is not a folder")
        check_output(folder / "clip.safetensors", option)
    return [Job(clip, file) for file, clip in taken.items()]


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return folder if folder.exists() or folder == folder.parent else existing(folder.parent)
