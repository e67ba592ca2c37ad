"""LogMel under tracing tools: traced with one input, it is right for all others or raises."""

import io
import warnings

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad
from torch.export import Dim

import melfront
from melfront.audio import AudioError
from melfront.backends import torch_constants
from tests.signals import Signal

CONVENTIONS = list(melfront.CONVENTIONS)
# Each convention with 80 or 128 bins and with or without padding.
CASES = [
    ("transformers", 80, 30.0),
    ("transformers", 128, None),
    ("transformers-numpy", 128, 30.0),
    ("openai", 80, None),
    ("openai-transcribe", 128, 30.0),
    ("faster-whisper", 80, None),
    ("faster-whisper", 128, 30.0),
]
ALL_CASES = [(name, m, pad) for name in CONVENTIONS for m in (80, 128) for pad in (4.9, None)]
# Float32 FFTs of the same clip in different blocks; a few roundings of numbers up to 1.5.
SAME_FFT = 1e-6
# onnxruntime's FFT is float64, so the difference is our float32 error: 3e-5 on plain speech, more
# here, where the loudest frame is 80 dB above the quietest one that matters.
OTHER_FFT = 1e-4


def clips(n_clips: int, n_samples: int) -> torch.Tensor:
    """(B, N), clips of different loudness, so that a maximum over the wrong scope shows."""
    of_each = [Signal("speech", n_samples, seed=i, scale=0.1 * (i + 1)) for i in range(n_clips)]
    return torch.tensor(np.stack([signal.array() for signal in of_each]))


TRACED = clips(2, 50_001)
OTHERS = [clips(3, 77_777), clips(1, 20_011), clips(5, 400)]


def dynamic(pad_to: float | None) -> dict[int, Dim]:
    """As a user would write it. At least two frames: an axis of size 1 might have to broadcast."""
    return {0: Dim("batch"), 1: Dim("samples") if pad_to else Dim("samples", min=320)}


def recorded(frontend, given: torch.Tensor) -> torch.Tensor:
    """The features by torch's own operations, which a trace records too."""
    return frontend(given.clone().requires_grad_()).detach()


def agree(compute, frontend, bound: float = SAME_FFT, others=OTHERS) -> None:
    for given in others:
        expected = recorded(frontend, given)
        result = compute(given)
        assert result.dtype == expected.dtype
        assert result.shape == expected.shape
        assert (result - expected).abs().max() <= bound, tuple(given.shape)


def exported(module, pad_to=30.0, **options):
    shapes = (dynamic(pad_to),)
    return torch.export.export(module, (TRACED,), dynamic_shapes=shapes, **options)


def onnx_session(module, pad_to=30.0):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    shapes = (dynamic(pad_to),)
    program = torch.onnx.export(
        module.eval(), (TRACED,), dynamo=True, dynamic_shapes=shapes, verbose=False
    )
    file = io.BytesIO()
    program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    (name,) = [value.name for value in session.get_inputs()]
    return lambda given: torch.from_numpy(session.run(None, {name: given.numpy()})[0])


@pytest.mark.parametrize(("convention", "n_mels", "pad_to"), CASES)
def test_export(convention, n_mels, pad_to):
    frontend = melfront.LogMel(n_mels, convention, pad_to)
    agree(exported(frontend, pad_to).module(), frontend)


def test_export_by_dynamo_and_with_automatic_sizes():
    frontend = melfront.LogMel(80)
    shapes = ({0: Dim("batch"), 1: Dim("samples", min=201, max=480_000)},)
    program = torch.export.export(frontend, (TRACED,), dynamic_shapes=shapes, strict=True)
    agree(program.module(), frontend)
    shapes = ({0: Dim.AUTO, 1: Dim.AUTO},)
    agree(torch.export.export(frontend, (TRACED,), dynamic_shapes=shapes).module(), frontend)


def test_export_of_one_clip():
    frontend = melfront.LogMel(80)
    shapes = ({0: Dim("samples")},)
    program = torch.export.export(frontend, (TRACED[0],), dynamic_shapes=shapes)
    agree(program.module(), frontend, others=[given[0] for given in OTHERS])


