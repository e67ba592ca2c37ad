"""Compare every correct port with the committed files, and print the noise as JSON.

python -m tests.reference_data.right_ports    # with the environment variables of a setting
"""

import json

import torch
import whisper

from melfront.encoder.built_in import TOY, TOYS
from melfront.parity import compare, signals, stages
from melfront.parity.noise import MISSING
from melfront.parity.pipeline import load_model
from melfront.parity.resolve import of_signal
from melfront.reference_data import make
from tests.parity import ports


def openai(x, length, n_mels):
    return whisper.log_mel_spectrogram(ports.padded(x, length), n_mels).numpy()


NAMES = ("ours_numpy", "ours_torch", "transformers_torch", "transformers_numpy", "einsum")
FEATURES = {name: ports.FRONT_ENDS[name] for name in NAMES} | {"openai": openai}


def reports():
    """Yield (file, port, report)."""
    for n_mels in make.N_MELS:
        for name in (*signals.SHORT, "sample"):
            path = make.HERE / "frontend" / f"{name}.{n_mels}.safetensors"
            pipeline = of_signal(name, n_mels)
            if name == "sample":
                features = pipeline.right_port(["features"], "float32")["features"]
                yield path, "all stages", compare({"features": features[:, :816]}, path)
                continue
            whole = pipeline.right_port([*stages.FRONT_END], "float32")
            yield path, "all stages", compare(whole, path)
            if name != "batch":
                clip, length = signals.load(name), pipeline.length
                for title, port in FEATURES.items():
                    features = port(clip, length, n_mels)
                    yield path, title, compare({"features": features}, path)
    for name in TOYS:
        path = make.HERE / "encoder" / f"{name}.safetensors"
        model = load_model(f"formula:{name}")
        pipeline = of_signal("toy", TOY.n_mels, model)
        names = [*stages.FRONT_END, *stages.of_encoder(TOY.n_audio_layer)]
        yield path, "all stages", compare(pipeline.right_port(names, "float32"), path)
        mel = torch.from_numpy(pipeline.front_end_truth["features"]).float()[None]
        for title, port in ports.ENCODERS.items():
            yield path, title, compare({"ln_post": port(model, mel)[0]}, path)


def noises(report):
    return {stage.name: stage.noise for stage in report.stages if stage.verdict != MISSING}


def main() -> None:
    torch.set_num_threads(1)
    noise = {f"{path.name}, {title}": noises(report) for path, title, report in reports()}
    print(json.dumps(noise))


if __name__ == "__main__":
    main()
