"""A replaced or modified part takes effect as it does in transformers' encoder."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from melfront import encoder
from melfront.encoder import WhisperEncoder, ops, parts
from melfront.encoder.checkpoint import hf_name
from tests.encoder.peers import DISTANCE_BOUND, TOY, distance, features, theirs

# Convolutions, norms and linear maps of the stem, a block, its attention and its MLP.
PARTS = [
    "conv1", "conv2", "ln_post", "blocks.1.attn_ln", "blocks.1.attn.q", "blocks.1.attn.k",
    "blocks.1.attn.v", "blocks.1.attn.out", "blocks.1.mlp_ln", "blocks.1.mlp.fc1",
    "blocks.1.mlp.fc2",
]  # fmt: skip
# Both are float64 and sum in different orders: a few thousand roundings of 1e-16.
FLOAT64 = 1e-12


@pytest.fixture
def model():
    return WhisperEncoder.from_formula(TOY, dtype=torch.float64)


@pytest.fixture
def mel():
    return torch.from_numpy(features(TOY, batch=2)).double()


def name_in_transformers(name: str) -> str:
    """transformers' name for a part."""
    return hf_name(name + ".weight").removesuffix(".weight")


def peer(model):
    """transformers' encoder with copies of the model's weights."""
    return theirs(copy.deepcopy(model))


def error(a, b) -> float:
    return distance(*([x.detach().double().numpy()] for x in (a, b)))[0]


def run(encoder, mel):
    """The last hidden state, and the gradient of its sum of squares by the features."""
    mel = mel.clone().requires_grad_()
    out = encoder(mel)[0]
    out.square().sum().backward()
    return out.detach(), mel.grad


# Changes to one part, made in both encoders
class Louder(nn.Module):
    """Wraps a part and multiplies its output by 1.5."""

    def __init__(self, base=None):
        super().__init__()
        self.base = base
        self.stride = getattr(base, "stride", None)  # transformers reads a convolution's stride

    def forward(self, x):
        return 1.5 * (x if self.base is None else self.base(x))


def another_module(parent, name):
    parent.set_submodule(name, Louder(parent.get_submodule(name)))


def subclass(parent, name):
    part = parent.get_submodule(name)
    kind = type(part)
    part.__class__ = type("Sub", (kind,), {"forward": lambda self, x: 1.5 * kind.forward(self, x)})


def forward_on_the_instance(parent, name):
    part = parent.get_submodule(name)
    forward = part.forward
    part.forward = lambda x: 1.5 * forward(x)


def forward_hook(parent, name):
    parent.get_submodule(name).register_forward_hook(lambda _part, _args, out: 1.5 * out)


def forward_pre_hook(parent, name):
    parent.get_submodule(name).register_forward_pre_hook(lambda _part, args: (args[0].tanh(),))


def backward_hook(parent, name):
    part = parent.get_submodule(name)
    part.register_full_backward_hook(lambda _part, grads, _: tuple(1.5 * g for g in grads))


def backward_pre_hook(parent, name):
    part = parent.get_submodule(name)
    part.register_full_backward_pre_hook(lambda _part, grads: tuple(1.5 * g for g in grads))


def parametrization(parent, name):
    parametrize.register_parametrization(parent.get_submodule(name), "weight", Louder())


def pruning(parent, name):
    prune.l1_unstructured(parent.get_submodule(name), "weight", 0.5)


def other_settings(parent, name):
    """Change a setting, so that a module of the same class computes something else."""
    part = parent.get_submodule(name)
    if isinstance(part, nn.Conv1d):
        part.padding_mode, part._reversed_padding_repeated_twice = "reflect", [1, 1]
    elif isinstance(part, nn.LayerNorm):
        part.eps = 0.1
    else:
        part.bias = nn.Parameter(torch.linspace(-1, 1, part.out_features, dtype=torch.float64))


CHANGES = [
    another_module, subclass, forward_on_the_instance, forward_hook, forward_pre_hook,
    backward_hook, backward_pre_hook, parametrization, pruning, other_settings,
]  # fmt: skip


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("change", CHANGES)
def test_change_has_the_same_effect_as_in_transformers(model, mel, change, name):
    other, before = peer(model), run(model, mel)
    kind = type(model.get_submodule(name))
    assert parts.plain(kind, model.get_submodule(name))
    change(model, name)
    change(other, name_in_transformers(name))
    after, expected = run(model, mel), run(other, mel)
    # A bias of k adds the same to all scores of a query, which softmax cancels.
    assert error(after[1], before[1]) > 1e-6 or (change, name) == (other_settings, PARTS[5])
    for ours, theirs_ in zip(after, expected, strict=True):
        assert error(ours, theirs_) <= FLOAT64
    assert encoder.trace(model, mel)["ln_post"].equal(after[0])
    usual = change is other_settings and kind is nn.Linear  # the op supports a bias
    assert parts.plain(kind, model.get_submodule(name)) == usual


