"""A new field, its line of code and its mistake do not change which mistakes are named."""

from dataclasses import dataclass

from melfront import parity, variants
from melfront.conventions import CONVENTIONS, Convention, at
from melfront.parity import mistakes
from melfront.parity.signals import SIGNALS
from melfront.parity.stages import Stage


@dataclass(frozen=True)
class WithGain(Convention):
    mel_gain: float = at("mel", 1.0)


def named(entry) -> list[str]:
    """The mistakes that `compare` names for the features of a port with this mistake."""
    clip = SIGNALS["speech"]
    convention = entry.convention(CONVENTIONS["transformers"])
    mine = variants.log_mel(clip.make(), n_mels=80, convention=convention, pad_to=clip.pad_to)
    report = parity.compare(
        {"features": mine.astype("f4")}, audio=clip.make(), n_mels=80, pad_to=clip.pad_to
    )
    return [named.name for named in report.diagnosis.named] if report.diagnosis else []


def test_a_new_field(monkeypatch):
    before = {entry: named(entry) for entry in mistakes.FRONT_END[::12]}
    mel = variants.mel
    monkeypatch.setattr(variants, "mel", lambda x, c, n_mels: mel(x, c, n_mels) * c.mel_gain)
    monkeypatch.setitem(CONVENTIONS, "transformers", WithGain())
    gain = mistakes.FrontEndMistake("mel gain", Stage("mel"), (("mel_gain", 3.0),), "")
    # Insert it at the end of its stage: the mistakes of later stages share its result.
    place = next(i for i, entry in enumerate(mistakes.FRONT_END) if entry.stage == "log")
    mistakes.FRONT_END.insert(place, gain)
    try:
        assert {entry: named(entry) for entry in before} == before
        assert named(gain) == ["mel gain"]
    finally:
        mistakes.FRONT_END.remove(gain)
