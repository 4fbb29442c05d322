#' The DBI driver of a cluster
#'
#' `rpi()` is what [DBI::dbConnect()] needs to open a connection to a cluster
#' over Spark Connect.
#'
#' @section Types:
#' | Spark | R | and back |
#' |---|---|---|
#' | `TINYINT`, `SMALLINT`, `INT` | integer | `INT` |
#' | `BIGINT` | [bit64::integer64], or see `bigint` | `BIGINT` |
#' | `FLOAT`, `DOUBLE` | double; `NaN`, `Inf` and `NA` stay apart | `DOUBLE` |
#' | `DECIMAL(p, s)` | double if p is at most 15, else the exact text, or see `decimal` | give `field.types` |
#' | `STRING`, `CHAR`, `VARCHAR` | character, UTF-8 | `STRING` |
#' | `BOOLEAN` | logical | `BOOLEAN` |
#' | `DATE` | Date | `DATE` |
#' | `TIMESTAMP` | POSIXct: the same instant, shown in `timezone_out` | `TIMESTAMP` |
#' | `TIMESTAMP_NTZ` | POSIXct in UTC that shows the same clock | give `field.types` |
#' | `BINARY` | [blob::blob] | `BINARY` |
#' | arrays, maps, structs, variants | their JSON text | |
#' | | factor | `STRING` |
#' | | hms, difftime | `DOUBLE`, in seconds |
#'
#' A double holds every decimal of up to 15 digits exactly enough to give back
#' the same digits; the rule looks at the type of the column, never at values.
#' Microseconds of timestamps are exact between the years 1684 and 2255.
#'
#' @return `rpi()`: an object of class `RpiDriver`.
#' @export
#' @examples
#' rpi()
#' \dontrun{
#' con <- DBI::dbConnect(rpicluster::rpi())
#' DBI::dbGetQuery(con, "SELECT 1 AS one")
#' DBI::dbDisconnect(con)
#' }
rpi <- function() new("RpiDriver")

#' DBI classes and methods of rpicluster
#'
#' These classes implement DBI; use the generics of the DBI package.
#'
#' @name rpicluster-dbi
#' @param drv,dbObj,object,con,conn,res An object of one of the classes.
#' @param obj,x,value,values A value or a data frame.
#' @param statement SQL text.
#' @param name A table name: a string, [DBI::Id()] or [DBI::SQL()].
#' @param params Values for the placeholders `?` or `:name` of the statement.
#' @param n Rows to fetch; `-1` and `Inf` for all that are left.
#' @param overwrite,append Replace the table, or add to it.
#' @param field.types,fields Spark types by column name.
#' @param row.names See [DBI::sqlRownamesToColumn()].
#' @param temporary `TRUE` for a temporary view of this connection.
#' @param fail_if_missing `FALSE` to remove quietly what is not there.
#' @param prefix A namespace whose objects are listed.
#' @param code Code that would run in a transaction.
#' @param ... Not used.
#' @keywords internal
NULL

#' @rdname rpicluster-dbi
#' @export
setClass("RpiDriver", contains = "DBIDriver")

#' Connect to a cluster
#'
#' @param drv What [rpi()] returns.
#' @param cluster A name that `rpicluster` knows, the path of a
#'   `connection.json`, or `NULL` for the option `rpicluster.cluster`, the
#'   environment variable `RPICLUSTER_CLUSTER`, or the only cluster there is.
#' @param bigint The R type of 64-bit integers: `"integer64"`, `"integer"`
#'   (too large ones become `NA`), `"numeric"` (exact up to
#'   2^53) or `"character"`.
#' @param decimal The R type of decimals: `"auto"` is double up to 15 digits
#'   and exact text above; `"numeric"` and `"character"` are always that.
#' @param timezone The time zone in which Spark reads and computes clock
#'   times, such as `hour(x)`. `NULL` keeps the cluster's.
#' @param timezone_out The time zone in which R shows timestamps.
#' @param ... Not used.
#' @return An `RpiConnection`.
#' @seealso [rpi()] for the types.
#' @name rpi-connect
#' @aliases dbConnect,RpiDriver-method
#' @examples
#' \dontrun{
#' con <- DBI::dbConnect(rpicluster::rpi(), cluster = "drawer", bigint = "numeric")
#' }
NULL

#' @rdname rpi-connect
#' @export
setMethod("dbConnect", "RpiDriver", function(drv, cluster = NULL,
                                             bigint = c("integer64", "integer", "numeric", "character"),
                                             decimal = c("auto", "numeric", "character"),
                                             timezone = "UTC", timezone_out = "UTC", ...) {
  extra <- names(list(...))
  if (length(extra)) {
    abort_usage(sprintf("dbConnect(rpi()) has no argument %s", paste0("`", extra, "`", collapse = ", ")),
                "see help(\"rpi-connect\", \"rpicluster\")")
  }
  options <- type_options(bigint, decimal, timezone_out)
  new_connection(python_bridge(chosen_cluster(cluster)), options, timezone)
})

chosen_cluster <- function(cluster) {
  if (is.null(cluster)) cluster <- getOption("rpicluster.cluster")
  if (is.null(cluster) && nzchar(Sys.getenv("RPICLUSTER_CLUSTER"))) cluster <- Sys.getenv("RPICLUSTER_CLUSTER")
  if (!is.null(cluster) && !(is.character(cluster) && length(cluster) == 1 && !is.na(cluster))) {
    abort_usage("`cluster` must be one name or path, or NULL")
  }
  # A path may start with ~ or be relative to R's working directory, which Python's need not be.
  if (!is.null(cluster) && file.exists(cluster)) normalizePath(cluster) else cluster
}

#' @rdname rpicluster-dbi
#' @export
setMethod("dbGetInfo", "RpiDriver", function(dbObj, ...) {
  version <- utils::packageVersion("rpicluster")
  list(driver.version = version, client.version = version)
})

#' @rdname rpicluster-dbi
#' @export
setMethod("dbIsValid", "RpiDriver", function(dbObj, ...) TRUE)

#' @rdname rpicluster-dbi
#' @export
setMethod("dbUnloadDriver", "RpiDriver", function(drv, ...) invisible(TRUE))

#' @rdname rpicluster-dbi
#' @export
setMethod("show", "RpiDriver", function(object) cat("<RpiDriver>\n"))

data_type <- function(obj) {
  if (is.data.frame(obj)) {
    return(vapply(obj, spark_type, ""))
  }
  spark_type(obj)
}

#' @rdname rpicluster-dbi
#' @export
setMethod("dbDataType", "RpiDriver", function(dbObj, obj, ...) data_type(obj))

#' @importFrom DBI Id
#' @export
DBI::Id

#' @importFrom DBI dbCanConnect
#' @export
DBI::dbCanConnect

#' @importFrom DBI dbIsReadOnly
#' @export
DBI::dbIsReadOnly
