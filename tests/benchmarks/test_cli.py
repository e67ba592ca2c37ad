"""The command line: one line and a status for any error in its arguments."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from melfront.benchmarks.__main__ import main
from melfront.benchmarks.kernel import record, run
from melfront.benchmarks.kernel.sandbox import guard, processes
from melfront.benchmarks.kernel.timing.busy import Load
from melfront.benchmarks.kernel.timing.fair import LEAST_ROUNDS
from melfront.benchmarks.kernel.timing.times import TWIN, Race
from melfront.command import UsageError

KERNELS = Path(__file__).parent / "kernels"
ROOT = Path(__file__).parents[2]


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "melfront.benchmarks", *arguments],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no benchmark given; expected kernel, frontend, encoder, load, gpu; see"),
        (["kernels"], "unknown benchmark 'kernels'"),
        (["kernel"], "no slot given"),
        (["kernel", "layernorm", "x.py"], "did you mean layer_norm?"),
        (["kernel", "layer_norm"], "no file given"),
        (["kernel", "layer_norm", "nowhere.py"], "is not a file"),
        (["kernel", "layer_norm", "README.md"], "is not a Python file"),
        (["kernel", "layer_norm", "--dtype", "int8"], "invalid choice"),
        (["kernel", "mel", "tests/__init__.py", "--dtype", "float16"], "front end"),
        (["kernel", "--template", "gellu"], "did you mean gelu?"),
        (["kernel", "--plot", "x.png"], "--show"),
        (["kernel", "--table", "x.md"], "--show"),
        (["kernel", "--verify", "nowhere.jsonl"], "cannot be read"),
        (["kernel", "--verify", ""], "value of verify is empty"),
        (["kernel", "--show", "nowhere.jsonl"], "cannot be read"),
        (["kernel", "--show", "README.md"], "is not a record"),
        (
            ["kernel", "gelu", "tests/__init__.py", "--json", "no/such/runs.jsonl"],
            "no such folder to write runs.jsonl into",
        ),
        (
            ["kernel", "gelu", "tests/__init__.py", "--json", "."],
            "--json .: a folder; expected the name of a file",
        ),
        (["kernel", "gelu", "tests/__init__.py", "--json", ""], "value of json is empty"),
        (["kernel", "--show", ""], "value of show is empty"),
        (["kernel", "gelu", "tests/__init__.py", "--threads", "0"], "--threads"),
        (["kernel", "gelu", "tests/__init__.py", "--threads", "999"], "ask for fewer"),
        (["kernel", "gelu", "tests/__init__.py", "--seconds", "nan"], "must be positive"),
        (["kernel", "gelu", "tests/__init__.py", "--limit", "inf"], "must be positive"),
        (["kernel", "gelu", "tests/__init__.py", "--size", "huge"], "unknown --size huge"),
        (["kernel", "gelu", "tests/__init__.py", "--device", "tpu"], "--device tpu"),
    ],
)
def test_usage_error_is_one_line(arguments, words, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(processes, "fork_server", None)  # no process may be started
    try:
        status = main(arguments)
    except SystemExit as stop:  # raised by argparse
        status = stop.code
    printed = capsys.readouterr()
    assert status == 2
    assert words in printed.err
    assert len(printed.err.strip().splitlines()) == 1
    assert not printed.out


def test_usage_error_does_not_import_torch():
    code = (
        "import sys; from melfront.benchmarks.__main__ import main; "
        "status = main(['kernel', 'gellu', 'x.py']); print('torch' in sys.modules, status)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True)
    assert done.stdout.split() == ["False", "2"]


def test_help_has_an_example():
    for arguments in (["--help"], ["kernel", "--help"]):
        done = command(*arguments)
        assert done.returncode == 0
        assert "melfront benchmarks kernel layer_norm" in done.stdout


def test_list_and_template(capsys):
    assert main(["kernel", "--list"]) == 0
    printed = capsys.readouterr().out
    for name in ("stft", "log_mel", "conv1d_gelu", "attention", "block"):
        assert f"{name}(" in printed
    assert main(["kernel", "--template", "softmax"]) == 0
    printed = capsys.readouterr().out
    compile(printed, "softmax.py", "exec")
    assert "def softmax(scores: Tensor)" in printed


UNUSABLE = {
    "no_function": "no function layer_norm; it defines layernorm",
    "wrong_signature": "layer_norm(x, weight, bias, eps=1e-5)",
    "raises_when_loaded": "a_package_that_nobody_has",
    "syntax_error": "line 1",
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_file_is_one_line(name, capsys, tmp_path):
    path = KERNELS / f"{name}.py"
    if name == "syntax_error":  # created here, because linters fail on it
        path = tmp_path / "syntax_error.py"
        path.write_text("def layer_norm(x, weight, bias, eps=1e-5:\n    return x\n")
    assert main(["kernel", "layer_norm", str(path), "--no-whole"]) == 2
    printed = capsys.readouterr()
    assert UNUSABLE[name] in printed.err
    assert f"{name}.py" in printed.err
    assert len(printed.err.strip().splitlines()) == 1
    assert not printed.out


def test_bad_models(capsys):
    arguments = ["--model", "/nowhere/at/all"]
    assert main(["kernel", "gelu", str(KERNELS / "fills_out.py"), *arguments]) == 2
    error = capsys.readouterr().err
    assert "/nowhere/at/all" in error
    assert len(error.strip().splitlines()) == 1


def test_abandoned_fork_server_exits_silently(capfd):
    left = processes.ForkServer()
    left.link.shutdown(socket.SHUT_RDWR)
    assert left.process.wait() == 0
    assert capfd.readouterr().err == ""


def test_interrupted(tmp_path):
    """A terminal signals every process of its group: one line is printed, and all of them end."""
    kernel, loaded = tmp_path / "kernel.py", tmp_path / "loaded"
    kernel.write_text(
        f"import time\nopen({str(loaded)!r}, 'w').close()\ndef gelu(x):\n    time.sleep(100)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "melfront.benchmarks", "kernel", "gelu", str(kernel)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    while not loaded.exists():
        assert process.poll() is None
        time.sleep(0.05)
    started = processes.below({process.pid}, processes.parents())
    assert len(started) >= 3  # the fork server, a worker and its keeper
    os.killpg(process.pid, signal.SIGINT)
    output, error = process.communicate()
    assert process.returncode == 128 + signal.SIGINT
    assert (output, error) == ("", "melfront benchmarks: interrupted\n")
    end = time.time() + 10
    while (left := started & set(processes.parents())) and time.time() < end:
        time.sleep(0.05)
    assert not left


@pytest.fixture
def one_case(monkeypatch):
    """Only one captured case, to keep a run short."""

    def first(slot, options, dice, interpreted):
        return [next(iter(chosen(slot, options, dice, interpreted))), *slot.edges(dice)[:2]]

    chosen = run.chosen_cases
    monkeypatch.setattr(run, "chosen_cases", first)


QUICK = ["--no-whole", "--seconds", "0.2", "--threads", "1", "--seed", "3"]


def test_bad_file_does_not_stop_the_others(capsys, one_case):
    files = [str(KERNELS / f"{n}.py") for n in ("no_function", "one_pass_variance", "reference")]
    assert main(["kernel", "layer_norm", *files, *QUICK]) == 2
    printed = capsys.readouterr()
    assert "no_function.py" in printed.err
    assert printed.out.count("layer_norm  ") == 2
    assert "PASS: 3 cases" in printed.out


@pytest.mark.slow
def test_16_bits_are_timed_against_torch_only(capsys, one_case, tmp_path):
    path = tmp_path / "kernel.py"
    path.write_text("from torch.nn.functional import gelu\n")
    assert main(["kernel", "gelu", str(path), *QUICK, "--dtype", "bfloat16"]) == 0
    printed = capsys.readouterr().out
    assert "bfloat16 on cpu" in printed
    assert "vs reference" in printed
    assert "vs numpy" not in printed
    path.write_text("ARRAYS = 'numpy'\ngelu = abs\n")
    assert main(["kernel", "gelu", str(path), *QUICK, "--dtype", "bfloat16"]) == 2
    assert "NumPy has no bfloat16" in capsys.readouterr().err


def test_record_is_kept_only_on_a_quiet_machine(capsys, one_case, monkeypatch, tmp_path):
    path = tmp_path / "runs.jsonl"
    kernel = str(KERNELS / "reference.py")
    arguments = ["kernel", "layer_norm", kernel, *QUICK, "--json", str(path)]
    # The verdict must not depend on the machine that runs the test.
    monkeypatch.setattr(guard, "fair", lambda *_: None)
    monkeypatch.setattr(Race, "unclear", lambda self: "")
    monkeypatch.setattr(Race, "starved", lambda self: False)
    monkeypatch.setattr(Load, "others", lambda self: 0.5)
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "WARNING: the machine is busy: others used 50%" in printed.out
    assert "no record" in printed.err
    assert not path.exists()

    monkeypatch.setattr(Load, "others", lambda self: 0.01)
    assert main(arguments) == 0
    recorded = capsys.readouterr().out
    monkeypatch.setattr(Race, "unclear", lambda self: "calls took no time")
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "WARNING: the machine is too busy: calls took no time" in printed.out
    assert "no record" in printed.err
    monkeypatch.setattr(run, "compete", lambda *_args: None)
    wrong = ["kernel", "gelu", str(KERNELS / "tanh_gelu.py"), *QUICK, "--json", str(path)]
    assert main(wrong) == 1
    capsys.readouterr()
    right, wrong = map(json.loads, path.read_text().splitlines())
    assert right["verdict"] == "PASS"
    assert right["options"]["seed"] == 3
    assert f"seed 3, run {right['run']})" in recorded
    assert {"python", "torch", "numpy"} <= set(right["versions"])
    assert {"cpu", "cores", "system"} <= set(right["machine"])
    case = right["cases"][0]
    assert len(case["times"]["candidate"]) >= LEAST_ROUNDS
    assert set(case["ratios"]) == {"reference", "numpy", TWIN}
    assert wrong["mistake"] == "tanh GELU"
    assert not any("times" in c or "ratios" in c for c in wrong["cases"])

    picture = tmp_path / "roof.png"
    assert main(["kernel", "--show", str(path), "--plot", str(picture)]) == 0
    printed = capsys.readouterr().out
    assert "reference.py" in printed
    assert "tanh GELU" in printed
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_invalid_records(tmp_path):
    path = tmp_path / "runs.jsonl"
    path.write_text("")
    with pytest.raises(UsageError, match="empty"):
        record.read(str(path))
    path.write_text('{"version": 1}\n')
    with pytest.raises(UsageError, match="line 1"):
        record.read(str(path))