# Each export takes seconds.
ONNX_CASES = [
    case if i < 1 else pytest.param(*case, marks=pytest.mark.slow) for i, case in enumerate(CASES)
]


@pytest.mark.parametrize(("convention", "n_mels", "pad_to"), ONNX_CASES)
def test_onnx(convention, n_mels, pad_to):
    frontend = melfront.LogMel(n_mels, convention, pad_to)
    agree(onnx_session(frontend, pad_to), frontend, OTHER_FFT)


@pytest.mark.parametrize(
    ("convention", "n_mels", "pad_to"),
    [c if i % 3 == 0 else pytest.param(*c, marks=pytest.mark.slow) for i, c in enumerate(CASES)],
)
def test_compile(convention, n_mels, pad_to):
    """One graph for all batch sizes and lengths."""
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    frontend = melfront.LogMel(n_mels, convention, pad_to)
    compiled = torch.compile(frontend, fullgraph=True, dynamic=True, backend=backend)
    agree(compiled, frontend, others=[TRACED, clips(3, 77_777), clips(4, 20_011)])
    assert len(graphs) == 1


@pytest.mark.parametrize(("convention", "n_mels", "pad_to"), ALL_CASES)
def test_vmap(convention, n_mels, pad_to):
    """Each clip is separate, even if the convention uses the maximum of the batch."""
    frontend = melfront.LogMel(n_mels, convention, pad_to)
    agree(torch.vmap(frontend), lambda given: torch.stack([*map(frontend, given)]))


@pytest.mark.parametrize(("convention", "n_mels", "pad_to"), ALL_CASES)
def test_jit_trace(convention, n_mels, pad_to):
    frontend = melfront.LogMel(n_mels, convention, pad_to)
    torch_constants.made_once.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        traced = torch.jit.trace(frontend, (TRACED,))
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    loaded = torch.jit.load(file)
    agree(loaded, frontend)
    of_one_clip = torch.jit.trace(frontend, (TRACED[0],))
    agree(of_one_clip, frontend, others=[given[0] for given in OTHERS])
    for wrong in (TRACED[0], TRACED[None]):  # a different number of axes
        with pytest.raises(RuntimeError):
            loaded(wrong)
    with pytest.raises(RuntimeError):
        of_one_clip(TRACED)


def test_fx_treats_it_as_a_leaf():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.frontend = melfront.LogMel(80, "openai-transcribe")

        def forward(self, audio):
            return self.frontend(audio) * 2

    model = Model()
    traced = torch.fx.symbolic_trace(model)
    agree(lambda given: recorded(traced, given), model)


# Three compilers take 3 s each. The maximum is a clip's in the first, the batch's in the second.
@pytest.mark.parametrize(
    "convention",
    [
        name if name in ("transformers", "openai") else pytest.param(name, marks=pytest.mark.slow)
        for name in CONVENTIONS
    ],
)
def test_log_mel_and_mask_inside_a_model(convention):
    class Model(torch.nn.Module):
        def forward(self, audio):
            options = {"n_mels": 80, "convention": convention, "pad_to": 3.0, "truncate": True}
            return melfront.log_mel(audio, return_mask=True, **options)

    torch.compiler.reset()
    model = Model()
    programs = [
        exported(model).module(),
        torch.jit.trace(model, (TRACED,)),
        torch.compile(model, fullgraph=True, dynamic=True, backend="eager"),
    ]
    for given in OTHERS:  # the first is longer than 3 s
        features, mask = model(given.clone().requires_grad_())
        for program in programs:
            its_features, its_mask = program(given)
            assert (its_features - features).abs().max() <= SAME_FFT
            assert its_mask.dtype == torch.int32
            assert torch.equal(its_mask, mask)


# Input that eager mode refuses


@pytest.mark.parametrize("tool", ["export", "jit", "onnx"])
def test_traced_module_refuses_a_long_clip(tool):
    frontend = melfront.LogMel(80, pad_to=5.0)
    if tool == "export":
        program = exported(frontend).module()
    elif tool == "jit":
        program = torch.jit.trace(frontend, (TRACED,))
    else:
        program = onnx_session(frontend)
    assert program(clips(2, 80_000)).shape == (2, 80, 500)
    with pytest.raises(Exception, match=r"(?i)index|bounds"):
        program(clips(2, 80_001))


