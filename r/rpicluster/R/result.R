#' @rdname rpicluster-dbi
#' @export
setClass("RpiResult", contains = "DBIResult", slots = list(state = "environment"))

# A statement without placeholders, or with params, runs now; otherwise it waits for dbBind().
new_result <- function(conn, statement, params, is_query) {
  live(conn)
  check_statement(statement)
  if (!is.null(conn@state$result)) {
    warning("closing the open result of this connection", call. = FALSE)
    clear_result(conn@state$result)
  }
  state <- new.env(parent = emptyenv())
  state$con <- conn
  state$sql <- enc2utf8(as.character(statement))
  state$is_query <- is_query
  state$placeholders <- find_placeholders(state$sql)
  state$open <- TRUE
  state$running <- NULL
  state$rows <- 0
  state$affected <- NA_integer_
  result <- new("RpiResult", state = state)
  if (!is.null(params)) {
    bind(state, params)
  } else if (!length(state$placeholders)) {
    execute_sets(state, list(NULL))
  }
  conn@state$result <- state
  reg.finalizer(state, warn_forgotten)
  result
}

check_statement <- function(statement) {
  if (!is.character(statement) || length(statement) != 1 || is.na(statement)) {
    abort_usage("`statement` must be one string")
  }
}

# `sets`: one list of literals for each execution, or NULL for none. Rows of the executions follow each other.
execute_sets <- function(state, sets) {
  bridge <- live(state$con)
  release(state)
  state$rows <- 0
  state$waiting <- sets
  state$ran <- TRUE
  if (!state$is_query) {
    affected <- 0
    for (set in sets) {
      running <- execute_one(bridge, state$sql, set)
      affected <- affected + count_or_na(bridge$rows_affected(running))
      bridge$clear(running)
    }
    state$affected <- affected
    state$waiting <- list()
  } else {
    next_set(state)
  }
  invisible()
}

execute_one <- function(bridge, sql, set) {
  bridge$execute(if (is.null(set)) sql else fill_placeholders(sql, set))
}

count_or_na <- function(count) if (is.null(count) || count < 0) NA_real_ else as.double(count)

next_set <- function(state) {
  bridge <- live(state$con)
  if (!is.null(state$running)) bridge$clear(state$running)
  state$running <- NULL
  state$running <- execute_one(bridge, state$sql, state$waiting[[1]])
  state$waiting <- state$waiting[-1]
}

release <- function(state) {
  if (!is.null(state$running) && state$con@state$open) {
    state$con@state$bridge$clear(state$running)
  }
  state$running <- NULL
}

clear_result <- function(state) {
  state$open <- FALSE
  release(state)
  if (identical(state$con@state$result, state)) state$con@state$result <- NULL
}

# The connection holds its open result, so this happens only when both are dropped; the session's end frees the rows.
warn_forgotten <- function(state) {
  if (state$open) warning("a result was dropped without dbClearResult()", call. = FALSE)
}

live_result <- function(res) {
  if (!res@state$open || !res@state$con@state$open) {
    abort("closed", "the result is closed", "send the query again with dbSendQuery()")
  }
  res@state
}

bound <- function(res) {
  state <- live_result(res)
  if (is.null(state$ran)) {
    abort_usage(sprintf("the statement waits for %d value(s)", length(unique(state$placeholders))), "call dbBind() first")
  }
  state
}

bind <- function(state, params) {
  if (!length(state$placeholders)) {
    abort_usage("the statement has no placeholders", "write ? or :name where a value belongs")
  }
  params <- check_parameters(state$placeholders, params)
  size <- if (length(params)) parameter_length(params[[1]]) else 1L
  sets <- lapply(seq_len(size), function(i) parameter_literals(state$con, params, i))
  if (!size && state$is_query) {
    # No values, no rows; the columns still have names and types, which Spark knows from a NULL.
    sets <- list(vapply(params, function(value) "NULL", ""))
    execute_sets(state, sets)
    state$limit <- 0
  } else {
    state$limit <- NULL
    execute_sets(state, sets)
  }
}

#' @rdname rpicluster-dbi
#' @export
setMethod("dbSendQuery", c("RpiConnection", "character"), function(conn, statement, params = NULL, ...) {
  new_result(conn, statement, params, is_query = TRUE)
})

#' @rdname rpicluster-dbi
#' @export
setMethod("dbSendStatement", c("RpiConnection", "character"), function(conn, statement, params = NULL, ...) {
  new_result(conn, statement, params, is_query = FALSE)
})

#' @rdname rpicluster-dbi
#' @export
setMethod("dbBind", "RpiResult", function(res, params, ...) {
  bind(live_result(res), params)
  invisible(res)
})

