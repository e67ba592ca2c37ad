"""Every shape comment in the encoder's source matches the actual arrays."""

import torch

from melfront import encoder
from melfront.encoder import WhisperEncoder, formula, model, ops, oracle
from tests import shapes
from tests.encoder.peers import TOY, features

FILES = [module.__file__ for module in (model, ops, oracle, formula)]


def test_every_shape_comment(device):
    mel = features(TOY, batch=3)

    def everything():
        ours = WhisperEncoder.from_formula(TOY, device=device)
        ours(mel)
        WhisperEncoder.from_formula(TOY)(mel)  # a CPU computes the MLP in pieces
        ours(mel[0, :, :13], strict_length=False)
        encoder.trace(ours, mel)
        with ops.using(attention=ops.explicit_attention):
            ours(
                torch.from_numpy(mel).to(device).requires_grad_()
            ).last_hidden_state.sum().backward()
        oracle.encode(mel[0], ours.state_dict(), TOY)

    report = shapes.check(everything, FILES)
    assert not report.wrong, "\n".join(report.wrong)
    assert not report.unchecked, "\n".join(report.unchecked)
    checked = {comment.file for comment in report.checked}
    assert {model.__file__, oracle.__file__} <= checked
    assert sum(comment.file == model.__file__ for comment in report.checked) >= 10
