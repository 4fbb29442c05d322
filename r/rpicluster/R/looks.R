#' Look at a cluster from R
#'
#' `rpi_tables()` lists the tables, `rpi_web()` shows a page of the daemons in
#' a browser, `rpi_log()` shows the end of the session's log.
#'
#' @inheritParams rpi_put
#' @return `rpi_tables()`: a data frame of `name` and `temporary` (`TRUE` for
#'   a view of this connection). `rpi_web()`: the page's address, invisibly.
#'   `rpi_log()`: lines.
#' @export
#' @examples
#' \dontrun{
#' rpi_tables()
#' rpi_web("YARN")
#' rpi_log(n = 20, filter = "WARN|ERROR")
#' }
rpi_tables <- function(cluster = NULL, sc = NULL) {
  used <- used_connection(sc, cluster)
  if (is.null(used$sc)) {
    names <- with_bulk(used, function(con) dbListTables(con))
    return(data.frame(name = names, temporary = logical(length(names))))
  }
  namespace <- paste(quote_name(strsplit(used$document$namespace, ".", fixed = TRUE)[[1]]), collapse = ".")
  found <- dbGetQuery(used$sc, paste("SHOW TABLES IN", namespace))
  tables <- sort(as.character(found$tableName[!as.logical(found$isTemporary)]))
  views <- sort(own_views(used$sc))
  data.frame(name = c(tables, views), temporary = rep(c(FALSE, TRUE), c(length(tables), length(views))))
}

#' @rdname rpi_tables
#' @param page `"Spark"`, `"YARN"` or `"HDFS"`.
#' @param browse `FALSE` to only return the address.
#' @export
rpi_web <- function(page = c("Spark", "YARN", "HDFS"), cluster = NULL, browse = interactive()) {
  check_flag(browse, "browse")
  if (!identical(page, c("Spark", "YARN", "HDFS")) && !(is.character(page) && length(page) == 1 && page %in% c("Spark", "YARN", "HDFS"))) {
    abort_usage("`page` must be \"Spark\", \"YARN\" or \"HDFS\"")
  }
  cluster <- chosen_cluster(cluster)
  answer <- run_tool(c("connect", "--pages", "--json", if (!is.null(cluster)) c("--cluster", cluster)))
  said <- tryCatch(jsonlite::fromJSON(answer$out), error = function(e) NULL)
  address <- said$pages[[page[[1]]]]
  if (is.null(address)) {
    abort_tool(answer, "connect --pages --json")
  }
  if (!is.null(said$proxy)) {
    message("This page is behind the SOCKS proxy ", said$proxy, "; `rpicluster connect --pages` prints how a browser is started with it.")
  } else if (browse) {
    utils::browseURL(address)
  }
  invisible(structure(address, proxy = said$proxy))
}

#' @rdname rpi_tables
#' @param n How many lines.
#' @param filter A regular expression; only lines that match it.
#' @export
rpi_log <- function(n = 100, filter = NULL, cluster = NULL, sc = NULL) {
  if (!is.numeric(n) || length(n) != 1 || is.na(n) || n < 1) abort_usage("`n` must be a number of lines")
  used <- used_connection(sc, cluster)
  if (is.null(used$sc)) {
    abort("closed", "the session's log is read through a connection, and none is open", "sc <- rpi_connect()")
  }
  driver_log(used$sc, n, filter)
}

# The last lines of the driver's log, which it reads itself: it stands on the manager.
log_lines <- function(sc, n) {
  path <- sparklyr::invoke_static(sc, "java.lang.System", "getProperty", "rpicluster.log")
  if (is.null(path)) {
    abort("service", "the session's driver does not say where its log is", "rpicluster status")
  }
  reader <- sparklyr::invoke_new(
    sc, "org.apache.commons.io.input.ReversedLinesFileReader", sparklyr::invoke_new(sc, "java.io.File", path),
    sparklyr::invoke_static(sc, "java.nio.charset.StandardCharsets", "UTF_8")
  )
  on.exit(sparklyr::invoke(reader, "close"))
  rev(unlist(sparklyr::invoke(reader, "%>%", list("readLines", as.integer(n)), list("toArray"))))
}
