"""The wheel alone is the product: what it needs besides Python packages is in it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.network  # the build backend is fetched


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's files in a folder of their own, away from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder / "dist", ROOT], check=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True)
    return folder / "site"


def python(installed: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    argv = [sys.executable, *arguments]
    done = subprocess.run(argv, env=environment, cwd="/", check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_program_runs_from_the_wheel(installed: Path) -> None:
    assert Path(python(installed, "-c", "import rpicluster; print(rpicluster.__file__)")).is_relative_to(
        installed
    )
    version, *components = python(installed, "-m", "rpicluster", "version").splitlines()
    assert version.startswith("rpicluster ")
    assert any("pyspark" in line for line in components), "the lock file is in the wheel"


def test_the_r_package_in_the_wheel_is_the_one_of_the_checkout(installed: Path) -> None:
    code = "from rpicluster import rpackage\nwith rpackage.source() as folder: print(folder)"
    carried = Path(python(installed, "-c", code))
    assert carried.is_relative_to(installed)
    ours = ROOT / "r" / "rpicluster"
    for name in ("DESCRIPTION", "NAMESPACE", *(str(p.relative_to(ours)) for p in (ours / "R").glob("*.R"))):
        assert (carried / name).read_bytes() == (ours / name).read_bytes()


def test_every_file_that_is_read_at_run_time_is_in_the_wheel(installed: Path) -> None:
    package = ROOT / "src" / "rpicluster"
    wanted = {p.relative_to(package) for p in package.rglob("*") if p.is_file() and p.suffix != ".pyc"}
    missing = {str(path) for path in wanted if not (installed / "rpicluster" / path).exists()}
    assert not missing
