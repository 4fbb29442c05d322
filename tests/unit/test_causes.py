"""Every text that was recorded from a daemon, or written from its source, has its cause in plain words."""

from pathlib import Path

import pytest

from rpicluster.health.causes import explain

CASES = sorted((Path(__file__).parents[1] / "cases" / "causes").glob("*.txt"))


def case(path: Path) -> tuple[str, str]:
    header, _, text = path.read_text().partition("\n\n")
    fields = dict(line.split(": ", 1) for line in header.splitlines())
    assert fields["source"]
    return fields["expect"], text


def test_there_are_cases() -> None:
    assert len(CASES) >= 30
    assert sum("recorded" in path.read_text().split("\n\n")[0] for path in CASES) >= 15


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
@pytest.mark.parametrize("place", ["diagnostics", "logs"])
def test_a_text_has_its_cause(path: Path, place: str) -> None:
    expected, text = case(path)
    cause = explain(text) if place == "diagnostics" else explain("", text)
    assert (cause.name if cause else "none") == expected
    if cause:
        assert cause.evidence.removesuffix(" …") in text
        assert cause.title and cause.fix


def test_a_missing_file_in_the_logs_explains_more_than_a_master_that_exited() -> None:
    cause = explain(
        "AM Container for appattempt_1_1_000002 exited with  exitCode: 1",
        "[PATH_NOT_FOUND] Path does not exist: /x",
    )
    assert cause is not None and cause.name == "missing-file"


def test_the_diagnostics_win_over_the_logs_for_the_same_cause() -> None:
    cause = explain("Input path does not exist: /a", "Input path does not exist: /b")
    assert cause is not None and cause.evidence == "Input path does not exist: /a"


def test_a_job_that_somebody_ended_is_not_blamed_on_what_it_logged_earlier() -> None:
    cause = explain(
        "Application application_1_0001 was killed by user ada", "java.lang.OutOfMemoryError: Java heap space"
    )
    assert cause is not None and cause.name == "killed-by-user"


def test_a_line_as_long_as_a_class_path_is_cut() -> None:
    cause = explain("No space left on device " + "x" * 5000)
    assert cause is not None and len(cause.evidence) < 310


def test_nothing_known_is_none() -> None:
    assert explain("") is None
    assert explain("all is well", "INFO everything") is None


def test_every_cause_is_documented_and_every_documented_one_exists() -> None:
    from rpicluster.health.causes import CAUSES

    page = (Path(__file__).parents[2] / "docs" / "reference" / "error-causes.md").read_text()
    documented = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `")}
    assert documented == {name for name, _, _ in CAUSES}
    for _, title, fix in CAUSES:
        assert title in page and fix in page


def test_every_cause_has_a_case() -> None:
    from rpicluster.health.causes import CAUSES

    assert {name for name, _, _ in CAUSES} <= {case(path)[0] for path in CASES}
