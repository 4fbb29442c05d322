"""Who reaches sparklyr's gateway on loopback, asked of the kernel; run as root in a namespace of its own.

Usage: gateway_probe.py RULES OWNER PORT... LOGIN.... On each PORT the login OWNER listens; each LOGIN knocks
there. It prints `WHEN LOGIN PORT ANSWER`, first without the rules, then with them. Then the first LOGIN
listens in OWNER's place, and root's question there is printed as `poser root PORT ANSWER`.
"""

import encodings.idna  # noqa: F401  all of it now: another user may not read Python's files
import os
import pwd
import select
import socket
import subprocess
import sys

RULES, OWNER = sys.argv[1:3]
PORTS = [int(word) for word in sys.argv[3:] if word.isdigit()]
LOGINS = [word for word in sys.argv[3:] if not word.isdigit()]


def become(login: str) -> None:
    about = pwd.getpwnam(login)
    os.setgid(about.pw_gid)
    os.setuid(about.pw_uid)


def listening(login: str, ports: list[int]) -> int:
    """Return the process of `login` that answers hello on `ports`, when it listens."""
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        become(login)
        servers = [socket.create_server(("127.0.0.1", port)) for port in ports]
        os.write(told, b"up")
        while True:
            for server in select.select(servers, [], [])[0]:
                peer, _ = server.accept()
                peer.sendall(b"hello")
                peer.close()
    os.close(told)
    assert os.read(ready, 2) == b"up"
    return child


def ask(login: str, port: int) -> str:
    """Return what `login` hears from `port`; asked by a process of its own."""
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        become(login)
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1.5) as connection:
                connection.settimeout(1.5)
                answer = b"answered" if connection.recv(9) == b"hello" else b"odd"
        except ConnectionRefusedError:
            answer = b"refused"
        except TimeoutError:
            answer = b"silence"
        os.write(told, answer)
        os._exit(0)
    os.close(told)
    answer = os.read(ready, 20).decode()
    os.waitpid(child, 0)
    return answer


def end(child: int) -> None:
    os.kill(child, 9)
    os.waitpid(child, 0)


subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
owner = listening(OWNER, PORTS)
for when in ("stock", "guarded"):
    for login in LOGINS:
        for port in PORTS:
            print(when, login, port, ask(login, port), flush=True)
    subprocess.run(["nft", "-f", RULES], check=True)
end(owner)
poser = listening(LOGINS[0], PORTS[:1])
print("poser root", PORTS[0], ask("root", PORTS[0]), flush=True)
end(poser)
