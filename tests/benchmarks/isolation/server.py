"""A server that computes a layer norm for others: python server.py tcp|socket|file FOLDER.

It says where it is in FOLDER/server, and in FOLDER/asked how often it has been asked.
"""

import mmap
import socket
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

KIND, FOLDER = sys.argv[1], Path(sys.argv[2])
N, S = 1500 * 384, 384
torch.set_num_threads(1)


def answer(x, weight, bias):
    with open(FOLDER / "asked", "a") as asked:
        asked.write("x")
    return F.layer_norm(x.view(1, 1500, S), (S,), weight, bias)


def by_socket(listener):
    while True:
        link, _ = listener.accept()
        numbers = torch.empty(N + 2 * S)
        while True:
            place = memoryview(numbers.numpy()).cast("B")
            while place and (got := link.recv_into(place)):
                place = place[got:]
            if place:
                break
            link.sendall(answer(*numbers.split([N, S, S])).numpy().data)


def by_file():
    with open(FOLDER / "questions", "w+b") as file:
        file.truncate(4096 + 4 * (2 * N + 2 * S))
        memory = mmap.mmap(file.fileno(), 0)
    turn = torch.frombuffer(memory, dtype=torch.int32, count=1)
    question, w, b, out = torch.frombuffer(memory, dtype=torch.float32, offset=4096).split(
        [N, S, S, N]
    )
    (FOLDER / "server").write_text("file")
    while True:
        time.sleep(5e-4)
        if memory[0] == 1:
            out.copy_(answer(question, w, b).flatten())
            turn[0] = 2


if KIND == "file":
    by_file()
if KIND == "tcp":
    listener = socket.create_server(("127.0.0.1", 0))
    address = str(listener.getsockname()[1])
else:
    listener = socket.socket(socket.AF_UNIX)
    address = str(FOLDER / "socket")
    listener.bind(address)
listener.listen()
(FOLDER / "server").write_text(address)
by_socket(listener)
