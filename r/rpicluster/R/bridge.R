# The bridge: a list of R functions that reach rpicluster.rbridge, the Python end of a connection. Everything above this
# file knows only that list, so tests put a fake in its place.

# The bridge of a cluster. Each call runs in one Python thread of its own while R polls, because reticulate cannot end a
# Python call from outside. R takes an interrupt in `await` alone: taken by reticulate in the middle of a call, it leaves
# frames of Python on a stack that is gone, and a later call ends R with a segmentation fault.
python_bridge <- function(cluster, tick = NULL) {
  start_python()
  bridge <- suspendInterrupts(open_bridge(cluster, tick))
  lapply(bridge, function(call) function(...) suspendInterrupts(call(...)))
}

open_bridge <- function(cluster, tick) {
  module <- session$module
  pool <- session$futures$ThreadPoolExecutor(1L)
  wait <- function(what, interruptible = NULL) {
    function(...) await(pool$submit(what, ...), interruptible, tick)
  }
  handle <- wait(module$open)(cluster)
  cancel <- function() module$interrupt(handle)
  execute <- wait(module$execute, cancel)
  fetch <- wait(module$fetch, cancel)
  write_table <- wait(module$write_table, cancel)
  write_view <- wait(module$write_view, cancel)
  list(
    execute = function(sql) execute(handle, sql),
    fetch = function(result, n) lapply(reticulate::iterate(fetch(result, n), identity, simplify = FALSE), column_to_r),
    has_completed = function(result) reticulate::py_to_r(module$has_completed(result)),
    rows_affected = function(result) reticulate::py_to_r(module$rows_affected(result)),
    clear = function(result) invisible(wait(module$clear)(result)),
    write_table = function(parts, columns, mode, types) {
      types <- do.call(reticulate::dict, c(as.list(types), convert = FALSE))
      reticulate::py_to_r(write_table(handle, as.list(parts), lapply(columns, column_to_python), mode, types))
    },
    write_view = function(name, columns) invisible(write_view(handle, name, lapply(columns, column_to_python))),
    tables = function() as.character(reticulate::py_to_r(wait(module$tables)(handle))),
    views = function() as.character(reticulate::py_to_r(wait(module$views)(handle))),
    server_info = function() reticulate::py_to_r(wait(module$server_info)(handle)),
    close = function() {
      wait(module$close)(handle)
      pool$shutdown(wait = FALSE)
      invisible()
    }
  )
}

poll_seconds <- 0.2
cancel_seconds <- 5

# Wait for a Python future, with interrupts suspended. An R interrupt first cancels the job on the cluster, then goes on as
# an interrupt. `tick` is called meanwhile and may end the wait with an error.
await <- function(future, cancel = NULL, tick = NULL) {
  done <- function() reticulate::py_to_r(future$done())
  poll <- function() session$futures$wait(list(future), timeout = poll_seconds)
  cancelled <- FALSE
  after_interrupt <- function(condition) {
    suspendInterrupts(if (!cancelled && !is.null(cancel)) {
      cancelled <<- TRUE
      cancel()
      deadline <- proc.time()[["elapsed"]] + cancel_seconds
      while (!done() && proc.time()[["elapsed"]] < deadline) poll()
    })
    forget_interrupt()
  }
  while (!done()) {
    poll()
    withCallingHandlers(allowInterrupts(Sys.sleep(0)), interrupt = after_interrupt)
    if (!is.null(tick)) tick()
  }
  exception <- future$exception()
  if (!is_none(exception)) {
    abort_python(exception)
  }
  future$result()
}

# reticulate 1.28 notes an interrupt that R takes itself, and takes the next exception of Python for it: here is one.
forget_interrupt <- function() {
  tryCatch(session$builtins$int("none"), error = identity, interrupt = identity)
}

abort_python <- function(exception) {
  mro <- reticulate::py_to_r(session$builtins$type(exception)$mro())
  class_names <- vapply(mro, function(class) reticulate::py_to_r(reticulate::py_get_attr(class, "__name__")), "")
  field <- function(name) {
    if (reticulate::py_has_attr(exception, name)) reticulate::py_to_r(reticulate::py_get_attr(exception, name))
  }
  message <- field("message")
  if (is.null(message)) {
    message <- sprintf("%s: %s", class_names[[1]], reticulate::py_to_r(session$builtins$str(exception)))
  }
  abort(python_error_class(class_names), message, field("hint"), python_class = class_names[[1]])
}

# Python `bytes` have no conversion in reticulate 1.28; a bytearray becomes a raw vector by one copy.
bytes_to_raw <- function(bytes) {
  if (is_none(bytes)) NULL else reticulate::py_to_r(session$builtins$bytearray(bytes))
}

column_to_r <- function(column) {
  item <- function(name) reticulate::py_get_item(column, name)
  list(
    name = reticulate::py_to_r(item("name")),
    type = reticulate::py_to_r(item("type")),
    n = reticulate::py_to_r(item("n")),
    data = bytes_to_raw(item("data")),
    valid = bytes_to_raw(item("valid"))
  )
}

column_to_python <- function(column) {
  reticulate::dict(
    name = column$name, type = column$type, n = as.integer(column$n),
    data = session$builtins$bytes(column$data),
    valid = if (is.null(column$valid)) NULL else session$builtins$bytes(column$valid),
    convert = FALSE
  )
}

is_none <- function(x) is.null(x) || inherits(x, "python.builtin.NoneType")
