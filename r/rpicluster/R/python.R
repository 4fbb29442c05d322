# The command line tool brings its own Python environment; this file finds it and lets reticulate use it.

# Where `rpicluster r-install` records itself: beside the installed package, or in the user's configuration.
record_files <- function() {
  c(system.file("python.json", package = "rpicluster"), file.path(tools::R_user_dir("rpicluster", "config"), "python.json"))
}

recorded <- function(field) {
  path <- Filter(file.exists, record_files())
  if (!length(path)) {
    return(NULL)
  }
  path <- path[[1]]
  said <- tryCatch(jsonlite::fromJSON(path), error = function(e) {
    abort("python", paste0(path, " is not valid JSON: ", conditionMessage(e)), "run `rpicluster r-install` again")
  })
  said[[field]]
}

python_of_tool <- function(tool) {
  said <- suppressWarnings(system2(tool, c("version", "--json"), stdout = TRUE, stderr = FALSE, timeout = 30))
  if (!is.null(attr(said, "status"))) {
    return(NULL)
  }
  tryCatch(jsonlite::fromJSON(paste(said, collapse = "\n"))$python, error = function(e) NULL)
}

# The first place that names an interpreter decides; a wrong answer there is an error, not a reason to look further.
find_python <- function() {
  candidates <- list(
    "option rpicluster.python" = function() getOption("rpicluster.python"),
    "environment variable RPICLUSTER_PYTHON" = function() {
      value <- Sys.getenv("RPICLUSTER_PYTHON")
      if (nzchar(value)) value
    },
    "what `rpicluster r-install` recorded" = function() recorded("python"),
    "`rpicluster` on PATH" = function() {
      tool <- Sys.which("rpicluster")
      if (nzchar(tool)) python_of_tool(tool)
    }
  )
  for (source in names(candidates)) {
    python <- candidates[[source]]()
    if (!is.null(python)) {
      if (!file.exists(python)) {
        abort(
          "python", sprintf("%s names the Python %s, which does not exist", source, python),
          "run `rpicluster r-install`, or set RPICLUSTER_PYTHON to the tool's Python"
        )
      }
      return(python)
    }
  }
  abort(
    "python", "the Python environment of the rpicluster command line tool was not found",
    "install the tool and run `rpicluster r-install`, or set RPICLUSTER_PYTHON to its Python"
  )
}

# RETICULATE_PYTHON is the one wish that all versions of reticulate put above what they find in the working directory (a
# Poetry or Pipenv project, a .venv). A wish of the user's own is put back afterwards, though Python stays what it is.
initialize_python <- function(python) {
  wish <- Sys.getenv("RETICULATE_PYTHON", unset = NA)
  Sys.setenv(RETICULATE_PYTHON = python)
  on.exit(if (is.na(wish)) Sys.unsetenv("RETICULATE_PYTHON") else Sys.setenv(RETICULATE_PYTHON = wish))
  tryCatch(
    {
      reticulate::use_python(python, required = TRUE)
      reticulate::py_config()
    },
    error = function(e) {
      abort(
        "python", sprintf("R cannot load the Python %s: %s", python, trimws(conditionMessage(e))),
        "run `rpicluster r-install`, which says what that Python lacks"
      )
    }
  )
}

# Start Python once in this R session, or accept one that runs already if it can import the tool.
start_python <- function() {
  if (!is.null(session$module)) {
    return(session$module)
  }
  running <- reticulate::py_available(initialize = FALSE)
  if (!running) {
    initialize_python(find_python())
  }
  session$module <- tryCatch(
    reticulate::import("rpicluster.rbridge", convert = FALSE),
    error = function(e) {
      used <- tryCatch(reticulate::py_config()$python, error = function(e) "unknown")
      if (running) {
        abort(
          "python",
          sprintf("reticulate already runs %s in this R session, and it cannot import rpicluster", used),
          "restart R and connect before other packages start Python, or set RETICULATE_PYTHON to the tool's Python"
        )
      }
      abort(
        "python", sprintf("%s cannot import rpicluster: %s", used, trimws(conditionMessage(e))),
        "run `rpicluster r-install` again, or set RPICLUSTER_PYTHON to the tool's Python"
      )
    }
  )
  session$builtins <- reticulate::import_builtins(convert = FALSE)
  session$futures <- reticulate::import("concurrent.futures", convert = FALSE)
  session$module
}
