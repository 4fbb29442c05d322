#' @rdname rpicluster-dbi
#' @slot state An environment: the bridge, the options, the open result.
#' @export
setClass("RpiConnection", contains = "DBIConnection", slots = list(state = "environment"))

new_connection <- function(bridge, options = type_options(), timezone = NULL) {
  state <- new.env(parent = emptyenv())
  state$bridge <- bridge
  state$options <- options
  state$open <- TRUE
  state$result <- NULL
  con <- new("RpiConnection", state = state)
  remember_bridge(state)
  close_forgotten()
  if (!is.null(timezone)) {
    tryCatch(run(con, paste("SET TIME ZONE", string_literal(timezone))), error = function(e) {
      close_connection(state)
      stop(e)
    })
  }
  con
}

# Finalizers run in the middle of anything, so they call no Python: they note whose bridge is to be closed, and the next
# dbConnect() or the end of R closes it. The server would keep a session without a client for a day.
remember_bridge <- function(state) {
  id <- paste0("c", session$count <- session$count + 1)
  session$bridges[[id]] <- state$bridge
  state$id <- id
  reg.finalizer(state, function(state) {
    if (state$open) {
      session$forgotten <- c(session$forgotten, state$id)
      warning("a connection to a cluster was dropped without dbDisconnect()", call. = FALSE)
    }
  })
}

close_connection <- function(state) {
  state$open <- FALSE
  session$bridges[[state$id]] <- NULL
  state$bridge$close()
}

close_bridges <- function(ids) {
  for (id in ids) {
    bridge <- session$bridges[[id]]
    session$bridges[[id]] <- NULL
    # The cluster may be gone; then there is nobody left to tell.
    try(bridge$close(), silent = TRUE)
  }
}

close_forgotten <- function() {
  ids <- session$forgotten
  session$forgotten <- character()
  close_bridges(ids)
}

live <- function(con) {
  if (!con@state$open) {
    abort("closed", "the connection is closed", "connect again with dbConnect(rpicluster::rpi())")
  }
  con@state$bridge
}

# Run a statement of our own for its effect, beside any open result of the user.
run <- function(con, sql) {
  bridge <- live(con)
  result <- bridge$execute(as.character(sql))
  bridge$clear(result)
  invisible()
}

# Run a query of our own and take all its rows, beside any open result of the user.
ask <- function(con, sql) {
  bridge <- live(con)
  result <- bridge$execute(as.character(sql))
  on.exit(bridge$clear(result))
  columns_to_frame(bridge$fetch(result, -1L), con@state$options)
}

#' @rdname rpicluster-dbi
#' @export
setMethod("dbDisconnect", "RpiConnection", function(conn, ...) {
  state <- conn@state
  if (!state$open) {
    warning("the connection is closed already", call. = FALSE)
    return(invisible(FALSE))
  }
  if (!is.null(state$result)) {
    warning("an open result was closed with its connection", call. = FALSE)
    clear_result(state$result)
  }
  close_connection(state)
  invisible(TRUE)
})

#' @rdname rpicluster-dbi
#' @export
setMethod("dbIsValid", "RpiConnection", function(dbObj, ...) dbObj@state$open)

#' @rdname rpicluster-dbi
#' @export
setMethod("dbGetInfo", "RpiConnection", function(dbObj, ...) {
  info <- live(dbObj)$server_info()
  field <- function(name) {
    value <- info[[name]]
    if (is.null(value)) NA else value
  }
  list(
    db.version = as.character(field("spark_version")),
    dbname = as.character(field("namespace")),
    username = as.character(field("user")),
    host = as.character(field("host")),
    port = as.integer(field("port")),
    cluster = as.character(field("cluster"))
  )
})

#' @rdname rpicluster-dbi
#' @export
setMethod("show", "RpiConnection", function(object) {
  cat(sprintf("<RpiConnection>%s\n", if (object@state$open) "" else " closed"))
})

#' @rdname rpicluster-dbi
#' @export
setMethod("dbDataType", "RpiConnection", function(dbObj, obj, ...) data_type(obj))

