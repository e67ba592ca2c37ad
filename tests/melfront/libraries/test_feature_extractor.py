"""melfront.WhisperFeatureExtractor in place of transformers' class, against that class.

The bound on a number. transformers computes in float32 where torch is installed, and by NumPy in
float64 where it is not: the difference of the two is its own error, whatever the FFT of this CPU.
Our features of arrays may differ from the first by that and by FROM_NUMPY_PATH, our own error.
"""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from unittest.mock import patch

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings

import melfront
from melfront.backends import torch_backend
from tests.conftest import CHECKOUT, STAND_IN
from tests.melfront.test_libraries import FROM_NUMPY_PATH, FROM_TORCH_PATH, MORE_THAN_THEIRS
from tests.other_fft import device_of
from tests.signals import Signal, signals

transformers = pytest.importorskip("transformers")
Theirs, Ours = transformers.WhisperFeatureExtractor, melfront.WhisperFeatureExtractor
module = sys.modules[Theirs.__module__]
transformers.logging.set_verbosity_error()

CONTAINERS = {
    "array": lambda clips: clips[0],
    "float64": lambda clips: clips[0].astype(np.float64),
    "int16": lambda clips: (clips[0] * 32767).astype(np.int16),
    "floats": lambda clips: clips[0].tolist(),
    "arrays": list,
    "tuple": lambda clips: tuple(clip.astype(np.float64) for clip in clips),
    "lists": lambda clips: [clip.tolist() for clip in clips],
    "rows": lambda clips: np.stack([clips[0], clips[0][::-1]]),
    "tensor": lambda clips: torch.from_numpy(clips[0]),
    "stereo": lambda clips: np.stack([clips] * 2) if len(clips) == 1 else clips[0],
}
SETTINGS = st.fixed_dictionaries(
    {"chunk_length": st.sampled_from([1, 2])},
    optional={
        "feature_size": st.sampled_from([80, 128, 7]),
        "return_attention_mask": st.booleans(),
        "padding_value": st.sampled_from([0.0, 0.25]),
        "padding_side": st.sampled_from(["left", "right"]),
        "hop_length": st.just(100),
        "n_fft": st.just(512),
    },
)
OPTIONS = st.fixed_dictionaries(
    {"sampling_rate": st.sampled_from([16_000, None])},
    optional={
        "padding": st.sampled_from(["max_length", "longest", "do_not_pad", True, False]),
        "truncation": st.booleans(),
        "max_length": st.sampled_from([None, 0, 8_000, 20_001, 150]),
        "pad_to_multiple_of": st.sampled_from([160, 333]),
        "return_attention_mask": st.sampled_from([None, False, True]),
        "do_normalize": st.sampled_from([None, False, True]),
        "return_tensors": st.sampled_from([None, "np", "pt"]),
        "device": st.sampled_from(["cpu", None, torch.device("cpu")]),
        "unknown": st.just(1),
    },
)


def outcome(extractor, audio, path="torch", **options):
    """What a call returns, or the type of its error."""
    try:
        with patch.object(module, "is_torch_available", lambda: path == "torch"):
            return extractor(audio, **options)
    except Exception as error:  # whatever theirs raises is what ours must
        return type(error)


def per_frame(mask, hop_length, n_frames):
    return mask[:, ::hop_length][:, :n_frames] if mask.shape[1] != n_frames else mask


