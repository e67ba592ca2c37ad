"""The tests that other versions could break, with others than those of constraints.txt.

    nox -l                         # what there is
    nox -s "versions(oldest)"      # one of them; each brings its own torch, gigabytes for CUDA
    nox -s "versions(newest)" -- -m ""   # what follows -- is pytest's

nox looks for the Python of each session, and skips the session where there is none. What installs
torch for a CPU, such as UV_TORCH_BACKEND=cpu, saves most of the download.
"""

from __future__ import annotations

import nox

# The fewest that the tests below need: a test without its library is skipped, and says so.
PEERS = ["openai-whisper", "faster-whisper", "kaldi-native-fbank", "python-speech-features"]
TOOLS = ["pytest", "hypothesis", "numba"]
# What compares us with other libraries, reads files, or rests on the arithmetic of NumPy and torch.
TESTS = [
    "tests/melfront/audio",
    "tests/melfront/backends/test_kernel.py",
    "tests/melfront/backends/test_numba_backend.py",
    "tests/melfront/cli/test_cli.py",
    "tests/melfront/test_import.py",
    "tests/melfront/test_libraries.py",
    "tests/melfront/test_masks.py",
    "tests/melfront/test_oracle.py",
    "tests/melfront/test_shapes.py",
    "tests/encoder/checkpoint/test_checkpoint.py",
    "tests/encoder/checkpoint/test_hub.py",
    "tests/encoder/test_model.py",
    "tests/encoder/test_transformers.py",
    "tests/parity/test_pytest_plugin.py",
]


def stack(name: str, python: str, *versions: str) -> nox.param:
    return nox.param(python, versions, id=name)


@nox.session
@nox.parametrize(
    "python,packages",
    [
        stack(
            "oldest",
            "3.10",
            *("torch==2.6.*", "transformers==4.57.*", "huggingface_hub==0.36.*", "numpy==2.0.*"),
            *("scipy==1.13.*", "librosa==0.11.*"),
        ),
        stack("torch-2.9", "3.12", "torch==2.9.*", "transformers==5.0.*", "librosa==1.*"),
        stack("newest", "3.13", "torch", "transformers", "numpy", "librosa"),
        stack("python-3.11", "3.11", "torch", "transformers", "numpy", "librosa"),
        stack("python-3.14", "3.14", "torch", "transformers", "numpy", "librosa"),
    ],
)
def versions(session: nox.Session, packages: tuple[str, ...]) -> None:
    session.install(".", *packages, *PEERS, *TOOLS)
    session.run("python", "-m", "pytest", "-q", *TESTS, *session.posargs)
