#' What `rpicluster status` says, as R values
#'
#' Asks the command line tool for the state of a cluster. The answer comes
#' within seconds even when daemons are dead, and names the dead part.
#'
#' @param cluster A name that `rpicluster` knows or the path of its
#'   `cluster.yml`, or `NULL` for the option `rpicluster.cluster`, the
#'   environment variable `RPICLUSTER_CLUSTER`, or the only cluster there is.
#' @return A list of class `rpi_status`: `cluster` (its name), `healthy` (`TRUE`
#'   or `FALSE`), `parts` (a data frame with the columns `name`, `state` and
#'   `detail`), and `document` (all that the tool said).
#' @export
#' @examples
#' \dontrun{
#' rpi_status()
#' rpi_status("drawer")$healthy
#' }
rpi_status <- function(cluster = NULL) {
  cluster <- chosen_cluster(cluster)
  read_status(run_tool(c("status", "--json", if (!is.null(cluster)) c("--cluster", cluster))))
}

# The command that starts the tool: its own interpreter when one is named, else `rpicluster`.
tool_command <- function() {
  python <- getOption("rpicluster.python", Sys.getenv("RPICLUSTER_PYTHON"))
  if (nzchar(python)) {
    return(c(python, "-m", "rpicluster"))
  }
  tool <- recorded("rpicluster")
  if (is.null(tool)) tool <- unname(Sys.which("rpicluster"))
  if (!nzchar(tool)) {
    abort(
      "python", "the rpicluster command line tool was not found",
      "install the tool and run `rpicluster r-install`, or put `rpicluster` on PATH"
    )
  }
  tool
}

tool_timeout_seconds <- 60

# Run the tool; `status` exits with 6 for an unhealthy cluster and still prints its document.
run_tool <- function(arguments, timeout = tool_timeout_seconds) {
  command <- tool_command()
  talk <- tempfile("rpicluster-talk-")
  on.exit(unlink(talk))
  out <- suppressWarnings(system2(
    command[[1]], shQuote(c(command[-1], arguments)),
    stdout = TRUE, stderr = talk, timeout = timeout
  ))
  code <- attr(out, "status")
  list(code = if (is.null(code)) 0L else code, out = paste(out, collapse = "\n"), talk = readLines(talk, warn = FALSE))
}

read_status <- function(answer) {
  document <- tryCatch(jsonlite::fromJSON(answer$out, simplifyVector = FALSE), error = function(e) NULL)
  if (is.null(document) || is.null(document$healthy)) {
    abort_tool(answer)
  }
  field <- function(part, name) {
    value <- part[[name]]
    if (is.null(value)) NA_character_ else as.character(value)
  }
  column <- function(name) vapply(document$parts, field, "", name)
  structure(
    list(
      cluster = field(document, "cluster"), healthy = isTRUE(document$healthy),
      parts = data.frame(name = column("name"), state = column("state"), detail = column("detail")),
      document = document
    ),
    class = "rpi_status"
  )
}

# The tool said an error in words; keep its message and its hint.
abort_tool <- function(answer, command = "status --json") {
  talk <- answer$talk[nzchar(answer$talk)]
  hints <- sub("^hint: *", "", grep("^hint:", talk, value = TRUE))
  said <- sub("^error: *", "", talk[!startsWith(talk, "hint:")])
  message <- if (length(said)) {
    paste(said, collapse = "\n")
  } else {
    sprintf("`rpicluster %s` ended with exit code %d and no document", command, answer$code)
  }
  abort(
    if (identical(as.integer(answer$code), 4L)) "unreachable" else "status", message,
    if (length(hints)) paste(hints, collapse = "\n") else "run `rpicluster status` in a terminal",
    exit_code = answer$code
  )
}

#' @export
print.rpi_status <- function(x, ...) {
  cat(sprintf("<rpi_status> cluster %s is %s\n", x$cluster, if (x$healthy) "healthy" else "NOT healthy"))
  parts <- x$parts
  if (nrow(parts)) {
    parts$detail[is.na(parts$detail)] <- ""
    lines <- paste0("  ", format(parts$name), "  ", format(parts$state), "  ", parts$detail)
    cat(sub(" +$", "", lines), sep = "\n")
  }
  invisible(x)
}