@given(
    clips=st.lists(signals(1.5), min_size=1, max_size=3),
    container=st.sampled_from(sorted(CONTAINERS)),
    constructed=SETTINGS,
    options=OPTIONS,
    as_theirs=st.booleans(),
)
@example([Signal("speech", 9_000)], "array", {"return_attention_mask": True}, {}, False)
@example([Signal("speech", 9_000)], "int16", {}, {"do_normalize": True}, True)
@example([Signal("noise", 9_000)], "lists", {"padding_side": "left"}, {"do_normalize": True}, False)
@example([Signal("tone", 9_001)], "rows", {}, {"padding": True, "pad_to_multiple_of": 333}, True)
@settings(max_examples=120)
def test_same_as_transformers(clips, container, constructed, options, as_theirs):
    audio = CONTAINERS[container]([clip.array() for clip in clips])
    theirs = outcome(Theirs(**constructed), audio, **options)
    ours = outcome(Ours(**constructed, masks_as_transformers=as_theirs), audio, **options)
    if isinstance(theirs, type):
        assert ours is theirs
        return

    assert type(ours) is type(theirs)
    assert list(ours) == list(theirs)
    for name in theirs:
        assert type(ours[name]) is type(theirs[name])
        assert ours[name].dtype == theirs[name].dtype
    n_frames = theirs["input_features"].shape[-1]
    if "attention_mask" in theirs:
        hop = constructed.get("hop_length", 160)
        mask = theirs["attention_mask"]
        expected = mask if as_theirs else per_frame(mask, hop, n_frames)
        assert np.array_equal(ours["attention_mask"], expected)

    features, reference = (np.asarray(out["input_features"]) for out in (ours, theirs))
    assert features.shape == reference.shape
    on_cpu = options | {"device": "cpu", "return_tensors": "np"}
    exact = outcome(Theirs(**constructed), audio, "numpy", **on_cpu)["input_features"]
    bound = np.abs(reference - exact).max() + FROM_NUMPY_PATH
    assert np.abs(features - reference).max() <= bound
    assert not np.isnan(reference).any()


@pytest.mark.parametrize(
    ("constructed", "options"),
    [
        ({}, {"do_normalize": True}),  # values beyond [-10, 10]
        ({"return_attention_mask": True}, {"truncation": False, "max_length": 8_000}),
        ({"padding_value": 0.1, "dither": 1e-4}, {"return_tensors": "pt"}),
        ({"feature_size": 7, "chunk_length": 1}, {"padding": "longest", "pad_to_multiple_of": 7}),
    ],
)
@pytest.mark.parametrize("container", ["array", "float64", "int16", "floats", "arrays", "tensor"])
def test_computed_by_melfront(container, constructed, options):
    clip = Signal("clicks", 9_000).array()
    with patch.object(Theirs, "__call__", side_effect=AssertionError):
        Ours(**constructed)(CONTAINERS[container]([clip]), sampling_rate=16_000, **options)


@pytest.mark.parametrize("n", [1, 200, 201, 16_000, 32_000, 40_000])
def test_normalised_bit_for_bit(n):
    """Normalised without its padding, as ours does it, a clip is the same as with it, as theirs."""
    clip = Signal("speech", n, scale=0.3).array()
    seen = []
    for extractor in (Theirs(chunk_length=2), Ours(chunk_length=2)):
        real = extractor.zero_mean_unit_var_norm

        def watched(*args, real=real, **kwargs):
            seen.append(real(*args, **kwargs)[0])
            return [seen[-1]]

        with patch.object(extractor, "zero_mean_unit_var_norm", watched):
            extractor(clip, sampling_rate=16_000, do_normalize=True)
    theirs, ours = seen
    assert np.array_equal(theirs[: len(ours), 0], ours)