@pytest.mark.parametrize("tool", ["jit", "onnx"])
def test_traced_module_refuses_a_short_clip(tool):
    frontend = melfront.LogMel(80, pad_to=None)
    make = {"jit": lambda: torch.jit.trace(frontend, (TRACED,))}
    program = make.get(tool, lambda: onnx_session(frontend, None))()
    with pytest.raises(Exception, match=r"(?i)index|bounds"):
        program(clips(2, 200))


@pytest.mark.parametrize(
    "trace",
    [
        lambda f: torch.vmap(f),
        lambda f: torch.func.grad(lambda x: f(x).sum()),
        lambda f: torch.compile(f, backend="eager"),
    ],
)
def test_known_lengths_are_checked(trace):
    torch.compiler.reset()
    with pytest.raises(AudioError, match=r"80001 .* does not fit into pad_to=5 s"):
        trace(melfront.LogMel(80, pad_to=5.0))(clips(2, 80_001))
    with pytest.raises(AudioError, match="200 samples are too few"):
        trace(melfront.LogMel(80, pad_to=None))(clips(2, 200))


def test_jit_trace_refuses_a_list():
    class Model(torch.nn.Module):
        def forward(self, first, second):
            return melfront.log_mel([first, second], n_mels=80)

    with pytest.raises(TypeError, match=r"jit\.trace would keep the lengths.*tensor \(B, N\)"):
        torch.jit.trace(Model(), (TRACED[0], TRACED[1, :777]))


# Derivatives by torch.func


def double(n: int = 2_003) -> torch.Tensor:
    return clips(1, n)[0].double()


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_torch_func_matches_autograd(convention):
    frontend = melfront.LogMel(7, convention, pad_to=0.2)
    clip = double()
    along = torch.tensor(np.random.default_rng(1).standard_normal((7, 20)))

    def loss(x):
        return (frontend(x) * along).sum()

    expected = torch.autograd.grad(loss(clip.requires_grad_()), clip)[0]
    clip = clip.detach()
    bound = 1e-10 * expected.abs().max()
    assert (torch.func.grad(loss)(clip) - expected).abs().max() <= bound
    both = torch.vmap(torch.func.grad(loss))(torch.stack([clip, clip]))
    assert (both - expected).abs().max() <= bound

    direction = torch.ones_like(clip)
    _, slope = torch.func.jvp(loss, (clip,), (direction,))
    assert abs(slope - expected.sum()) <= 2_003 * bound
    with forward_ad.dual_level():
        result = loss(forward_ad.make_dual(clip, direction))
        tangent = forward_ad.unpack_dual(result).tangent
        assert tangent is not None
        assert abs(tangent - expected.sum()) <= 2_003 * bound


def test_jacrev():
    frontend = melfront.LogMel(3, pad_to=0.05)
    clip = double(701)
    jacobian = torch.func.jacrev(frontend)(clip)
    expected = torch.autograd.functional.jacobian(frontend, clip)
    assert jacobian.shape == (3, 5, 701)
    assert (jacobian - expected).abs().max() <= 1e-10 * expected.abs().max()


# Tracing does not affect later calls


@pytest.mark.parametrize(
    "trace",
    [
        lambda f: exported(f),
        lambda f: torch.jit.trace(f, (TRACED,)),
        lambda f: torch.vmap(f)(TRACED),
        lambda f: torch.func.grad(lambda x: f(x).sum())(TRACED),
        lambda f: torch.compile(f, fullgraph=True, backend="eager")(TRACED),
    ],
)
def test_calls_after_a_trace(trace):
    frontend = melfront.LogMel(80)
    plain, expected = frontend(TRACED), recorded(frontend, TRACED)
    torch.compiler.reset()
    torch_constants.made_once.cache_clear()
    trace(frontend)
    assert torch.equal(frontend(TRACED), plain)
    assert torch.equal(recorded(frontend, TRACED), expected)
    clips = TRACED.clone().requires_grad_()
    frontend(clips).sum().backward()
    assert clips.grad is not None
    assert (torch.vmap(frontend)(TRACED) - expected).abs().max() <= SAME_FFT
