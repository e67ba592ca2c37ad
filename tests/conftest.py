"""Shared by all tests: devices, clips, weights and hypothesis settings."""

import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

CHECKOUT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("MELFRONT_SHARED") or CHECKOUT.parent / "shared")
STAND_IN = "cpu:0"  # torch's name for the CPU, used as another device: see other_fft.py

# No deadline: the first example of a test includes imports and cold caches. No shrinking: it takes
# minutes, and one line describes a failing example anyway.
settings.register_profile(
    "default",
    deadline=None,
    max_examples=25,
    derandomize=bool(os.environ.get("CI")),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("default")


# Devices


def pytest_addoption(parser):
    parser.addoption(
        "--device",
        metavar="LIST",
        help="devices for every test that touches a tensor, separated by commas, such as cpu,cuda "
        "or mps; default: cpu, and cuda where there is one",
    )
    parser.addoption(
        "--examples",
        metavar="N",
        type=int,
        default=1,
        help="N times as many examples in every property test, each time others",
    )


def asked_devices(config) -> list[str]:
    return [name for name in (config.getoption("--device") or "").split(",") if name]


def unusable(device: str) -> str | None:
    """The reason why torch cannot use a device, or None."""
    import torch

    try:
        torch.zeros(2, device=device).sum().item()
    except (RuntimeError, AssertionError, NotImplementedError, ValueError) as error:
        return str(error).splitlines()[0]
    return None


def pytest_configure(config):
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # A shell's background job, and what it starts, would not see the tests' Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for device in asked_devices(config):
        reason = unusable(device)
        if reason is not None:
            raise pytest.UsageError(
                f"--device {device}: torch cannot use it here ({reason}); take one that it can, "
                "or leave the option out"
            )


def device_params(config) -> list:
    """Always cpu and cuda, so that skipped tests are reported, and all other requested devices."""
    asked = asked_devices(config)
    params = []
    for device in dict.fromkeys(["cpu", "cuda", *asked]):
        marks = [] if device == "cpu" else [pytest.mark.gpu]
        if asked and device not in asked:
            marks.append(pytest.mark.skip(reason=f"{device} is not in --device {','.join(asked)}"))
        elif not asked and device != "cpu" and (reason := unusable(device)):
            marks.append(pytest.mark.skip(reason=f"no {device} device: {reason}"))
        params.append(pytest.param(device, marks=marks))
    return params


# .ci/cpus runs the numeric tests again with the kernels of other CPUs. Every test is numeric except
# in these files, which test files, messages, pages and processes, or are slow and repeat numbers
# from other tests. A test in them that compares a number with a bound is marked `numeric`.
NOT_NUMERIC = {
    "benchmarks": "all",
    "benchmarks/records": "all",
    "encoder": "config public ray",
    "encoder/checkpoint": "all",
    "encoder/checkpoint/foreign": "all",
    "encoder/checkpoint/hostile": "all",
    "encoder/cli": "all",
    "encoder/export": "all",  # other libraries compute the numbers
    "encoder/libraries": "all",  # that a library gives the same; slow
    "encoder/ops": "using",
    "encoder/report": "all",
    "melfront": "import plot",
    "melfront/audio": "all",
    "melfront/cli": "all",
    "melfront/libraries": "all",  # that a library gives the same
    "melfront/backends": "cache off_the_cpu traced",  # float64 on a CPU; traced: compilers
    "parity": "bad_input command pytest_plugin timing",
    "parity/comparison": "hints plot rounding",
    "parity/files": "all",
    "processes": "all",  # that nothing changes a bit; other tests hold the numbers
    "project": "all",
    "reference_data": "check floors follow make",  # they select kernels themselves, or use none
}


def is_numeric(path: Path) -> bool:
    folder = path.parent.relative_to(CHECKOUT / "tests").as_posix()
    names = NOT_NUMERIC.get(folder, "").split()
    return names != ["all"] and path.stem.removeprefix("test_") not in names


def pytest_collection_modifyitems(config, items):
    for item in items:
        if is_numeric(item.path):
            item.add_marker(pytest.mark.numeric)
    more = config.getoption("--examples")
    if more > 1:
        # Parametrized items share a function: each function once.
        for test in {item.function for item in items}:
            if getattr(test, "is_hypothesis_test", False):
                with_more_examples(test, more)


def with_more_examples(test, times: int):
    """Raise max_examples where hypothesis keeps a test's settings: it has no public way."""
    usual = test._hypothesis_internal_use_settings
    more = settings(usual, max_examples=times * usual.max_examples, derandomize=False)
    test._hypothesis_internal_use_settings = more


def pytest_generate_tests(metafunc):
    # Session scope, because hypothesis keeps one value for all examples of a test.
    if "device" in metafunc.fixturenames:
        metafunc.parametrize("device", device_params(metafunc.config), scope="session")
    if "backend" in metafunc.fixturenames:  # front end: of arrays, or torch on a device
        no_numba = pytest.mark.skipif(not find_spec("numba"), reason="numba is not installed")
        numba = pytest.param("numba", marks=no_numba)
        stand_in = pytest.param(STAND_IN, id="other_fft", marks=pytest.mark.slow)
        params = [numba, "numpy", *device_params(metafunc.config), stand_in]
        metafunc.parametrize("backend", params, scope="session")


@pytest.fixture(scope="session", autouse=True)
def no_tf32():
    """Turn TF32 off: it keeps 10 bits of each factor and alone adds an error of 1e-3."""
    if "torch" in sys.modules:
        import torch

        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False


# The wheel


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """A wheel built from this checkout."""
    from tests.environments import build_wheel

    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def installed(tmp_path_factory, wheel) -> Path:
    """A Python with the wheel installed and no access to the checkout."""
    from tests.environments import install, python_without

    python = python_without(tmp_path_factory.mktemp("installed"))
    install(wheel, python)
    return python


# Clips and weights


@pytest.fixture(scope="session")
def sample():
    """The sample clip: (129600,) float32, speech cut inside a vowel at both ends."""
    from tests.signals import sample

    return sample()


def shared_path(name: str) -> Path:
    """A file or folder in the shared folder. Skips the test if it is missing."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(
            f"{path} is missing; real audio and weights are not part of the repository, "
            "MELFRONT_SHARED names the folder that contains them"
        )
    return path


@pytest.fixture(scope="session")
def jfk_path() -> Path:
    """11 s of real speech, 16 kHz mono, a file that soundfile reads."""
    pytest.importorskip("soundfile")
    return shared_path("audio/jfk-16k.wav")


@pytest.fixture(scope="session")
def jfk_stereo_path() -> Path:
    """The same recording, 44.1 kHz stereo."""
    return shared_path("audio/jfk-44k-stereo.flac")


@pytest.fixture(scope="session")
def tiny_en() -> Path:
    """The folder of whisper-tiny.en's trained weights, in Hugging Face's format."""
    return shared_path("whisper-tiny.en")
