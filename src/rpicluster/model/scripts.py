"""What a script needs before it can run: its language, its packages, its door to Spark. Pure."""

import ast
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from rpicluster.errors import UsageError
from rpicluster.model.spec import R_ITSELF

# "Writing R Extensions", 1.1.1, and what Python takes as the name of a module.
R_NAME = r"[A-Za-z][A-Za-z0-9.]*[A-Za-z0-9]"
_PYTHON_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_R_LOADS = r"library|require|requireNamespace|loadNamespace|attachNamespace"
# A quoted name, or a bare one that is the whole first argument.
_R_CALL = re.compile(
    rf"\b({_R_LOADS})\s*\(\s*(?:package\s*=\s*)?(?:\"({R_NAME})\"|'({R_NAME})'|({R_NAME})\s*[,)])"
)
_R_COLONS = re.compile(rf"(?<![A-Za-z0-9._])({R_NAME}):::?(?=[A-Za-z.`_])")
_R_QUOTED_ONLY = ("requireNamespace", "loadNamespace", "attachNamespace")
_CHARACTER_ONLY = re.compile(r"character\.only\s*=\s*T")


class Language(StrEnum):
    """What a script is written in."""

    R = "R"
    PYTHON = "Python"


class Door(StrEnum):
    """How a script reaches Spark: a Connect door of its run, a PySpark driver around it, or not at all."""

    CONNECT = "connect"
    SUBMIT = "submit"
    NONE = "none"


@dataclass(frozen=True)
class Needs:
    """The packages that a script names; `optional` ones are tried by it and may be missing."""

    packages: tuple[str, ...]
    optional: tuple[str, ...] = ()
    exact: bool = True  # False: found by patterns, because R's own parser was not at hand


def language_of(name: str) -> Language:
    """Return the language by the name's ending; raises UsageError for another one."""
    stem, _, ending = name.rpartition(".")
    if stem and ending in ("R", "r"):
        return Language.R
    if stem and ending == "py":
        return Language.PYTHON
    raise UsageError(f"{name} is neither an R script nor a Python script", hint="name it NAME.R or NAME.py")


def door_of(language: Language, needs: Needs) -> Door:
    """Return the door that a script with these needs wants."""
    named = {*needs.packages, *needs.optional}
    if language is Language.R:
        return Door.CONNECT if "rpicluster" in named else Door.NONE
    if "pyspark" in named:
        return Door.SUBMIT
    return Door.CONNECT if "rpicluster" in named else Door.NONE


def python_needs(source: str, name: str, own: frozenset[str] = frozenset()) -> Needs:
    """Return the modules that a Python script imports; those of Python itself and `own` ones are left out.

    What is imported inside of a `try` that catches ImportError is optional. Raises UsageError for a script
    that does not parse, with file and line.
    """
    try:
        tree = ast.parse(source, filename=name)
    except (SyntaxError, ValueError) as error:
        line = f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        what = error.msg if isinstance(error, SyntaxError) else error
        raise UsageError(f"{name}{line} is no Python: {what}; nothing was started") from error
    tried = {node for caught in ast.walk(tree) for node in _tried(caught)}
    found: dict[str, bool] = {}
    for node in ast.walk(tree):
        for module in _modules(node):
            top = module.partition(".")[0]
            if top and top not in own and top not in sys.stdlib_module_names:
                found[top] = found.get(top, True) and node in tried
    return Needs(
        tuple(sorted(module for module, optional in found.items() if not optional)),
        tuple(sorted(module for module, optional in found.items() if optional)),
    )


def _tried(node: ast.AST) -> list[ast.AST]:
    if not isinstance(node, ast.Try) or not any(_catches_import(handler) for handler in node.handlers):
        return []
    return [inner for statement in node.body for inner in ast.walk(statement)]


