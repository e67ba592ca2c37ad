"""Our encoder in transformers' models: training, adapters, offloading, and functions of yours."""

import copy

import numpy as np
import pytest
import torch
from transformers import WhisperForConditionalGeneration, WhisperModel

import melfront
from melfront import encoder
from melfront.encoder import ops
from tests.encoder.libraries.test_hugging_face import (
    FLOAT64,
    SIZES,
    assert_close,
    features,
    is_ours,
    pair,
)

peft = pytest.importorskip("peft")
LORA = {"r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"]}
LABELS = torch.tensor([[5, 7, 3, 2], [8, 4, 2, -100]])


def gradients(model, mel, seed=1, **options):
    """Of the loss, by the features and every parameter that has one."""
    torch.manual_seed(seed)
    model.zero_grad()
    mel = mel.clone().requires_grad_()
    loss = model(mel, labels=LABELS, **options).loss
    loss.backward()
    return {"loss": loss.detach(), "mel": mel.grad} | {
        name: p.grad for name, p in model.named_parameters() if p.grad is not None
    }


def assert_same(ours, theirs, bound=FLOAT64):
    assert list(ours) == list(theirs)
    for name in theirs:
        assert_close(ours[name], theirs[name], bound)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("train", [True, False])
def test_gradients(attention, train):
    theirs, ours = pair(attn_implementation=attention)
    expected = gradients(theirs.train(train), features())
    assert "model.encoder.embed_positions.weight" not in expected, "frozen in a new model"
    assert len([name for name in expected if ".encoder." in name]) == 4 + 2 * 15 + 2
    assert_same(gradients(ours.train(train), features()), expected)


def test_the_mlp_is_in_one_piece():
    """In pieces, the gradients of its weights would be the sums of several, rounded otherwise."""
    _, ours = pair(max_source_positions=401)
    lengths = []
    with ops.using(gelu=lambda x: lengths.append(x.shape[1]) or ops.gelu(x)):
        gradients(ours.train(), features(n_frames=802))
    assert lengths == [48, 48, 401, 401]  # 48: channels of the stem


def test_gradients_of_the_positions():
    """from_pretrained of transformers leaves them trainable."""
    theirs, ours = pair()
    for model in (theirs, ours):
        model.model.encoder.embed_positions.requires_grad_(True)
    expected = gradients(theirs, features())
    assert "model.encoder.embed_positions.weight" in expected
    assert_same(gradients(ours, features()), expected)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_dropout(attention):
    """All four kinds draw the same numbers in the same order."""
    kinds = ("dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop")
    theirs, ours = pair(attn_implementation=attention, **dict.fromkeys(kinds, 0.2))
    for seed in range(4):  # with layerdrop, some seeds skip a layer
        expected = gradients(theirs.train(), features(), seed)
        assert_same(gradients(ours.train(), features(), seed), expected)
    assert not torch.allclose(expected["loss"], gradients(ours, features(), 9)["loss"])


def test_freeze_encoder():
    _, ours = pair()
    ours.freeze_encoder()
    assert not any(".encoder." in name for name in gradients(ours.train(), features()))


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing(reentrant):
    """Each layer is computed again in backward, with the functions that forward was called with."""
    _, ours = pair()
    expected = gradients(ours.train(), features())
    calls = []

    def layer_norm(x, weight, bias):
        if any(weight is layer.final_layer_norm.weight for layer in ours.model.encoder.layers):
            calls.append(x.shape)
        return ops.layer_norm(x, weight, bias)

    ours.gradient_checkpointing_enable({"use_reentrant": reentrant})
    with ops.using(layer_norm=layer_norm):
        loss = ours(features().requires_grad_(), labels=LABELS).loss
    assert len(calls) == 2
    ours.zero_grad()
    loss.backward()
    assert len(calls) == 4
    assert_same(gradients(ours, features()), expected)
    ours.gradient_checkpointing_disable()
    assert not any(part.gradient_checkpointing for part in ours.model.encoder.layers)


def test_spec_augment():
    options = {"apply_spec_augment": True, "mask_time_prob": 0.3, "mask_feature_prob": 0.3}
    options |= {"mask_time_length": 3, "mask_feature_length": 2}
    outs = []
    for model in pair(WhisperModel, **options):
        np.random.seed(3)  # noqa: NPY002  # transformers draws the mask from it
        ids = torch.ones(2, 3).long()
        outs.append(model.train()(features(), decoder_input_ids=ids).encoder_last_hidden_state)
    assert_close(outs[1], outs[0])
    assert not torch.allclose(outs[1], model.eval().encoder(features())[0]), "nothing was masked"


# PEFT


def lora(model, seed=3):
    """The model with adapters whose second matrix is not zero, as it would be at first."""
    adapted = peft.get_peft_model(model, peft.LoraConfig(**LORA))
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=rng))
    return adapted.double()


@pytest.mark.parametrize("first", ["adapters", "ours"])
def test_lora_adapts_q_and_v(first):
    theirs, ours = pair()
    plain = ours.model.encoder(features())[0]
    if first == "adapters":
        adapted = encoder.for_transformers(lora(copy.deepcopy(theirs)))
    else:
        adapted = lora(ours)
    expected = lora(theirs)
    assert is_ours(adapted.base_model.model)
    names = [name for name, p in adapted.named_parameters() if "lora_" in name]
    assert len([name for name in names if ".encoder.layers." in name]) == 2 * 2 * 2
    assert_same(gradients(adapted.train(), features()), gradients(expected.train(), features()))
    changed = adapted.eval()(features(), labels=LABELS).encoder_last_hidden_state
    assert not torch.allclose(changed, plain)
    merged = adapted.merge_and_unload()
    assert type(merged) is WhisperForConditionalGeneration
    assert_close(merged.model.encoder(features())[0], changed)
    assert_close(changed, expected.merge_and_unload().model.encoder(features())[0])