@pytest.mark.parametrize("padding_value", [0.0, 0.1])
def test_dither_is_theirs(padding_value):
    """From the same seed the same noise: the oracle of the noisy clip is the truth of both."""
    constructed = {"chunk_length": 1, "dither": 1e-3, "padding_value": padding_value}
    clips = [Signal("speech", n).array() for n in (9_001, 16_000)]
    torch.manual_seed(3)
    noisy = np.full((2, 16_000), padding_value, np.float32)
    for row, clip in zip(noisy, clips, strict=True):
        row[: len(clip)] = clip
    noisy += 1e-3 * torch.randn(2, 16_000).numpy()
    truth = melfront.oracle.log_mel(noisy, n_mels=80, pad_to=None)
    results = []
    for kind in (Theirs, Ours):
        torch.manual_seed(3)
        results.append(kind(**constructed)(clips, sampling_rate=16_000)["input_features"])
    theirs, ours = results
    # One ulp of the noisy samples, 6e-8, is what a sum of two terms may differ by.
    assert np.abs(ours - truth).max() <= 1e-5
    assert np.abs(ours - theirs).max() <= np.abs(theirs - truth).max() + 1e-5


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e16, None])
def test_strange_audio_is_taken_as_theirs(value):
    audio = Signal("noise", 5_000).array()
    if value is None:
        audio = audio[:0]
    else:
        audio[70] = value
    options = {"sampling_rate": 16_000, "return_attention_mask": True}
    theirs, ours = (kind(chunk_length=1)(audio, **options) for kind in (Theirs, Ours))
    assert np.array_equal(theirs["attention_mask"], ours["attention_mask"])
    # A float32 power of 1e16 squared is 1e34, which theirs still holds.
    assert np.allclose(theirs["input_features"], ours["input_features"], atol=1e-3, equal_nan=True)


@pytest.mark.parametrize("audio", [[], np.zeros((0, 400)), "speech.wav", {"array": [0.1]}, 0.5])
def test_no_audio_is_refused_as_theirs(audio):
    check_refused(audio, sampling_rate=16_000)


@pytest.mark.parametrize("name", ["padding", "return_tensors", "device", "sampling_rate"])
def test_wrong_words_are_refused_as_theirs(sample, name):
    check_refused(sample, **{"sampling_rate": 16_000, name: "nonsense"})


def check_refused(audio, **options):
    theirs = outcome(Theirs(), audio, **options)
    assert isinstance(theirs, type)
    assert outcome(Ours(), audio, **options) is theirs


def test_changed_filters_are_used(sample):
    extractors = Theirs(), Ours()
    for extractor in extractors:
        extractor.mel_filters = extractor.mel_filters[:, ::-1].copy()
    theirs, ours = (e(sample, sampling_rate=16_000)["input_features"] for e in extractors)
    assert np.array_equal(theirs, ours)


@pytest.mark.parametrize("sampling_rate", [None, 16_000])
@pytest.mark.parametrize("n", [9_000, 0])
def test_warns_once_without_sampling_rate(sampling_rate, n):
    audio = Signal("noise", n).array()
    for kind in (Theirs, Ours):
        with patch.object(module.logger, "warning") as warning:
            kind(chunk_length=1)(audio, sampling_rate=sampling_rate)
        assert warning.call_count == (sampling_rate is None)


# Tensors


@pytest.mark.parametrize("kind", ["one", "rows", "list", "half"])
@pytest.mark.parametrize("options", [{}, {"do_normalize": True}, {"padding": "longest"}])
def test_tensors_stay_on_their_device(device, kind, options):
    check_tensors(device, kind, options)


@pytest.mark.parametrize("kind", ["one", "rows", "list"])
def test_tensors_stay_on_a_stand_in(kind):
    of_tensors = torch_backend.features_by_autograd
    with patch.object(torch_backend, "features_by_autograd", wraps=of_tensors) as called:
        check_tensors(STAND_IN, kind, {"do_normalize": True})
    assert called.call_count == 2


