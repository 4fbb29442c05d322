"""Runs: scripts on the manager with a driver of their own, started, followed, ended and brought home."""

import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import IO, Any

from rpicluster.design import batch, layout
from rpicluster.design.inputs import Inputs
from rpicluster.errors import RemoteCommandFailed, RpiclusterError, Unreachable, UsageError
from rpicluster.model.scripts import Door, Language
from rpicluster.nodes.local.state import write_file
from rpicluster.nodes.runs import results
from rpicluster.nodes.runs.channel import Channel, Machine, RunRefused, answer, program
from rpicluster.sites.batch_checks import Script, Seen, TooSmall, no_place, require_packages, require_room

_RETRY_S = (1.0, 2.0, 5.0, 10.0)
LOST_CONTACT_S = 600.0  # a laptop that wakes up needs its network first
_SUBMIT_TRIES = 9
_BY_A_SIGNAL = 128  # a manager that shuts down ends the program that shows the log
# Of the control machine's environment, on a local cluster: where a person's packages and settings are.
_AMBIENT = ("HOME", "USER", "LOGNAME", "PATH", "TZ", "R_LIBS", "R_LIBS_USER", "R_LIBS_SITE", "PYTHONPATH")
_RUN = re.compile(r"run-[0-9]{8}-[0-9]{6}(-[0-9]+)?")
FINAL = frozenset({"ended", "failed", "killed", "lost"})
Say = Callable[[str], None]


@dataclass(frozen=True)
class Record:
    """What the manager knows of a run."""

    id: str
    script: str
    arguments: tuple[str, ...]
    state: str
    user: str
    submitted_at: float
    ended_at: float | None
    exit_code: int | None
    reason: str | None
    application: str | None
    log_cut: bool
    result_files: int
    result_bytes: int

    @property
    def is_final(self) -> bool:
        """Whether it has ended, well or badly."""
        return self.state in FINAL

    def document(self) -> dict[str, Any]:
        """Return what `--json` shows."""
        return {key: getattr(self, key) for key in self.__dataclass_fields__}


def is_run(name: str) -> bool:
    """Return whether a name is that of a run, and not of an application."""
    return _RUN.fullmatch(name) is not None


