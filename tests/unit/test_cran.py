"""R packages of a node: PACKAGES read, versions compared as R does, Debian first, every need met."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpicluster.design.cran import (
    Need,
    Offer,
    Resolution,
    SourcePackage,
    r_version,
    read_description,
    read_index,
    read_needs,
    release,
    resolve,
)
from rpicluster.errors import RPackageError

PACKAGES = """\
Package: alpha
Version: 1.2-3
Depends: R (>= 3.5), methods,
        beta (>=
        1.0)
Imports: gamma, stats
Suggests: omega
MD5sum: ABCDEF
NeedsCompilation: no

Package: beta
Version: 1.0
NeedsCompilation: yes
SHA256: 0123

Package: beta
Version: 1.10
Depends: R (>= 4.9)

Package: beta
Version: 1.9
Path: 4.2.0/Recommended
LinkingTo: gamma
NeedsCompilation: no

Package: gamma
Version: 2
NeedsCompilation: no

Package: windows.only
Version: 1.0
OS_type: windows

Package: ../evil
Version: 1.0

Package: evil
Version: 1.0
Path: ../../etc

Package: nonsense
Version: one
"""
INDEX = read_index(PACKAGES)
OWN = SourcePackage("rpicluster", "0.1.0", (Need("DBI", ">=", "1.1.3"),), compiles=False)
DBI = {"dbi": Offer("r-cran-dbi", "1.1.3")}


def names(found: Resolution) -> list[str]:
    return [package.name for package in found.sources]


def refused(
    *wanted: str, offers: dict[str, Offer] | None = None, r: str = "4.2.2", **options: bool
) -> RPackageError:
    with pytest.raises(RPackageError) as caught:
        resolve(
            wanted, INDEX if options.get("has_repository", True) else {}, offers=offers or {}, r=r, **options
        )  # type: ignore[arg-type]
    return caught.value


# -- reading -------------------------------------------------------------------------------------------


def test_a_list_of_packages_is_read_with_folded_lines_several_versions_and_without_what_cannot_be_used() -> (
    None
):
    assert set(INDEX) == {"alpha", "beta", "gamma"}
    alpha = INDEX["alpha"][0]
    assert [str(need) for need in alpha.needs] == ["R (>= 3.5)", "beta (>= 1.0)", "gamma"]
    assert (alpha.md5, alpha.compiles, alpha.path) == ("abcdef", False, "alpha_1.2-3.tar.gz")
    assert [package.version for package in INDEX["beta"]] == ["1.10", "1.9", "1.0"], "10 is more than 9"
    assert INDEX["beta"][1].path == "4.2.0/Recommended/beta_1.9.tar.gz"
    assert INDEX["beta"][1].compiles, "it links to C code, whatever it says"
    assert INDEX["beta"][2].sha256 == "0123"
    assert INDEX["beta"][0].compiles, "who does not say is believed to need a compiler"


def test_what_comes_with_r_is_no_need() -> None:
    assert read_needs({"Imports": "stats, methods, tools , utils", "LinkingTo": "Rcpp (>= 1.0)"}) == (
        Need("Rcpp", ">=", "1.0"),
    )


@given(st.text(max_size=400))
def test_any_text_at_all_is_read_without_failing(text: str) -> None:
    read_index(text)
    read_description("Package: a1\nVersion: 1\nDepends: " + text)


@pytest.mark.parametrize(
    ("debian", "version"),
    [
        ("1.0.10-1+b1", "1.0.10"),
        ("1:1.2-3-1", "1.2-3"),
        ("2.3.0+dfsg-1~bpo12+1", "2.3.0"),
        ("4.2.2.20221110-2", "4.2.2.20221110"),
        ("0.6.31-1build1", "0.6.31"),
        ("1.14.8+dfsg", "1.14.8"),
        ("git2023", None),
        ("", None),
    ],
)
def test_a_debian_version_holds_rs(debian: str, version: str | None) -> None:
    assert r_version(debian) == version


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=4), st.lists(st.integers(0, 40), min_size=1, max_size=4)
)
def test_versions_are_compared_number_by_number_whatever_stands_between(a: list[int], b: list[int]) -> None:
    dots, dashes = ".".join(map(str, a)), "-".join(map(str, a))
    other = ".".join(map(str, b))
    assert release(dots) == release(dashes)
    assert Need("x", ">=", other).allows(dots) == (a >= b)
    assert Need("x", "<", other).allows(dots) != Need("x", ">=", other).allows(dots)
    assert Need("x", "==", other).allows(dots) != Need("x", "!=", other).allows(dots)


# -- resolving -----------------------------------------------------------------------------------------


def test_debian_comes_first_and_what_it_lacks_is_built_after_what_it_needs() -> None:
    found = resolve(["alpha"], INDEX, offers={"gamma": Offer("r-cran-gamma", "2")}, r="4.2.2")
    assert found.debian == ("r-cran-gamma",)
    assert names(found) == ["beta", "alpha"]
    assert found.compiles


def test_debian_is_passed_over_where_its_version_is_too_old_and_only_there() -> None:
    offers = {"beta": Offer("r-cran-beta", "0.9"), "gamma": Offer("r-cran-gamma", "1")}
    assert names(resolve(["alpha"], INDEX, offers=offers, r="4.2.2")) == ["beta", "alpha"]
    assert resolve(["beta"], INDEX, offers=offers, r="4.2.2") == Resolution(("r-cran-beta",), ())


def test_the_newest_version_that_the_nodes_r_can_take_is_chosen() -> None:
    assert resolve(["beta"], INDEX, offers={}, r="4.2.2").sources[-1].version == "1.9"
    assert resolve(["beta"], INDEX, offers={}, r="4.9").sources[-1].version == "1.10"


def test_a_need_that_shows_late_moves_a_package_from_debian_to_a_source() -> None:
    index = {**INDEX, "late": (SourcePackage("late", "1", (Need("gamma", ">=", "2"),)),)}
    found = resolve(["gamma", "late"], index, offers={"gamma": Offer("r-cran-gamma", "1.9")}, r="4.2.2")
    assert found.debian == () and names(found) == ["gamma", "late"]


def test_our_own_package_is_always_built_from_its_source() -> None:
    offers = {**DBI, "rpicluster": Offer("r-cran-rpicluster", "9.9")}
    found = resolve([], {}, offers=offers, r="4.2.2", own=OWN, has_repository=False)
    assert (found.debian, found.sources) == (("r-cran-dbi",), (OWN,))


@pytest.mark.parametrize(
    ("error", "said", "hint"),
    [
        (
            refused("gamna"),
            "Debian has no r-cran-gamna, and the repository has none of that name",
            'mean "gamma"',
        ),
        (refused("Gamma"), "the repository has none of that name", 'did you mean "gamma"?'),
        (refused("gamma", has_repository=False), "names no repository", "repository: https://"),
        (refused("zzzzzz"), "none of that name", "PACKAGES"),
        (refused("alpha", r="3.4"), "it needs R (>= 3.5), the node has R 3.4", "take alpha out"),
    ],
)
def test_what_cannot_be_had_is_refused_with_its_name_and_what_to_do(
    error: RPackageError, said: str, hint: str
) -> None:
    assert said in error.message and error.hint is not None and hint in error.hint


def test_a_refusal_says_who_needs_the_package() -> None:
    index = {
        "top": (
            SourcePackage(
                "top",
                "1",
                (Need("gamma", ">=", "3"), Need("nowhere")),
            ),
            *[],
        )
    }
    with pytest.raises(RPackageError, match=r"gamma \(top 1 needs gamma \(>= 3\)\): Debian offers 2"):
        resolve(["top"], index, offers={"gamma": Offer("r-cran-gamma", "2")}, r="4.2.2")


def test_a_circle_of_sources_is_refused() -> None:
    circle = {
        "one": (SourcePackage("one", "1", (Need("two"),)),),
        "two": (SourcePackage("two", "1", (Need("one"),)),),
    }
    with pytest.raises(RPackageError, match="circle: one, two"):
        resolve(["one"], circle, offers={}, r="4.2.2")


@st.composite
def worlds(draw: st.DrawFn) -> tuple[dict[str, tuple[SourcePackage, ...]], dict[str, Offer], list[str]]:
    """A repository without circles, whose packages need earlier ones, and what Debian offers of them."""
    count = draw(st.integers(1, 12))
    everything = [f"p{number}" for number in range(count)]
    index = {}
    for number, name in enumerate(everything):
        versions = sorted(draw(st.sets(st.integers(1, 5), min_size=1, max_size=3)), reverse=True)
        needed = (
            draw(st.lists(st.sampled_from(everything[:number]), max_size=3, unique=True)) if number else []
        )
        index[name] = tuple(
            SourcePackage(
                name,
                str(version),
                tuple(
                    Need(other, *draw(st.sampled_from([("", ""), (">=", "2"), (">=", "4"), ("<", "4")])))
                    for other in needed
                ),
            )
            for version in versions
        )
    offered = draw(st.sets(st.sampled_from(everything)))
    offers = {name: Offer(f"r-cran-{name}", str(draw(st.integers(1, 5)))) for name in sorted(offered)}
    return index, offers, draw(st.lists(st.sampled_from(everything), min_size=1, unique=True))


@given(worlds(), st.randoms(use_true_random=False))
def test_whatever_is_resolved_has_every_need_met_in_order_and_depends_on_no_order_of_the_list(
    world: tuple[dict[str, tuple[SourcePackage, ...]], dict[str, Offer], list[str]], chance: random.Random
) -> None:
    index, offers, wanted = world
    try:
        found = resolve(wanted, index, offers=offers, r="4.2.2")
    except RPackageError as error:
        assert error.message.startswith("R package p") and error.hint
        return
    there: dict[str, str] = {
        name: offer.version for name, offer in offers.items() if offer.package in found.debian
    }
    for package in found.sources:
        for need in package.needs:
            assert need.allows(there[need.name]), f"{package} before {need}"
        assert package.name not in there, "nothing comes twice"
        there[package.name] = package.version
    assert set(wanted) <= set(there)
    shuffled = list(index.items())
    chance.shuffle(shuffled)
    assert resolve(wanted, dict(shuffled), offers=offers, r="4.2.2") == found
