#' Connect sparklyr to the warm session of a cluster
#'
#' `rpi_connect()` returns a connection of sparklyr: dplyr, `sdf_*`, `ml_*` and
#' `spark_apply()` run on the cluster, and R needs neither Java nor Spark. The
#' session is warm already, so this takes a fraction of a second.
#'
#' It reads the cluster's connection file, asks the session's gateway a question
#' and waits for the answer, and compares the version of sparklyr on both ends.
#' Only if the gateway does not answer and the cluster is on nodes of its own, or
#' its sessions may sleep (`sleep_after_s` in cluster.yml), it runs `rpicluster connect`,
#' which opens the tunnel and wakes the session.
#'
#' @section What is different from `spark_connect()`:
#' * Each connection has its own temporary views, and `rpi.default` is its
#'   namespace.
#' * A call whose gateway dies, freezes or is cut off by the network is an error
#'   of the class `rpicluster_error_lost` within ten seconds (within twenty
#'   where only the answer's own connection is cut). A long query is
#'   not, as long as the gateway answers beside it.
#' * An interrupt cancels the jobs of this connection, and of no other one.
#' * A call that takes longer than two seconds shows stages, tasks and nodes in one line, in
#'   an interactive R or with `options(rpicluster.progress = TRUE)`.
#' * `spark_log()` shows the log of the session's driver, and `spark_web()`
#'   knows its page.
#' * `spark_apply()` ships no packages: those of the cluster are used. `packages = TRUE` is refused.
#'
#' @inheritParams rpi_status
#' @param config Settings for sparklyr's `config`, as a named list. They win over ours.
#' @param new `FALSE` gives the open connection of this R session to the same
#'   cluster if there is one that answers; `TRUE` always makes a new one.
#' @return A `spark_connection` of sparklyr.
#' @seealso [rpi_put()] and [rpi_collect()] for much data, [rpi()] for DBI
#'   without sparklyr.
#' @export
#' @examples
#' \dontrun{
#' sc <- rpi_connect()
#' dplyr::count(dplyr::tbl(sc, "flights"), carrier)
#' rpi_disconnect(sc)
#' }
rpi_connect <- function(cluster = NULL, config = list(), new = FALSE) {
  check_flag(new, "new")
  if (!is.list(config) || (length(config) && is.null(names(config)))) {
    abort_usage("`config` must be a named list", "config = list(sparklyr.apply.env.TZ = \"UTC\")")
  }
  document <- read_document(cluster)
  found <- if (!new) open_connection(document)
  if (!is.null(found)) {
    return(found)
  }
  require_sparklyr(document)
  document <- open_way(document, cluster)
  sc <- adopt_connection(greet(document, config), document)
  session$sparklyr <- c(session$sparklyr, list(sc))
  sc
}

least_sparklyr <- "1.9.0"

without_sparklyr <- "con <- DBI::dbConnect(rpicluster::rpi()) works with dplyr and without sparklyr"

# Versions first: what cannot work is not tried.
require_sparklyr <- function(document, installed = sparklyr_version()) {
  if (is.null(installed)) {
    abort("sparklyr", "sparklyr is not installed", paste0("install.packages(\"sparklyr\"); or: ", without_sparklyr))
  }
  if (is.null(document$sparklyr)) {
    abort(
      "sparklyr", sprintf("the session of cluster %s has no gateway for sparklyr", document$cluster),
      paste0("sessions: {sparklyr: on} in cluster.yml, then `rpicluster up`; or: ", without_sparklyr)
    )
  }
  if (installed < least_sparklyr) {
    abort(
      "sparklyr", sprintf("sparklyr %s is too old for this Spark", installed),
      sprintf("install.packages(\"sparklyr\") gives at least %s; or: %s", least_sparklyr, without_sparklyr)
    )
  }
  if (installed != document$sparklyr$version) {
    abort(
      "sparklyr", sprintf("R has sparklyr %s, and the cluster runs the jar of sparklyr %s", installed, document$sparklyr$version),
      "`rpicluster up` takes the jar of this machine's sparklyr"
    )
  }
}

sparklyr_version <- function() {
  if (requireNamespace("sparklyr", quietly = TRUE)) utils::packageVersion("sparklyr")
}

# As long as the tool waits for a session to wake, and a while longer.
wake_seconds <- 360

# Make sure that the gateway answers; the tool, and with it a process, is started only where it can help.
open_way <- function(document, cluster) {
  problem <- tryCatch({
    gateway_answers(document$sparklyr)
    NULL
  }, rpicluster_error_unreachable = identity)
  if (is.null(problem)) {
    return(document)
  }
  if (!isTRUE(document$tunnelled) && !isTRUE(document$sleeps)) {
    stop(problem)
  }
  if (isTRUE(document$sleeps)) message("the session may be asleep: waiting until it answers")
  named <- if (!is.null(chosen_cluster(cluster))) c("--cluster", chosen_cluster(cluster))
  answer <- run_tool(c("connect", named), timeout = if (isTRUE(document$sleeps)) wake_seconds else tool_timeout_seconds)
  if (answer$code != 0) {
    abort_tool(answer, "connect")
  }
  document <- read_document(cluster)
  require_sparklyr(document)
  gateway_answers(document$sparklyr)
  document
}

connect_tries <- 6
connect_patience_seconds <- 12

