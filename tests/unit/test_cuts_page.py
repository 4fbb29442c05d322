"""The page of cuts says what was missed: no row is left out, and none is made to look right."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "r"))
from cuts import LIMITS_S, beyond, page


def row(cut: str, seconds: float | None, kind: str = "rpicluster_error_lost") -> dict[str, object]:
    return {"operation": "collect", "cut": cut, "seconds": seconds, "class": kind, "load": 1.5}


GOOD = [row(way, limit - 1) for way, limit in LIMITS_S.items()]


def test_a_page_has_a_line_for_each_operation_and_a_column_for_each_cut() -> None:
    text = page(GOOD, "abc1234")
    assert "| `collect()`, a long query | 9.0 | 9.0 | 9.0 | 19.0 |" in text
    assert "at commit abc1234" in text and "4 of 4 within their limit" in text


def test_a_hang_a_late_answer_and_another_error_are_marked_and_counted() -> None:
    rows = [
        row("SIGKILL", None, "hang"),
        row("SIGSTOP", 10.1),
        row("black hole", 2.0, "simpleError"),
        GOOD[3],
    ]
    assert beyond(rows) == rows[:3]
    text = page(rows, "abc1234")
    assert "| **None (hang)** | **10.1 (rpicluster_error_lost)** | **2.0 (simpleError)** | 19.0 |" in text
    assert "1 of 4 within their limit" in text
