"""Runs on the manager and answers one question about its runs, then ends.

The first line of stdin is the question, {"do": …, "root": FOLDER, …}; for `submit` an archive follows.
Answers with one line of JSON, `follow` with many, `fetch` with an archive. Needs Python 3.8.

ROOT holds a folder for each run; what is in one, `run.py` says. `start` runs as root where systemd starts
runs, everything else as the user whose runs they are.
"""

import errno
import fcntl
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time

END_S = 25.0
STARTED_S = 15.0
START_WITHIN_S = 120.0
FOLLOW_POLL_S = 0.2
HEARTBEAT_S = 5.0
BLOCK_BYTES = 65536
SPARE_BYTES = 64 << 20  # that stay free when the files of a run are there
ID = re.compile(r"run-[0-9]{8}-[0-9]{6}(-[0-9]+)?")


class Refused(Exception):
    """What was asked for cannot be; the message says why."""


def folder_of(question):
    if not ID.fullmatch(question["id"]):
        raise Refused("%r is no run" % question["id"])
    path = os.path.join(question["root"], question["id"])
    if not os.path.isdir(path):
        raise Refused("there is no run %s here; old ones are removed" % question["id"])
    return path


def names(root):
    return sorted(name for name in os.listdir(root) if ID.fullmatch(name)) if os.path.isdir(root) else []


def read_json(path):
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def lives(folder):
    """Return whether a run goes on: the program beside it holds its lock and has not written its end."""
    try:
        with open(os.path.join(folder, "lock")) as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return not read_json(os.path.join(folder, "end"))
    except OSError:
        return False
    return False


def boot_id():
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def booted_at():
    with open("/proc/stat") as file:
        return next(float(line.split()[1]) for line in file if line.startswith("btime "))


REBOOTED = {"state": "lost", "reason": "the manager was started again while the script ran"}


def look(folder):
    """Return the whole record of one run."""
    order = read_json(os.path.join(folder, "run.json"))
    alive = lives(folder)  # before its files are read: what it wrote at its end is then seen
    state = read_json(os.path.join(folder, "state.json"))
    end = read_json(os.path.join(folder, "end"))
    about = {
        key: order.get(key)
        for key in ("id", "script", "arguments", "language", "door", "user", "submitted_at")
    }
    about.update(state or {"state": "submitted"})
    about.update(end)
    about["log_bytes"] = size(os.path.join(folder, "log"))
    about["results"] = counted(os.path.join(folder, "files", "results"))
    if end.get("state") == "stopped":
        about.update(REBOOTED if state.get("boot_id") != boot_id() else {"state": "killed"})
    if not end and not alive:
        about["exit_code"] = None
        if not state and time.time() - os.stat(folder).st_mtime < START_WITHIN_S:
            about["state"] = "submitted"
        elif not state:
            about["state"] = "lost"
            about["reason"] = "it was sent, and its client ended before it was started"
        elif state.get("boot_id") != boot_id():
            about["ended_at"] = booted_at()
            about.update(REBOOTED)
        else:
            about["state"] = "lost"
            about["reason"] = (
                "the program beside the script was killed; with the script, when memory runs out"
            )
    return about


def size(path):
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def counted(folder):
    files = [os.path.join(top, name) for top, _, found in os.walk(folder) for name in found]
    return {
        "files": len(files),
        "bytes": sum(os.lstat(path).st_size for path in files if os.path.lexists(path)),
    }


# -- questions -----------------------------------------------------------------------------------------


def make_root(question):
    """Make the folder of a user's runs, as root; it is that user's alone."""
    about = pwd.getpwnam(question["user"])
    try:
        os.mkdir(question["root"], 0o700)
    except FileExistsError:
        if os.path.islink(question["root"]):
            raise Refused("%s is a link" % question["root"]) from None
    os.chown(question["root"], about.pw_uid, about.pw_gid)
    return {"root": question["root"]}


