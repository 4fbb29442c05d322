"""Starts units as systemd would, waits for each, runs programs, and prints what happened as JSON.

argv: a JSON file with `steps`: {"start": unit, "until": url, "has": text} or {"run": argv, ...}.
"""

import json
import os
import subprocess
import sys
import time
import urllib.request

DOCUMENT = json.load(open(sys.argv[1]))
running: dict[str, subprocess.Popen] = {}
happened: dict[str, object] = {}


def environment(unit):
    return {**os.environ, **dict(unit["environment"])}


def start(unit):
    os.makedirs(unit["directory"], mode=0o700, exist_ok=True)
    log = open(f"/root/{unit['name']}.out", "a")
    running[unit["name"]] = subprocess.Popen(
        unit["argv"],
        env=environment(unit),
        cwd=unit["directory"],
        stdout=log,
        stderr=log,
        stdin=subprocess.DEVNULL,
    )


def asked(url, method="GET"):
    with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=60) as answer:
        return answer.read().decode()


def wait(name, url, has, deadline):
    said = ""
    while time.monotonic() < deadline:
        code = running[name].poll()
        if code is not None:
            raise SystemExit(f"{name} ended with {code}")
        try:
            said = asked(url)
            if has in said:
                return
        except OSError as error:
            said = str(error)
        time.sleep(1)
    raise SystemExit(f"{name}: no {has!r} in time at {url}: {said[:500]}")


def step(wanted):
    deadline = time.monotonic() + wanted["within_s"]
    if "start" in wanted:
        unit = DOCUMENT["units"][wanted["start"]]
        start(unit)
        wait(unit["name"], wanted["until"], wanted["has"], deadline)
    elif "put" in wanted:
        for url in wanted["put"]:
            asked(url, "PUT")
    else:
        where = wanted.get("environment", {})
        log = open(f"/root/{wanted['name']}.out", "w")
        done = subprocess.run(
            wanted["run"],
            check=False,
            env={**os.environ, **where},
            stdout=subprocess.PIPE,
            stderr=log,
            stdin=subprocess.DEVNULL,
            timeout=wanted["within_s"],
        )
        happened[wanted["name"] + " said"] = done.stdout.decode(errors="replace").strip().splitlines()[-20:]
        happened[wanted["name"] + " code"] = done.returncode


try:
    for wanted in DOCUMENT["steps"]:
        began = time.monotonic()
        step(wanted)
        happened[wanted["name"]] = round(time.monotonic() - began, 1)
        print(wanted["name"], happened[wanted["name"]], file=sys.stderr, flush=True)
finally:
    for process in running.values():
        process.kill()
    print(json.dumps(happened))
