"""Whisper's encoder inside other models: found, read, and the same as transformers' own class."""

import json
import logging

import numpy as np
import pytest
import torch
import transformers
from torch.nn.functional import avg_pool1d

from melfront.encoder import SIZES, EncoderConfig, WhisperEncoder, oracle, trace
from melfront.encoder.checkpoint import hf_name, load
from tests.encoder.checkpoint.checkpoints import (
    LANGUAGE,
    NARROW,
    assert_same,
    make,
    refuses,
    under,
    write,
)
from tests.encoder.cli.commands import process
from tests.encoder.peers import TOY, assert_equal_to_rounding, features

TEXT = {
    "vocab_size": 23, "hidden_size": 12, "intermediate_size": 14, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 6,
}  # fmt: skip


def of_transformers(name):
    """A class of transformers; an older one may lack it."""
    if not hasattr(transformers, name):
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    return getattr(transformers, name)


def audio_config(kind):
    """TOY in the names of Whisper, or of Voxtral."""
    sizes = TOY.to_hf()
    if kind.startswith("qwen"):
        return {key: value for key, value in sizes.items() if "decoder" not in key} | {
            "model_type": kind
        }
    return {
        "model_type": kind,
        "activation_function": "gelu",
        "num_mel_bins": TOY.n_mels,
        "max_source_positions": TOY.n_audio_ctx,
        "hidden_size": TOY.n_audio_state,
        "num_attention_heads": TOY.n_audio_head,
        "num_hidden_layers": TOY.n_audio_layer,
        "intermediate_size": TOY.n_audio_mlp,
    }


def multimodal(name, audio, text):
    def build():
        of_transformers(f"{name}ForConditionalGeneration")
        config = of_transformers(f"{name}Config")(
            audio_config=audio_config(audio), text_config={"model_type": text, **TEXT}
        )
        model = of_transformers(f"{name}ForConditionalGeneration")(config)
        return model, getattr(model, "model", model).audio_tower

    return build


def whisper(name):
    def build():
        config = transformers.WhisperConfig(
            **TOY.to_hf(), vocab_size=50_300, use_weighted_layer_sum=True
        )
        model = getattr(transformers, name)(config)
        return model, getattr(model, "model", model).encoder

    return build


def alone(build):
    """The tower itself, saved without the model around it."""

    def tower():
        return (build()[1],) * 2

    return tower


MODELS = {
    "qwen2_audio": multimodal("Qwen2Audio", "qwen2_audio_encoder", "qwen2"),
    "voxtral": multimodal("Voxtral", "voxtral_encoder", "llama"),
    "audioflamingo3": multimodal("AudioFlamingo3", "audioflamingo3_encoder", "qwen2"),
    "musicflamingo": multimodal("MusicFlamingo", "musicflamingo_encoder", "qwen2"),
    "moss": multimodal("MossTranscribeDiarize", "moss_transcribe_diarize_audio", "qwen3"),
    "whisper": whisper("WhisperForConditionalGeneration"),
    "classifier": whisper("WhisperForAudioClassification"),
}
MODELS |= {
    f"{name} alone": alone(MODELS[name])
    for name in ("qwen2_audio", "voxtral", "audioflamingo3", "moss", "whisper")
}
POOL = "the mean of every 2 positions before layer_norm, the mask of padding"
STACK = "the stacking of 4 positions"
LEFT_OUT = {
    "qwen2_audio": [POOL, "multi_modal_projector (2 tensors)", "language_model ("],
    "voxtral": [STACK, "multi_modal_projector (2 tensors)", "language_model ("],
    "audioflamingo3": [POOL, "multi_modal_projector (4 tensors)", "language_model ("],
    "musicflamingo": [POOL, "multi_modal_projector (4 tensors)", "language_model ("],
    "moss": [STACK, "multi_modal_projector (6 tensors)", "language_model ("],
    "qwen2_audio alone": [POOL],
    "voxtral alone": [STACK],
    "audioflamingo3 alone": [POOL],
    "moss alone": [STACK],
}


def halved(x):
    """The mean of every two positions: (B, T, S) -> (B, T // 2, S)."""
    return avg_pool1d(x.transpose(1, 2), 2).transpose(1, 2)


def their_stages(tower, mel):
    """The input of the first block, the output of each, and the tower's own output."""
    stages = []

    def before(_layer, args, given):
        stages.append(args[0] if args else given["hidden_states"])

    def after(_layer, _args, out):
        stages.append(out[0] if isinstance(out, tuple) else out)

    tower.layers[0].register_forward_pre_hook(before, with_kwargs=True)
    for layer in tower.layers:
        layer.register_forward_hook(after)
    mask = {}
    if "Flamingo" in type(tower).__name__:
        mask = {"input_features_mask": torch.ones(len(mel), mel.shape[-1], dtype=torch.long)}
    with torch.inference_mode():
        stages.append(tower(mel, **mask).last_hidden_state)
    return [x.double().numpy() for x in stages]


