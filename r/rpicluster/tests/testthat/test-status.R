document <- '{"schema":1,"cluster":"drawer","healthy":false,"more":[1,2],"parts":[
  {"name":"NameNode","state":"up","detail":null,"since":"today"},
  {"name":"worker2","state":"dead","detail":"no heartbeat for 40 s"}]}'

test_that("the document becomes R values, and unknown fields do no harm", {
  status <- read_status(list(code = 6L, out = document, talk = character()))
  expect_s3_class(status, "rpi_status")
  expect_identical(status$cluster, "drawer")
  expect_false(status$healthy)
  expect_identical(status$parts$state, c("up", "dead"))
  expect_identical(status$parts$detail, c(NA, "no heartbeat for 40 s"))
  expect_identical(status$document$more, list(1L, 2L))
})

test_that("printing names the dead part in words", {
  status <- read_status(list(code = 6L, out = document, talk = character()))
  expect_output(print(status), "cluster drawer is NOT healthy.*worker2 +dead +no heartbeat for 40 s")
})

test_that("a cluster without parts is no error", {
  status <- read_status(list(code = 0L, out = '{"cluster":"x","healthy":true,"parts":[]}', talk = character()))
  expect_true(status$healthy)
  expect_identical(nrow(status$parts), 0L)
})

test_that("an error of the tool keeps its message, its hint and its exit code", {
  answer <- list(code = 4L, out = "", talk = c("error: pi1 does not answer", "", "hint: rpicluster start"))
  error <- error_of(read_status(answer))
  expect_s3_class(error, "rpicluster_error_unreachable")
  expect_match(conditionMessage(error), "pi1 does not answer")
  expect_identical(error$hint, "rpicluster start")
  expect_identical(error$exit_code, 4L)
})

test_that("a tool that is not there is named with what to do", {
  withr::local_envvar(PATH = "", RPICLUSTER_PYTHON = "", R_USER_CONFIG_DIR = tempfile("config-"))
  skip_if(file.exists(system.file("python.json", package = "rpicluster")), "this package was installed by r-install")
  expect_error(rpi_status(), "hint: install the tool", class = "rpicluster_error_python")
})

test_that("the tool is run with the cluster's name, whatever is in it", {
  tool <- tempfile(fileext = ".sh")
  writeLines(c("#!/bin/sh", "printf '{\"cluster\":\"%s\",\"healthy\":true,\"parts\":[]}' \"$6\""), tool)
  Sys.chmod(tool, "0755")
  withr::local_options(rpicluster.python = tool)
  expect_identical(rpi_status("a b; echo 'c'")$cluster, "a b; echo 'c'")
})
