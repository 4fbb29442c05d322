"""Who gets through a node's firewall, asked of the kernel; run as root in a network namespace of its own.

Usage: firewall_probe.py RULES GUARDED DOOR FREE POSED. On POSED, a guarded port, another user listens. The
node has a bridge with a member and a stranger on it, each in a namespace that ends with this script. Prints
`WHEN WHO ADDRESS PORT USER ANSWER` for every question, once without the rules and once with them.
"""

import socket
import subprocess
import sys
import threading

RULES, (GUARDED, DOOR, FREE, POSED) = sys.argv[1], map(int, sys.argv[2:6])
SSH, NOBODY = 22, 65534
ASK = """
import encodings.idna, os, socket, sys  # all of it now: another user may not read Python's files
if sys.argv[3] != "0":
    os.setgid(int(sys.argv[3])); os.setuid(int(sys.argv[3]))
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=1.5) as connection:
        connection.settimeout(1.5)
        print("answered" if connection.recv(9) == b"hello" else "odd")
except ConnectionRefusedError:
    print("refused")
except TimeoutError:
    print("silence")
"""


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=30)


def neighbour(name: str, last: str) -> "subprocess.Popen[bytes]":
    """Return a process whose network is another machine's on the bridge; it ends when its input does."""
    child = subprocess.Popen(
        ["unshare", "-n", "sh", "-c", "echo up; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout and child.stdout.readline() == b"up\n"
    inside = ("nsenter", "-t", str(child.pid), "-n")
    run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(child.pid))
    run("ip", "link", "set", name, "master", "br0", "up")
    run(*inside, "ip", "link", "set", "eth0", "up")
    run(*inside, "ip", "address", "add", f"192.168.1.{last}/24", "dev", "eth0")
    run(*inside, "ip", "address", "add", f"fd00::{last}/64", "dev", "eth0", "nodad")
    return child


def listen(address: str, port: int) -> None:
    server = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    server.bind((address, port))
    server.listen(64)

    def answer() -> None:
        while True:
            peer, _ = server.accept()
            peer.sendall(b"hello")
            peer.close()

    threading.Thread(target=answer, daemon=True).start()


def poses() -> "subprocess.Popen[bytes]":
    """Start another user's program in the place of a daemon that is down."""
    script = f"""
import os, socket, sys, threading
os.setgid({NOBODY}); os.setuid({NOBODY})
def listen(server):
    while True:
        peer, _ = server.accept()
        peer.sendall(b"hello")
        peer.close()
for address in ("192.168.1.11", "fd00::11"):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = socket.create_server((address, {POSED}), family=family)
    threading.Thread(target=listen, args=(server,), daemon=True).start()
print("up", flush=True)
sys.stdin.read()
"""
    child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout and child.stdout.readline() == b"up\n"
    return child


def main() -> None:
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "br0", "type", "bridge")
    run("ip", "link", "set", "br0", "up")
    run("ip", "address", "add", "192.168.1.11/24", "dev", "br0")
    run("ip", "address", "add", "fd00::11/64", "dev", "br0", "nodad")
    others = {"member": neighbour("member", "12"), "stranger": neighbour("stranger", "99")}
    addresses = ("192.168.1.11", "fd00::11")
    for port in (GUARDED, FREE, SSH):
        for address in addresses:
            listen(address, port)
    listen("127.0.0.1", DOOR)
    others["poser"] = poses()
    questions = [
        (who, address, port, user)
        for who, user in (("member", 0), ("stranger", 0), ("node", 0), ("node", NOBODY))
        for address in addresses
        for port in (GUARDED, FREE, SSH)
    ]
    questions += [("node", "127.0.0.1", DOOR, user) for user in (0, NOBODY)]
    questions += [("member", address, POSED, 0) for address in addresses]
    for when in ("stock", "guarded"):
        for who, address, port, user in questions:
            at = ["nsenter", "-t", str(others[who].pid), "-n"] if who in others else []
            command = [*at, sys.executable, "-c", ASK, address, str(port), str(user)]
            answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=30)
            print(when, who, address, port, user, answer.stdout.strip())
        run("nft", "-f", RULES)
    for child in others.values():
        child.communicate(timeout=30)


main()