# Clients that come at the same instant race for the same second port inside of the gateway, so some try again.
greet <- function(document, config) {
  door <- document$sparklyr
  began <- now()
  name <- paste0("rpicluster-", Sys.getpid(), "-", session$count <- session$count + 1)
  for (try in seq_len(connect_tries)) {
    sc <- tryCatch(
      sparklyr::spark_connect(
        master = sprintf("sparklyr://%s:%d/%d", door$host, as.integer(door$port), as.integer(door$session)),
        config = sparklyr_config(door, config), app_name = name
      ),
      error = identity
    )
    if (!inherits(sc, "error")) {
      return(sc)
    }
    if (inherits(sc, "rpicluster_error") || now() - began > connect_patience_seconds) {
      break
    }
    Sys.sleep(stats::runif(1, 0.1, 0.3) * try)
  }
  if (inherits(sc, "rpicluster_error")) stop(sc)
  abort(
    "unreachable", sprintf("%s answers, and made no connection: %s", door_name(door), conditionMessage(sc)),
    "rpi_status() says how the session is"
  )
}

# sparklyr evaluates `sparklyr.progress` while it waits. It does so before this package reads for it, and always if a later
# version of sparklyr reads in another way.
sparklyr_config <- function(door, config = list()) {
  watch <- NULL
  ours <- list(
    sparklyr.progress = function() {
      if (is.null(watch)) gateway_answers(door) else tick(watch, now())
      FALSE
    },
    sparklyr.progress.interval = 1,
    sparklyr.backend.interval = 1,
    sparklyr.gateway.port.query.attempts = 1,
    sparklyr.gateway.wait = 0,
    # An interrupt is ours: sparklyr would cancel the jobs of everybody.
    sparklyr.cancellable = FALSE,
    # Worker nodes have their own packages; a bundle of the laptop's cannot run there, and harms others.
    sparklyr.apply.packages = FALSE
  )
  utils::modifyList(ours, config)
}

# Turn a fresh connection into one of ours: a session of its own, a job group of its own, and the watch.
adopt_connection <- function(sc, document) {
  port <- as.integer(sub("^.*:", "", summary(sc$backend)$description))
  context <- sparklyr::spark_context(sc)
  group <- client_name(sc, port)
  sparklyr::invoke(context, "setJobGroup", group, "R on the laptop", TRUE)
  thread <- sparklyr::invoke_static(sc, "java.lang.Thread", "currentThread")
  watch <- new_watch(document$sparklyr, document$sparklyr$host, port, context$id, group, thread$id, wants_progress())
  watch$kept <- list(context, thread)
  watch$sockets <- list(sc$backend, sc$monitoring, sc$gateway)
  watch$cluster <- document$cluster
  watch$document <- document
  ours <- environment(sc$config$sparklyr.progress)
  if (!is.null(ours) && exists("watch", ours, inherits = FALSE)) ours$watch <- watch
  cancel_orphans(watch)
  sc$state$rpicluster <- watch
  # sparklyr leaves it empty here, and compares it before it asks for quantiles of several columns.
  sc$home_version <- as.character(sparklyr::spark_version(sc))
  class(sc) <- c("rpi_spark_connection", class(sc))
  register_sparklyr_methods()
  own <- sparklyr::invoke(sparklyr::spark_session(sc), "newSession")
  own$connection <- sc
  register_client(sc, group, own)
  sc$state$hive_context <- own
  sc$state$spark_context$connection <- sc
  if (!is.null(document$namespace)) {
    sparklyr::invoke(own, "sql", paste("USE", paste(quote_name(strsplit(document$namespace, ".", fixed = TRUE)[[1]]), collapse = ".")))
  }
  sc
}

# The client of a port, and since when: the port is another client's later. The keeper reads both (session/keeper/sparklyr.py).
client_name <- function(sc, port) {
  at <- sparklyr::invoke_static(sc, "java.lang.System", "currentTimeMillis")
  sprintf("%s-%.0f-%d", sc$app_name, at, port)
}

# The session's keeper cancels the jobs of a client that has died, and drops its views.
register_client <- function(sc, group, own) {
  clients <- sparklyr::invoke(sparklyr::invoke_static(sc, "java.lang.System", "getProperties"), "get", "rpicluster.clients")
  if (!is.null(clients)) sparklyr::invoke(clients, "put", group, own)
}

# The open connections of this R session, to one cluster or to all of them.
open_connections <- function(cluster = NULL) {
  session$sparklyr <- Filter(function(sc) is.null(sc$state$rpicluster$lost) && sparklyr::connection_is_open(sc), session$sparklyr)
  if (is.null(cluster)) session$sparklyr else Filter(function(sc) sc$state$rpicluster$cluster == cluster, session$sparklyr)
}

open_connection <- function(document) {
  if (!length(session$sparklyr)) {
    return(NULL)
  }
  for (sc in open_connections(document$cluster)) {
    answers <- tryCatch(ask_gateway(sc$state$rpicluster, echo_frame("rpicluster")), rpicluster_error = function(e) NULL)
    if (!is.null(answers)) {
      return(sc)
    }
  }
}

#' @rdname rpi_connect
#' @param sc What `rpi_connect()` returned; `NULL` for all connections of this R session, or those to `cluster`.
#' @export
rpi_disconnect <- function(sc = NULL, cluster = NULL) {
  closing <- if (is.null(sc)) {
    if (length(session$sparklyr)) open_connections(if (!is.null(cluster)) read_document(cluster)$cluster) else list()
  } else {
    list(check_sc(sc))
  }
  lapply(closing, sparklyr::spark_disconnect)
  close_bulk(vapply(closing, function(sc) sc$state$rpicluster$document$path, ""))
  invisible(length(closing))
}

check_sc <- function(sc) {
  if (!inherits(sc, "rpi_spark_connection")) {
    abort_usage("`sc` is not a connection of rpi_connect()", "sc <- rpi_connect()")
  }
  sc
}
