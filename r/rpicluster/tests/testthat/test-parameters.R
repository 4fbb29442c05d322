test_that("placeholders are found outside strings, names and comments only", {
  expect_identical(find_placeholders("SELECT ?, '?', \"?\", `?`, 'a\\'?', ? -- ?\n, /* ? /* ? */ ? */ ?"), c("?", "?", "?"))
  expect_identical(find_placeholders("SELECT :a, x::int, ':b', col:path, :c_1"), c(":a", ":c_1"))
  expect_identical(find_placeholders("SELECT r'\\', ?"), "?")
  expect_error(find_placeholders("SELECT ?, :a"), class = "rpicluster_error_usage")
})

test_that("a value never becomes part of the statement around it", {
  nasty <- "x' OR '1'='1 \\' ; DROP TABLE t -- ?"
  filled <- fill_placeholders("SELECT * FROM t WHERE a = ? AND b = ?", c(spark_literal(NULL, nasty), "1"))
  expect_identical(find_placeholders(filled), character())
  expect_identical(filled, "SELECT * FROM t WHERE a = 'x\\' OR \\'1\\'=\\'1 \\\\\\' ; DROP TABLE t -- ?' AND b = 1")
})

test_that("named placeholders may stand twice and in any order", {
  expect_identical(fill_placeholders("SELECT :b, :a, :b", c(a = "1", b = "2")), "SELECT 2, 1, 2")
})

test_that("literals keep every value", {
  literal <- function(x) spark_literal(NULL, x)
  expect_identical(literal(NA), "NULL")
  expect_identical(literal(1L), "1")
  expect_identical(literal(100000L), "100000")
  expect_identical(literal(0.1), "0.1D")
  expect_identical(as.double(sub("D", "", literal(1 / 3))), 1 / 3)
  expect_identical(literal(NaN), "DOUBLE('NaN')")
  expect_identical(literal(-Inf), "DOUBLE('-Infinity')")
  expect_identical(literal(bit64::as.integer64("9223372036854775807")), "9223372036854775807L")
  expect_identical(literal("a'b\\c"), "'a\\'b\\\\c'")
  expect_identical(literal(as.Date("2020-02-29")), "DATE '2020-02-29'")
  expect_identical(literal(as.POSIXct("2020-02-29 12:00:00.25", tz = "UTC")), "TIMESTAMP '2020-02-29 12:00:00.250000 UTC'")
  expect_identical(literal(as.POSIXct("2020-07-01", tz = "Europe/London")), "TIMESTAMP '2020-06-30 23:00:00.000000 UTC'")
  expect_identical(literal(blob::blob(as.raw(c(0, 255)))), "X'00ff'")
  expect_identical(literal(factor("a")), "'a'")
})

test_that("values that do not fit the placeholders are refused", {
  check <- function(sql, params) check_parameters(find_placeholders(sql), params)
  expect_error(check("SELECT ?", list(1, 2)), "1 placeholder", class = "rpicluster_error_usage")
  expect_error(check("SELECT ?", list(a = 1)), class = "rpicluster_error_usage")
  expect_error(check("SELECT :a", list(1)), class = "rpicluster_error_usage")
  expect_error(check("SELECT :a", list(b = 1)), class = "rpicluster_error_usage")
  expect_error(check("SELECT ?, ?", list(1:2, 1:3)), "same length", class = "rpicluster_error_usage")
})
