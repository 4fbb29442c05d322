skip_if_not_installed("dbplyr")
skip_if_not_installed("dplyr")
suppressPackageStartupMessages(library(dplyr, warn.conflicts = FALSE))

lazy <- function(..., con) dbplyr::tbl_lazy(data.frame(...), con = con)

sql_of <- function(query) gsub("\\s+", " ", as.character(dbplyr::remote_query(query)))

translated <- function(expression, window = FALSE) {
  con <- fake_connection()
  as.character(dbplyr::translate_sql_(list(rlang::enquo(expression)), con = con, window = window))
}

test_that("numbers of R are doubles in Spark, and what stands in quotes is left alone", {
  expect_identical(
    doubles_not_decimals("SELECT 1.5, '2.5', `3.5`, t.x1.0, 4.5BD, 1.5e3, \"6.5\" -- 7.5"),
    "SELECT 1.5D, '2.5', `3.5`, t.x1.0, 4.5BD, 1.5e3, \"6.5\" -- 7.5"
  )
  con <- fake_connection()
  query <- lazy(x = 1, s = "a", con = con) |> filter(x > 1.5, s == "1.5") |> mutate(y = 2)
  expect_identical(sql_of(query), "SELECT *, 2.0D AS `y` FROM `df` WHERE (`x` > 1.5D) AND (`s` = '1.5')")
})

test_that("strings are escaped as Spark reads them", {
  expect_identical(translated("it's a \\ thing"), "'it\\'s a \\\\ thing'")
})

test_that("remainder, division and rounding follow R", {
  expect_identical(translated(x %% 3L), "PMOD(`x`, 3)")
  expect_identical(translated(x %% y), "MOD(MOD(`x`, NULLIF(`y`, 0)) + `y`, NULLIF(`y`, 0))")
  expect_identical(translated(x %/% 2L), "CAST(FLOOR(TRY_DIVIDE(`x`, 2)) AS DOUBLE)")
  expect_identical(translated(x / 2), "`x` / 2D")
  expect_identical(translated(x / y), "TRY_DIVIDE(`x`, `y`)")
  expect_identical(translated(round(x, 2)), "BROUND(`x`, 2)")
})

test_that("a cast that fails gives NA, as in R", {
  expect_identical(translated(as.integer(x)), "TRY_CAST(`x` AS INT)")
  expect_identical(translated(as.integer64(x)), "TRY_CAST(`x` AS BIGINT)")
})

test_that("patterns become Java's", {
  expect_identical(translated(grepl("a+", x)), "COALESCE((`x` RLIKE 'a+'), FALSE)")
  expect_identical(translated(grepl(".", x, fixed = TRUE)), "COALESCE(CONTAINS(`x`, '.'), FALSE)")
  expect_identical(translated(gsub("(a)\\w", "\\1$", x)), "REGEXP_REPLACE(`x`, '(?U)(a)\\\\w', '$1\\\\$')")
  expect_identical(translated(sub("a", "b", x)), "REGEXP_REPLACE(`x`, '^((?s:.*?))(?:a)', '$1b')")
  expect_identical(translated(gsub("[[:alpha:]]", "", x)), "REGEXP_REPLACE(`x`, '(?U)[\\\\p{Alpha}]', '')")
})

test_that("ranks leave missing values out, also in falling order", {
  expect_match(translated(min_rank(desc(x)), window = TRUE), "WHEN NOT \\(\\(`x`\\) IS NULL\\) THEN RANK\\(\\) OVER")
})

test_that("an offset of lag() is a whole number", {
  expect_match(translated(lead(x, 2, order_by = y), window = TRUE), "LEAD(`x`, 2) OVER", fixed = TRUE)
})

test_that("what floor_date() cannot do is refused", {
  expect_identical(translated(floor_date(x, "month")), "DATE_TRUNC('MONTH', `x`)")
  expect_error(translated(floor_date(x, "7 minutes")), class = "rpicluster_error_usage")
})

test_that("joins by missing values use the null-safe comparison", {
  con <- fake_connection()
  x <- lazy(k = 1, a = 1, con = con)
  expect_match(sql_of(inner_join(x, x, by = "k", na_matches = "na")), "`df_LHS`.`k` <=> `df_RHS`.`k`", fixed = TRUE)
})

test_that("compute() makes a view, a cached view or a table", {
  con <- fake_connection()
  db_compute.RpiConnection(con, "v", "SELECT 1", cache = TRUE)
  db_compute.RpiConnection(con, dbplyr::in_schema("default", "t"), "SELECT 1", temporary = FALSE)
  expect_identical(gsub("\\s+", " ", said(con)), c(
    "CREATE OR REPLACE TEMPORARY VIEW `v` AS SELECT 1", "CACHE TABLE `v`", "CREATE TABLE `default`.`t` AS SELECT 1"
  ))
  expect_error(db_compute.RpiConnection(con, "v", "SELECT 1", temporary = FALSE, cache = TRUE), class = "rpicluster_error_usage")
})

test_that("a window that is used twice is named once", {
  con <- fake_connection()
  query <- lazy(g = 1, x = 1, con = con) |> group_by(g) |> mutate(a = mean(x, na.rm = TRUE), b = sd(x, na.rm = TRUE))
  expect_match(sql_of(query), "WINDOW `win1` AS (PARTITION BY `g`)", fixed = TRUE)
})