def check_tensors(name, kind, options):
    clips = [Signal("speech", n, seed=n).array() for n in (20_000, 14_000)]
    clips = [clips[0]] * 2 if kind == "rows" else clips if kind == "list" else clips[:1]
    clips = [clips[0].astype(np.float16)] if kind == "half" else clips
    options = options | {"sampling_rate": 16_000, "return_attention_mask": True}
    with device_of(name) as device:
        tensors = [torch.from_numpy(clip).to(device) for clip in clips]
        audio = {"rows": torch.stack, "list": list}.get(kind, lambda one: one[0])(tensors)
        ours = Ours(chunk_length=2)(audio, return_tensors="pt", **options)
        on_host = Ours(chunk_length=2)(audio, **options)
        theirs = Theirs(chunk_length=2)(clips, device=device, **options)
    for key, values in ours.items():
        assert values.device.type == torch.device(device).type
        assert isinstance(on_host[key], np.ndarray)
        assert np.array_equal(values.cpu().numpy(), on_host[key])
    assert np.array_equal(on_host["attention_mask"], theirs["attention_mask"])
    features, reference = on_host["input_features"], theirs["input_features"]
    exact = outcome(Theirs(chunk_length=2), clips, "numpy", **options)["input_features"]
    # A device may use another FFT for our blocks: two equally good results.
    bound = max(FROM_TORCH_PATH, (1 + MORE_THAN_THEIRS) * np.abs(reference - exact).max())
    assert np.abs(features - reference).max() <= bound


def test_arrays_go_to_the_named_device(device, sample):
    ours = Ours()(sample, sampling_rate=16_000, return_tensors="pt", device=device)
    assert ours["input_features"].device.type == device
    host = Ours()(sample, sampling_rate=16_000, device=device)["input_features"]
    assert isinstance(host, np.ndarray)


def test_tensor_with_gradient_is_refused_as_theirs():
    clip = torch.zeros(9_000, requires_grad=True)
    with pytest.raises(RuntimeError, match="requires grad"):
        Ours()(clip, sampling_rate=16_000)


# Saved, loaded, copied, in other processes


def test_saved_as_theirs(tmp_path):
    ours, theirs = Ours(feature_size=128, dither=0.1), Theirs(feature_size=128, dither=0.1)
    ours.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    files = [tmp_path / name / "preprocessor_config.json" for name in ("ours", "theirs")]
    assert files[0].read_text() == files[1].read_text()
    assert json.loads(files[0].read_text())["feature_extractor_type"] == Theirs.__name__
    assert type(Theirs.from_pretrained(tmp_path / "ours")) is Theirs
    assert type(transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "ours")) is Theirs
    loaded = Ours.from_pretrained(tmp_path / "theirs", feature_size=80)
    assert (type(loaded), loaded.feature_size, loaded.dither) == (Ours, 80, 0.1)
    assert loaded.mel_filters.shape == (201, 80)


def test_switch_is_saved_and_loaded(tmp_path):
    Ours(masks_as_transformers=True).save_pretrained(tmp_path)
    assert Ours.from_pretrained(tmp_path).masks_as_transformers
    assert type(Theirs.from_pretrained(tmp_path)) is Theirs
    assert "masks_as_transformers" not in Ours().to_dict()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies(copied, sample):
    ours = Ours(feature_size=128, masks_as_transformers=True)
    twin = copied(ours)
    assert type(twin) is Ours
    assert twin.to_dict() == ours.to_dict()
    features = [e(sample, sampling_rate=16_000)["input_features"] for e in (ours, twin)]
    assert np.array_equal(*features)


class Collate:
    def __init__(self):
        self.extractor = Ours(chunk_length=1)

    def __call__(self, clips):
        return dict(self.extractor(clips, sampling_rate=16_000, return_tensors="pt"))


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_in_workers(start):
    clips = [Signal("speech", 9_000 + n).array() for n in range(4)]
    loader = torch.utils.data.DataLoader(
        clips, 2, collate_fn=Collate(), num_workers=1, multiprocessing_context=start
    )
    features = torch.cat([batch["input_features"] for batch in loader])
    assert torch.equal(features, Collate()(clips)["input_features"])


def test_without_transformers():
    code = "import sys; sys.modules['transformers'] = None; from melfront import *; import melfront"
    code = [sys.executable, "-c", f"{code}; print('imported'); melfront.WhisperFeatureExtractor"]
    done = subprocess.run(code, capture_output=True, text=True, cwd=CHECKOUT)
    assert done.stdout == "imported\n"
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: melfront.WhisperFeatureExtractor needs transformers: pip")
