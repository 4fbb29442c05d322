"""The floor of the fan-out: the same files by `tar` over plain TCP from node to node, unchecked, then `sync`.

Runs on a node: raw_chain.py FOLDER ADDRESS [NEXT_ADDRESS NEXT_PORT]; prints its port, later "done".
"""

import socket
import subprocess
import sys

CHUNK = 1 << 20

folder, address, *following = sys.argv[1:]
subprocess.run(["mkdir", "-p", folder], check=True)
with socket.create_server((address, 0)) as door:
    print(door.getsockname()[1], flush=True)
    source, _ = door.accept()
onward = socket.create_connection((following[0], int(following[1]))) if following else None
with subprocess.Popen(["tar", "-xf", "-", "-C", folder], stdin=subprocess.PIPE, bufsize=0) as tar:
    view = memoryview(bytearray(CHUNK))
    while count := source.recv_into(view):
        if onward is not None:
            onward.sendall(view[:count])
        left = view[:count]
        while left:
            left = left[tar.stdin.write(left) :]
    tar.stdin.close()
if onward is not None:
    onward.shutdown(socket.SHUT_WR)
subprocess.run(["sync"], check=True)
print("done", flush=True)
