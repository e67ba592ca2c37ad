"""`replacing`: whole files at every kind of path, one line of error, and no litter."""

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest

from melfront.command import UsageError, check_output, exit_status, replacing, writing
from tests.conftest import CHECKOUT

# Writes "new" to a file and, before it is finished, says so and waits for a line.
WRITER = """
import sys
from pathlib import Path
from melfront.command import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_text("new of another process")
    print("writing", flush=True)
    sys.stdin.readline()
"""


def write(path: Path, text: str = "new") -> None:
    with replacing(path) as temporary:
        temporary.write_text(text)


def writer(path: Path) -> subprocess.Popen[str]:
    """Another process in the middle of writing."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    command = [sys.executable, "-c", WRITER, str(path)]
    process = subprocess.Popen(command, cwd=CHECKOUT, text=True, **pipes)
    assert process.stdout.readline() == "writing\n"
    return process


@pytest.fixture(autouse=True)
def next_run():
    """Each test is a new run: a process looks into a folder once."""
    writing.remove_left_behind.cache_clear()


def test_link_stays_a_link(tmp_path):
    """Who keeps results on another disk has a link to them."""
    (tmp_path / "there").mkdir()
    file, link = tmp_path / "there" / "file", tmp_path / "link"
    link.symlink_to("there/file")
    for text in ("first", "second"):  # of nothing yet, and of a file
        write(link, text)
        assert link.is_symlink()
        assert file.read_text() == text
    assert list(file.parent.iterdir()) == [file]


def test_permissions_stay(tmp_path):
    file = tmp_path / "file"
    file.write_text("private")
    file.chmod(0o600)
    write(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_pipe_is_written_to(tmp_path):
    """A pipe cannot be replaced: its reader waits for what is written into it."""
    pipe, seen = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: seen.append(pipe.read_text()))
    reader.start()
    write(pipe)
    reader.join(10)
    assert seen == ["new"]
    assert list(tmp_path.iterdir()) == [pipe]
    assert pipe.is_fifo()


def test_standard_output_is_written_to():
    code = "from tests.processes.test_writing import *; write(Path('/dev/stdout'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True)
    assert (done.stdout, done.stderr, done.returncode) == (b"new", b"", 0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_full_device(capsys):
    assert exit_status("x", lambda: write(Path("/dev/full"))) == 2
    assert capsys.readouterr().err == "x: /dev/full: No space left on device\n"


def test_reader_that_stops(tmp_path, capsys):
    """Not `| head`: whoever named the file wants to know that it was not written."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)

    def work():
        with replacing(pipe) as temporary:
            temporary.write_bytes(bytes(1 << 20))
            threading.Timer(0.2, os.close, [reader]).start()

    assert exit_status("x", work) == 2
    assert capsys.readouterr().err == f"x: {pipe}: Broken pipe\n"


def test_longest_name(tmp_path, capsys):
    file = tmp_path / ("n" * 255)
    write(file)
    assert file.read_text() == "new"
    longer = tmp_path / ("n" * 256)
    assert exit_status("x", lambda: check_output(longer, "-o")) == 2
    assert capsys.readouterr().err == f"x: {longer}: File name too long\n"


def test_folder_that_vanishes(tmp_path, capsys):
    """The folder was there when the work began, which took an hour."""
    folder = tmp_path / "folder"
    folder.mkdir()

    def work():
        with replacing(folder / "file") as temporary:
            temporary.write_text("new")
            shutil.rmtree(folder)

    assert exit_status("x", work) == 2
    assert capsys.readouterr().err == f"x: {folder / 'file'}: No such file or directory\n"


