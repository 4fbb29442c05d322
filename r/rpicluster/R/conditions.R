# One way to say an error: what, where and why in `message`, what to type next in `hint`.

abort <- function(class, message, hint = NULL, call = NULL, ...) {
  text <- if (is.null(hint)) message else paste0(message, "\nhint: ", hint)
  stop(structure(
    class = c(paste0("rpicluster_error_", class), "rpicluster_error", "error", "condition"),
    list(message = text, reason = message, hint = hint, call = call, ...)
  ))
}

abort_usage <- function(message, hint = NULL) abort("usage", message, hint)

# The classes of the command line tool's Python exceptions, most exact first.
python_error_classes <- c(
  SqlError = "sql",
  Unreachable = "unreachable",
  UsageError = "usage",
  SpecError = "usage",
  ServiceError = "service",
  LocalEngineError = "service",
  RpiclusterError = "service"
)

# The condition class that belongs to a Python exception, from the names of its classes.
python_error_class <- function(class_names) {
  known <- python_error_classes[intersect(class_names, names(python_error_classes))]
  if (length(known)) known[[1]] else "service"
}