def _catches_import(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    names = {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)}
    return bool(names & {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"})


def _modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and not node.level:
        return [node.module or ""]
    return []


# Walks the parsed script; prints a line `name<TAB>loaded|asked|used` for each package: by library(), by
# requireNamespace(), by `::`; or `!LINE: words` where it is no R.
R_PARSER = r"""
arguments <- commandArgs(TRUE)
parsed <- tryCatch(parse(arguments[[1]], keep.source = FALSE, encoding = "UTF-8"), error = identity)
if (inherits(parsed, "error")) {
  cat("!", sub("^[^:]*:", "", strsplit(conditionMessage(parsed), "\n")[[1]][[1]]), "\n", sep = "")
  quit(status = 0)
}
found <- list()
note <- function(name, how) found[[length(found) + 1]] <<- c(name, how)
name_of <- function(x, quoted) {
  if (is.character(x) && length(x) == 1) x else if (is.name(x) && !quoted) as.character(x)
}
loads <- c("library", "require", "requireNamespace", "loadNamespace", "attachNamespace")
walk <- function(x) {
  if (is.call(x)) {
    head <- x[[1]]
    if (is.call(head) && length(head) == 3 && as.character(head[[1]])[[1]] %in% c("::", ":::")) {
      walk(head)
      head <- head[[3]]
    }
    f <- if (is.name(head)) as.character(head) else ""
    if (f %in% c("::", ":::") && length(x) == 3) {
      note(as.character(x[[2]]), "used")
      return(invisible())
    }
    if (f %in% loads && length(x) > 1) {
      rest <- as.list(x)[-1]
      names <- names(rest)
      by_name <- if (is.null(names)) rep("", length(rest)) else names
      only <- rest[by_name == "character.only"]
      never <- length(only) == 0 || identical(only[[1]], FALSE) || identical(only[[1]], quote(F))
      quoted <- f %in% loads[3:5] || !never
      at <- which(by_name == "package")
      if (!length(at)) at <- which(by_name == "")
      help <- any(by_name %in% c("help", "lib.loc")) && !length(at)
      if (length(at) && !help) {
        name <- name_of(rest[[at[[1]]]], quoted)
        if (!is.null(name)) note(name, if (f == "requireNamespace") "asked" else "loaded")
      }
    }
  }
  if (is.recursive(x) && !is.environment(x)) {
    for (i in seq_along(x)) if (!identical(x[[i]], quote(expr = ))) walk(x[[i]])
  }
}
walk(parsed)
for (one in found) cat(one, sep = "\t", fill = FALSE, "\n")
"""


def r_needs_from_parser(answer: str, name: str) -> Needs:
    """Return what R's own parser found, see R_PARSER. Raises UsageError for a script that does not parse."""
    found: dict[str, set[str]] = {"loaded": set(), "asked": set(), "used": set()}
    for line in answer.splitlines():
        if line.startswith("!"):
            raise UsageError(f"{name}:{line[1:].strip()}; it is no R, and nothing was started")
        package, _, how = line.partition("\t")
        if re.fullmatch(R_NAME, package) and how.strip() in found:
            found[how.strip()].add(package)
    return _r_needs(found, exact=True)


def _r_needs(found: Mapping[str, set[str]], *, exact: bool) -> Needs:
    """Return what is needed: `::` behind a question whether the package is there is as optional as that."""
    needed = (found["loaded"] | (found["used"] - found["asked"])) - R_ITSELF
    return Needs(tuple(sorted(needed)), tuple(sorted(found["asked"] - needed - R_ITSELF)), exact)


def r_needs_from_text(source: str) -> Needs:
    """Return the packages that patterns find in an R script; comments and text in quotes are left out."""
    found: dict[str, set[str]] = {"loaded": set(), "asked": set(), "used": set()}
    for line in _without_comments(source):
        for match in _R_CALL.finditer(line):
            function, bare = match[1], match[4]
            if bare and (function in _R_QUOTED_ONLY or _CHARACTER_ONLY.search(line)):
                continue
            how = "asked" if function == "requireNamespace" else "loaded"
            found[how].add(match[2] or match[3] or bare)
        found["used"] |= {match[1] for match in _R_COLONS.finditer(_without_strings(line))}
    return _r_needs(found, exact=False)


def _without_comments(source: str) -> list[str]:
    lines = []
    for line in source.splitlines():
        quote, kept = "", len(line)
        at = 0
        while at < len(line):
            character = line[at]
            if quote:
                if character == "\\":
                    at += 1
                elif character == quote:
                    quote = ""
            elif character in "\"'`":
                quote = character
            elif character == "#":
                kept = at
                break
            at += 1
        lines.append(line[:kept])
    return lines


def _without_strings(line: str) -> str:
    return re.sub(r"\"(\\.|[^\"\\])*\"|'(\\.|[^'\\])*'", '""', line)


def is_module(name: str) -> bool:
    """Return whether a name can be that of a Python module."""
    return _PYTHON_NAME.fullmatch(name) is not None
