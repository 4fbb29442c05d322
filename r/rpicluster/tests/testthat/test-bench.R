columns <- c("test", "replications", "elapsed", "relative", "user.self", "sys.self", "user.child", "sys.child")

test_that("our own timing has rbenchmark's columns and counts every replication", {
  runs <- 0
  found <- own_benchmark(list(slow = function() Sys.sleep(0.05), quick = function() runs <<- runs + 1), 3)
  expect_identical(names(found), columns)
  expect_identical(found$test, c("slow", "quick"))
  expect_identical(found$replications, c(3L, 3L))
  expect_identical(runs, 3)
  expect_gt(found$elapsed[[1]], 0.1)
})

test_that("rbenchmark, where it is installed, gives the same columns", {
  skip_if_not_installed("rbenchmark")
  runs <- list(cluster = function() Sys.sleep(0.02), local = function() Sys.sleep(0.01))
  theirs <- benchmark(runs, 2)
  ours <- own_benchmark(runs, 2)
  expect_identical(names(theirs), names(ours))
  expect_identical(as.character(theirs$test), ours$test)
  expect_identical(lapply(theirs[-1], class), lapply(ours[-1], class))
})

test_that("answers are the same in any order of rows, whatever kind of number counts them", {
  ours <- data.frame(g = c("b", "a"), n = bit64::as.integer64(c(2, 1)), x = c(0.1 + 0.2, NA))
  theirs <- data.frame(g = factor(c("a", "b")), n = 1:2, x = c(NA, 0.3))
  expect_identical(rows_difference(ours, theirs), "")
  expect_match(rows_difference(ours, transform(theirs, n = 2:3)), "^n: ")
  expect_identical(rows_difference(ours, theirs[1, ]), "2 rows against 1")
  expect_identical(rows_difference(ours, theirs[c("n", "g", "x")]), "the columns differ")
})

test_that("what cannot be timed is refused in words", {
  expect_error(rpi_bench(con = NULL), "no expression", class = "rpicluster_error_usage")
  expect_error(rpi_bench(n = x), "not a connection", class = "rpicluster_error_usage")
  expect_error(rpi_bench(n = x, con = 1), "not a connection", class = "rpicluster_error_usage")
  con <- fake_connection(fake_bridge())
  expect_error(rpi_bench(n = x, con = con, replications = 0), "at least 1", class = "rpicluster_error_usage")
  expect_error(rpi_bench(n = x, con = con, local = list(1)), "named list", class = "rpicluster_error_usage")
})

test_that("a test without a name is called by its expression", {
  expect_identical(test_names(as.list(quote(list(a = x, y %>% f(), a = z)))[-1]), c("a", "y %>% f()", "a.1"))
})

test_that("the picture has a bar a test and place", {
  found <- structure(
    data.frame(
      test = rep(c("a", "b"), each = 2), where = c("cluster", "local"), replications = 2L,
      elapsed = c(4, 2, 6, 8), laptop_cpu = c(1, 2, 1, 8)
    ),
    class = c("rpi_bench", "data.frame")
  )
  withr::with_tempfile("picture", fileext = ".png", {
    grDevices::png(picture)
    places <- plot(found)
    grDevices::dev.off()
    expect_identical(dim(places), c(2L, 2L))
    expect_gt(file.size(picture), 1000)
  })
})
