#' rpicluster: a DBI and dplyr door to a Spark-on-YARN cluster
#'
#' Connect with `con <- DBI::dbConnect(rpicluster::rpi())`, look at tables with
#' [DBI::dbListTables()], and use `dplyr::tbl(con, "flights")` for dplyr verbs
#' that run on the cluster. With sparklyr installed, `sc <- rpicluster::rpi_connect()`
#' gives a connection of it, see [rpi_connect()].
#' [rpi_status()] says whether the cluster is well.
#'
#' @section Options:
#' * `rpicluster.python` (or the environment variable `RPICLUSTER_PYTHON`): the
#'   Python interpreter of the command line tool, when neither
#'   `rpicluster r-install` nor `PATH` tells the right one.
#' * `rpicluster.cluster` (or `RPICLUSTER_CLUSTER`): the cluster that is used
#'   when `cluster` is not given.
#' * `rpicluster.progress`: `TRUE` shows a line about a running job of
#'   sparklyr; by default in an interactive R.
#'
#' @section Conditions:
#' Every error of this package has the class `rpicluster_error`, a more exact
#' class `rpicluster_error_*`, and the fields `message` and `hint`:
#' `_python` (the Python of the tool was not found, or another Python runs in
#' this R session), `_unreachable` (the cluster does not answer), `_sql` (Spark
#' refused or failed a statement), `_usage` (an argument is wrong),
#' `_unsupported` (Spark cannot do this), `_closed` (the connection or result
#' is closed), `_data` (a value cannot be moved without loss), `_status` (the
#' command line tool failed), `_lost` (a connection of [rpi_connect()] broke),
#' `_apply` (a function of `spark_apply()` failed on a worker), `_sparklyr`
#' (sparklyr or the session's gateway is missing or of another version),
#' `_service` (any other failure of the cluster).
#'
#' @keywords internal
#' @aliases rpicluster-package
#' @import methods
#' @import DBI
#' @importFrom bit64 as.integer64
"_PACKAGE"

# What lives as long as the R session: the imported Python modules, and the bridges that are still open.
session <- new.env(parent = emptyenv())
session$count <- 0
session$bridges <- list()
session$forgotten <- character()
session$sparklyr <- list()
session$orphans <- character()
session$bulk <- list()

.onLoad <- function(libname, pkgname) {
  reg.finalizer(session, function(session) close_bridges(names(session$bridges)), onexit = TRUE)
  if (isNamespaceLoaded("dbplyr")) {
    register_optional_methods()
  } else {
    setHook(packageEvent("dbplyr", "onLoad"), register_optional_methods)
  }
}
