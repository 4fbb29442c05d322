"""What stands in the way of the R package is said before R is asked."""

import sys
import sysconfig

import pytest

from rpicluster import rpackage
from rpicluster.errors import UsageError


@pytest.mark.parametrize(
    ("prefix", "said"), [("/usr", "apt-get install libpython3"), ("/opt/py", "--enable-shared")]
)
def test_a_python_that_r_cannot_load_is_named_with_the_way_out(
    prefix: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "base_prefix", prefix)
    monkeypatch.setattr(
        sysconfig, "get_config_vars", lambda *_: ["libpython3.99.so.1.0", "/usr/lib", "x86_64-linux-gnu"]
    )
    with pytest.raises(UsageError, match=r"libpython3\.99\.so\.1\.0 is not there") as caught:
        rpackage.require_shared_python()
    assert said in (caught.value.hint or "")
