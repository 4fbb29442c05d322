#' Much data to the cluster and back
#'
#' `rpi_put()` makes a table of a data frame: as one Parquet file that goes
#' to HDFS, or within the statement if it is small. `rpi_collect()` brings rows
#' back in Arrow batches. Both keep types and values that `copy_to()` and
#' `collect()` change, and are many times faster for many rows.
#'
#' Both use the session's Spark Connect door, so they start Python in this R session
#' once. A table is an Iceberg table of the cluster: it stays, and every
#' connection sees it. If the session's gateway stops answering meanwhile, that is an error
#' of the class `rpicluster_error_lost` within ten seconds.
#'
#' @param df A data frame; see [rpi()] for its types.
#' @param name The name of the table.
#' @param overwrite,append Replace the table, or add rows to it.
#' @param field.types Spark types by column name, such as `c(x = "DECIMAL(38,10)")`.
#' @param sc A connection of [rpi_connect()], or `NULL` for the open one to `cluster`.
#' @inheritParams rpi_status
#' @return `rpi_put()`: the table as dplyr sees it through `sc`, invisibly; its
#'   name where no connection of `rpi_connect()` is open. `rpi_collect()`: a
#'   tibble, or a data frame where tibble is not installed.
#' @export
#' @examples
#' \dontrun{
#' sc <- rpi_connect()
#' cars <- rpi_put(mtcars, "cars")
#' rpi_collect(dplyr::filter(cars, hp > 100))
#' }
rpi_put <- function(df, name, overwrite = FALSE, append = FALSE, field.types = NULL, sc = NULL, cluster = NULL) {
  if (!is.data.frame(df)) abort_usage("`df` must be a data frame")
  used <- used_connection(sc, cluster)
  with_bulk(used, function(con) {
    dbWriteTable(con, name, as.data.frame(df), overwrite = overwrite, append = append, field.types = field.types)
  })
  if (is.null(used$sc)) {
    return(invisible(name))
  }
  # A table of this name may have been read before; sparklyr's session keeps what it knows of it.
  sparklyr::invoke(sparklyr::spark_session(used$sc), "sql", paste("REFRESH TABLE", DBI::dbQuoteIdentifier(used$sc, name)))
  invisible(dplyr::tbl(used$sc, name))
}

#' @rdname rpi_put
#' @param tbl A table or query: `tbl(sc, "flights") |> ...`, or the name of a table.
#' @param bigint,decimal The R types of 64-bit integers and decimals, see [rpi-connect].
#' @export
rpi_collect <- function(tbl, bigint = "integer64", decimal = "auto", sc = NULL, cluster = NULL) {
  options <- type_options(bigint, decimal)
  if (is.character(tbl)) {
    used <- used_connection(sc, cluster)
    rows <- with_bulk(used, function(con) ask_with(con, paste("SELECT * FROM", table_name(con, tbl)), options))
    return(as_tibble_if_possible(rows))
  }
  if (!inherits(tbl, "tbl_spark")) {
    abort_usage("`tbl` is no table of sparklyr and no name", "dplyr::collect() brings the rows of other tables")
  }
  used <- used_connection(check_sc(sparklyr::spark_connection(tbl)), NULL)
  as_tibble_if_possible(collect_by_view(tbl, used, options))
}

# A global temporary view is what two sessions of one application share: sparklyr's query, read by Spark Connect.
collect_by_view <- function(tbl, used, options) {
  view <- paste0("rpicluster_", paste(sample(c(letters, 0:9), 24, replace = TRUE), collapse = ""))
  sparklyr::invoke(sparklyr::spark_dataframe(tbl), "createGlobalTempView", view)
  on.exit(if (is.null(used$sc$state$rpicluster$lost)) {
    sparklyr::invoke(sparklyr::invoke(sparklyr::spark_session(used$sc), "catalog"), "dropGlobalTempView", view)
  })
  with_bulk(used, function(con) ask_with(con, sprintf("SELECT * FROM global_temp.`%s`", view), options))
}

ask_with <- function(con, sql, options) {
  bridge <- live(con)
  result <- bridge$execute(sql)
  on.exit(bridge$clear(result))
  columns_to_frame(bridge$fetch(result, -1L), options)
}

as_tibble_if_possible <- function(frame) {
  if (requireNamespace("tibble", quietly = TRUE)) tibble::as_tibble(frame, .name_repair = "minimal") else frame
}

# Which connection of sparklyr is meant, if one is open, and its cluster's document.
used_connection <- function(sc, cluster) {
  if (!is.null(sc)) {
    refuse_lost(check_sc(sc)$state$rpicluster)
    return(list(sc = sc, document = sc$state$rpicluster$document))
  }
  # Without a name the only open connection is meant.
  open <- if (is.null(cluster)) open_connections()
  if (length(open) == 1) {
    return(used_connection(open[[1]], NULL))
  }
  document <- read_document(cluster)
  list(sc = open_connection(document), document = document)
}

# Run `work` on a connection over Spark Connect, which is kept for the next time, while the gateway is asked whether it lives.
with_bulk <- function(used, work) {
  key <- used$document$path
  con <- session$bulk[[key]]
  if (is.null(con) || !con@state$open) {
    con <- new_connection(python_bridge(key, watch_door(used$document)), type_options(), "UTC")
    session$bulk[[key]] <- con
  }
  tryCatch(work(con), rpicluster_error_lost = function(e) {
    drop_bulk(key)
    stop(e)
  }, rpicluster_error_unreachable = function(e) {
    drop_bulk(key)
    stop(e)
  })
}

# Its Python thread may still wait for an answer, so it is not asked to close: the server forgets it.
drop_bulk <- function(key) {
  con <- session$bulk[[key]]
  session$bulk[[key]] <- NULL
  if (!is.null(con)) {
    con@state$open <- FALSE
    session$bridges[[con@state$id]] <- NULL
  }
}

close_bulk <- function(keys) {
  for (key in intersect(keys, names(session$bulk))) {
    con <- session$bulk[[key]]
    session$bulk[[key]] <- NULL
    if (con@state$open) dbDisconnect(con)
  }
}

# What to do while Python waits: ask the gateway, which is in the same process as the door, every other second.
watch_door <- function(document) {
  door <- document$sparklyr
  if (is.null(door)) {
    return(NULL)
  }
  asked <- now()
  function() {
    if (now() - asked < ask_every_seconds) {
      return(invisible())
    }
    tryCatch(gateway_answers(door), rpicluster_error_unreachable = function(e) {
      abort("lost", paste0("the cluster is lost: ", e$reason), e$hint)
    })
    asked <<- now()
  }
}
