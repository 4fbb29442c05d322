#' What the cluster is worth: expressions timed on it and in this R
#'
#' Each expression is a dplyr pipeline that names tables of the cluster. It runs
#' twice: with each name standing for the table on the cluster (the rows are
#' collected), and with each name standing for a data frame in this R session.
#' Both answers are compared before anything is timed, which also warms both up.
#'
#' The columns are those of `rbenchmark::benchmark()`, which does the timing
#' where it is installed. Otherwise this package does it in the same way.
#'
#' @param ... Expressions; the name of an argument becomes the name of the test.
#' @param con A connection to the cluster.
#' @param local A named list of data frames: local copies of tables. A table
#'   that is missing here is collected from the cluster once, which is not timed.
#' @param replications How often each expression runs, each time whole.
#' @param environment Where other names in the expressions are looked up.
#' @return A data frame of class `rpi_bench`, two rows a test: `test`,
#'   `replications`, `elapsed` (seconds, of all replications together),
#'   `relative` (`elapsed` by the smaller of the test's two), `user.self`,
#'   `sys.self`, `user.child`, `sys.child`, then `where` (`"cluster"` or
#'   `"local"`), `laptop_cpu` (CPU-seconds of this machine, the sum of the four),
#'   `rows` (of the answer) and `difference` (empty, or how the cluster's answer
#'   differs from the local one).
#' @export
#' @examples
#' \dontrun{
#' con <- DBI::dbConnect(rpi())
#' found <- rpi_bench(
#'   late = flights %>% group_by(carrier) %>% summarise(late = mean(arr_delay, na.rm = TRUE)),
#'   con = con
#' )
#' plot(found)
#' }
rpi_bench <- function(..., con, local = list(), replications = 3, environment = parent.frame()) {
  expressions <- as.list(substitute(list(...)))[-1]
  check_bench(expressions, con, local, replications)
  names(expressions) <- test_names(expressions)
  tables <- intersect(unlist(lapply(expressions, all.vars)), c(DBI::dbListTables(con), names(local)))
  if (!length(tables)) {
    abort_usage(
      sprintf("no expression names a table of the cluster: %s", paste(unique(unlist(lapply(expressions, all.vars))), collapse = ", ")),
      "DBI::dbListTables(con) lists them"
    )
  }
  remote <- sapply(tables, function(name) dplyr::tbl(con, name), simplify = FALSE)
  missing <- setdiff(tables, names(local))
  local[missing] <- lapply(remote[missing], function(table) as.data.frame(dplyr::collect(table)))
  places <- list(cluster = list2env(remote, parent = environment), local = list2env(local[tables], parent = environment))
  found <- lapply(names(expressions), function(name) bench_one(name, expressions[[name]], places, replications))
  structure(do.call(rbind, found), class = c("rpi_bench", "data.frame"))
}

check_bench <- function(expressions, con, local, replications) {
  if (!length(expressions)) {
    abort_usage("there is no expression to run", "rpi_bench(n = flights %>% count(carrier), con = con)")
  }
  if (missing(con) || !inherits(con, "DBIConnection")) {
    abort_usage("`con` is not a connection to a cluster", "con <- DBI::dbConnect(rpicluster::rpi())")
  }
  if (!is.list(local) || (length(local) && is.null(names(local))) || !all(vapply(local, is.data.frame, TRUE))) {
    abort_usage("`local` is not a named list of data frames", "local = list(flights = flights)")
  }
  whole <- is.numeric(replications) && length(replications) == 1 && isTRUE(replications >= 1 && replications == round(replications))
  if (!whole) {
    abort_usage("`replications` is not a whole number of at least 1")
  }
  if (!requireNamespace("dplyr", quietly = TRUE)) {
    abort("unsupported", "rpi_bench() needs dplyr, which is not installed", "install.packages(\"dplyr\")")
  }
}

test_names <- function(expressions) {
  given <- names(expressions)
  if (is.null(given)) given <- rep("", length(expressions))
  said <- vapply(expressions, function(expression) paste(deparse(expression), collapse = " "), "")
  make.unique(ifelse(given == "", said, given))
}

bench_one <- function(name, expression, places, replications) {
  run <- lapply(places, function(place) {
    force(place)
    function() rows_of(eval(expression, place))
  })
  answers <- lapply(run, function(run) run())
  timed <- benchmark(run, replications)
  timed$where <- timed$test
  timed$test <- name
  timed$laptop_cpu <- rowSums(timed[c("user.self", "sys.self", "user.child", "sys.child")], na.rm = TRUE)
  timed$rows <- vapply(answers, NROW, 1L)
  timed$difference <- rows_difference(answers$cluster, answers$local)
  timed
}

