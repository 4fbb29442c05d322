# sparklyr against a real session: skipped, with the reason, where sparklyr or the session's gateway is missing.

spark <- function(frame = parent.frame()) {
  skip_if_not_installed("sparklyr", least_sparklyr)
  skip_if(!nzchar(Sys.getenv("RPICLUSTER_CONNECTION")), "RPICLUSTER_CONNECTION names no cluster")
  skip_if(is.null(read_document()$sparklyr), "the session has no gateway for sparklyr")
  sc <- rpi_connect(new = TRUE)
  withr::defer(rpi_disconnect(sc), frame)
  sc
}

test_that("dplyr, a model and a quantile of two columns are what R computes itself", {
  sc <- spark()
  kars <- dplyr::copy_to(sc, mtcars, "kars", overwrite = TRUE)
  means <- dplyr::collect(dplyr::arrange(dplyr::summarise(dplyr::group_by(kars, cyl), m = mean(mpg, na.rm = TRUE)), cyl))
  expect_equal(means$m, as.vector(tapply(mtcars$mpg, mtcars$cyl, mean)))
  fit <- sparklyr::ml_linear_regression(kars, mpg ~ wt + cyl)
  expect_equal(unname(fit$coefficients), unname(coef(lm(mpg ~ wt + cyl, mtcars))), tolerance = 1e-6)
  found <- sparklyr::sdf_quantile(kars, c("mpg", "hp"), probabilities = 0.5)
  expect_identical(names(found), c("mpg", "hp"))
})

test_that("two connections use one name for views with rows of their own", {
  one <- spark()
  two <- spark()
  dplyr::copy_to(one, data.frame(x = 1L), "mine", overwrite = TRUE)
  dplyr::copy_to(two, data.frame(x = 2L), "mine", overwrite = TRUE)
  expect_identical(dplyr::collect(dplyr::tbl(one, "mine"))$x, 1L)
  expect_identical(DBI::dbGetQuery(two, "SELECT x FROM mine")$x, 2L)
})

test_that("without new = TRUE the open connection is given again", {
  sc <- spark()
  expect_identical(rpi_connect()$state, sc$state)
})

test_that("errors are classed and say Spark's words", {
  sc <- spark()
  error <- error_of(DBI::dbGetQuery(sc, "SELECT nope FROM range(1)"))
  expect_s3_class(error, "rpicluster_error_sql")
  expect_match(conditionMessage(error), "nope")
  expect_no_match(conditionMessage(error), "\tat ")
  failed <- error_of(dplyr::collect(dplyr::tbl(sc, dplyr::sql("SELECT raise_error('my words') AS x"))))
  expect_s3_class(failed, "rpicluster_error_sql")
  expect_match(conditionMessage(failed), "my words")
  # dbplyr makes an error of its own of this one.
  expect_s3_class(error_of(dplyr::tbl(sc, dplyr::sql("SELECT nope"))), "rpicluster_error_sql")
  # sparklyr looks for the package's index first, and warns where there is no network.
  bundle <- suppressWarnings(error_of(sparklyr::spark_apply(sparklyr::sdf_len(sc, 1), identity, packages = "DBI")))
  expect_s3_class(bundle, "rpicluster_error_unsupported")
})

test_that("a small table and its types come and go unchanged, and sparklyr sees it", {
  sc <- spark()
  rows <- data.frame(
    i = c(1L, NA), d = c(NaN, NA), s = c("\u00e9\n\"", NA), l = c(TRUE, NA), day = as.Date(c("2020-02-29", NA)),
    at = as.POSIXct(c(0.123456, NA), origin = "1970-01-01", tz = "UTC")
  )
  rows$big <- bit64::as.integer64(c("9007199254740993", NA))
  table <- rpi_put(rows, "rdoor_types", overwrite = TRUE, sc = sc)
  withr::defer(DBI::dbExecute(sc, "DROP TABLE rdoor_types"))
  expect_identical(sparklyr::sdf_nrow(table), 2)
  back <- as.data.frame(rpi_collect(dplyr::arrange(table, is.na(i))))
  expect_identical(back$big, rows$big)
  expect_equal(back, rows)
  expect_identical(is.nan(back$d), c(TRUE, FALSE))
  expect_true("rdoor_types" %in% rpi_tables(sc = sc)$name)
  expect_equal(nrow(rpi_collect("rdoor_types", sc = sc)), 2)
})

test_that("views of a connection can be collected in bulk, and leave nothing behind", {
  sc <- spark()
  kars <- dplyr::copy_to(sc, mtcars, "kars", overwrite = TRUE)
  expect_equal(rpi_collect(dplyr::filter(kars, hp > 100))$hp, mtcars$hp[mtcars$hp > 100])
  DBI::dbExecute(sc, "SET CATALOG spark_catalog")
  expect_identical(nrow(DBI::dbGetQuery(sc, "SHOW VIEWS IN global_temp LIKE 'rpicluster*'")), 0L)
})

test_that("the session's log is at hand", {
  sc <- spark()
  expect_gt(length(sparklyr::spark_log(sc, n = 5)), 0)
  expect_lte(length(rpi_log(3, sc = sc)), 3)
  expect_match(unclass(sparklyr::spark_web(sc)), "^http://.*/jobs/$")
})

test_that("a closed connection says so, and closing it again does no harm", {
  sc <- spark()
  expect_identical(rpi_disconnect(sc), 1L)
  expect_error(DBI::dbGetQuery(sc, "SELECT 1"), "closed by", class = "rpicluster_error_lost")
  expect_identical(rpi_disconnect(sc), 1L)
})

test_that("an interrupt cancels this connection's job and no other, and the connection lives on", {
  skip_on_os("windows")
  closing <- spark()
  rpi_disconnect(closing)
  script <- withr::local_tempfile(fileext = ".R")
  said <- withr::local_tempfile(fileext = ".txt")
  writeLines(c(
    "library(rpicluster)",
    "say <- function(...) { cat(format(as.double(Sys.time()), digits = 15), ..., '\\n'); flush(stdout()) }",
    "sc <- rpi_connect()",
    "say('READY', Sys.getpid())",
    "answer <- tryCatch({",
    "  DBI::dbGetQuery(sc, 'SELECT SUM(SIN(id)) AS x FROM RANGE(0, 1000000000000, 1, 1)')",
    "  'finished'",
    "}, interrupt = function(e) 'interrupted', error = function(e) conditionMessage(e))",
    "say('ANSWER', answer)",
    "say('SECOND', DBI::dbGetQuery(sc, 'SELECT 7 AS x')$x)",
    "rpi_disconnect(sc)",
    "say('END')"
  ), script)
  expect_interrupted(script, said, within = 12)
})