@pytest.mark.parametrize("protected", ["file", "folder"])
def test_without_permission(protected):
    """In a process of another user, because root may write everywhere."""
    folder = Path(tempfile.mkdtemp())  # which another user can reach, unlike tmp_path
    try:
        (folder / "file").write_text("old")
        (folder / "file").chmod(0o444 if protected == "file" else 0o666)
        folder.chmod(0o777 if protected == "file" else 0o555)
        if (child := os.fork()) == 0:
            try:
                if os.getuid() == 0:
                    os.setuid(65534)
                check_output(folder / "file", "-o")
            except UsageError as error:
                os._exit(17 if str(error) == "-o: cannot write there: Permission denied" else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 17
        assert [file.name for file in folder.iterdir()] == ["file"]
        assert (folder / "file").read_text() == "old"
    finally:
        shutil.rmtree(folder)


def test_error_names_the_file_and_not_the_temporary_one(tmp_path):
    for error, text in (
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (OSError("768 requested and 96 written"), "is the disk full"),
    ):
        with pytest.raises(OSError, match=text) as raised, replacing(tmp_path / "file"):
            raise error
        assert str(tmp_path / "file") in str(raised.value)
    other = OSError(errno.ENOENT, "No such file or directory", "clip.wav")
    with pytest.raises(OSError, match=r"clip\.wav") as raised, replacing(tmp_path / "file"):
        raise other
    assert raised.value is other
    assert list(tmp_path.iterdir()) == []


def test_next_run_removes_what_a_killed_one_left(tmp_path):
    file = tmp_path / "file"
    for _ in range(2):
        process = writer(file)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert len([*tmp_path.glob(".melfront-*.tmp")]) == 1  # the second has removed the first's
    write(tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_two_runs_write_one_file(tmp_path):
    """Neither takes the other's temporary file for litter; the last one wins."""
    file = tmp_path / "file"
    process = writer(file)
    write(file)
    assert file.read_text() == "new"
    _, _ = process.communicate("go on\n")
    assert process.returncode == 0
    assert file.read_text() == "new of another process"
    assert list(tmp_path.iterdir()) == [file]


def test_folders_that_are_made_and_removed_at_once(tmp_path):
    """While one process makes a folder and locks it, others look for folders without a lock."""
    stop = threading.Event()

    def remove():
        while not stop.is_set():
            writing.remove_left_behind.__wrapped__(tmp_path)

    removers = [threading.Thread(target=remove) for _ in range(3)]
    for thread in removers:
        thread.start()
    try:
        for i in range(60):
            write(tmp_path / f"{i % 7}", str(i))
            assert (tmp_path / f"{i % 7}").read_text() == str(i)
    finally:
        stop.set()
        for thread in removers:
            thread.join()
    assert sorted(path.name for path in tmp_path.iterdir()) == [*"0123456"]


FULL = """
import io, resource, sys
from contextlib import redirect_stderr, redirect_stdout
import numpy as np
import melfront.__main__, encoder.__main__, parity.__main__
resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, 6_000))
for words in sys.argv[1:]:
    program, *rest = words.split()
    with redirect_stderr(io.StringIO()) as said, redirect_stdout(io.StringIO()):
        status = sys.modules[f"{program}.__main__"].main(rest)
    said = said.getvalue()
    print(status, said.count(chr(10)), rest[-1] in said, words, said)
"""


def test_every_command_on_a_full_disk(tmp_path):
    """A limit on the size of files stands for the disk: the write fails in the middle."""
    mine = tmp_path / "mine.npz"
    np.savez(mine, log_mel=np.zeros((128, 3000), np.float32))
    out, toy = tmp_path / "out", "--model formula:toy"
    out.mkdir()
    commands = [
        *(f"melfront -o {out}/a{ending}" for ending in (".npy", ".npz", ".safetensors")),
        f"melfront --plot {out}/a.png",
        *(f"encoder {toy} -o {out}/b{ending}" for ending in (".npz", ".safetensors")),
        f"encoder {toy} --report {out}/b.html",
        *(f"parity dump {toy} -o {out}/c{ending}" for ending in (".npz", ".safetensors")),
        f"parity compare {mine} --plot {out}/c.png",
    ]
    done = subprocess.run(
        [sys.executable, "-c", FULL, *commands], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.split("\n\n")[:-1]  # each ends with the line on stderr
    assert len(lines) == len(commands), done.stdout
    for line in lines:
        assert line.startswith("2 1 True "), line
    assert list(out.iterdir()) == []
