# Types and tables on a real cluster; skipped without one.

everything <- function() {
  frame <- data.frame(
    i = c(1L, NA, -2147483647L, 0L),
    d = c(NaN, NA, Inf, 0.1),
    s = c("\u00fcber \u65e5\u672c \U1F600", NA, "", "it's a \\ \"q\"\n\t`"),
    b = c(TRUE, NA, FALSE, TRUE),
    day = as.Date(c("2020-02-29", NA, "0001-01-01", "9999-12-31")),
    at = as.POSIXct(c("2024-03-31 01:30:00", NA, "1969-12-31 23:59:59", "2038-01-19 03:14:08"), tz = "UTC") + 0.123456
  )
  frame$big <- bit64::as.integer64(c("9223372036854775807", NA, "-9223372036854775807", "0"))
  frame$raw <- blob::blob(as.raw(0:255), NULL, raw(), as.raw(0))
  frame
}

test_that("every type goes up and comes back the same", {
  con <- cluster_connection()
  name <- "r_types"
  withr::defer(DBI::dbRemoveTable(con, name, fail_if_missing = FALSE))
  frame <- everything()
  DBI::dbWriteTable(con, name, frame, overwrite = TRUE)
  back <- DBI::dbReadTable(con, name)
  back <- back[match(frame$i, back$i), ]
  rownames(back) <- NULL
  for (column in setdiff(names(frame), "at")) expect_identical(back[[!!column]], frame[[!!column]])
  expect_lt(max(abs(as.double(back$at) - as.double(frame$at)), na.rm = TRUE), 1e-6)
  expect_identical(is.na(back$at), is.na(frame$at))
  expect_identical(is.nan(back$d), is.nan(frame$d))
})

test_that("types can be chosen, and exact decimals survive as text", {
  con <- cluster_connection()
  name <- "r_decimals"
  withr::defer(DBI::dbRemoveTable(con, name, fail_if_missing = FALSE))
  exact <- c("12345678901234567890.1234567891", NA, "-0.0000000001")
  DBI::dbWriteTable(con, name, data.frame(n = 1:3, x = exact), overwrite = TRUE, field.types = c(x = "DECIMAL(38,10)"))
  back <- DBI::dbGetQuery(con, sprintf("SELECT x, CAST(1.25 AS DECIMAL(10,2)) AS y FROM %s ORDER BY n", name))
  expect_identical(back$x, exact)
  expect_identical(back$y, rep(1.25, 3))
})

test_that("a factor, a time and a difftime go up", {
  con <- cluster_connection()
  name <- "r_upwards"
  withr::defer(DBI::dbRemoveTable(con, name, fail_if_missing = FALSE))
  frame <- data.frame(f = factor(c("b", NA)), t = hms::hms(c(3661.5, NA)), d = as.difftime(c(2, NA), units = "hours"))
  DBI::dbWriteTable(con, name, frame, overwrite = TRUE)
  back <- DBI::dbGetQuery(con, sprintf("SELECT * FROM %s ORDER BY f NULLS LAST", name))
  expect_identical(back, data.frame(f = c("b", NA), t = c(3661.5, NA), d = c(7200, NA)))
})

test_that("instants do not move, whatever zone R or the session is in", {
  instant <- as.POSIXct("2024-07-01 12:00:00", tz = "Europe/London")
  con <- cluster_connection(timezone = "America/New_York", timezone_out = "Asia/Tokyo")
  got <- DBI::dbGetQuery(con, "SELECT ? AS x, HOUR(?) AS h, TIMESTAMP_NTZ '2024-07-01 12:00:00' AS ntz", params = list(instant, instant))
  expect_identical(as.double(got$x), as.double(instant))
  expect_identical(format(got$x, "%H"), "20")
  expect_identical(got$h, 7L)
  expect_identical(format(got$ntz, "%H %Z"), "12 UTC")
})

test_that("all parameters come back as they went", {
  con <- cluster_connection()
  values <- list(1L, 2^60, 0.1, NaN, -Inf, "a'b\\c\n?", TRUE, as.Date("2020-02-29"), bit64::as.integer64("9223372036854775807"))
  for (value in values) {
    expect_identical(DBI::dbGetQuery(con, "SELECT ? AS x", params = list(!!value))$x, !!value)
    expect_identical(DBI::dbGetQuery(con, "SELECT :v AS x", params = list(v = !!value))$x, !!value)
  }
  expect_identical(DBI::dbGetQuery(con, "SELECT ? AS x", params = list(blob::blob(as.raw(c(0, 255)))))$x, blob::blob(as.raw(c(0, 255))))
})

test_that("a table is appended to by name, and its rows are counted", {
  con <- cluster_connection()
  name <- "r_append"
  withr::defer(DBI::dbRemoveTable(con, name, fail_if_missing = FALSE))
  DBI::dbCreateTable(con, name, data.frame(a = 1L, b = "x"))
  expect_identical(DBI::dbAppendTable(con, name, data.frame(b = c("y", "z"), a = 2:3)), 2)
  expect_identical(DBI::dbExecute(con, sprintf("INSERT INTO %s VALUES (4, 'w')", name)), 1)
  expect_identical(DBI::dbGetQuery(con, sprintf("SELECT * FROM %s ORDER BY a", name)), data.frame(a = 2:4, b = c("y", "z", "w")))
})

test_that("a SQL error is Spark's own message without the stack, and the connection lives on", {
  con <- cluster_connection()
  error <- error_of(DBI::dbGetQuery(con, "SELECT nothing FROM nowhere_at_all"))
  expect_s3_class(error, "rpicluster_error_sql")
  expect_match(conditionMessage(error), "nowhere_at_all")
  expect_false(grepl("at org.apache", conditionMessage(error)))
  expect_identical(DBI::dbGetQuery(con, "SELECT 1 AS one")$one, 1L)
})
