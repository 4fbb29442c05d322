"""Runs on a node as root: builds R packages from their sources as an ordinary user, and places them.

Reads from stdin {"folder", "archive", "user", "group", "libraries": [those behind ours], "sources":
[{"name", "version", "file", "sha256"}] in the order of installation, "wanted": [names that R must find],
"done": what is noted at the end, "timeout_s" for one package}. `folder` holds `library` (root's), `work`
while it builds, and `done.json`. A package that is there from the same source, built for this R, is left
alone; one that is not listed goes.
Prints {"changed": [...]}. Needs Python 3.8 and R, and is safe to repeat.
"""

import fcntl
import grp
import hashlib
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile

STAMP = "rpicluster-source"  # in each package's folder: SHA-256 of its source, and the R it was built for
BUSY_S = 600
LOAD_S = 300
LINES = 8
MIB_A_COMPILER = 1024  # what g++ takes for templates
TELLING = re.compile(
    r"ERROR|\berror:|Error in |not found|No such file|cannot find|is required|Killed|has not ended"
)


def main(order):
    """Make the library what the order says; return what was changed."""
    folder = order["folder"]
    os.makedirs(folder, 0o755, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        lock(descriptor)
        return Library(order, descriptor).make()
    finally:
        shutil.rmtree(os.path.join(folder, "work"), ignore_errors=True)
        os.close(descriptor)


def lock(descriptor):
    """Wait for another one at work here.

    What it starts has the descriptor, too: when this program is killed, the lock ends with its last compiler.
    """

    def give_up(_number, _frame):
        sys.exit("R packages are still being installed by an earlier command after %d s" % BUSY_S)

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(BUSY_S)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    signal.alarm(0)


class Library:
    """The library of one node."""

    def __init__(self, order, held):
        self.order = order
        self.held = held
        self.library = os.path.join(order["folder"], "library")
        self.work = os.path.join(order["folder"], "work")
        self.done = os.path.join(order["folder"], "done.json")
        self.uid, self.gid = pwd.getpwnam(order["user"]).pw_uid, grp.getgrnam(order["group"]).gr_gid
        self.r = self.run(["R", "RHOME"], 60, as_root=True)[1].strip()
        base = os.path.join(self.r, "library", "base", "DESCRIPTION")
        # Packages are built for R 4.2, whatever its last part is.
        self.release = ".".join(described(base, "Version").split(".")[:2])

    def make(self):
        """Build what is missing, remove what is not listed, look whether R finds all, and note it."""
        changed = []
        os.makedirs(self.library, 0o755, exist_ok=True)
        for source in self.order["sources"]:
            if not self.has(source):
                self.note_begun()
                self.build(source)
                changed.append("%(name)s %(version)s" % source)
        listed = {source["name"] for source in self.order["sources"]}
        for name in sorted(os.listdir(self.library)):
            if name not in listed:
                shutil.rmtree(os.path.join(self.library, name))
                changed.append("without %s" % name)
        self.require_wanted()
        if self.note(self.order["done"]):
            changed.append("done.json")
        return changed

    def has(self, source):
        """Whether a package is there, from this source and for this R."""
        try:
            with open(os.path.join(self.library, source["name"], STAMP), encoding="utf-8") as file:
                return file.read().split() == [source["sha256"], self.release]
        except OSError:
            return False

    def build(self, source):
        """Build one package in the work folder, and put it in its place if R can load it there."""
        shutil.rmtree(self.work, ignore_errors=True)
        built = os.path.join(self.work, "library")
        for path in (self.work, os.path.join(self.work, "tmp"), built):
            os.mkdir(path, 0o700)
            os.chown(path, self.uid, self.gid)
        # Help pages are for people, who sit elsewhere. It is loaded from its place, below.
        command = ["R", "CMD", "INSTALL", "--no-docs", "--no-test-load", "--library=" + built]
        status, words = self.run([*command, self.unpack(source)], self.order["timeout_s"])
        if status != 0:
            sys.exit("R cannot install %(name)s %(version)s: " % source + last_words(words))
        fresh = os.path.join(built, source["name"])
        if not os.path.isfile(os.path.join(fresh, "DESCRIPTION")):
            sys.exit("%(file)s holds no package %(name)s" % source)
        own(fresh)
        with open(os.path.join(fresh, STAMP), "w", encoding="utf-8") as file:
            file.write("%s %s\n" % (source["sha256"], self.release))
        self.place(fresh, source)

    def unpack(self, source):
        """Take one source out of what was sent; its bytes are checked."""
        target = os.path.join(self.work, source["file"])
        try:
            with tarfile.open(self.order["archive"]) as sent, sent.extractfile(source["file"]) as file:
                content = file.read()
        except (OSError, KeyError, tarfile.TarError) as error:
            sys.exit("the source of %s was not sent: %s" % (source["name"], error))
        if hashlib.sha256(content).hexdigest() != source["sha256"]:
            sys.exit("%(file)s arrived with another content than was sent" % source)
        with open(target, "wb") as file:
            file.write(content)
        os.chown(target, self.uid, self.gid)
        return target

    def place(self, fresh, source):
        """Put a package in its place; what was there before comes back if R cannot load the new one."""
        place = os.path.join(self.library, source["name"])
        aside = os.path.join(self.work, "before")
        had = os.path.isdir(place)
        if had:
            os.rename(place, aside)
        os.rename(fresh, place)
        status, words = self.run(["Rscript", "-e", 'loadNamespace("%s")' % source["name"]], LOAD_S)
        if status != 0:
            shutil.rmtree(place)
            if had:
                os.rename(aside, place)
            sys.exit("R cannot load %(name)s %(version)s: " % source + last_words(words))
        os.sync()

    def require_wanted(self):
        """End with a message if R would not find a package that somebody named."""
        there = {}
        for library in [self.library, *self.order["libraries"], os.path.join(self.r, "library")]:
            for name in os.listdir(library) if os.path.isdir(library) else []:
                there.setdefault(name.lower(), set()).add(name)
        for name in self.order["wanted"]:
            others = there.get(name.lower(), set())
            if name not in others:
                meant = "; is it called %s?" % " or ".join(sorted(others)) if others else ""
                sys.exit("R does not find the package %s after its installation%s" % (name, meant))

    def note_begun(self):
        """Note that the library is neither what it was nor what it will be; what it holds stays noted."""
        if os.path.exists(self.done):
            with open(self.done, encoding="utf-8") as file:
                self.note({**json.load(file), "broken_off": True})

    def note(self, document):
        """Write what was done, in one line; return whether that is new."""
        text = json.dumps(document, sort_keys=True) + "\n"
        if os.path.exists(self.done):
            with open(self.done, encoding="utf-8") as file:
                if file.read() == text:
                    return False
        descriptor, fresh = tempfile.mkstemp(prefix=".done-", dir=self.order["folder"])
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(fresh, 0o644)
        os.rename(fresh, self.done)
        return True

    def run(self, command, timeout_s, as_root=False):
        """Run a command, by default as the user that builds; return its status and words."""
        memory_mib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
        environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": self.work,
            "TMPDIR": "/tmp" if as_root else os.path.join(self.work, "tmp"),
            "LANG": "C.UTF-8",
            # Debian's Renviron.site puts /usr/local before R_LIBS_SITE, and nothing before R_LIBS.
            "R_LIBS": self.library,
            "R_LIBS_SITE": ":".join([self.library, *self.order["libraries"]]),
            "R_LIBS_USER": "/nonexistent",
            "MAKEFLAGS": "-j%d" % max(1, min(os.cpu_count() or 1, memory_mib // MIB_A_COMPILER)),
        }

        def become():
            os.nice(10)
            # Before a daemon goes for want of memory, a compiler does. After setuid this is root's file.
            with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
                file.write("900")
            if os.geteuid() == 0 and not as_root:
                os.setgroups([])
                os.setgid(self.gid)
                os.setuid(self.uid)

        process = subprocess.Popen(
            command,
            cwd="/" if as_root else self.work,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=become,
            start_new_session=True,
            pass_fds=(self.held,),
        )
        try:
            words = process.communicate(timeout=timeout_s)[0].decode(errors="replace")
        except subprocess.TimeoutExpired:
            return 1, "%s has not ended after %d s" % (" ".join(command[:3]), timeout_s)
        finally:
            end_group(process)
        return process.returncode, words


def own(top):
    """Make a built package root's, which nobody else may change."""
    for folder, folders, files in os.walk(top):
        for path in [folder] + [os.path.join(folder, name) for name in folders + files]:
            os.lchown(path, os.geteuid(), os.getegid())
            if not os.path.islink(path):
                os.chmod(path, 0o755 if os.stat(path).st_mode & 0o100 else 0o644)


def end_group(process):
    """End what a command has left running."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # nothing is there any more
        return
    finally:
        process.wait()


def described(path, field):
    """Return a field of a DESCRIPTION."""
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith(field + ":"):
                return line.partition(":")[2].strip()
    return sys.exit("%s has no %s" % (path, field))


def last_words(text):
    """Return the lines that tell why, each with the next where it ends in a colon; without any, the end."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [number for number, line in enumerate(lines) if TELLING.search(line)]
    shown = sorted({*telling, *(number + 1 for number in telling if lines[number].endswith(":"))})
    found = [lines[number] for number in shown if number < len(lines)] or lines
    return " / ".join(found[-LINES:]) or "it said nothing"


if __name__ == "__main__":
    try:
        print(json.dumps({"changed": main(json.load(sys.stdin))}))
    except KeyError as error:
        sys.exit("no such user or group is here, or the order lacks it: %s" % error)
    except OSError as error:
        sys.exit("%s: %s" % (error.filename, error.strerror))
