defaults <- type_options()

round_trip <- function(x, type = NULL, options = defaults) {
  column <- encode_column("x", x)
  if (!is.null(type)) column$type <- type
  decode_column(column, options)
}

test_that("each R type comes back as it went", {
  expect_identical(round_trip(c(1L, NA, -2147483647L)), c(1L, NA, -2147483647L))
  expect_identical(round_trip(c(TRUE, NA, FALSE)), c(TRUE, NA, FALSE))
  expect_identical(round_trip(c("a", NA, "", "\u00fcber \u65e5\u672c \U1F600")), c("a", NA, "", "\u00fcber \u65e5\u672c \U1F600"))
  expect_identical(round_trip(as.Date(c("2020-02-29", NA, "1582-10-14"))), as.Date(c("2020-02-29", NA, "1582-10-14")))
  big <- bit64::as.integer64(c("9223372036854775807", NA, "-9223372036854775807"))
  expect_identical(round_trip(big), big)
  expect_identical(round_trip(blob::blob(as.raw(0:3), NULL, raw())), blob::blob(as.raw(0:3), NULL, raw()))
})

test_that("NaN, infinities and NA stay apart", {
  x <- c(NaN, NA, Inf, -Inf, 0.1, .Machine$double.xmin, 1e308)
  back <- round_trip(x)
  expect_identical(is.nan(back), is.nan(x))
  expect_identical(is.na(back), is.na(x))
  expect_identical(back[3:7], x[3:7])
  expect_identical(encode_column("x", c(NaN, 1))$valid, NULL)
})

test_that("a timestamp keeps its instant to the microsecond whatever its zone", {
  x <- as.POSIXct(c("2024-06-01 12:00:00", NA, "1901-01-01 00:00:00"), tz = "Europe/London") + 0.123456
  back <- round_trip(x)
  expect_equal(as.double(back), as.double(x), tolerance = 1e-15)
  expect_identical(attr(back, "tzone"), "UTC")
  expect_identical(attr(round_trip(x, options = type_options(timezone_out = "Asia/Tokyo")), "tzone"), "Asia/Tokyo")
  expect_identical(encode_column("x", as.POSIXlt(x))$data, encode_column("x", x)$data)
})

test_that("whole seconds are exact up to the year 9999", {
  x <- as.POSIXct(c("9999-12-31 23:59:59", "0001-01-01 00:00:01"), tz = "UTC")
  expect_identical(as.double(round_trip(x)), as.double(x))
})

test_that("a timestamp without zone shows its own clock", {
  column <- int64_column("x", 0, "timestamp_ntz")
  x <- decode_column(column, type_options(timezone_out = "Asia/Tokyo"))
  expect_identical(format(x), "1970-01-01")
  expect_identical(attr(x, "tzone"), "UTC")
})

test_that("factors go up as strings, times as seconds", {
  expect_identical(round_trip(factor(c("b", NA, "a"))), c("b", NA, "a"))
  expect_identical(round_trip(hms::hms(c(3661.5, NA))), c(3661.5, NA))
  expect_identical(round_trip(as.difftime(2, units = "hours")), 7200)
})

test_that("the type of a decimal in R depends on its Spark type and not on its values", {
  decode <- function(type, options = defaults) decode_column(text_column("x", c("1.50", NA), type), options)
  expect_identical(decode("decimal(15,2)"), c(1.5, NA))
  expect_identical(decode("decimal(16,2)"), c("1.50", NA))
  expect_identical(decode("decimal(38,18)", type_options(decimal = "numeric")), c(1.5, NA))
  expect_identical(decode("decimal(3,2)", type_options(decimal = "character")), c("1.50", NA))
})

test_that("64-bit integers come as the type that was asked for", {
  column <- int64_column("x", c("1", "9007199254740993"))
  as <- function(bigint) decode_column(column, type_options(bigint = bigint))
  expect_identical(as("integer64"), bit64::as.integer64(c("1", "9007199254740993")))
  expect_identical(as("character"), c("1", "9007199254740993"))
  expect_identical(as("numeric"), c(1, 9007199254740992))
  expect_identical(as("integer"), c(1L, NA))
})

test_that("the one integer that R cannot hold is told", {
  column <- fake_column("x", "int", as.raw(c(0, 0, 0, 0x80)), 1L)
  expect_warning(x <- decode_column(column, defaults), "column x: 1 value")
  expect_identical(x, NA_integer_)
})

test_that("a string with a NUL is an error that names the column, never a shifted column", {
  column <- fake_column("bad", "string", as.raw(c(0x61, 0, 0x62, 0, 0x63, 0)), 2L)
  expect_error(decode_column(column, defaults), "column bad holds a string with a NUL", class = "rpicluster_error_data")
  column <- fake_column("bad", "string", as.raw(c(0x61, 0, 0x62, 0)), 1L)
  expect_error(decode_column(column, defaults), class = "rpicluster_error_data")
})

test_that("strings longer than a buffer of R's survive", {
  long <- strrep("0123456789", 20000)
  expect_identical(round_trip(c(long, "x")), c(long, "x"))
})

test_that("columns of no rows have their types", {
  for (x in list(integer(), double(), character(), logical(), bit64::integer64(), blob::blob())) {
    expect_identical(round_trip(x), x)
  }
  expect_identical(round_trip(as.Date(character())), structure(numeric(), class = "Date"))
})

test_that("what Spark has no type for is refused by name", {
  expect_error(encode_column("x", list(1, "a")), "column x is a list", class = "rpicluster_error_data")
  expect_error(encode_column("x", complex(1)), "class complex", class = "rpicluster_error_data")
})

test_that("a wrong option is refused", {
  expect_error(type_options(bigint = "double"), "must be one of", class = "rpicluster_error_usage")
  expect_error(type_options(timezone_out = "Mars/Olympus"), "time zone", class = "rpicluster_error_usage")
})