def test_bias_of_k_is_applied(model, mel):
    """Softmax cancels it, so only the stage k shows it."""
    before = encoder.trace(model, mel)["block.1.attn.k"]
    bias = torch.linspace(-1, 1, 26, dtype=torch.float64)
    model.blocks[1].attn.k.bias = nn.Parameter(bias)
    assert error(encoder.trace(model, mel)["block.1.attn.k"], before + bias) <= FLOAT64


def test_global_module_hooks(model, mel):
    seen = []
    hook = nn.modules.module.register_module_forward_hook(lambda part, *_: seen.append(type(part)))
    try:
        model(mel)
        seen_by_ours, seen = seen, []
        peer(model)(mel)
    finally:
        hook.remove()
    for kind in (nn.Linear, nn.LayerNorm, nn.Conv1d):
        assert seen_by_ours.count(kind) == seen.count(kind) > 0


def test_patched_forward_of_the_class(model, mel, monkeypatch):
    """Libraries that speed up every linear map of a process do this."""
    forward = nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: 1.5 * forward(self, x))
    assert error(model(mel)[0], peer(model)(mel)[0]) <= FLOAT64
    assert not parts.plain(nn.Linear, model.blocks[0].attn.q)


def test_swapped_strides(model, mel):
    """The number of positions stays the same, but the values change."""
    other, before = peer(model), model(mel)[0]
    for changed in (model, other):
        changed.conv1.stride, changed.conv2.stride = (2,), (1,)
    assert error(model(mel)[0], before) > 1e-3
    assert error(model(mel)[0], other(mel)[0]) <= FLOAT64


def test_separately_compiled_part(model, mel):
    expected, fc1 = model(mel)[0], model.blocks[1].mlp.fc1
    fc1.compile(backend="eager")
    assert not parts.plain(nn.Linear, fc1)
    assert error(model(mel)[0], expected) <= FLOAT64


# Libraries that modify a model


@pytest.mark.parametrize("names", [["q", "v"], ["q", "k", "v", "out", "fc1", "fc2"]], ids=len)
def test_peft_adapters(model, mel, names):
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    other, before = peer(model), model(mel)[0]

    def adapted(encoder, names):
        config = peft.LoraConfig(r=3, target_modules=names, init_lora_weights=False)
        return peft.get_peft_model(encoder, config).double()

    ours = adapted(model, names)
    long = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "out_proj"}
    theirs_ = adapted(other, [long.get(name, name) for name in names])
    pairs = []
    for name, part in model.named_modules():
        if isinstance(part, peft.tuners.lora.LoraLayer):
            twin = other.get_submodule(name_in_transformers(name))
            for which in ("lora_A", "lora_B"):
                a, b = getattr(part, which)["default"], getattr(twin, which)["default"]
                b.load_state_dict(a.state_dict())
                pairs.append((a.weight, b.weight))
    assert len(pairs) == 2 * TOY.n_audio_layer * len(names)

    (out, slope), (expected, their_slope) = run(ours, mel), run(theirs_, mel)
    assert error(out, before) > 0.01
    assert error(out, expected) <= FLOAT64
    assert error(slope, their_slope) <= FLOAT64
    for a, b in pairs:
        assert a.grad.norm() > 0
        assert error(a.grad, b.grad) <= FLOAT64
    stages = encoder.trace(model, mel)
    assert stages["ln_post"].equal(out)
    assert error(model.blocks[0].attn.q(stages["block.0.attn_ln"]), stages["block.0.attn.q"]) == 0
    merged = ours.merge_and_unload()
    assert merged is model
    assert error(merged(mel)[0], out) <= FLOAT64
    assert list(merged.state_dict()) == list(WhisperEncoder(TOY).state_dict())