check_n <- function(n) {
  if (!is.numeric(n) || length(n) != 1 || is.na(n) || (n < 0 && n != -1) || (is.finite(n) && n != trunc(n))) {
    abort_usage("`n` must be one whole number, or -1 or Inf for all rows")
  }
  if (n == -1 || is.infinite(n) || n > .Machine$integer.max) -1L else as.integer(n)
}

#' @rdname rpicluster-dbi
#' @export
setMethod("dbFetch", "RpiResult", function(res, n = -1, ...) {
  n <- check_n(n)
  state <- bound(res)
  if (!state$is_query) {
    warning("this statement returns no rows; use dbExecute() for it", call. = FALSE)
    return(data.frame())
  }
  if (!is.null(state$limit)) n <- 0L
  frame <- fetch_rows(state, n)
  state$rows <- state$rows + nrow(frame)
  if (!is.null(state$limit)) state$limit <- -1
  frame
})

fetch_rows <- function(state, n) {
  bridge <- live(state$con)
  frame <- columns_to_frame(bridge$fetch(state$running, n), state$con@state$options)
  while (length(state$waiting) && (n < 0 || nrow(frame) < n)) {
    next_set(state)
    more <- if (n < 0) n else n - nrow(frame)
    frame <- rbind(frame, columns_to_frame(bridge$fetch(state$running, more), state$con@state$options))
  }
  frame
}

#' @rdname rpicluster-dbi
#' @export
setMethod("dbGetQuery", c("RpiConnection", "character"), function(conn, statement, params = NULL, n = -1, ...) {
  n <- check_n(n)
  res <- new_result(conn, statement, params, is_query = TRUE)
  on.exit(dbClearResult(res))
  dbFetch(res, n)
})

#' @rdname rpicluster-dbi
#' @export
setMethod("dbExecute", c("RpiConnection", "character"), function(conn, statement, params = NULL, ...) {
  res <- new_result(conn, statement, params, is_query = FALSE)
  on.exit(dbClearResult(res))
  dbGetRowsAffected(res)
})

#' @rdname rpicluster-dbi
#' @export
setMethod("dbClearResult", "RpiResult", function(res, ...) {
  if (!res@state$open) {
    warning("the result is closed already", call. = FALSE)
    return(invisible(TRUE))
  }
  clear_result(res@state)
  invisible(TRUE)
})

#' @rdname rpicluster-dbi
#' @export
setMethod("dbIsValid", "RpiResult", function(dbObj, ...) dbObj@state$open && dbObj@state$con@state$open)

#' @rdname rpicluster-dbi
#' @export
setMethod("dbHasCompleted", "RpiResult", function(res, ...) {
  state <- live_result(res)
  if (is.null(state$ran)) {
    return(FALSE)
  }
  if (!state$is_query) {
    return(TRUE)
  }
  if (!is.null(state$limit)) {
    return(state$limit < 0)
  }
  !length(state$waiting) && isTRUE(live(state$con)$has_completed(state$running))
})

#' @rdname rpicluster-dbi
#' @export
setMethod("dbGetRowCount", "RpiResult", function(res, ...) live_result(res)$rows)

#' @rdname rpicluster-dbi
#' @export
setMethod("dbGetRowsAffected", "RpiResult", function(res, ...) {
  state <- live_result(res)
  if (is.null(state$ran)) NA_integer_ else if (state$is_query) 0 else state$affected
})

#' @rdname rpicluster-dbi
#' @export
setMethod("dbGetStatement", "RpiResult", function(res, ...) live_result(res)$sql)

#' @rdname rpicluster-dbi
#' @export
setMethod("dbColumnInfo", "RpiResult", function(res, ...) {
  state <- bound(res)
  if (!state$is_query) {
    return(data.frame(name = character(), type = character(), .spark_type = character()))
  }
  columns <- live(state$con)$fetch(state$running, 0L)
  data.frame(
    name = vapply(columns, `[[`, "", "name"),
    type = vapply(columns, function(column) typeof(decode_column(column, state$con@state$options)), ""),
    .spark_type = vapply(columns, `[[`, "", "type")
  )
})

#' @rdname rpicluster-dbi
#' @export
setMethod("dbGetInfo", "RpiResult", function(dbObj, ...) {
  list(
    statement = dbGetStatement(dbObj), row.count = dbGetRowCount(dbObj),
    rows.affected = dbGetRowsAffected(dbObj), has.completed = dbHasCompleted(dbObj),
    is.select = live_result(dbObj)$is_query
  )
})

#' @rdname rpicluster-dbi
#' @export
setMethod("show", "RpiResult", function(object) {
  state <- object@state
  cat(sprintf("<RpiResult>%s\n  SQL  %s\n  rows fetched: %s\n", if (state$open) "" else " closed", state$sql, state$rows))
})