def our_stages(model, mel, pooled):
    """The same stages of ours. What Whisper does not have is left to the caller, as here."""
    stages = trace(model, mel)
    names = ["positions", *(f"block.{i}.mlp_residual" for i in range(len(model.blocks)))]
    last = stages["ln_post"]
    if pooled:
        with torch.inference_mode():
            last = model.ln_post(halved(stages[names[-1]]))
    return [x.double().numpy() for x in (*(stages[name] for name in names), last)]


def true_stages(model, mel, pooled):
    clips = [oracle.trace(clip, model.state_dict(), model.config) for clip in mel]
    names = ["positions", *(f"block.{i}.mlp_residual" for i in range(len(model.blocks)))]
    last = np.stack([clip["ln_post"] for clip in clips])
    if pooled:
        residual = torch.from_numpy(np.stack([clip[names[-1]] for clip in clips]))
        weight, bias = (x.detach().double().numpy() for x in model.ln_post.parameters())
        last = oracle.layer_norm(halved(residual).numpy(), weight, bias)
    return [*(np.stack([clip[name] for clip in clips]) for name in names), last]


@pytest.mark.numeric
@pytest.mark.parametrize("name", MODELS)
def test_every_stage_of_transformers_towers(tmp_path, caplog, name):
    """The tower of a model saved by transformers: read by us, compared with transformers' class."""
    model, tower = MODELS[name]()
    weights = WhisperEncoder.from_formula(TOY).state_dict()  # large biases, no norm of one
    tower.load_state_dict({hf_name(ours): tensor for ours, tensor in weights.items()})
    model.save_pretrained(tmp_path)

    with caplog.at_level(logging.WARNING, "melfront"):
        ours = WhisperEncoder.from_pretrained(tmp_path)
    assert ours.config == TOY
    assert_same(ours.state_dict(), weights)
    said = [record.getMessage() for record in caplog.records if "melfront" in record.name]
    assert len(said) == (name in LEFT_OUT)
    for text in LEFT_OUT.get(name, []):
        assert text in said[0].partition("; left out: ")[2]

    mel = torch.from_numpy(features(TOY, batch=3))
    pooled = POOL in LEFT_OUT.get(name, [])
    stages = our_stages(ours, mel, pooled), their_stages(tower.eval(), mel)
    assert_equal_to_rounding(*stages, true_stages(ours, mel, pooled))


def test_the_command_says_what_is_left_out_in_one_line(tmp_path, clip):
    folder = tmp_path / "voxtral"
    tensors = under("audio_tower.", WhisperEncoder.from_formula(TOY).state_dict()) | LANGUAGE
    write(folder / "model.safetensors", tensors)
    about = {"model_type": "voxtral", "audio_config": audio_config("voxtral_encoder")}
    (folder / "config.json").write_text(json.dumps(about))
    done, _ = process(tmp_path, "-m", "melfront.encoder", str(clip), "--model", str(folder))
    assert done.returncode == 0
    assert done.stderr == (
        f"{folder}/model.safetensors: read audio_tower.* of voxtral; left out: {STACK}, "
        "language_model (1 tensor)\n"
    )


# --- what looks like Whisper's encoder, and is not ------------------------------------------------


def test_qwen_omni_attends_within_windows(tmp_path):
    """Positions restart every 2 s, no position sees another window's, and a projection follows."""
    sizes = audio_config("qwen2_5_omni_audio_encoder")
    config = of_transformers("Qwen2_5OmniThinkerConfig")(
        audio_config=sizes | {"output_dim": 12},
        text_config={key: x for key, x in TEXT.items() if key != "head_dim"},
        vision_config={
            "depth": 1, "hidden_size": 16, "intermediate_size": 12, "num_heads": 2,
            "out_hidden_size": 12,
        },
    )  # fmt: skip
    of_transformers("Qwen2_5OmniThinkerForConditionalGeneration")(config).save_pretrained(tmp_path)
    about = json.loads((tmp_path / "config.json").read_text())
    refuses(tmp_path, "config.json: n_window is set: the encoder of this qwen2_5_omni_thinker ")
    (tmp_path / "config.json").write_text(json.dumps({"thinker_config": about}))
    refuses(tmp_path, "config.json: n_window is set")
    refuses(
        tmp_path,
        "3 missing: audio_tower.embed_positions.weight (11, 26), audio_tower.layer_norm.weight",
        "5 left over: ",
        "audio_tower.proj.weight",
        config=TOY,
    )


