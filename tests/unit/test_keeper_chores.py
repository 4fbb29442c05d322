"""Chores and the log, the keeper's small duties."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rpicluster.session.keeper.chores import Chores
from rpicluster.session.keeper.config import Chore, Config, Door
from rpicluster.session.keeper.records import LOG_LIMIT_BYTES, cut_log, last_words


def config(directory: Path, *chores: Chore) -> Config:
    return Config(
        name="session-ana",
        java=["java"],
        environment={"COLOUR": "blue"},
        secret_environment={},
        directory=str(directory),
        log=str(directory / "driver.log"),
        doors=[Door("connect", "127.0.0.1", 1)],
        ui="http://127.0.0.1:1",
        resourcemanager="http://127.0.0.1:2",
        user="ana",
        status_file=str(directory / "status.json"),
        chores=list(chores),
    )


def python(name: str, code: str, every_s: float = 0.1, timeout_s: float = 20) -> Chore:
    return Chore(name, every_s, [sys.executable, "-c", code], timeout_s)


def tick_until(chores: Chores, *names: str) -> dict[str, Any]:
    deadline = time.monotonic() + 15
    while not all("last" in chores.records[name] for name in names):
        assert time.monotonic() < deadline, chores.records
        chores.tick()
        time.sleep(0.01)
    return {name: chores.records[name]["last"] for name in names}


def test_a_chore_that_is_due_runs_and_its_last_line_is_kept(tmp_path: Path) -> None:
    code = "import os; print('first'); print('3 tables,', os.environ['COLOUR'])"
    last = tick_until(Chores(config(tmp_path, python("expire", code))), "expire")["expire"]
    assert last["exit_code"] == 0
    assert last["message"] == "3 tables, blue"


def test_a_chore_that_fails_keeps_its_exit_code(tmp_path: Path) -> None:
    last = tick_until(Chores(config(tmp_path, python("expire", "raise SystemExit('no door')"))), "expire")[
        "expire"
    ]
    assert (last["exit_code"], last["message"]) == (1, "no door")


def test_two_chores_never_run_at_once(tmp_path: Path) -> None:
    code = "import time; a = time.time(); time.sleep(0.3); print(a, time.time())"
    last = tick_until(Chores(config(tmp_path, python("one", code), python("two", code))), "one", "two")
    (start_one, end_one), (start_two, end_two) = sorted(
        tuple(float(word) for word in last[name]["message"].split()) for name in ("one", "two")
    )
    assert start_one < end_one <= start_two < end_two


def test_a_chore_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    last = tick_until(
        Chores(config(tmp_path, python("slow", "import time; time.sleep(60)", 0.1, 0.5))), "slow"
    )["slow"]
    assert last["exit_code"] is None
    assert last["message"] == "stopped after 0.5 s"
    assert 0.5 <= last["took_s"] < 10


def test_a_chore_that_cannot_be_started_is_noted(tmp_path: Path) -> None:
    chores = Chores(config(tmp_path, Chore("gone", 0, ["/nowhere/python"])))
    assert "cannot" not in str(chores.records)
    assert "could not be started" in tick_until(chores, "gone")["gone"]["message"]


def test_a_restarted_keeper_does_not_run_again_what_it_ran_before(tmp_path: Path) -> None:
    setting = config(tmp_path, python("expire", "print(1)", every_s=3600))
    (tmp_path / "status.json.chores").write_text(json.dumps({"expire": {"due_at": 0}}))
    first = Chores(setting)
    ran = tick_until(first, "expire")["expire"]
    second = Chores(setting)
    for _ in range(20):
        second.tick()
        time.sleep(0.01)
    assert second.records["expire"]["last"] == ran
    assert second.records["expire"]["due_at"] == ran["at"] + 3600


def test_a_new_chore_waits_a_full_period(tmp_path: Path) -> None:
    before = time.time()
    chores = Chores(config(tmp_path, python("expire", "print(1)", every_s=86400)))
    chores.tick()
    assert chores.records["expire"]["due_at"] >= before + 86400
    assert "last" not in chores.records["expire"]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"expire": null}'])
def test_a_damaged_schedule_starts_afresh(tmp_path: Path, content: str) -> None:
    (tmp_path / "status.json.chores").write_text(content)
    assert "due_at" in Chores(config(tmp_path, python("expire", "print(1)"))).records["expire"]


def test_a_log_that_is_too_long_moves_aside_while_its_writer_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "driver.log"
    with log.open("ab") as writer:
        writer.write(b"x" * (LOG_LIMIT_BYTES + 1))
        writer.flush()
        cut_log(log)
        writer.write(b"after\n")
    assert log.read_bytes() == b"after\n"
    assert (tmp_path / "driver.log.1").stat().st_size == LOG_LIMIT_BYTES + 1


def test_a_short_or_missing_log_is_left_alone(tmp_path: Path) -> None:
    cut_log(tmp_path / "none.log")
    (tmp_path / "short.log").write_text("words")
    cut_log(tmp_path / "short.log")
    assert [path.name for path in tmp_path.iterdir()] == ["short.log"]


def test_the_last_words_are_of_this_driver_and_not_of_the_one_before(tmp_path: Path) -> None:
    log = tmp_path / "driver.log"
    log.write_text('Exception in thread "main" of yesterday\n')
    start = log.stat().st_size
    assert last_words(log, start) == ""
    with log.open("a") as file:
        file.write("12:00 INFO fine\n12:01 ERROR SparkContext: no room\n12:02 INFO bye\n")
    assert last_words(log, start) == "12:01 ERROR SparkContext: no room"


def test_the_last_words_hold_the_exception_below_an_error_line(tmp_path: Path) -> None:
    log = tmp_path / "driver.log"
    log.write_text(
        "1 ERROR SparkConnectServer: Error starting\njava.io.IOException: Failed to bind\n\tat a.b(C.java)\n"
    )
    assert (
        last_words(log, 0) == "1 ERROR SparkConnectServer: Error starting java.io.IOException: Failed to bind"
    )
