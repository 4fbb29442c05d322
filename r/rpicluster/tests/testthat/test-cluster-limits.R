# What Spark cannot do, shown on a real cluster. The list of DBItest's tests that are not run names these tests; when one of
# them fails, Spark has learnt something and the list can shrink.

refused <- function(con, sql, condition) {
  error <- error_of(DBI::dbExecute(con, sql))
  expect_s3_class(error, "rpicluster_error_sql")
  expect_match(conditionMessage(error), condition)
}

test_that("Spark has no transactions", {
  con <- cluster_connection()
  for (sql in c("START TRANSACTION", "COMMIT", "ROLLBACK")) refused(con, sql, "PARSE_SYNTAX_ERROR|INVALID_STATEMENT_OR_CLAUSE")
})

test_that("Spark has no TIME type", {
  con <- cluster_connection()
  refused(con, "SELECT TIME '12:00:00'", "UNSUPPORTED_TIME_TYPE")
  refused(con, "SELECT CURRENT_TIME()", "UNSUPPORTED_TIME_TYPE")
})

test_that("Spark has no temporary tables, and a view takes no rows", {
  con <- cluster_connection()
  refused(con, "CREATE TEMPORARY TABLE r_temporary (a INT)", "CREATE TEMPORARY")
  refused(con, "CREATE TEMPORARY TABLE r_temporary AS SELECT 1 AS a", "CREATE TEMPORARY")
  DBI::dbWriteTable(con, "r_temporary_view", data.frame(a = 1L), temporary = TRUE)
  refused(con, "INSERT INTO r_temporary_view VALUES (2)", "UNSUPPORTED_INSERT")
  refused(con, "UPDATE r_temporary_view SET a = 2", "UNSUPPORTED_FEATURE")
})

test_that("Spark does not say how many rows a DELETE of whole files removed", {
  con <- cluster_connection()
  name <- "r_deleted"
  withr::defer(DBI::dbRemoveTable(con, name, fail_if_missing = FALSE))
  DBI::dbWriteTable(con, name, data.frame(a = 1:10), overwrite = TRUE)
  expect_identical(DBI::dbExecute(con, paste("DELETE FROM", name)), NA_real_)
  expect_identical(nrow(DBI::dbReadTable(con, name)), 0L)
})