class Runs:
    """The runs of one user of a cluster."""

    def __init__(
        self,
        machine: Machine,
        *,
        user: str,
        root: str,
        state: Path,
        inputs: Callable[[], Inputs],
        is_local: bool,
        sparklyr: Callable[[], str] = lambda: "",
        too_small: TooSmall = lambda drivers: "",
    ) -> None:
        """Speak for the runs below `root` on `machine`; `state` keeps what was shown of them here."""
        self.machine = machine
        self.user = user
        self._root = root
        self._state = state / "scripts"  # not `runs`: those are Ansible's
        self._inputs = inputs
        self._is_local = is_local
        self._sparklyr = sparklyr  # the version of the sessions' gateway, "" for none
        self._too_small = too_small

    # -- starting --------------------------------------------------------------------------------------

    def start(self, script: Script, arguments: tuple[str, ...], *, say: Say) -> str:
        """Check what the script needs, send it and start it; return the run's name.

        Raises UsageError for a missing package, no place, no memory or no room on the disk; nothing of the
        run is left on the manager then.
        """
        inputs = self._inputs()
        places = batch.places(inputs)
        here = self._survey(inputs, script)
        seen = Seen(self.machine.name, self._is_local, inputs.node(inputs.manager).python, here)
        require_packages(script, seen)
        require_room(places, script, seen, self._too_small)
        kit = self._kit(script, here, say)
        order = batch.Order("", script.path.name, arguments, script.language, script.door, time.time())
        order = self._submit(inputs, script, order, here, kit)
        self._set_off(inputs, places, order)
        return order.id

    def _set_off(self, inputs: Inputs, places: batch.Places, order: batch.Order) -> None:
        """Start what was sent; what does not start is taken away again."""
        folder = f"{self._root}/{order.id}"
        try:
            started = self._ask(
                "start",
                as_root=not self._is_local,
                id=order.id,
                places=places.for_runs,
                argv=batch.program(inputs, folder),
                unit=layout.systemd_unit(order.id),
                systemd=None if self._is_local else batch.service_properties(self.user, order, folder),
                environment=self._around(inputs, order.id),
            )
        except RunRefused:
            self._ask("discard", id=order.id)
            raise
        if not started["started"]:
            self._ask("discard", id=order.id)
            running = tuple(started["running"])
            raise no_place(places, running, self._too_small)

    def _around(self, inputs: Inputs, run: str) -> dict[str, str]:
        """Return the environment of the program beside a run, where no systemd makes one."""
        return {**self._ambient(), "LANG": "C.UTF-8", "RPICLUSTER_UNIT": batch.mark(inputs, run)}

    def _ambient(self) -> dict[str, str]:
        if not self._is_local:
            return {}
        return {name: os.environ[name] for name in (*_AMBIENT, "RPICLUSTER_STATE_DIR") if name in os.environ}

    def _survey(self, inputs: Inputs, script: Script) -> dict[str, Any]:
        environment = batch.environment(inputs, self.user, self._root, self._ambient())
        names = [*script.needs.packages, *script.needs.optional]
        is_r = script.language is Language.R
        if script.door is Door.SUBMIT:
            environment["PYTHONPATH"] = ":".join(
                [f"{inputs.runtime}/python", *filter(None, [environment.get("PYTHONPATH", "")])]
            )
        modules = [] if is_r else [n for n in names if n != "rpicluster" or self._is_local]
        return self._ask(
            "survey",
            language=str(script.language),
            interpreter=inputs.node(inputs.manager).python,
            r_packages=names if is_r else [],
            python_modules=modules,
            environment=environment,
        )

    def _kit(self, script: Script, here: Mapping[str, Any], say: Say) -> str:
        """Return the folder of Python packages on the manager; "" where none are needed."""
        if self._is_local or script.door is not Door.CONNECT:
            return ""
        from rpicluster.runtime import kit

        name = kit.kit_id(here["python"], here["machine"])
        if name not in here["kits"]:
            path = kit.ensure_kit(here["python"], here["machine"], report=say)
            size = path.stat().st_size
            say(f"sending {size >> 20} MiB of Python packages to {self.machine.name}, once")
            with path.open("rb") as file:
                self._ask("keep_kit", payload=file, silence_s=600.0, kit=name, bytes=size)
        return f"{self._root}/kits/{name}"

    def _submit(
        self, inputs: Inputs, script: Script, order: batch.Order, here: Mapping[str, Any], kit: str
    ) -> batch.Order:
        for number in range(1, _SUBMIT_TRIES + 1):
            name = _run_id(order.submitted_at, number)
            numbered = batch.Order(
                name, order.script, order.arguments, order.language, order.door, order.submitted_at
            )
            try:
                self._send(inputs, script, numbered, here, kit)
                return numbered
            except RunRefused as error:
                if "is there already" not in error.message or number == _SUBMIT_TRIES:
                    raise
        raise RpiclusterError("no name for the run was free")

    def _send(
        self, inputs: Inputs, script: Script, order: batch.Order, here: Mapping[str, Any], kit: str
    ) -> None:
        folder = f"{self._root}/{order.id}"
        document = batch.order_document(
            inputs,
            self.user,
            order,
            folder,
            rscript=here.get("rscript") or "",
            kit=kit,
            ambient=self._ambient(),
            sparklyr=self._sparklyr(),
        )
        if self._is_local:
            document["environment"]["RPICLUSTER_UNIT"] = batch.mark(inputs, order.id)
        texts = {
            "run.json": json.dumps(document, indent=1).encode(),
            "program/run.py": program("run.py").encode(),
        }
        for file in files("rpicluster.session.keeper").iterdir():
            if file.name.endswith(".py"):
                texts[f"program/keeper/{file.name}"] = file.read_bytes()
        with tempfile.TemporaryFile() as archive:
            results.pack(archive, {f"files/{name}": path for name, path in script.files.items()}, texts)
            size = archive.tell()
            self._ask(
                "submit",
                payload=archive,
                silence_s=600.0,
                id=order.id,
                bytes=size,
                keep_number=batch.KEEP_NUMBER,
                keep_s=batch.KEEP_S,
            )

    # -- asking ----------------------------------------------------------------------------------------

    def all(self) -> list[Record]:
        """Return the runs, newest first."""
        return [_record(found) for found in self._ask("show")["runs"]]

    def one(self, run: str) -> Record:
        """Return one run; raises UsageError if the manager does not know it."""
        return _record(self._ask("show", id=run)["runs"][0])

    def kill(self, run: str) -> Record:
        """End a run, and return what became of it."""
        return _record(self._ask("kill", id=run)["runs"][0])

    def follow(
        self, run: str, *, show: Callable[[bytes], None], say: Say, from_start: bool = False
    ) -> Record:
        """Show a run's log from where this machine saw it last, until it has ended; return how.

        A connection that breaks is made again; after ten minutes without one Unreachable says how to come
        back.
        """
        at, lost_at, tries, waiting = 0 if from_start else self.shown(run), 0.0, 0, None
        while True:
            try:
                for document in self._stream(run, at):
                    if tries:
                        say("the connection is back")
                    lost_at, tries = 0.0, 0
                    if "log" in document:
                        show(document["log"].encode("latin-1"))
                        at = document["at"]
                        self.remember(run, shown=at)
                    elif document.get("waiting_for") not in (None, waiting):
                        waiting = document["waiting_for"]
                        say(f"waiting for {waiting}")
                    if "end" in document:
                        return _record(document["end"])
                raise Unreachable(f"{self.machine.name} went silent")
            except (Unreachable, RemoteCommandFailed) as error:
                if isinstance(error, RemoteCommandFailed) and error.status < _BY_A_SIGNAL:
                    raise
                lost_at = lost_at or time.monotonic()
                if time.monotonic() - lost_at > LOST_CONTACT_S:
                    raise Unreachable(
                        f"{error.message}; {run} goes on there", hint=f"rpicluster jobs attach {run}"
                    ) from error
                if not tries:
                    say(f"{error.message}; {run} goes on there, trying again")
                time.sleep(_RETRY_S[min(tries, len(_RETRY_S) - 1)])
                tries += 1

    def _stream(self, run: str, at: int) -> Iterator[dict[str, Any]]:
        with self.machine.channel() as channel:
            channel.ask({"do": "follow", "root": self._root, "id": run, "at": at})
            yield from channel.documents()

    def log(self, run: str) -> bytes:
        """Return what a run has said so far."""
        said = b""
        for document in self._stream(run, 0):
            if "log" not in document:
                break
            said += document["log"].encode("latin-1")
        return said

    def fetch(self, run: str, target: Path) -> results.Brought:
        """Bring what the script wrote to `results` into the new folder `target`."""
        with self.machine.channel() as channel:
            channel.ask({"do": "fetch", "root": self._root, "id": run})
            brought = results.bring_home(_Archive(channel), target)
        self.remember(run, fetched=str(target))
        return brought

    def _ask(
        self,
        do: str,
        *,
        as_root: bool = False,
        payload: IO[bytes] | None = None,
        silence_s: float = 90.0,
        **more: Any,
    ) -> dict[str, Any]:
        if do == "survey" and not self._is_local:
            # The folder above is root's.
            self._ask("make_root", as_root=True, user=self.user)
        question = {"do": do, "root": self._root, **more}
        blocks = results.blocks(payload) if payload is not None else ()
        return answer(self.machine, question, blocks, as_root=as_root, silence_s=silence_s)

    # -- what was shown here ---------------------------------------------------------------------------

    def shown(self, run: str) -> int:
        """Return up to which byte this machine has shown a run's log."""
        return int(self.recall(run).get("shown", 0))

    def recall(self, run: str) -> dict[str, Any]:
        """Return what this machine remembers of a run."""
        try:
            found = json.loads((self._state / f"{run}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):  # never seen here: the manager knows all that matters
            return {}
        return found if isinstance(found, dict) else {}

    def remember(self, run: str, **facts: Any) -> None:
        """Remember facts about a run on this machine."""
        self._state.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = json.dumps({"schema": 1, **self.recall(run), **facts})
        write_file(self._state / f"{run}.json", text.encode(), 0o600, durable=False)

    def latest(self) -> str:
        """Return the newest run; raises UsageError if there is none."""
        found = self.all()
        if not found:
            raise UsageError(f"{self.machine.name} has no runs", hint="rpicluster run analysis.R")
        return found[0].id


class _Archive:
    """The archive that the program prints, as tarfile reads it."""

    def __init__(self, channel: Channel) -> None:
        self._channel, self._first = channel, True

    def read(self, size: int = -1) -> bytes:
        block = self._channel.read(size if size > 0 else 1 << 16)
        if self._first and block.startswith(b'{"refused"'):
            raise RunRefused(f"{json.loads(block)['refused']}")
        self._first = False
        if not block:
            self._channel.require_end()
        return block


def _record(found: Mapping[str, Any]) -> Record:
    counted = found.get("results") or {}
    return Record(
        id=str(found["id"]),
        script=str(found.get("script")),
        arguments=tuple(found.get("arguments") or ()),
        state=str(found["state"]),
        user=str(found.get("user")),
        submitted_at=float(found.get("submitted_at") or 0.0),
        ended_at=found.get("ended_at"),
        exit_code=found.get("exit_code"),
        reason=found.get("reason"),
        application=found.get("application"),
        log_cut=bool(found.get("log_cut")),
        result_files=int(counted.get("files", 0)),
        result_bytes=int(counted.get("bytes", 0)),
    )


def _run_id(now_s: float, number: int) -> str:
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(now_s))
    return f"run-{stamp}" if number == 1 else f"run-{stamp}-{number}"
