"""The front end and the encoder as one file that other runtimes load: ONNX, or torch.export's pt2.

`melfront encoder export` is the command: `cli.py`. `graph.py` says what is exported, `front_end.py`
is the front end in operations that every runtime computes right, `write.py` writes the file.
"""