def test_glm_asr_has_rotary_positions(tmp_path):
    sizes = audio_config("glmasr_encoder") | {"intermediate_size": 104}
    del sizes["activation_function"]
    config = of_transformers("GlmAsrConfig")(
        audio_config=sizes,
        text_config={"model_type": "llama", **TEXT},
    )
    of_transformers("GlmAsrForConditionalGeneration")(config).save_pretrained(tmp_path)
    refuses(tmp_path, "config.json: model_type is 'glmasr_encoder', expected 'whisper'")
    refuses(tmp_path, "missing: audio_tower.embed_positions.weight", "left over: ", config=TOY)


def test_voxtral_realtime_is_causal(tmp_path):
    config = of_transformers("VoxtralRealtimeEncoderConfig")(
        hidden_size=26, intermediate_size=17, num_hidden_layers=3, num_attention_heads=2,
        num_mel_bins=7, head_dim=14,
    )  # fmt: skip
    of_transformers("VoxtralRealtimeEncoder")(config).save_pretrained(tmp_path)
    refuses(tmp_path, "config.json: model_type is 'voxtral_realtime_encoder', expected 'whisper'")
    refuses(tmp_path, "missing: conv1.weight ", config=TOY)


# --- config.json --------------------------------------------------------------------------------


def test_ultravox(tmp_path, caplog):
    """Ultravox names the Whisper that it began with, or describes it."""
    about = {"model_type": "ultravox", "hidden_size": 4096, "stack_factor": 8}
    named = about | {"audio_model_id": "openai/whisper-large-v3-turbo"}
    assert EncoderConfig.from_hf(named) == SIZES["turbo"]
    assert EncoderConfig.from_hf(about | {"audio_config": NARROW.to_hf()}) == NARROW
    with pytest.raises(ValueError, match=r"audio_latency_block_size is set: .* attends within"):
        EncoderConfig.from_hf(named | {"audio_latency_block_size": 100})
    with pytest.raises(ValueError, match="model_type is 'ultravox', expected 'whisper'"):
        EncoderConfig.from_hf(about | {"audio_model_id": "facebook/wav2vec2-base"})
    write(tmp_path / "model.safetensors", under("audio_tower.", make()) | LANGUAGE)
    (tmp_path / "config.json").write_text(json.dumps(about | {"audio_config": NARROW.to_hf()}))
    assert_same(load(tmp_path)[1], make())
    assert "audio_tower.* of ultravox; left out: the mask of padding, " in caplog.text


def test_audio_config(tmp_path):
    """Found at any depth; its activation has to be stated and be GELU; it has to fit."""
    audio = audio_config("some_encoder")
    inside = {"model_type": "some_model", "audio_config": audio}
    for about in (inside, {"model_type": "some", "thinker_config": inside}):
        assert EncoderConfig.from_hf(about) == TOY
    for change, text in (
        ({"activation_function": "gelu_new"}, "activation_function is 'gelu_new', expected 'gelu'"),
        ({"activation_function": None}, "activation_function is None"),
        ({"num_hidden_layers": "3"}, "n_audio_layer is '3'"),
        ({"n_window": 50}, "n_window is set: the encoder of this some_model attends within"),
    ):
        with pytest.raises(ValueError, match=text):
            EncoderConfig.from_hf(inside | {"audio_config": audio | change})
    for name in ("activation_function", "hidden_size"):
        with pytest.raises(ValueError, match=r"^model_type is 'some_encoder'|^no d_model: "):
            EncoderConfig.from_hf(
                inside | {"audio_config": {k: x for k, x in audio.items() if k != name}}
            )
    path = write(tmp_path / "model.safetensors", under("audio_tower.", make(TOY)) | LANGUAGE)
    about = inside | {"audio_config": audio | {"num_hidden_layers": 2}}
    (tmp_path / "config.json").write_text(json.dumps(about))
    refuses(path, "15 left over: audio_tower.layers.2.")


def test_hostile_audio_config(tmp_path):
    path = write(tmp_path / "model.safetensors", under("audio_tower.", make()))
    for junk in (None, [], "x", 5, {}, {"audio_config": {}}, {"model_type": []}):
        (tmp_path / "config.json").write_text(json.dumps({"audio_config": junk}))
        refuses(path, "config.json: model_type is ", ", expected 'whisper'")
    text = '{"audio_config": ' * 900 + "{}" + "}" * 900
    (tmp_path / "config.json").write_text(text)
    refuses(path, "config.json: model_type is None")