def survey(question):
    """Return what there is for a script: packages, memory, disk, and which runs go on."""
    os.makedirs(question["root"], 0o700, exist_ok=True)
    answer = {
        "python": "%d.%d" % sys.version_info[:2],
        "free_bytes": shutil.disk_usage(question["root"]).free,
        "available_mib": available_mib(),
        "running": running(question["root"]),
        "kits": sorted(os.listdir(kits(question))) if os.path.isdir(kits(question)) else [],
        "machine": os.uname().machine,
    }
    environment = {**home(), **question["environment"]}
    if question["python_modules"]:
        words = [question["interpreter"], "-c", FIND_MODULES, *question["python_modules"]]
        answer["missing"] = asked(words, environment)
    if question["language"] == "R":
        rscript = shutil.which("Rscript", path=environment["PATH"])
        answer["rscript"] = rscript
        if rscript and question["r_packages"]:
            words = [rscript, "--vanilla", "-e", FIND_PACKAGES, *question["r_packages"]]
            answer["missing"] = asked(words, environment)
        answer["shared_python"] = shared_python()
    return answer


def home():
    about = pwd.getpwuid(os.geteuid())
    return {"HOME": about.pw_dir, "USER": about.pw_name, "LOGNAME": about.pw_name}


FIND_MODULES = """
import importlib.util, sys
for name in sys.argv[1:]:
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        found = None
    if found is None:
        print(name)
"""
FIND_PACKAGES = 'for (p in commandArgs(TRUE)) if (!nzchar(system.file(package = p))) cat(p, "\\n", sep = "")'
ASK_S = 60


def asked(words, environment):
    done = subprocess.run(
        words,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=ASK_S,
        cwd="/",
    )
    if done.returncode != 0:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise Refused("%s does not work here: %s" % (words[0], last[-1] if last else done.returncode))
    return done.stdout.decode("utf-8", "replace").split()


def shared_python():
    """Return whether R could load this Python: its shared library is there."""
    import sysconfig

    name, folder, triplet = (
        str(v or "") for v in sysconfig.get_config_vars("INSTSONAME", "LIBDIR", "MULTIARCH")
    )
    return any(os.path.exists(os.path.join(folder, *more)) for more in ((name,), (triplet, name)))


def available_mib():
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) // 1024 for line in file if line.startswith("MemAvailable:"))


def kits(question):
    return os.path.join(question["root"], "kits")


def submit(question):
    """Unpack a run that was sent; return its id, which is new."""
    root = question["root"]
    target = os.path.join(root, question["id"])
    is_taken = os.path.exists(target)  # before the oldest go: their names are not given again at once
    prune(question)
    free = shutil.disk_usage(root).free
    if free < question["bytes"] + SPARE_BYTES:
        raise Refused(
            "%s has %d MiB free, and the files of this run take %d MiB beside the %d MiB that stay free"
            % (root, free >> 20, question["bytes"] >> 20, SPARE_BYTES >> 20)
        )
    fresh = os.path.join(root, ".new-%d" % os.getpid())
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        unpack(fresh)
        os.makedirs(os.path.join(fresh, "files", "results"), 0o700, exist_ok=True)
        for name in ("tmp", "cache", "driver"):
            os.makedirs(os.path.join(fresh, name), 0o700, exist_ok=True)
        os.utime(fresh)
        if is_taken:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        os.rename(fresh, target)
    except Refused:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    except OSError as problem:
        shutil.rmtree(fresh, ignore_errors=True)
        if problem.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise Refused("a run %s is there already" % question["id"]) from None
        raise
    return {"id": question["id"]}


