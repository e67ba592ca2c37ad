"""The MLP computed in pieces gives the same results in less memory, however a model is called."""

import copy
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter

from melfront import encoder
from melfront.encoder import WhisperEncoder, __main__, ops, oracle
from melfront.encoder.config import SIZES
from tests.encoder.peers import features, rms

# A prime head_dim; two full pieces of the MLP and a partial one.
CONFIG = replace(SIZES["tiny"], n_mels=7, n_audio_ctx=811, n_audio_state=38, n_audio_head=2)
CONFIG = replace(CONFIG, n_audio_mlp=211, n_audio_layer=3)
assert 2 * ops.MLP_ROWS < CONFIG.n_audio_ctx < 3 * ops.MLP_ROWS


@pytest.fixture
def model():
    return WhisperEncoder.from_formula(CONFIG)


@pytest.fixture
def mel():
    return torch.from_numpy(features(CONFIG, batch=3))


@pytest.fixture
def rows(monkeypatch):
    """Records the second-to-last size of every input of GELU: for the MLP, its positions."""
    seen, gelu = [], torch.nn.functional.gelu

    def spy(x):
        seen.append(x.shape[-2])
        return gelu(x)

    monkeypatch.setattr(torch.nn.functional, "gelu", spy)
    return seen


def whole(model, mel, **options):
    """Call the model with its MLP in one piece."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "MLP_ROWS", 10**9)
        return model(mel, **options)


def array(x):
    return x.detach().double().numpy()


def test_as_accurate_as_in_one_piece(model, mel, rows):
    """At most the order of the sums differs, so the errors differ only by chance.

    Below 4 ulp of the tensor's scale, a single rounding decides, and so the CPU's kernels.
    """
    with torch.inference_mode():
        ours = model(mel, output_hidden_states=True).hidden_states
        assert max(rows[2:]) == ops.MLP_ROWS
        rows.clear()
        theirs = whole(model, mel, output_hidden_states=True).hidden_states
        assert max(rows[2:]) == CONFIG.n_audio_ctx
    weights = {name: x.double().numpy() for name, x in model.state_dict().items()}
    inputs = ["positions", "block.0.mlp_residual", "block.1.mlp_residual", "ln_post"]
    for i, clip in enumerate(mel):
        truth = oracle.trace(clip.double().numpy(), weights, CONFIG)
        for stage, a, b in zip(inputs, ours, theirs, strict=True):
            a, b = a[i].numpy() - truth[stage], b[i].numpy() - truth[stage]
            least = 4 * np.finfo(np.float32).eps * rms(truth[stage])
            assert rms(a) <= 1.05 * max(rms(b), least), stage


@pytest.mark.parametrize("n_positions", [1, 374, 375, 376, 750, 811])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_every_dtype_and_length(model, n_positions, dtype):
    """Results differ by a few roundings: a product of fewer rows may be summed in another order."""
    x = torch.randn(2, n_positions, 38, generator=torch.Generator().manual_seed(3)).to(dtype)
    mlp = model.blocks[0].mlp.to(dtype)
    with torch.no_grad():
        ours, expected = mlp(x), whole(mlp, x)
    assert ours.shape == expected.shape == x.shape
    assert ours.dtype == dtype
    assert rms(array(ours) - array(expected)) <= 8 * torch.finfo(dtype).eps * rms(array(expected))


@pytest.mark.parametrize("n_frames", [1, 2, 3, 998, 1622])
def test_shorter_clips(model, mel, n_frames):
    with torch.no_grad():
        ours = model(mel[..., :n_frames], strict_length=False).last_hidden_state
        theirs = whole(model, mel[..., :n_frames], strict_length=False).last_hidden_state
    assert ours.shape == theirs.shape
    assert rms(array(ours - theirs)) <= 2e-6 * rms(array(theirs))  # each has an error of about 5e-7


def test_recording_gradients_does_not_change_a_bit(model, mel):
    """With gradients, another function joins the pieces; a trace has no pieces."""
    expected = model(mel).last_hidden_state
    assert expected.requires_grad
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            assert model(mel).last_hidden_state.equal(expected.detach())
    assert encoder.trace(model, mel)["ln_post"].equal(expected.detach())


def test_gradients_match_one_piece(model, mel):
    def gradients(run):
        model.zero_grad()
        run(model, mel).last_hidden_state.square().sum().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}

    expected = gradients(whole)
    assert set(expected) == set(dict(model.named_parameters())) - {"positions"}
    for name, grad in gradients(lambda model, mel: model(mel)).items():
        # Sums over 3 x 811 positions, in three parts or one: some hundreds of roundings.
        assert rms(array(grad - expected[name])) <= 1e-5 * rms(array(expected[name])), name


def test_second_derivatives(model):
    """They fail if a tensor that autograd needs is modified in place."""
    mlp, x = model.blocks[0].mlp.double(), torch.linspace(-1, 1, 2 * 38).double().view(1, 2, 38)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "MLP_ROWS", 1)
        assert torch.autograd.gradgradcheck(mlp, x.requires_grad_())


# Memory


def test_results_do_not_share_memory_with_later_calls(model, mel):
    with torch.no_grad():
        first = model(mel, output_hidden_states=True).hidden_states
        kept = [state.clone() for state in first]
        other = model(mel.flip(0), output_hidden_states=True).hidden_states
        for state in other:
            state.zero_()
        again = model(mel, output_hidden_states=True).hidden_states
    for a, b, c in zip(first, kept, again, strict=True):
        assert a.equal(b)
        assert c.equal(b)
    assert len({state.data_ptr() for state in first}) == len(first)


def test_features_and_weights_are_not_modified(model, mel):
    before = [mel.clone(), *(p.clone() for p in model.parameters())]
    with torch.no_grad():
        model(mel)
    for a, b in zip(before, [mel, *model.parameters()], strict=True):
        assert a.equal(b)


def test_block_inputs_are_freed_unless_requested(model, mel):
    """For large-v3, 32 of them would take 245 MB."""
    inputs, alive = [], []

    def before(_block, args):
        inputs.append(weakref.ref(args[0]))
        alive.append(sum(x() is not None for x in inputs))

    for block in model.blocks:
        block.register_forward_pre_hook(before)
    with torch.inference_mode():
        out = model(mel).last_hidden_state
        assert alive == [1, 1, 1]
        inputs.clear(), alive.clear()
        states = model(mel, output_hidden_states=True).hidden_states
        assert alive == [1, 2, 3]
    assert states[-1].equal(out)


def test_inner_tensor_of_the_mlp_is_never_whole(model, mel, rows):
    with torch.inference_mode():
        model(mel)
    assert rows == [38, 38, *[375, 375, 61] * 3]  # 38: channels of the stem
    rows.clear()
    encoder.trace(model, mel)
    assert rows[2] == 811, "a tap gets the whole stage"


# Recorded graphs must not fix the number of pieces.


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # about the shape checks
def test_jit_trace_works_for_other_sizes(model, mel):
    model.requires_grad_(False)
    with torch.no_grad():

        def run(x):
            return model(x, strict_length=False).last_hidden_state

        traced = torch.jit.trace(run, mel, check_trace=False)
        for other in (mel, mel[:1], mel[:2, :, :900]):
            assert rms(array(traced(other) - run(other))) <= 2e-6 * rms(array(run(other)))


def test_export_works_for_other_batch_sizes(model, mel):
    size = torch.export.Dim("batch", min=2, max=9)
    with torch.no_grad():
        program = torch.export.export(model, (mel,), dynamic_shapes={"mel": {0: size}})
        for other in (mel, mel[:2]):
            ours, expected = program.module()(other)[0], model(other)[0]
            assert rms(array(ours - expected)) <= 2e-6 * rms(array(expected))
    maps = [n for n in program.graph.nodes if n.target is torch.ops.aten.linear.default]
    assert len(maps) == 6 * CONFIG.n_audio_layer


def test_compiled_in_one_piece(model, mel):
    maps = []

    def backend(graph, _inputs):
        maps.extend(n for n in graph.graph.nodes if "linear" in str(n.target))
        return graph.forward

    torch.compiler.reset()
    with torch.no_grad():
        ours = torch.compile(model, backend=backend, fullgraph=True)(mel).last_hidden_state
        expected = model(mel).last_hidden_state
    assert len(maps) == 6 * CONFIG.n_audio_layer
    assert rms(array(ours - expected)) <= 2e-6 * rms(array(expected))


@pytest.mark.parametrize("part", ["blocks.1", "blocks.0.mlp", "blocks.2.attn"])
def test_compiled_part_runs_compiled(model, mel, part):
    torch.compiler.reset()
    counter = CompileCounter()
    with torch.inference_mode():
        expected = model(mel).last_hidden_state
        model.get_submodule(part).compile(backend=counter, fullgraph=True)
        out = model(mel).last_hidden_state
        assert counter.frame_count == 1
        model(mel)
        assert counter.frame_count == 1, "recompiled"
    assert rms(array(out - expected)) <= 2e-6 * rms(array(expected))


# One path for every caller


def test_every_way_of_calling_gives_the_same_result(model, mel):
    with torch.inference_mode():
        expected = model(mel).last_hidden_state
    hooks = [
        lambda: model.blocks[1].register_forward_hook(lambda *_: None),
        lambda: model.blocks[2].attn.q.register_forward_pre_hook(lambda *_: None),
        lambda: model.blocks[0].mlp.fc1.register_forward_hook(lambda *_: None),
        lambda: torch.nn.modules.module.register_module_forward_hook(lambda *_: None),
    ]
    with torch.no_grad():
        for hook in hooks:
            with hook():
                out = model(mel).last_hidden_state
            assert rms(array(out - expected)) <= 2e-6 * rms(array(expected))
        assert model(mel, tap=lambda _stage, x: x).last_hidden_state.equal(expected)
        with ops.using(layer_norm=lambda *a: ops.layer_norm(*a)):
            assert model(mel).last_hidden_state.equal(expected)


def test_command_calls_the_ops_in_use(capsys):
    """If the command hooked every module, each part would be called as a module instead."""
    called = []

    def spy(*args):
        called.append(args[0].shape)
        return ops.mlp(*args)

    with ops.using(mlp=spy):
        assert __main__.main(["--model", "formula:toy"]) == 0
    assert "block.1.mlp_residual" in capsys.readouterr().out
    assert len(called) % 2 == 0  # two blocks, for each window of 0.22 s
    assert set(called) == {(1, 11, 26)}


class Adapted(torch.nn.Module):
    """A part with something added to its output, like an adapter for fine-tuning."""

    def __init__(self, base):
        super().__init__()
        self.base = base

    def forward(self, *args):
        return self.base(*args) + 1


@pytest.mark.parametrize("change", ["another module", "another forward"])
@pytest.mark.parametrize("part", ["blocks.1", "blocks.0.mlp", "blocks.2.attn"])
def test_replaced_part_is_used(model, mel, part, change):
    ours = model.get_submodule(part)
    with torch.no_grad():
        before = model(mel).last_hidden_state
        if change == "another module":
            model.set_submodule(part, Adapted(ours))
        else:
            forward = ours.forward
            ours.forward = lambda *args: forward(*args) + 1
        after = model(mel).last_hidden_state
    assert not torch.allclose(before, after)


def test_copy_gives_the_same_bits(model, mel):
    with torch.inference_mode():
        assert copy.deepcopy(model)(mel)[0].equal(model(mel)[0])
