"""A CRAN-like repository of tiny packages that a test builds with R itself, and its server on loopback."""

import hashlib
import http.server
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

TWICE_C = """\
#include <R.h>
#include <Rinternals.h>
#include <R_ext/Rdynload.h>
SEXP twice(SEXP x) { return ScalarReal(2 * asReal(x)); }
static const R_CallMethodDef calls[] = {{"C_twice", (DL_FUNC) &twice, 1}, {NULL, NULL, 0}};
void R_init_rpitwice(DllInfo *info) { R_registerRoutines(info, NULL, calls, NULL, NULL); }
"""


def write_package(
    folder: Path, name: str, version: str, *, fields: str = "", code: str = "", exports: str = "", c: str = ""
) -> Path:
    """Write the source folder of a package."""
    top = folder / name
    (top / "R").mkdir(parents=True, exist_ok=True)
    (top / "DESCRIPTION").write_text(
        f"Package: {name}\nTitle: One of a Test\nVersion: {version}\nAuthor: A Test\n"
        "Maintainer: A Test <a@example.org>\n"
        f"Description: Is there to be installed.\nLicense: Apache License (>= 2)\nEncoding: UTF-8\n{fields}"
    )
    (top / "NAMESPACE").write_text(exports)
    (top / "R" / "all.R").write_text(code)
    if c:
        (top / "src").mkdir(exist_ok=True)
        (top / "src" / "all.c").write_text(c)
    return top


def tiny_packages(folder: Path, *, more: str = "1.0") -> list[Path]:
    """Write two packages: `rpitwice` has C code; `rpiThrice` imports it, and Debian's jsonlite."""
    return [
        write_package(
            folder,
            "rpitwice",
            more,
            fields="NeedsCompilation: yes\n",
            code=f"twice <- function(x) .Call(C_twice, x)\nwhich <- function() '{more}'\n",
            exports="useDynLib(rpitwice, .registration = TRUE)\nexport(twice, which)\n",
            c=TWICE_C,
        ),
        write_package(
            folder,
            "rpiThrice",
            "0.2-1",
            fields="Depends: R (>= 3.5)\nImports: rpitwice (>= 1.0), stats,\n    jsonlite\n",
            code="thrice <- function(x) rpitwice::twice(x) + x\n",
            exports="export(thrice)\nimportFrom(rpitwice, twice)\nimportFrom(jsonlite, toJSON)\n",
        ),
    ]


def build_repository(folder: Path, packages: list[Path]) -> Path:
    """Build source packages with `R CMD build` into a repository, with the lists that R writes."""
    contrib = folder / "src" / "contrib"
    contrib.mkdir(parents=True, exist_ok=True)
    for package in packages:
        said = subprocess.run(
            ["R", "CMD", "build", "--no-build-vignettes", "--no-manual", str(package)],
            cwd=contrib,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert said.returncode == 0, said.stdout + said.stderr
    write_lists(folder)
    return folder


def write_lists(folder: Path) -> None:
    """Have R write PACKAGES and PACKAGES.gz, with MD5 sums."""
    contrib = folder / "src" / "contrib"
    said = subprocess.run(
        ["Rscript", "-e", f'tools::write_PACKAGES("{contrib}", type = "source", latestOnly = FALSE)'],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert said.returncode == 0, said.stderr


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on loopback; yield its URL."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
