"""Makes sample.flac, the clip that every command uses when none is given.

    python -m melfront.reference_data.make_sample

129,600 samples, 16 kHz, mono, 16 bit: 8.1 s, 810 frames. It begins and ends inside a vowel, at
full voice. A clip that begins with silence cannot tell a reflected edge from one padded with zeros.

The text is ours and falls under this repository's licence (MIT). The speech is synthesised by
eSpeak NG's own formant voice from rules, with no recorded human speech in it; the program is GPL,
a licence that does not extend to the program's output.

Needs the program espeak-ng (the committed clip: 1.51). Another version may speak a little
differently; the reference tensors belong to the committed clip, so make them anew after this.
"""

import io
import shutil
import subprocess
import sys

import numpy as np

from melfront.audio import SAMPLE
from melfront.command import Parser, UsageError, exit_status, replacing, scratch_folder
from melfront.conventions import SAMPLE_RATE

COMMAND = "python -m melfront.reference_data.make_sample"
N_SAMPLES = 129_600
START = 19_475  # samples: both ends fall on a loud period of a vowel
PEAK = 0.7

TEXT = (
    "Each short window turns into a column of colour, low tones below, high tones above. "
    "Row by row and column by column, a picture of the voice is growing."
)
ESPEAK = ["espeak-ng", "-v", "en", "-s", "165", "-p", "45", "-g", "1"]


def run(arguments: list[str] | None) -> None:
    parser = Parser(
        prog=COMMAND,
        description="Write sample.flac anew, in place of the committed clip.",
        epilog=f"example: {COMMAND}",
    )
    parser.parse_args(arguments)
    if shutil.which(ESPEAK[0]) is None:
        raise UsageError(f"the program {ESPEAK[0]} is not installed; install it")
    import soundfile
    import soxr

    with scratch_folder() as folder:
        spoken = folder / "spoken.wav"
        subprocess.run([*ESPEAK, "-w", str(spoken), TEXT], check=True)
        speech, rate = soundfile.read(spoken, dtype="float64")  # mono, 22,050 Hz

    clip = soxr.resample(speech, rate, SAMPLE_RATE, quality="VHQ")[START : START + N_SAMPLES]
    clip *= PEAK / np.abs(clip).max()

    assert clip.shape == (N_SAMPLES,), f"{clip.shape[0]} samples: the text came out too short"
    for edge in (clip[:400], clip[-400:]):
        assert np.sqrt(np.mean(edge**2)) > 0.05, "an edge is quiet: choose another START"

    # To memory first: of a full disk libsndfile says no more than "system error".
    flac = io.BytesIO()
    soundfile.write(flac, clip, SAMPLE_RATE, subtype="PCM_16", format="FLAC")
    with replacing(SAMPLE) as target:
        target.write_bytes(flac.getbuffer())


def main(arguments: list[str] | None = None) -> int:
    return exit_status(COMMAND, lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
