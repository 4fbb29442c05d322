# An interrupt reaches R as a signal, so the test signals a second R that runs a long query; skipped without a cluster.

test_that("an interrupt cancels the job within five seconds and the connection lives on", {
  skip_on_os("windows")
  closing <- cluster_connection()
  DBI::dbDisconnect(closing)
  script <- withr::local_tempfile(fileext = ".R")
  said <- withr::local_tempfile(fileext = ".txt")
  writeLines(c(
    load_this_package(),
    "say <- function(...) cat(format(as.double(Sys.time()), digits = 15), ..., '\\n')",
    "con <- DBI::dbConnect(rpi())",
    "pid <- Sys.getpid()",
    "say('READY', pid)",
    "answer <- tryCatch({",
    "  DBI::dbGetQuery(con, 'SELECT SUM(SIN(id)) AS x FROM RANGE(0, 1000000000000, 1, 2)')",
    "  'finished'",
    "}, interrupt = function(e) 'interrupted', error = function(e) conditionMessage(e))",
    "say('ANSWER', answer)",
    "say('SECOND', DBI::dbGetQuery(con, 'SELECT 7 AS x')$x)",
    "DBI::dbDisconnect(con)",
    "say('END')"
  ), script)
  expect_interrupted(script, said, within = 5)
})
