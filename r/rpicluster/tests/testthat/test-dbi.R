test_that("a query gives a data frame and frees its result", {
  con <- fake_connection(list("SELECT" = list(int_column("a", c(1L, NA)), text_column("b", c("x", "y")))))
  expect_identical(DBI::dbGetQuery(con, "SELECT a, b FROM t"), data.frame(a = c(1L, NA), b = c("x", "y")))
  expect_identical(con@state$bridge$log$cleared, 1)
})

test_that("rows come in the pieces that were asked for", {
  con <- fake_connection(list("SELECT" = list(int_column("a", 1:5))))
  res <- DBI::dbSendQuery(con, "SELECT a")
  expect_false(DBI::dbHasCompleted(res))
  expect_identical(DBI::dbFetch(res, 2)$a, 1:2)
  expect_identical(DBI::dbFetch(res, 2)$a, 3:4)
  expect_identical(DBI::dbFetch(res)$a, 5L)
  expect_true(DBI::dbHasCompleted(res))
  expect_identical(DBI::dbGetRowCount(res), 5)
  expect_error(DBI::dbFetch(res, 1.5), class = "rpicluster_error_usage")
  DBI::dbClearResult(res)
  expect_error(DBI::dbFetch(res), class = "rpicluster_error_closed")
  expect_warning(DBI::dbClearResult(res), "closed already")
})

test_that("a statement with placeholders waits for its values and runs once for each set", {
  con <- fake_connection(list("SELECT" = list(int_column("a", 1L))))
  res <- DBI::dbSendQuery(con, "SELECT ? AS a")
  expect_error(DBI::dbFetch(res), "waits for 1 value", class = "rpicluster_error_usage")
  DBI::dbBind(res, list(c("x", "y'")))
  expect_identical(nrow(DBI::dbFetch(res)), 2L)
  DBI::dbClearResult(res)
  expect_identical(said(con), c("SELECT 'x' AS a", "SELECT 'y\\'' AS a"))
})

test_that("a second query closes the first one with a warning", {
  con <- fake_connection(list("SELECT" = list(int_column("a", 1L))))
  first <- DBI::dbSendQuery(con, "SELECT 1")
  expect_warning(second <- DBI::dbSendQuery(con, "SELECT 2"), "closing the open result")
  expect_false(DBI::dbIsValid(first))
  DBI::dbClearResult(second)
})

test_that("a closed connection says so", {
  con <- fake_connection()
  DBI::dbDisconnect(con)
  expect_true(con@state$bridge$log$closed)
  expect_false(DBI::dbIsValid(con))
  expect_error(DBI::dbGetQuery(con, "SELECT 1"), "connection is closed", class = "rpicluster_error_closed")
  expect_warning(DBI::dbDisconnect(con), "closed already")
})

test_that("names are quoted and read back with every odd character", {
  con <- fake_connection()
  for (name in c("a", "with space", "tick`s", "dot.ted", "semi;colon", "\u00fc")) {
    quoted <- DBI::dbQuoteIdentifier(con, name)
    expect_identical(DBI::dbUnquoteIdentifier(con, quoted)[[1]]@name, c(table = name))
  }
  id <- DBI::Id(catalog = "rpi", schema = "default", table = "a b")
  expect_identical(as.character(DBI::dbQuoteIdentifier(con, id)), "`rpi`.`default`.`a b`")
  expect_error(DBI::dbUnquoteIdentifier(con, DBI::SQL("a; DROP TABLE b")), class = "rpicluster_error_usage")
})

test_that("a table is uploaded with its parts, its columns and its mode", {
  con <- fake_connection(tables = "there")
  DBI::dbWriteTable(con, "new", data.frame(a = 1:2), field.types = c(a = "BIGINT"))
  upload <- con@state$bridge$log$uploads[[1]]
  expect_identical(upload$parts, "new")
  expect_identical(upload$mode, "create")
  expect_identical(upload$types, c(a = "BIGINT"))
  expect_error(DBI::dbWriteTable(con, "there", data.frame(a = 1)), "exists already", class = "rpicluster_error_usage")
  DBI::dbWriteTable(con, "THERE", data.frame(a = 1), overwrite = TRUE)
  expect_identical(con@state$bridge$log$uploads[[2]]$mode, "overwrite")
  DBI::dbWriteTable(con, "view", data.frame(a = 1), temporary = TRUE)
  expect_identical(con@state$bridge$log$uploads[[3]]$mode, "view")
})

test_that("a row is not added to a column that the table does not have", {
  con <- fake_connection(list("WHERE 1 = 0" = list(int_column("a", integer()))), tables = "t")
  expect_error(DBI::dbAppendTable(con, "t", data.frame(b = 1)), "no column b", class = "rpicluster_error_usage")
  expect_identical(DBI::dbAppendTable(con, "t", data.frame(A = 1:3)), 3)
})

test_that("removing knows a view from a table", {
  con <- fake_connection(tables = c("t", "v"), views = "v")
  DBI::dbRemoveTable(con, "v")
  DBI::dbRemoveTable(con, "t")
  expect_match(said(con), "^DROP (VIEW +`v`|TABLE +`t`)$")
})

test_that("transactions and temporary tables are refused with a way out", {
  con <- fake_connection()
  error <- error_of(DBI::dbBegin(con))
  expect_s3_class(error, "rpicluster_error_unsupported")
  expect_match(error$hint, "RENAME")
  expect_error(DBI::dbWithTransaction(con, 1), class = "rpicluster_error_unsupported")
  expect_error(DBI::dbCreateTable(con, "t", c(a = "INT"), temporary = TRUE), class = "rpicluster_error_unsupported")
})

test_that("an argument that does not exist is refused, not swallowed", {
  expect_error(DBI::dbConnect(rpi(), host = "pi1"), "no argument `host`", class = "rpicluster_error_usage")
})

test_that("an error of Spark leaves the connection usable", {
  broken <- structure(class = c("rpicluster_error_sql", "rpicluster_error", "error", "condition"),
                      list(message = "[PARSE_SYNTAX_ERROR] no", call = NULL))
  con <- fake_connection(list("SELEC " = broken, "SELECT" = list(int_column("a", 1L))))
  expect_error(DBI::dbGetQuery(con, "SELEC 1"), class = "rpicluster_error_sql")
  expect_identical(DBI::dbGetQuery(con, "SELECT 1")$a, 1L)
})

test_that("a dropped connection is closed by the next one, not by the garbage collector itself", {
  bridge <- fake_bridge()
  con <- new_connection(bridge)
  rm(con)
  # R shows the warning of a finalizer at top level, where no test can catch it.
  gc()
  expect_false(bridge$log$closed)
  fake_connection()
  expect_true(bridge$log$closed)
})

test_that("the package has the name of the tool that it belongs to", {
  expect_identical(utils::packageName(environment(rpi)), "rpicluster")
})

test_that("a raw vector in a list is one literal", {
  con <- fake_connection()
  expect_identical(as.character(DBI::dbQuoteLiteral(con, list(as.raw(c(0, 255)), NULL, 1L))), c("X'00ff'", "NULL", "1"))
})