def ten_steps(model, mel, labels):
    """The losses of ten steps of AdamW on LoRA adapters."""
    torch.manual_seed(1)
    model = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(**LORA)).train()
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    losses = []
    for _ in range(10):
        loss = model(mel.clone(), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses)


def test_ten_steps_of_lora():
    theirs, ours = pair(dtype=torch.float32)
    mel = features(torch.float32)
    expected = ten_steps(theirs, mel, LABELS)
    assert expected[-1] < expected[0] - 0.1, "it learns"
    assert np.abs(ten_steps(ours, mel, LABELS) - expected).max() <= 1e-5


@pytest.mark.slow
def test_ten_steps_of_lora_on_trained_weights(tiny_en, jfk_path):
    theirs = WhisperForConditionalGeneration.from_pretrained(tiny_en, dtype=torch.float32)
    ours = encoder.for_transformers(tiny_en, dtype=torch.float32)
    mel = torch.from_numpy(melfront.log_mel(melfront.load_audio(jfk_path), n_mels=80))[None]
    labels = torch.tensor([[50257, 50362, 843, 523, 616, 5891, 3399, 50256]])
    expected = ten_steps(theirs, mel, labels)
    assert expected[-1] < expected[0] - 0.1, "it learns"
    assert np.abs(ten_steps(ours, mel, labels) - expected).max() <= 1e-5


# Libraries that change modules


@pytest.mark.parametrize("first", ["hooks", "hooks that left", "ours"])
@torch.no_grad()
def test_offloaded_by_accelerate(first):
    """Weights wait elsewhere and come by hooks, which replace the forward of each module."""
    accelerate = pytest.importorskip("accelerate")
    from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_submodules

    theirs, ours = pair(WhisperModel)
    called = []
    if first != "ours":
        ours = copy.deepcopy(theirs)
        for part in ours.modules():
            add_hook_to_module(part, ModelHook())
        if first == "hooks that left":
            remove_hook_from_submodules(ours)
        encoder.for_transformers(ours)
    if first != "hooks":
        accelerate.cpu_offload(ours, execution_device="cpu")
    with ops.using(attention=lambda *args: called.append(1) or ops.attention(*args)):
        assert_close(ours.encoder(features())[0], theirs.encoder(features())[0])
    assert len(called) == 2
    assert encoder.for_transformers(ours) is ours


@pytest.mark.slow
def test_trainer(tmp_path):
    pytest.importorskip("accelerate")
    from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

    theirs, ours = pair(dtype=torch.float32)
    rows = [
        {"input_features": mel, "labels": label}
        for mel, label in zip(features(torch.float32), LABELS, strict=True)
    ]
    losses = []
    for model in (theirs, ours):
        arguments = Seq2SeqTrainingArguments(
            output_dir=tmp_path,
            max_steps=4,
            logging_steps=1,
            save_steps=4,
            gradient_checkpointing=True,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = Seq2SeqTrainer(model, arguments, train_dataset=rows)
        trainer.train()
        losses.append([row["loss"] for row in trainer.state.log_history if "loss" in row])
    assert len(losses[0]) == 4
    assert np.abs(np.subtract(*losses)).max() <= 1e-5
    again = WhisperForConditionalGeneration.from_pretrained(tmp_path / "checkpoint-4")
    for a, b in zip(again.parameters(), ours.parameters(), strict=True):
        assert a.equal(b)


# The functions in use


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_using_takes_effect(attention):
    _, ours = pair(WhisperModel, attn_implementation=attention)
    calls = dict.fromkeys(("conv1d", "gelu", "layer_norm", "linear", "qkv", "attention", "mlp"), 0)

    def spy(slot):
        def call(*args, **options):
            calls[slot] += 1
            return getattr(ops, slot)(*args, **options)

        return call

    with ops.using(**{slot: spy(slot) for slot in calls}):
        ours.encoder(features())
    n = SIZES["encoder_layers"]
    assert calls == {
        "conv1d": 2,
        "gelu": 2 + n,
        "layer_norm": 2 * n + 1,
        "linear": 6 * n,
        "qkv": n,
        "attention": n,
        "mlp": n,
    }


def test_a_function_that_goes_unused_is_said():
    _, ours = pair(WhisperModel, attn_implementation="eager", activation_dropout=0.1)
    spies = {"attention": lambda *a: ops.attention(*a), "mlp": lambda *a: ops.mlp(*a)}
    with ops.using(**spies):
        with pytest.warns(UserWarning, match="slot attention is not used"):
            ours.encoder(features(), output_attentions=True)
        with pytest.warns(UserWarning, match="slot mlp is not used"):
            ours.encoder.train()(features())


@torch.no_grad()
def test_compiled():
    options = {"output_hidden_states": True, "output_attentions": True}
    theirs, ours = (model.encoder for model in pair(WhisperModel, attn_implementation="eager"))
    torch.compiler.reset()
    compiled = torch.compile(ours, backend="eager", fullgraph=True)
    out, expected = compiled(features(), **options), theirs(features(), **options)
    for name in expected:
        for a, b in zip(torch.stack([*out[name]]), torch.stack([*expected[name]]), strict=True):
            assert_close(a, b)
    with ops.using(layer_norm=lambda *args: 2 * ops.layer_norm(*args)):
        doubled = compiled(features(), **options)[0]
        assert_close(doubled, ours(features(), **options)[0])
    assert not torch.allclose(doubled, out[0])
