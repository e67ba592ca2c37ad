"""Files written whole or not at all, and no litter left, whatever ends the process."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from stat import S_IMODE, S_ISDIR

from .ends import UsageError

try:
    import fcntl
except ImportError:  # Windows
    # (mypy: it is a module elsewhere.)
    fcntl = None  # type: ignore[assignment]

SCRATCH = (".melfront-", ".tmp")  # how the name of a temporary folder begins and ends
LOCK = ".melfront.lock"  # in such a folder: locked while the process that made it lives


def output_files(clips: list[Path], out: Path, option: str, endings: tuple[str, ...]) -> list[Path]:
    """The file for each clip: `out`, or CLIP with the last of the endings in the folder `out`.

    Raises UsageError, before any work is done, if one of them cannot be written.
    """
    folder = "a folder that exists"
    if out.is_dir():
        files = [out / f"{clip.stem}{endings[-1]}" for clip in clips]
    elif len(clips) > 1:
        raise UsageError(f"{option}: one file cannot hold {len(clips)} clips; name {folder}")
    elif out.suffix not in endings:
        raise UsageError(f"{option}: unknown ending; expected {', '.join(endings)}, or {folder}")
    else:
        files = [out]
    for file in files:
        if files.count(file) > 1:
            raise UsageError(f"{option}: two clips would be written as {file.name}; rename one")
        check_output(file, option)
    return files


def check_output(file: Path, option: str) -> None:
    """Raises UsageError, before any work is done, if the file cannot be written."""
    folder = Path(os.path.realpath(file)).parent
    if file.is_dir():
        raise UsageError(f"{option}: a folder; expected the name of a file to write")
    if file.exists() and not os.access(file, os.W_OK):
        raise UsageError(f"{option}: cannot write there: Permission denied")
    if is_special(file):
        return
    if not folder.is_dir():
        raise UsageError(f"{option}: no such folder to write {file.name} into; make it first")
    try:
        with scratch_folder(folder):
            pass
    except OSError as error:
        raise UsageError(f"{option}: cannot write there: {error.strerror}") from error


def is_special(file: Path) -> bool:
    """Is this a pipe or a device, such as /dev/stdout, which is written to and not replaced?"""
    return file.exists() and not file.is_file()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file whole or not at all: yields the name of a temporary file to write.

    At the end of the block that file becomes `path`, or the file that `path` links to, with its
    permissions; if the block raises, it is removed. If the process is killed, the next one that
    writes into this folder removes it. Raises UsageError if it cannot be written there, and OSError
    that names `path` for what goes wrong later, such as a full disk.
    """
    check_output(path, str(path))
    target, special = Path(os.path.realpath(path)), is_special(path)
    try:
        with scratch_folder(None if special else target.parent) as folder:
            temporary = folder / target.name
            temporary.touch()
            # As it was, or as the umask has it; safetensors makes it 0600.
            mode = S_IMODE((target if target.is_file() else temporary).stat().st_mode)
            yield temporary
            if special:
                with temporary.open("rb") as source, path.open("wb") as sink:
                    shutil.copyfileobj(source, sink)
            else:
                temporary.chmod(mode)
                os.replace(temporary, target)
    except Exception as error:
        raise of_file(error, path) from error


def of_file(error: Exception, path: Path) -> Exception:
    """An error in writing, with the name of the file that was to be written; others unchanged."""
    if type(error).__name__ == "SafetensorError":
        return OSError(f"{path}: {error}")
    named = isinstance(error, OSError) and error.filename is not None
    if not isinstance(error, OSError) or (named and SCRATCH[0] not in str(error.filename)):
        return error
    if error.errno is not None:
        return OSError(error.errno, error.strerror, str(path))
    # NumPy's and Pillow's have no number.
    return OSError(f"{path}: could not be written whole; is the disk full? ({error})")


# A process that is killed leaves its temporary folders behind, and a later one removes them. Which
# ones are left behind a lock tells, because it ends with the process that holds it. A process id
# would not: another process gets it one day, and on a shared disk it may be another machine's.


@contextmanager
def scratch_folder(where: Path | None = None) -> Iterator[Path]:
    """A folder for the length of the block, in `where` or with the system's temporary files.

    First removes those that killed processes left there. Raises OSError.
    """
    where = Path(tempfile.gettempdir()) if where is None else where
    remove_left_behind(where)
    folder, lock = locked_folder(where)
    try:
        yield folder
    finally:
        os.close(lock)  # first, because NFS does not remove a file that is open
        shutil.rmtree(folder, ignore_errors=True)


@lru_cache
def remove_left_behind(where: Path) -> None:
    """Remove the temporary folders that nobody has locked.

    Once in a process for each `where`, because there may be thousands of files to write.
    """
    for folder in where.glob("*".join(SCRATCH)) if fcntl else ():
        with suppress(OSError):  # somebody has locked it, or removes it at this moment
            about = folder.lstat()
            if about.st_uid != os.getuid() or not S_ISDIR(about.st_mode):
                continue
            lock, held = locked(folder)
            if held:  # whoever has made it, and not locked it yet, finds it gone and makes another
                folder = folder.rename(folder.with_suffix(".old.tmp"))
            os.close(lock)
            if held:
                shutil.rmtree(folder, ignore_errors=True)


def locked_folder(where: Path) -> tuple[Path, int]:
    """A new folder, and the descriptor of its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(dir=where, prefix=SCRATCH[0], suffix=SCRATCH[1]))
        try:
            return folder, locked(folder)[0]
        except (FileNotFoundError, BlockingIOError):
            pass  # another process has taken it for one that was left behind
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def locked(folder: Path) -> tuple[int, bool]:
    """The descriptor of a folder's lock, and whether it is held: some file systems have no locks.

    Raises BlockingIOError if another has it, FileNotFoundError if the folder is no longer there.
    """
    file, held = folder / LOCK, False
    lock = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = True
        file.stat()
    except (FileNotFoundError, BlockingIOError):
        os.close(lock)
        raise
    except OSError:  # no locks here: then nothing is removed
        pass
    return lock, held