#' @rdname rpicluster-dbi
#' @export
setMethod("dbQuoteIdentifier", c("RpiConnection", "character"), function(conn, x, ...) {
  if (anyNA(x)) {
    abort_usage("NA is not a name")
  }
  SQL(quote_name(x), names = names(x))
})

quote_name <- function(x) paste0("`", gsub("`", "``", enc2utf8(x), fixed = TRUE), "`", recycle0 = TRUE)

#' @rdname rpicluster-dbi
#' @export
setMethod("dbQuoteIdentifier", c("RpiConnection", "SQL"), function(conn, x, ...) x)

#' @rdname rpicluster-dbi
#' @export
setMethod("dbQuoteIdentifier", c("RpiConnection", "Id"), function(conn, x, ...) {
  SQL(paste0(dbQuoteIdentifier(conn, unname(x@name)), collapse = "."))
})

#' @rdname rpicluster-dbi
#' @export
setMethod("dbUnquoteIdentifier", c("RpiConnection", "SQL"), function(conn, x, ...) {
  stats::setNames(lapply(unname(as.character(x)), function(text) Id_of(split_name(text))), names(x))
})

# The parts of `catalog`.`schema`.`table`, with or without quotes.
split_name <- function(text) {
  text <- as.character(text)
  part <- "`(?:[^`]|``)*`|[\\p{L}\\p{N}_]+"
  if (!grepl(sprintf("^(?:%s)(?:\\.(?:%s))*$", part, part), text, perl = TRUE)) {
    abort_usage(sprintf("%s is not a table name", text), "quote each part with `backticks`")
  }
  parts <- regmatches(text, gregexpr(part, text, perl = TRUE))[[1]]
  quoted <- startsWith(parts, "`")
  parts[quoted] <- gsub("``", "`", substr(parts[quoted], 2, nchar(parts[quoted]) - 1), fixed = TRUE)
  parts
}

Id_of <- function(parts) {
  if (length(parts) > 3) {
    abort_usage(sprintf("a table name has at most three parts, not %d", length(parts)))
  }
  do.call(Id, as.list(stats::setNames(parts, utils::tail(c("catalog", "schema", "table"), length(parts)))))
}

#' @rdname rpicluster-dbi
#' @export
setMethod("dbQuoteString", c("RpiConnection", "character"), function(conn, x, ...) {
  SQL(if (length(x)) string_literal(x) else character())
})

#' @rdname rpicluster-dbi
#' @export
setMethod("dbQuoteString", c("RpiConnection", "SQL"), function(conn, x, ...) x)

#' @rdname rpicluster-dbi
#' @export
setMethod("dbQuoteLiteral", "RpiConnection", function(conn, x, ...) {
  if (is(x, "SQL")) {
    return(x)
  }
  if (is.list(x) && !inherits(x, c("blob", "POSIXlt"))) {
    # A raw vector in a list is one value, not many.
    one <- function(value) if (is.null(value)) "NULL" else spark_literal(conn, if (is.raw(value)) list(value) else value)
    return(SQL(vapply(x, one, "")))
  }
  SQL(vapply(seq_along(x), function(i) spark_literal(conn, x[i]), ""))
})

no_transactions <- function(...) {
  abort(
    "unsupported", "Spark SQL has no transactions: each statement stands for itself",
    "write to a new table and rename it with ALTER TABLE ... RENAME TO when all is right"
  )
}

#' @rdname rpicluster-dbi
#' @export
setMethod("dbBegin", "RpiConnection", function(conn, ...) no_transactions())

#' @rdname rpicluster-dbi
#' @export
setMethod("dbCommit", "RpiConnection", function(conn, ...) no_transactions())

#' @rdname rpicluster-dbi
#' @export
setMethod("dbRollback", "RpiConnection", function(conn, ...) no_transactions())

#' @rdname rpicluster-dbi
#' @export
setMethod("dbWithTransaction", "RpiConnection", function(conn, code, ...) no_transactions())
