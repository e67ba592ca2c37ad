"""`melfront.using`: a kernel in each slot of the front end, for whatever `log_mel` takes."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from torch.export import Dim

import melfront
from melfront import variants
from tests.signals import Signal

CONVENTIONS = list(melfront.CONVENTIONS)
SLOTS = ("stft", "mel", "log_scale", "log_mel")
CLIP = Signal("speech", 20_011, seed=3).array()
SHORT = Signal("speech", 9_001, seed=4, scale=0.01).array()


# Kernels as a user would write them


def stft(frames, window):
    spectrum = torch.fft.rfft(frames * window)  # (..., F, K)
    return spectrum.real.square() + spectrum.imag.square()


def mel(power, filters):
    return filters @ power.mT


def log_scale(mel):
    log = mel.clamp(min=1e-10).log10()
    return (torch.maximum(log, log.amax((-2, -1), keepdim=True) - 8) + 4) / 4


def log_mel(audio, n_mels):
    features = variants.log_mel(audio.detach().cpu(), n_mels=n_mels, check_range=False)
    return torch.from_numpy(features).to(audio)


KERNELS = {"stft": stft, "mel": mel, "log_scale": log_scale, "log_mel": log_mel}


class Spy:
    """A kernel, and the shapes and dtypes of the tensors in its calls."""

    def __init__(self, kernel):
        self.kernel, self.shapes, self.dtypes = kernel, [], set()

    def __call__(self, *args, **options):
        tensors = [*args, *options.values()]
        self.shapes.append([tuple(x.shape) if isinstance(x, torch.Tensor) else x for x in tensors])
        self.dtypes |= {x.dtype for x in args}
        return self.kernel(*args, **options)


def assert_close(features, audio, **options):
    """Ten times as near to the truth as torch's own operations are, in float32."""
    truth, batched = variants.log_mel(audio, **options), isinstance(audio, list)
    clips = [torch.from_numpy(np.array(c, np.float32)) for c in (audio if batched else [audio])]
    clips = [clip.requires_grad_() for clip in clips]
    floor = melfront.log_mel(clips if batched else clips[0], **options)
    bound = 10 * np.abs(floor.detach().numpy() - truth).max()
    features = features.detach().cpu().numpy() if torch.is_tensor(features) else features
    assert features.shape == truth.shape
    assert np.abs(features - truth).max() <= bound <= 1e-2


GIVEN = {
    "array": CLIP,
    "reversed": CLIP[::-1],
    "float64": CLIP.astype(np.float64),
    "big-endian": CLIP.astype(">f4"),
    "list": [CLIP, SHORT],
    "rows": np.stack([CLIP, CLIP / 100]),
}


@pytest.mark.parametrize("slot", SLOTS)
@pytest.mark.parametrize("kind", GIVEN)
def test_arrays(slot, kind):
    audio = GIVEN[kind]
    before = melfront.log_mel(audio, n_mels=37)
    copy = [*map(np.copy, audio)]
    with melfront.using(**{slot: (spy := Spy(KERNELS[slot]))}):
        features, mask = melfront.log_mel(audio, n_mels=37, return_mask=True)
    assert type(features) is np.ndarray
    assert features.dtype == np.float32
    assert_close(features, audio, n_mels=37)
    assert mask.tolist() == melfront.log_mel(audio, return_mask=True)[1].tolist()
    batch = before.shape[:-2]
    shapes = {  # 127 of 3000 frames hear the clip
        "stft": [(*batch, 127, 400), (400,)],
        "mel": [(*batch, 127, 201), (37, 201)],
        "log_scale": [(*batch, 37, 3_000)],
        "log_mel": [(*batch, 20_011), 37],
    }
    assert spy.shapes == [shapes[slot]]
    assert spy.dtypes == {torch.float32}
    assert all(map(np.array_equal, audio, copy))
    assert np.array_equal(melfront.log_mel(audio, n_mels=37), before)