# A table on the cluster is a question; its rows are the answer.
rows_of <- function(value) {
  if (inherits(value, "tbl_lazy")) value <- dplyr::collect(value)
  if (is.data.frame(value)) as.data.frame(value) else data.frame(value = value)
}

# Time functions with rbenchmark, or as it does; `runs` is a named list of them.
benchmark <- function(runs, replications) {
  if (requireNamespace("rbenchmark", quietly = TRUE)) {
    calls <- lapply(runs, function(run) as.call(list(run)))
    return(do.call(rbenchmark::benchmark, c(calls, list(replications = replications, order = NULL))))
  }
  own_benchmark(runs, replications)
}

own_benchmark <- function(runs, replications) {
  times <- lapply(runs, function(run) summary_of(system.time(for (i in seq_len(replications)) run())))
  found <- data.frame(test = names(runs), replications = as.integer(replications), do.call(rbind, times), row.names = NULL)
  fastest <- min(found$elapsed)
  # As rbenchmark says it: three digits, and NA where the clock saw nothing.
  found$relative <- if (fastest > 0) round(found$elapsed / fastest, 3) else NA_real_
  found[c("test", "replications", "elapsed", "relative", "user.self", "sys.self", "user.child", "sys.child")]
}

summary_of <- function(time) {
  as.data.frame(as.list(unclass(time)[c("user.self", "sys.self", "elapsed", "user.child", "sys.child")]))
}

# How two answers differ, in words; empty if they do not. The order of rows is free, sums may differ in the last digits.
rows_difference <- function(ours, theirs) {
  if (!identical(names(ours), names(theirs))) {
    return("the columns differ")
  }
  if (nrow(ours) != nrow(theirs)) {
    return(sprintf("%d rows against %d", nrow(ours), nrow(theirs)))
  }
  ours <- rows_in_order(ours)
  theirs <- rows_in_order(theirs)
  for (name in names(ours)) {
    same <- all.equal(as.vector(ours[[name]]), as.vector(theirs[[name]]), tolerance = 1e-12)
    if (!isTRUE(same)) {
      return(paste0(name, ": ", same[[1]]))
    }
  }
  ""
}

rows_in_order <- function(rows) {
  rows <- as.data.frame(rows)
  rows[] <- lapply(rows, function(column) {
    if (is.factor(column)) return(as.character(column))
    if (is.integer(column) || inherits(column, c("POSIXct", "Date", "integer64"))) return(as.numeric(column))
    column
  })
  if (ncol(rows)) {
    rows <- rows[do.call(order, c(unname(as.list(rows)), list(method = "radix"))), , drop = FALSE]
  }
  rownames(rows) <- NULL
  rows
}

#' @rdname rpi_bench
#' @param x What `rpi_bench()` returned.
#' @export
plot.rpi_bench <- function(x, ...) {
  tests <- unique(x$test)
  once <- function(column) {
    values <- sapply(tests, function(test) {
      rows <- x[x$test == test, ]
      (rows[[column]] / rows$replications)[match(c("cluster", "local"), rows$where)]
    })
    matrix(values, nrow = 2, dimnames = list(c("cluster", "local"), tests))
  }
  elapsed <- once("elapsed")
  settings <- graphics::par(mar = c(3.2, 4.2, 2.6, 1), las = 1)
  on.exit(graphics::par(settings))
  colours <- c("#c51a4a", "#8a93a0")
  top <- max(elapsed, once("laptop_cpu")) * 1.25
  places <- graphics::barplot(elapsed, beside = TRUE, col = colours, border = NA, ylab = "seconds a run", ylim = c(0, top))
  # What this machine's processors did meanwhile: a narrow bar in front.
  graphics::rect(places - 0.18, 0, places + 0.18, once("laptop_cpu"), col = "#22262b", border = NA)
  graphics::text(places, elapsed, sprintf("%.2f", elapsed), pos = 3, cex = 0.8)
  graphics::legend(
    "topleft", bty = "n", border = NA, fill = c(colours, "#22262b"),
    legend = c("on the cluster, rows collected", "in this R", "of it: this machine's CPU-seconds")
  )
  invisible(places)
}
