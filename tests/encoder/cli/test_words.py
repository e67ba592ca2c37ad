"""Words with their times, from the files that people have."""

import json

import pytest

from melfront.encoder.command.words import Word, read

EXPECTED = [Word(0.0, 0.5, "And"), Word(0.5, 1.25, 'so "my"')]
PAIRS = [{"word": f" {text}", "start": start, "end": end} for start, end, text in EXPECTED]
CHUNKS = [{"text": f" {text}", "timestamp": [start, end]} for start, end, text in EXPECTED]
LONG = '''File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 1.5
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 1.5
        intervals: size = 1
        intervals [1]:
            xmin = 0
            xmax = 1.5
            text = "AE"
    item [2]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 1.5
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 0.5
            text = "And"
        intervals [2]:
            xmin = 0.5
            xmax = 1.25
            text = "so ""my"""
        intervals [3]:
            xmin = 1.25
            xmax = 1.5
            text = ""
'''
SHORT = '''File type = "ooTextFile"
"TextGrid"

0
1.5
<exists>
1
"IntervalTier"
"words"
0
1.5
2
0
0.5
"And"
0.5
1.25
"so ""my"""
'''
FILES = {
    "openai": json.dumps({"text": "", "segments": [{"words": PAIRS[:1]}, {"words": PAIRS[1:]}]}),
    "transformers": json.dumps({"text": "", "chunks": CHUNKS}),
    "list": json.dumps(PAIRS[::-1]),
    "words": json.dumps({"words": PAIRS}),
    "long TextGrid": LONG,
    "short TextGrid": SHORT,
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", FILES)
def test_forms(tmp_path, name, encoding):
    file = tmp_path / "words"
    file.write_text(FILES[name], encoding=encoding)
    assert read(file) == EXPECTED


WRONG = {
    "empty": "",
    "text": "And so my",
    "a number": "3",
    "no times": json.dumps({"text": "And so", "segments": [{"text": "And so"}]}),
    "no end": json.dumps({"chunks": [{"text": "And", "timestamp": [0.0, None]}]}),
    "before the start": json.dumps([{"word": "And", "start": 2.0, "end": 1.0}]),
    "nested": "[" * 100_000,
    "no tier": 'File type = "ooTextFile"\n',
}


@pytest.mark.parametrize("name", WRONG)
def test_no_words(tmp_path, name):
    file = tmp_path / "words"
    file.write_text(WRONG[name])
    with pytest.raises(ValueError, match="no words with times in it"):
        read(file)


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "words").write_bytes(b"\xff\xff\x00\x01")
    with pytest.raises(ValueError, match="no words with times in it"):
        read(tmp_path / "words")
