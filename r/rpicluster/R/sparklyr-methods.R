# What sparklyr calls for a connection of rpi_connect(). The methods are registered when the first connection is made, for
# generics that sparklyr exports, and for `read_bin`, through which it reads every answer.

methods::setOldClass(c("rpi_spark_connection", "spark_connection"))

# How long a write may make no progress, in whole seconds.
write_seconds <- 6

register_sparklyr_methods <- function() {
  if (isTRUE(session$sparklyr_methods)) {
    return(invisible())
  }
  home <- asNamespace("sparklyr")
  methods <- list(
    invoke_method = invoke_watched, j_invoke_method = invoke_watched, spark_log = driver_log,
    spark_web = driver_page, spark_disconnect = disconnect_watched
  )
  # Not exported: where it is missing, sparklyr's own loop reads, and evaluates `sparklyr.progress` between two time-outs.
  session$reads <- exists("read_bin", home, inherits = FALSE)
  if (session$reads) methods$read_bin <- read_watched
  for (generic in names(methods)) registerS3method(generic, "rpi_spark_connection", methods[[generic]], envir = home)
  # dbplyr wraps what fails under these into an error of its own.
  for (generic in c("copy_to", "tbl")) {
    registerS3method(generic, "rpi_spark_connection", keep_class, envir = asNamespace("dplyr"))
  }
  session$sparklyr_methods <- TRUE
  invisible()
}

invoke_watched <- function(sc, static, object, method, ...) {
  watch <- sc$state$rpicluster
  refuse_lost(watch)
  # A call inside of a call, such as one by a finalizer, belongs to the outer one.
  if (watch$busy) {
    return(NextMethod())
  }
  refuse_bundle(object, method)
  watch$began <- now()
  if (!is.null(watch$marker)) read_away(watch, sc$backend)
  watch$busy <- TRUE
  on.exit({
    watch$busy <- FALSE
    clear_progress(watch)
  })
  socketTimeout(sc$backend, if (isTRUE(session$reads)) write_seconds else 1L)
  withCallingHandlers(
    NextMethod(),
    interrupt = function(condition) cancel_call(watch, sc$backend),
    warning = function(condition) refuse_short_write(watch, condition),
    error = function(condition) explain_failure(sc, condition)
  )
}

# Give back the condition of this package that another error was made of.
keep_class <- function(...) {
  tryCatch(NextMethod(), error = function(e) stop(own_condition(e)))
}

own_condition <- function(condition) {
  cause <- condition
  while (!is.null(cause) && !inherits(cause, "rpicluster_error")) cause <- cause$parent
  if (is.null(cause)) condition else cause
}

# R's own word for a write that made no progress, after which the frame is broken.
refuse_short_write <- function(watch, condition) {
  if (identical(conditionCall(condition)[[1]], quote(writeBin)) || grepl("SIGPIPE", conditionMessage(condition), fixed = TRUE)) {
    lose(watch, sprintf("%s took no more data", door_name(watch$door)))
  }
}

# After an interrupt the cluster may need longer to end what was cancelled.
read_away <- function(watch, socket) {
  drain(watch, socket, now() + drain_seconds)
  if (!is.null(watch$marker)) {
    lose(watch, "an interrupted call did not end")
  }
}

read_watched <- function(con, what, n, endian = NULL) {
  watch <- con$state$rpicluster
  kind <- if (is.character(what)) what else typeof(what)
  socket <- if (isTRUE(con$state$use_monitoring)) con$monitoring else con$backend
  bytes <- watched_bytes(watch, socket, n * c(raw = 1, integer = 4, double = 8)[[kind]])
  readBin(bytes, kind, n, endian = if (is.null(endian)) .Platform$endian else endian)
}

# A bundle of all packages of the laptop poisons the session for everybody: it is sent as a path that only the laptop has.
refuse_bundle <- function(object, method) {
  if (identical(method, "addFile")) {
    abort(
      "unsupported", "spark_apply(packages = TRUE) sends this machine's packages, which the nodes cannot use",
      "name them under `r: packages:` in cluster.yml, run `rpicluster up`, and leave `packages` out"
    )
  }
}

driver_page <- function(sc, ...) {
  address <- sparklyr::invoke(sparklyr::spark_context(sc), "%>%", list("uiWebUrl"), list("get"))
  structure(paste0(address, "/jobs/"), class = "spark_web_url")
}

driver_log <- function(sc, n = 100, filter = NULL, ...) {
  lines <- log_lines(sc, if (is.null(n)) 100000L else n)
  if (!is.null(filter)) lines <- grep(filter, lines, value = TRUE)
  structure(lines, class = "spark_log")
}

# Views go with their rows: rows that are kept on executors would outlive the session.
disconnect_watched <- function(sc, ...) {
  watch <- sc$state$rpicluster
  if (is.null(watch$lost)) {
    tryCatch(drop_views(sc), rpicluster_error = function(e) NULL)
  }
  if (!is.null(watch$socket)) close(watch$socket)
  watch$socket <- NULL
  class(sc) <- setdiff(class(sc), "rpi_spark_connection")
  gone <- sparklyr::spark_disconnect(sc, ...)
  watch$lost <- "it was closed by rpi_disconnect()"
  session$sparklyr <- Filter(function(other) !identical(other$state, sc$state), session$sparklyr)
  invisible(gone)
}

drop_views <- function(sc) {
  catalog <- sparklyr::invoke(sparklyr::spark_session(sc), "catalog")
  for (name in own_views(sc, all = TRUE)) sparklyr::invoke(catalog, "dropTempView", name)
}

# sparklyr makes views of its own, which are nobody's tables.
own_views <- function(sc, all = FALSE) {
  found <- DBI::dbGetQuery(sc, "SHOW VIEWS IN spark_catalog.default")
  names <- as.character(found$viewName[as.logical(found$isTemporary)])
  if (all) names else names[!startsWith(names, "sparklyr_tmp_")]
}

# sparklyr's own method says every error again as a text, without its class.
#' @rdname rpicluster-dbi
#' @export
setMethod("dbGetQuery", "rpi_spark_connection", function(conn, statement, ...) {
  result <- dbSendQuery(conn, statement, ...)
  on.exit(dbClearResult(result))
  dbFetch(result, n = -1)
})
