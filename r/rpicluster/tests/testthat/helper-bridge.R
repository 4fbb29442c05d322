# A bridge without Python: statements are noted, and answered from a list of columns by the first pattern that fits.

fake_column <- function(name, type, data, n, valid = NULL) {
  list(name = name, type = type, n = n, data = data, valid = valid)
}

int_column <- function(name, values) {
  present <- !is.na(values)
  fake_column(name, "int", writeBin(as.integer(ifelse(present, values, 0L)), raw(), endian = "little"), length(values),
              if (!all(present)) as.raw(present))
}

text_column <- function(name, values, type = "string") {
  present <- !is.na(values)
  fake_column(name, type, writeBin(enc2utf8(ifelse(present, values, "")), raw()), length(values),
              if (!all(present)) as.raw(present))
}

int64_column <- function(name, values, type = "bigint") {
  values <- bit64::as.integer64(values)
  fake_column(name, type, writeBin(unclass(values), raw(), endian = "little"), length(values))
}

slice_column <- function(column, rows) {
  width <- c(int = 4, bigint = 8)[[column$type]]
  column$data <- column$data[as.vector(outer(seq_len(width), (rows - 1) * width, `+`))]
  if (!is.null(column$valid)) column$valid <- column$valid[rows]
  column$n <- length(rows)
  column
}

fake_bridge <- function(answers = list(), tables = character(), views = character()) {
  log <- new.env()
  log$sql <- character()
  log$closed <- FALSE
  log$cleared <- 0
  log$uploads <- list()
  answer <- function(sql) {
    for (pattern in names(answers)) if (grepl(pattern, sql)) return(answers[[pattern]])
    list()
  }
  list(
    log = log,
    execute = function(sql) {
      log$sql <- c(log$sql, sql)
      found <- answer(sql)
      if (inherits(found, "condition")) stop(found)
      result <- new.env()
      result$columns <- found
      result$at <- 0
      result
    },
    fetch = function(result, n) {
      total <- if (length(result$columns)) result$columns[[1]]$n else 0
      if (n < 0) {
        out <- if (result$at == 0) result$columns else lapply(result$columns, slice_column, seq_len(total)[-seq_len(result$at)])
        result$at <- total
        return(out)
      }
      rows <- result$at + seq_len(min(n, total - result$at))
      result$at <- result$at + length(rows)
      lapply(result$columns, slice_column, rows)
    },
    has_completed = function(result) !length(result$columns) || result$at >= result$columns[[1]]$n,
    rows_affected = function(result) NULL,
    clear = function(result) log$cleared <- log$cleared + 1,
    write_table = function(parts, columns, mode, types) {
      log$uploads <- c(log$uploads, list(list(parts = parts, columns = columns, mode = mode, types = types)))
    },
    write_view = function(name, columns) {
      log$uploads <- c(log$uploads, list(list(parts = name, columns = columns, mode = "view", types = NULL)))
    },
    tables = function() tables,
    views = function() views,
    server_info = function() list(spark_version = "4.1.4", cluster = "fake", namespace = "rpi.default", port = "15002"),
    close = function() log$closed <- TRUE
  )
}

fake_connection <- function(..., options = type_options(), frame = parent.frame()) {
  con <- new_connection(fake_bridge(...), options)
  withr::defer(if (con@state$open) DBI::dbDisconnect(con), frame)
  con
}

said <- function(con) con@state$bridge$log$sql

# A connection to the real cluster that RPICLUSTER_CONNECTION names; without it the test is skipped and says so.
cluster_connection <- function(..., frame = parent.frame()) {
  skip_if(!nzchar(Sys.getenv("RPICLUSTER_CONNECTION")), "RPICLUSTER_CONNECTION names no cluster")
  con <- DBI::dbConnect(rpi(), ...)
  withr::defer(if (con@state$open) DBI::dbDisconnect(con), frame)
  con
}

error_of <- function(expression) tryCatch({ expression; NULL }, error = identity)
