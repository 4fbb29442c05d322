# An interrupt reaches R as a signal, so the test signals a second R that runs a long query; skipped without a cluster.

test_that("an interrupt cancels the job within five seconds and the connection lives on", {
  skip_on_os("windows")
  closing <- cluster_connection()
  DBI::dbDisconnect(closing)
  script <- withr::local_tempfile(fileext = ".R")
  said <- withr::local_tempfile(fileext = ".txt")
  package <- if (isNamespaceLoaded("pkgload") && pkgload::is_dev_package("rpicluster")) {
    sprintf("pkgload::load_all(%s, quiet = TRUE)", deparse(pkgload::pkg_path()))
  } else {
    "library(rpicluster)"
  }
  writeLines(c(
    package,
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
  system2(file.path(R.home("bin"), "Rscript"), script, stdout = said, stderr = said, wait = FALSE)
  wait_for <- function(word, seconds) {
    deadline <- Sys.time() + seconds
    while (Sys.time() < deadline) {
      line <- grep(word, if (file.exists(said)) readLines(said, warn = FALSE), value = TRUE)
      if (length(line)) return(strsplit(line, " +")[[1]])
      Sys.sleep(0.1)
    }
    fail(sprintf("no %s within %g s: %s", word, seconds, paste(readLines(said, warn = FALSE), collapse = " / ")))
  }
  pid <- as.integer(wait_for("READY", 120)[[3]])
  Sys.sleep(4)
  sent <- as.double(Sys.time())
  tools::pskill(pid, tools::SIGINT)
  answer <- wait_for("ANSWER", 60)
  expect_identical(answer[[3]], "interrupted")
  expect_lt(as.double(answer[[1]]) - sent, 5)
  expect_identical(wait_for("SECOND", 60)[[3]], "7")
  wait_for("END", 60)
})
