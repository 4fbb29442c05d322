"""One round of questions to a driver, and what YARN knows about its application."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from .config import Config
from .doors import open_door
from .wire import Hopeless, ProbeFailed, http_json

RM_ENDED = ("FINISHED", "FAILED", "KILLED")


class ApplicationEnded(Hopeless):
    """YARN says that the application is over."""


class Yarn:
    """What the ResourceManager knows about this session's applications."""

    def __init__(self, config: Config, stopping: Callable[[], bool]) -> None:
        """Keep whom to ask; nothing is asked yet."""
        self._config = config
        self._stopping = stopping
        self._apps = f"{config.resourcemanager}/ws/v1/cluster/apps"

    def _ask(self, url: str, put: dict[str, str] | None = None) -> Any:
        return http_json(url, self._config.probe_timeout_s, self._stopping, put)

    def says(self, app_id: str) -> str:
        """Return the application's state. Raises ApplicationEnded if it is over.

        An unreachable ResourceManager is no reason to end a driver, as applications outlive its restart.
        """
        try:
            app = self._ask(f"{self._apps}/{app_id}")["app"]
            state, words = str(app["state"]), " ".join(str(app.get("diagnostics")).split())[:200]
        except (ProbeFailed, KeyError, TypeError) as problem:
            return f"unknown: {problem}"
        if state in RM_ENDED:
            raise ApplicationEnded(f"YARN says that {app_id} is {state}: {words}")
        return state

    def live(self) -> list[dict[str, Any]]:
        """Return this session's applications that are not over. Raises ProbeFailed."""
        url = f"{self._apps}?states=NEW,NEW_SAVING,SUBMITTED,ACCEPTED,RUNNING&user={quote(self._config.user)}"
        try:
            apps = (self._ask(url)["apps"] or {}).get("app") or []
            return [app for app in apps if app["name"] == self._config.name]
        except (AttributeError, KeyError, TypeError) as problem:
            raise ProbeFailed(f"{url} answered something unexpected: {problem!r}") from problem

    def queue(self) -> str:
        """Return why an application is not started yet, in YARN's words, or nothing."""
        try:
            waiting = [app for app in self.live() if app["state"] == "ACCEPTED"]
        except (ProbeFailed, KeyError):
            return ""  # only a better wording of a wait that goes on anyway
        if not waiting:
            return ""
        words = " ".join(str(waiting[0].get("diagnostics")).split())[:300]
        return f"YARN to start the application master of {waiting[0]['id']}: {words}"

    def kill(self, app_id: str) -> None:
        """Ask YARN to end an application. Raises ProbeFailed."""
        self._ask(
            f"{self._apps}/{app_id}/state?user.name={quote(self._config.user)}", put={"state": "KILLED"}
        )


@dataclass(frozen=True)
class Health:
    """What a driver answered in one round of questions."""

    app_id: str
    doors: list[dict[str, Any]]
    ui_ms: int
    yarn: str


class Probe:
    """One round of questions to a driver: every door, the Spark UI, and YARN."""

    def __init__(
        self, config: Config, token: str, yarn: Yarn, stopping: Callable[[], bool], life: str = ""
    ) -> None:
        """Prepare to ask the driver that was started as `life`, for as long as it lives."""
        self._config = config
        self._yarn = yarn
        self._stopping = stopping
        self._doors = [
            (door, open_door(config, door, token=token, life=life, stopping=stopping))
            for door in config.doors
        ]

    def close(self) -> None:
        """Leave the driver."""
        for _, asked in self._doors:
            asked.close()

    def own_ports(self) -> set[int]:
        """Return the near ends of the connections that are kept between rounds."""
        return {port for _, asked in self._doors for port in asked.own_ports()}

    def round(self) -> Health:
        """Ask everything once. Raises ProbeFailed for the first wrong or missing answer."""
        app_id, doors = "", []
        for door, asked in self._doors:
            started = time.monotonic()
            try:
                answered = asked.ask()
            except ProbeFailed as problem:
                raise type(problem)(f"the {door.kind} door: {problem}") from problem
            took_ms = int((time.monotonic() - started) * 1000)
            doors.append({"kind": door.kind, "host": door.host, "port": door.port, "answer_ms": took_ms})
            if app_id not in ("", answered):
                raise Hopeless(f"the {door.kind} door is one of {answered}, not of {app_id}")
            app_id = answered
        started = time.monotonic()
        try:
            self._ui_shows(app_id)
        except ProbeFailed:
            self._yarn.says(app_id)  # if the application is over, that is the better reason, and final
            raise
        return Health(app_id, doors, int((time.monotonic() - started) * 1000), self._yarn.says(app_id))

    def _ui_shows(self, app_id: str) -> None:
        """Raise ProbeFailed unless the UI lists the application: it goes when the SparkContext stops."""
        url = f"{self._config.ui}/api/v1/applications"
        try:
            listed = http_json(url, self._config.probe_timeout_s, self._stopping)
        except ProbeFailed as problem:
            raise ProbeFailed(f"the SparkContext is stopped or stuck: its UI, {problem}") from problem
        if not isinstance(listed, list) or app_id not in [
            app.get("id") for app in listed if isinstance(app, dict)
        ]:
            raise ProbeFailed(f"the Spark UI at {url} does not show {app_id}")
