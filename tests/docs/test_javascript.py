"""web/melfront.js in Node, as web/README.md says, checked by the command that checks any port."""

import shutil
import subprocess

import pytest

from melfront.parity.__main__ import main
from tests.conftest import CHECKOUT
from tests.signals import sample

PORT = """
import fs from "node:fs";
import { logMel } from "%s";

const bytes = fs.readFileSync("sample.f32");
const samples = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
const { data, shape } = logMel(samples, %s);
fs.writeFileSync("features.f32", data);
console.log(shape.join(" "));
"""


@pytest.mark.skipif(not shutil.which("node"), reason="no node: apt-get install nodejs (Debian)")
@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        ("{ nMels: 80 }", 0, "PASS"),
        ("{}", 0, "PASS"),
        ("{ nMels: 80, periodic: false }", 1, "symmetric window"),
    ],
)
def test_port_in_node(options, status, said, tmp_path, capsys):
    sample().tofile(tmp_path / "sample.f32")
    module = (CHECKOUT / "web" / "melfront.js").as_uri()
    done = subprocess.run(
        ["node", "--input-type=module", "-e", PORT % (module, options)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    n_mels = "80" if "80" in options else "128"
    assert (done.stdout, done.stderr) == (f"{n_mels} 3000\n", "")
    arguments = ["compare", str(tmp_path / "features.f32"), "--n-mels", n_mels]
    assert main(arguments) == status
    assert said in capsys.readouterr().out