def test_peft_adapters_of_convolutions(model, mel):
    """transformers' encoder does not support them: it reads `conv1.stride`, which adapters lack."""
    peft = pytest.importorskip("peft")
    before = model(mel)[0]
    config = peft.LoraConfig(r=3, target_modules=["conv1", "conv2"], init_lora_weights=False)
    ours = peft.get_peft_model(model, config).double()
    out = ours(mel)[0]
    assert error(out, before) > 0.01
    assert error(ours.merge_and_unload()(mel)[0], out) <= FLOAT64


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch recommends torchao
def test_dynamic_quantisation(model, mel):
    model, mel = model.float(), mel.float()
    other = peer(model)
    with torch.no_grad():
        exact = other(mel)[0]
        ours, expected = (
            torch.ao.quantization.quantize_dynamic(m, {nn.Linear}, torch.qint8)(mel)[0]
            for m in (model, other)
        )
    # A float32 rounding can move the few values that are close to a tie to the next integer.
    assert error(ours, expected) <= 0.1 * error(expected, exact)


@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_offloaded_by_accelerate(model, mel, where, tmp_path):
    accelerate = pytest.importorskip("accelerate")
    model, mel = model.float(), mel.float()
    expected = model(mel)[0]
    if where == "cpu":
        accelerate.cpu_offload(model)
    else:
        accelerate.disk_offload(model, tmp_path)
    assert model.blocks[0].attn.q.weight.device.type == "meta"
    for given in (mel, mel.numpy()):
        with torch.no_grad():
            assert error(model(given)[0], expected) <= DISTANCE_BOUND[torch.float32]
            stages = encoder.trace(model, given)
        assert error(stages["ln_post"], expected) <= DISTANCE_BOUND[torch.float32]


class Weight(torch.Tensor):
    """A tensor subclass, as libraries use for quantised or sharded weights."""


# Warnings about a function that is not used for a part


@pytest.mark.parametrize(
    ("slot", "name"),
    [
        ("conv1d", "conv2"),
        ("layer_norm", "blocks.0.mlp_ln"),
        ("linear", "blocks.2.attn.out"),
        ("linear", "blocks.2.attn.q"),
        ("qkv", "blocks.0.attn.k"),
        ("mlp", "blocks.1.mlp.fc2"),
    ],
)
def test_warns_if_a_function_is_not_used_for_a_part(model, mel, slot, name):
    called = []

    def spy(x, *args, **kwargs):
        called.append(args[0])
        return getattr(ops, slot)(x, *args, **kwargs)

    part, expected = model.get_submodule(name), model(mel)[0]
    # The first weight that the slot's function gets for this part.
    first = {"qkv": "blocks.0.attn.q", "mlp": "blocks.1.mlp.fc1"}.get(slot, name)
    weight = model.get_submodule(first).weight
    with ops.using(**{slot: spy}):
        model(mel)
        assert any(given is weight for given in called)
        called.clear()
        part.register_forward_hook(lambda *_: None)
        with pytest.warns(UserWarning, match=f"in the slot {slot} is not used for a part"):
            assert error(model(mel)[0], expected) <= FLOAT64
    assert called, "the function is still used for the other parts"
    assert not any(given is weight for given in called)


def test_weights_of_a_tensor_subclass(model, mel):
    weight = model.blocks[0].attn.out.weight
    model.blocks[0].attn.out.weight = nn.Parameter(weight.detach().as_subclass(Weight))
    spy = {"linear": lambda *args: ops.linear(*args)}
    with ops.using(**spy), pytest.warns(UserWarning, match="slot linear"):
        model(mel)


@pytest.mark.filterwarnings("error")
def test_no_warning_with_our_functions(model, mel):
    model(mel)
    spies = {s: lambda *a, s=s, **kw: getattr(ops, s)(*a, **kw) for s in vars(ops.OURS)}
    with ops.using(**spies):
        model(mel)
    model.blocks[0].attn.q.register_forward_hook(lambda *_: None)
    model(mel)


@pytest.mark.parametrize("change", [None, forward_hook, another_module, parametrization])
def test_compiled_in_one_piece(model, mel, change):
    torch.compiler.reset()
    for name in PARTS if change else []:
        change(model, name)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert error(compiled(mel)[0], model(mel)[0]) <= FLOAT64
    if change:
        with ops.using(mlp=lambda x, *_: x), pytest.warns(UserWarning, match="slot mlp"):
            assert error(compiled(mel)[0], model(mel)[0]) <= FLOAT64


def test_pickled_and_copied_models_are_plain(model, mel):
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert other(mel)[0].equal(model(mel)[0])
        assert parts.plain(nn.Linear, other.blocks[0].mlp.fc1, other.blocks[0].mlp.fc2)