def keep_kit(question):
    """Unpack the packages by which R reaches Spark, once for all runs."""
    target = os.path.join(kits(question), question["kit"])
    if not re.fullmatch(r"[0-9a-f]{16}", question["kit"]):
        raise Refused("%r is no kit" % question["kit"])
    if shutil.disk_usage(question["root"]).free < question["bytes"] + SPARE_BYTES:
        raise Refused(
            "%s has no room for %d MiB of Python packages" % (question["root"], question["bytes"] >> 20)
        )
    fresh = os.path.join(question["root"], ".new-%d" % os.getpid())
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        unpack(fresh)
        os.makedirs(kits(question), 0o700, exist_ok=True)
        if not os.path.isdir(target):
            os.rename(fresh, target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    for old in os.listdir(kits(question)):
        if old != question["kit"] and not running(question["root"]):
            shutil.rmtree(os.path.join(kits(question), old))
    return {"kit": question["kit"]}


def unpack(target):
    """Unpack the archive on stdin, plain files alone, below a folder that is made."""
    os.mkdir(target, 0o700)
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
        for member in archive:
            parts = member.name.split("/")
            if not member.isreg() or member.name.startswith("/") or ".." in parts:
                raise Refused("%r is no plain file of a run" % member.name)
            path = os.path.join(target, *parts)
            os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
            with archive.extractfile(member) as source, open(path, "xb") as file:
                shutil.copyfileobj(source, file)
            os.chmod(path, 0o700 if member.mode & 0o100 else 0o600)


def running(root):
    return [name for name in names(root) if lives(os.path.join(root, name))]


def prune(question):
    """Remove what ended long ago, and the oldest of too many."""
    root = question["root"]
    for left in os.listdir(root):
        if left.startswith(".new-") and not os.path.exists("/proc/%s" % left[5:]):
            shutil.rmtree(os.path.join(root, left), ignore_errors=True)
    over = [name for name in names(root) if not lives(os.path.join(root, name))]
    kept = over[-(question["keep_number"] - 1) :]
    for name in over:
        path = os.path.join(root, name)
        ended = look(path).get("ended_at") or os.stat(path).st_mtime
        if name not in kept or time.time() - ended > question["keep_s"]:
            shutil.rmtree(path)


def start(question):
    """Start a run if a place is free for it: two at once cannot both take the last one."""
    folder = folder_of(question)
    guard = (
        os.path.dirname(question["root"]) if question["systemd"] else question["root"]
    )  # all users', or ours
    lock = os.open(guard, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        busy = active_units() if question["systemd"] else running(question["root"])
        if len(busy) >= question["places"]:
            return {"started": False, "running": busy}
        if question["systemd"]:
            start_unit(question)
        else:
            start_here(question, folder)
        wait_until_held(folder)
    finally:
        os.close(lock)
    return {"started": True, "running": busy}


def active_units():
    """Return the runs of all users that systemd has."""
    words = ["systemctl", "list-units", "--plain", "--no-legend", "--full", "rpicluster-run-*.service"]
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, universal_newlines=True, check=True
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    return [
        words[0][len("rpicluster-") : -len(".service")]
        for words in lines
        if len(words) > 2 and words[2] in ("active", "activating", "deactivating", "reloading")
    ]


def start_unit(question):
    words = ["systemd-run", "--quiet", "--collect", "--unit", question["unit"]]
    for name, value in question["systemd"]:
        words += ["--property", "%s=%s" % (name, value)]
    done = subprocess.run(
        [*words, "--", *question["argv"]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        timeout=STARTED_S * 2,
    )
    if done.returncode != 0:
        raise Refused("systemd does not start it: %s" % done.stdout.strip()[-500:])


def start_here(question, folder):
    with open(os.path.join(folder, "run.out"), "ab") as output:
        subprocess.Popen(
            question["argv"],
            env=question["environment"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder,
            start_new_session=True,
        )


def wait_until_held(folder):
    deadline = time.monotonic() + STARTED_S
    while not lives(folder) and not os.path.exists(os.path.join(folder, "end")):
        if time.monotonic() > deadline:
            said = ""
            if os.path.exists(os.path.join(folder, "run.out")):
                with open(os.path.join(folder, "run.out"), errors="replace") as file:
                    said = ": " + file.read()[-500:].strip()
            raise Refused("the program beside the script did not start within %d s%s" % (STARTED_S, said))
        time.sleep(0.05)


def show(question):
    if question.get("id"):
        return {"runs": [look(folder_of(question))]}
    root = question["root"]
    return {"runs": [look(os.path.join(root, name)) for name in reversed(names(root))]}


def follow(question):
    """Print the log from a byte on, in pieces of text, until the run has ended; then its record."""
    folder = folder_of(question)
    at, said_at, waiting = question["at"], 0.0, None
    while True:
        about = look(folder)
        over = about["state"] not in ("submitted", "starting", "running")
        at = pour(folder, at)
        now = time.monotonic()
        if over:
            tell({"end": about})
            return
        if about.get("waiting_for") != waiting or now - said_at > HEARTBEAT_S:
            waiting, said_at = about.get("waiting_for"), now
            tell({"state": about["state"], "waiting_for": waiting})
        time.sleep(FOLLOW_POLL_S)


def pour(folder, at):
    """Print what is in the log behind byte `at`; return where it ended."""
    try:
        with open(os.path.join(folder, "log"), "rb") as log:
            log.seek(at)
            while True:
                block = log.read(BLOCK_BYTES)
                if not block:
                    return at
                at += len(block)
                tell({"log": block.decode("latin-1"), "at": at})  # bytes as text
    except FileNotFoundError:
        return at


def tell(document):
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def fetch(question):
    """Print what is in the folder `results` as an archive; links go as links: who unpacks leaves them."""
    folder = os.path.join(folder_of(question), "files", "results")
    if os.path.islink(folder) or not os.path.isdir(folder):
        raise Refused("the script has replaced its folder `results` by something else; nothing is fetched")
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for top, folders, found in os.walk(folder):
            for name in sorted(folders + found):
                path = os.path.join(top, name)
                archive.add(path, arcname=os.path.relpath(path, folder), recursive=False)
    sys.stdout.buffer.flush()


def kill(question):
    """End a run, the script first; return its record."""
    folder = folder_of(question)
    state = read_json(os.path.join(folder, "state.json"))
    deadline = time.monotonic() + END_S
    asked_once = False
    while lives(folder):
        pid = state.get("pid")
        if pid and state.get("boot_id") == boot_id() and same(pid, state.get("start_ticks")):
            if not asked_once:
                os.kill(pid, signal.SIGINT)
                asked_once = True
            elif time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline + 5:
            raise Refused("%s does not end" % question["id"])
        time.sleep(0.1)
        state = state or read_json(os.path.join(folder, "state.json"))
    return {"runs": [look(folder)]}


def same(pid, ticks):
    try:
        with open("/proc/%d/stat" % pid) as file:
            return int(file.read().rpartition(")")[2].split()[19]) == ticks
    except (OSError, ValueError):
        return False


def discard(question):
    """Remove a run that was not started."""
    folder = folder_of(question)
    if not lives(folder):
        shutil.rmtree(folder)
    return {"id": question["id"]}


DO = {
    "make_root": make_root,
    "survey": survey,
    "submit": submit,
    "keep_kit": keep_kit,
    "start": start,
    "show": show,
    "follow": follow,
    "fetch": fetch,
    "kill": kill,
    "discard": discard,
}


def main():
    question = json.loads(sys.stdin.buffer.readline())
    os.umask(0o077)
    try:
        answer = DO[question["do"]](question)
    except Refused as refused:
        answer = {"refused": str(refused)}
    except BrokenPipeError:
        os._exit(0)  # who asked has left
    except OSError as problem:
        answer = {"refused": "%s: %s" % (problem.filename or question["root"], problem.strerror)}
    except subprocess.SubprocessError as problem:
        answer = {"refused": str(problem)}
    if answer is not None:
        tell(answer)


main()
