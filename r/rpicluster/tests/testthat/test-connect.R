state <- function(..., frame = parent.frame()) {
  root <- withr::local_tempdir(.local_envir = frame)
  withr::local_envvar(RPICLUSTER_STATE_DIR = root, RPICLUSTER_CONNECTION = "", RPICLUSTER_CLUSTER = "", .local_envir = frame)
  withr::local_options(rpicluster.cluster = NULL, .local_envir = frame)
  withr::local_dir(withr::local_tempdir(.local_envir = frame), .local_envir = frame)
  documents <- list(...)
  for (name in names(documents)) {
    folder <- file.path(root, "clusters", name)
    dir.create(folder, recursive = TRUE)
    file.create(file.path(folder, "cluster.yml"))
    document <- utils::modifyList(list(schema = 1L, cluster = name, tunnelled = FALSE), documents[[name]])
    writeLines(jsonlite::toJSON(document, auto_unbox = TRUE, null = "null"), file.path(folder, "connection.json"))
  }
  root
}

test_that("the connection document is found without a process, by name, by path and alone", {
  root <- state(drawer = list())
  path <- file.path(root, "clusters", "drawer", "connection.json")
  expect_identical(document_path(), path)
  expect_identical(document_path("drawer"), path)
  expect_identical(document_path(path), normalizePath(path))
  expect_identical(document_path(dirname(path)), normalizePath(path))
  writeLines("x", "cluster.yml")
  writeLines(normalizePath("cluster.yml"), file.path(dirname(path), "cluster.yml.path"))
  expect_identical(document_path("./cluster.yml"), path)
  expect_identical(read_document()$cluster, "drawer")
})

test_that("the wrong name, no cluster and several clusters are errors with what to type", {
  state(drawer = list(), attic = list())
  expect_error(document_path("cellar"), "known: attic, drawer", class = "rpicluster_error_usage")
  expect_error(document_path(), "several clusters: attic, drawer", class = "rpicluster_error_usage")
  state()
  expect_error(document_path(), "rpicluster init", class = "rpicluster_error_usage")
  expect_error(document_path("./other.yml"), "rpicluster up", class = "rpicluster_error_usage")
})

test_that("a document that is none is refused", {
  root <- state(drawer = list())
  writeLines("{}", file.path(root, "clusters", "drawer", "connection.json"))
  expect_error(read_document(), "not a connection file", class = "rpicluster_error_usage")
})

test_that("without sparklyr the condition names the way that works", {
  document <- list(cluster = "drawer", sparklyr = list(version = "1.9.5"))
  error <- error_of(require_sparklyr(document, installed = NULL))
  expect_s3_class(error, "rpicluster_error_sparklyr")
  expect_match(error$hint, "DBI::dbConnect(rpicluster::rpi())", fixed = TRUE)
})

test_that("a session without gateway, a sparklyr too old and one of another version are told apart", {
  ours <- package_version("1.9.5")
  expect_null(require_sparklyr(list(cluster = "x", sparklyr = list(version = "1.9.5")), ours))
  expect_error(require_sparklyr(list(cluster = "x", sparklyr = NULL), ours), "no gateway", class = "rpicluster_error_sparklyr")
  old <- list(cluster = "x", sparklyr = list(version = "1.8.0"))
  expect_error(require_sparklyr(old, package_version("1.8.0")), "too old", class = "rpicluster_error_sparklyr")
  other <- list(cluster = "x", sparklyr = list(version = "1.9.6"))
  expect_error(require_sparklyr(other, ours), "rpicluster up", class = "rpicluster_error_sparklyr")
})

test_that("a gateway that answers starts no process, and a dead one on this machine neither", {
  gateway <- fake_gateway()
  ran <- tempfile()
  tool <- withr::local_tempfile(fileext = ".sh")
  writeLines(c("#!/bin/sh", paste("touch", shQuote(ran)), "echo 'error: no way to pi1' >&2", "echo 'hint: rpicluster start' >&2", "exit 4"), tool)
  Sys.chmod(tool, "0755")
  withr::local_options(rpicluster.python = tool, rpicluster.cluster = NULL)
  withr::local_envvar(RPICLUSTER_CLUSTER = "")
  document <- list(cluster = "x", tunnelled = TRUE, sparklyr = gateway$door)
  expect_identical(open_way(document, NULL), document)
  expect_false(file.exists(ran))
  tools::pskill(gateway$pid, tools::SIGKILL)
  Sys.sleep(0.3)
  expect_error(open_way(utils::modifyList(document, list(tunnelled = FALSE)), NULL), class = "rpicluster_error_unreachable")
  expect_false(file.exists(ran))
  error <- error_of(open_way(document, NULL))
  expect_true(file.exists(ran))
  expect_s3_class(error, "rpicluster_error_unreachable")
  expect_match(conditionMessage(error), "no way to pi1")
})

test_that("wrong arguments are refused in words", {
  expect_error(rpi_connect(config = 1), "named list", class = "rpicluster_error_usage")
  expect_error(rpi_connect(new = NA), "TRUE or FALSE", class = "rpicluster_error_usage")
  expect_error(rpi_disconnect(1), "not a connection", class = "rpicluster_error_usage")
  expect_error(rpi_put(1, "x"), "data frame", class = "rpicluster_error_usage")
  expect_error(rpi_collect(data.frame()), "no table of sparklyr", class = "rpicluster_error_usage")
  expect_error(rpi_web("x"), "Spark", class = "rpicluster_error_usage")
  expect_error(rpi_log(-1), "number of lines", class = "rpicluster_error_usage")
})

test_that("an R error is found in a worker's log, and Java's stack is left out", {
  log <- paste0(
    "26/11/23 15:44:49 INFO sparklyr: RScript (560) is starting \n",
    "26/11/23 15:44:50 ERROR sparklyr: RScript (560) terminated unexpectedly: my own\nwords \n",
    "26/11/23 15:44:50 ERROR sparklyr: RScript (560) collected callstack: \n11: stop(x)\n"
  )
  expect_identical(last_words(log), "my own\nwords")
  expect_null(last_words("nothing"))
  expect_identical(
    log_address("http://pi2:8042/node/containerlogs/container_1_0001_01_000002/ana/stdout?start=-4096"),
    "http://pi2:8042/ws/v1/node/containerlogs/container_1_0001_01_000002/stdout?size=-65536"
  )
  said <- spark_message("org.apache.spark.sql.AnalysisException: [X] no `a`; line 1 pos 7;\n'Project\n\tat org.x")
  expect_identical(said, "[X] no `a`; line 1 pos 7;")
})

test_that("a bundle of this machine's packages is refused before it is sent", {
  expect_error(refuse_bundle("1", "addFile"), "r: packages:", class = "rpicluster_error_unsupported")
  expect_null(refuse_bundle("1", "collect"))
})

test_that("an error that was wrapped gives its cause back", {
  ours <- error_of(abort("lost", "gone"))
  wrapped <- structure(class = c("rlang_error", "error", "condition"), list(message = "Can't query fields", parent = ours))
  expect_identical(own_condition(wrapped), ours)
  other <- simpleError("x")
  expect_identical(own_condition(other), other)
})