@pytest.mark.parametrize("slot", SLOTS)
@pytest.mark.parametrize("kind", ["one", "rows", "list"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_tensors(device, slot, kind, dtype):
    if device.startswith("mps") and dtype == torch.float64:
        pytest.skip("mps has no float64")
    clips = [torch.tensor(c, device=device).to(dtype) for c in (CLIP, SHORT)]
    audio = {"one": clips[0], "rows": torch.stack([clips[0]] * 2), "list": clips}[kind]
    with melfront.using(**{slot: (spy := Spy(KERNELS[slot]))}):
        features = melfront.log_mel(audio, n_mels=37)
        again = melfront.LogMel(37)(audio) if kind != "list" else features
    assert torch.equal(features, again)
    kept = torch.float64 if dtype == torch.float64 else torch.float32
    assert (features.dtype, features.device) == (kept, clips[0].device)
    assert spy.dtypes == {kept}
    arrays = [c.float().cpu().numpy() for c in clips]
    array = {"one": arrays[0], "rows": [arrays[0]] * 2, "list": arrays}[kind]
    assert_close(features, array, n_mels=37)


@pytest.mark.parametrize("slot", SLOTS[:3])
def test_shapes_off_the_cpu(slot):
    with melfront.using(**{slot: (spy := Spy(KERNELS[slot]))}):
        features = melfront.log_mel(torch.empty(2, 9_001, device="meta"), n_mels=37, pad_to=7.0)
    assert (features.shape, features.device.type) == ((2, 37, 700), "meta")
    assert len(spy.shapes) == 1


def test_log_mel_wins_over_the_steps():
    spies = {slot: Spy(kernel) for slot, kernel in KERNELS.items()}
    with melfront.using(**spies):
        melfront.log_mel(CLIP)
    assert [slot for slot, spy in spies.items() if spy.shapes] == ["log_mel"]


@pytest.mark.parametrize("options", [{"pad_to": None}, {"pad_to": 1.0, "truncate": True}])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_other_lengths(options, as_tensor):
    audio = torch.from_numpy(CLIP) if as_tensor else CLIP
    steps = {slot: KERNELS[slot] for slot in SLOTS[:3]}
    with melfront.using(**steps):
        assert_close(melfront.log_mel(audio, n_mels=37, **options), CLIP, n_mels=37, **options)
    with (
        melfront.using(log_mel=log_mel),
        pytest.raises(ValueError, match=r"^the kernel in the slot log_mel pads clips to 30 s .*$"),
    ):
        melfront.log_mel(audio, n_mels=37, **options)


def test_log_mel_gets_at_most_30_s():
    long = np.tile(CLIP, 25)
    with melfront.using(log_mel=(spy := Spy(log_mel))):
        features, mask = melfront.log_mel(long, n_mels=37, truncate=True, return_mask=True)
        with pytest.raises(melfront.AudioError, match="does not fit into pad_to=30 s"):
            melfront.log_mel(long)
    assert spy.shapes == [[(480_000,), 37]]
    assert_close(features, long[:480_000], n_mels=37)
    assert mask.all()


# Conventions


def test_named_conventions_have_the_same_stft_and_mel():
    stage = {f.name: f.metadata["stage"] for f in fields(melfront.Convention)}
    changed = {stage[name] for c in melfront.CONVENTIONS.values() for name in c.changes()}
    assert not changed & {"windowed", "spectrum", "power", "mel"}


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("pad_to", [30.0, None])
def test_stft_and_mel_serve_every_convention(convention, pad_to):
    options = {"n_mels": 37, "convention": convention, "pad_to": pad_to}
    spies = [Spy(stft), Spy(mel)]
    with melfront.using(stft=spies[0], mel=spies[1]):
        arrays = melfront.log_mel([CLIP, SHORT], **options)
        tensors = melfront.log_mel([torch.from_numpy(c) for c in (CLIP, SHORT)], **options)
        traced = torch.vmap(melfront.LogMel(37, convention, pad_to))(torch.from_numpy(CLIP)[None])
    assert_close(arrays, [CLIP, SHORT], **options)
    assert_close(tensors, [CLIP, SHORT], **options)
    assert_close(traced[0], CLIP, **options)
    double = convention == "transformers-numpy"
    assert spies[0].dtypes == spies[1].dtypes == {torch.float64 if double else torch.float32}
    if double:  # not only as precise as float32
        assert np.abs(arrays - variants.log_mel([CLIP, SHORT], **options)).max() <= 5e-7


@pytest.mark.parametrize("slot", ["log_scale", "log_mel"])
@pytest.mark.parametrize("convention", [c for c in CONVENTIONS if c != "transformers"])
@pytest.mark.parametrize("make", [np.asarray, torch.tensor, lambda c: torch.tensor(c).to("meta")])
def test_log_scale_and_log_mel_refuse_others(slot, convention, make):
    line = rf"^convention '{convention}': the kernel in the slot {slot} computes the .*$"
    with melfront.using(**{slot: KERNELS[slot]}), pytest.raises(ValueError, match=line):
        melfront.log_mel(make(CLIP), convention=convention)
    with melfront.using(**{slot: KERNELS[slot]}), melfront.using(**{slot: None}):
        melfront.log_mel(make(CLIP), convention=convention)


# What is refused


@pytest.mark.parametrize("slot", SLOTS)
@pytest.mark.parametrize(
    ("spoil", "got"),
    [
        (lambda out: out.mT, r"\([0-9]+, [0-9]+\) float32 on cpu; expected \("),
        (lambda out: out.double(), r".* float64 on cpu; expected .* float32 on cpu$"),
        (lambda out: out.to("meta"), r".* on meta; expected .* on cpu$"),
        (lambda out: out.numpy(), r"ndarray; expected a tensor"),
    ],
)
def test_results_that_cannot_be_right(slot, spoil, got):
    with melfront.using(**{slot: lambda *args, **options: spoil(KERNELS[slot](*args, **options))}):
        for audio in (CLIP, torch.from_numpy(CLIP)):
            with pytest.raises(ValueError, match=rf"^the kernel in the slot {slot} returned {got}"):
                melfront.log_mel(audio)


@pytest.mark.parametrize("slot", SLOTS)
def test_the_audio_is_checked_as_before(slot):
    with melfront.using(**{slot: (spy := Spy(KERNELS[slot]))}):
        for make in (np.asarray, torch.tensor):
            for bad in (np.nan, 1e6):
                with pytest.raises(melfront.AudioError, match=r"nan|1e\+06"):
                    melfront.log_mel(make(np.append(CLIP, np.float32(bad))))
            with pytest.raises(melfront.AudioError, match="sampling rate 8000"):
                melfront.log_mel(make(CLIP), sampling_rate=8_000)
            with pytest.raises(ValueError, match="n_mels=0"):
                melfront.log_mel(make(CLIP), n_mels=0)
        assert not spy.shapes
        melfront.log_mel(20 * CLIP / np.abs(CLIP).max(), check_range=False)
    assert spy.shapes


# Gradients and traces


@pytest.mark.parametrize("slot", SLOTS[:3])
@pytest.mark.parametrize("kind", ["one", "list"])
def test_gradients(slot, kind):
    grads = []
    for kernels in ({}, {slot: KERNELS[slot]}):
        clip = torch.tensor(SHORT, dtype=torch.float64).requires_grad_()
        with melfront.using(**kernels):
            features = melfront.log_mel([clip] if kind == "list" else clip, n_mels=37)
        features.square().sum().backward()
        grads.append(clip.grad)
    assert (grads[1] - grads[0]).abs().max() <= 1e-10 * grads[0].abs().max()


@pytest.mark.parametrize("slot", SLOTS)
def test_no_gradient(slot):
    clip = torch.tensor(SHORT)

    def without(*args, **options):
        primals = [torch.autograd.forward_ad.unpack_dual(x).primal.detach() for x in args]
        return KERNELS[slot](*primals, **options)

    with melfront.using(**{slot: without}):
        refused = pytest.raises(ValueError, match=f"^the kernel in the slot {slot} has no gradient")
        for audio in (clip.clone().requires_grad_(), [clip.clone().requires_grad_()]):
            with refused:
                melfront.log_mel(audio)
            with torch.no_grad():
                melfront.log_mel(audio)
        with torch.autograd.forward_ad.dual_level(), refused:
            melfront.log_mel(torch.autograd.forward_ad.make_dual(clip, torch.ones_like(clip)))


RECORDED = [(slot, tool) for slot in SLOTS for tool in ("export", "jit", "compile")]
SECONDS = [("mel", "compile"), ("log_scale", "compile")]


@pytest.mark.parametrize(
    ("slot", "tool"),
    [pytest.param(*c, marks=pytest.mark.slow if c in SECONDS else ()) for c in RECORDED],
)
def test_what_is_recorded_has_the_kernel(slot, tool):
    """Recorded in the block, it keeps the kernel after it; a compiled module follows."""

    def kernel(*args, **options):
        if slot == "log_mel":  # something that every tool can follow
            return 2 * args[0][..., None, :3_000].expand(*args[0].shape[:-1], 37, 3_000)
        return 2 * KERNELS[slot](*args, **options)

    batch = torch.from_numpy(np.stack([CLIP, CLIP / 3]))
    frontend = melfront.LogMel(37)
    ours = frontend(batch)
    with melfront.using(**{slot: kernel}):
        expected = frontend(batch)
        assert torch.allclose(torch.vmap(frontend)(batch), expected, atol=1e-4)
        if tool == "export":
            shapes = ({0: Dim("batch"), 1: Dim("samples")},)
            program = torch.export.export(
                frontend, (batch[:, :9_001].clone(),), dynamic_shapes=shapes
            )
            run = program.module()
        elif tool == "jit":
            run = torch.jit.trace(frontend, (batch[:, :9_001].clone(),))
        else:
            torch.compiler.reset()
            run = torch.compile(frontend, backend="eager", fullgraph=True)
            assert torch.allclose(run(batch), expected, atol=1e-4)
    assert not torch.allclose(ours, expected, atol=1e-2)
    if tool == "compile":
        expected = ours
    assert torch.allclose(run(batch), expected, atol=1e-4)
    assert torch.equal(frontend(batch), ours)


def test_a_kernel_falls_back_on_ours():
    def fallback(audio, n_mels):
        with melfront.using(log_mel=None):
            return melfront.log_mel(audio, n_mels=n_mels)

    with melfront.using(log_mel=fallback):
        assert np.array_equal(melfront.log_mel(CLIP), melfront.log_mel(torch.from_numpy(CLIP)))
    assert np.array_equal(melfront.log_mel(CLIP), fallback(torch.from_numpy(CLIP), 128).numpy())


def test_stream_uses_what_is_in_use_for_each_window(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "clip.wav", CLIP, 16_000)
    windows = melfront.stream(tmp_path / "clip.wav", 0.5, n_mels=37)
    with melfront.using(mel=lambda *args: 0 * mel(*args)):
        assert (next(windows).log_mel == -1.5).all()
    assert next(windows).log_mel.max() > 0


def test_feature_extractor():
    pytest.importorskip("transformers")
    extractor = melfront.WhisperFeatureExtractor(80)

    def extract(clip):
        return extractor(clip, sampling_rate=16_000)["input_features"]

    not_a_number = np.full_like(CLIP, np.nan)
    with melfront.using(log_mel=(spy := Spy(log_mel))):
        features = extract(CLIP)[0]
        with pytest.raises(ValueError, match="not use your kernel"):
            extract(not_a_number)
    assert spy.shapes == [[(1, 20_011), 80]]
    assert_close(features, CLIP, n_mels=80)
    assert np.isnan(extract(not_a_number)).all()
