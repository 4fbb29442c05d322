skip_if_not_installed("dplyr")
suppressPackageStartupMessages(library(dplyr, warn.conflicts = FALSE))

test_that("expressions run on the cluster and here, agree, and are timed in both places", {
  con <- cluster_connection()
  rows <- data.frame(g = rep(c("a", "b"), 500), x = as.double(1:1000))
  copy_to(con, rows, "bench_rows", overwrite = TRUE)
  least <- 500
  found <- rpi_bench(
    sums = bench_rows %>% filter(x > least) %>% group_by(g) %>% summarise(n = n(), s = sum(x, na.rm = TRUE)),
    bench_rows %>% filter(g == "a"),
    con = con, replications = 2
  )
  expect_s3_class(found, "rpi_bench")
  expect_identical(found$where, rep(c("cluster", "local"), 2))
  expect_identical(found$test[[1]], "sums")
  expect_identical(found$rows, c(2L, 2L, 500L, 500L))
  expect_identical(found$difference, rep("", 4))
  expect_identical(min(found$relative[1:2]), 1)
  expect_true(all(found$elapsed[c(1, 3)] > 0))
})

test_that("an answer that differs from the local copy is told", {
  con <- cluster_connection()
  copy_to(con, data.frame(x = 1:3), "bench_rows", overwrite = TRUE)
  found <- rpi_bench(all = bench_rows %>% summarise(s = sum(x, na.rm = TRUE)), con = con,
                     local = list(bench_rows = data.frame(x = 1:4)), replications = 1)
  expect_match(found$difference, "^s: ")
  expect_error(rpi_bench(no_such_table %>% count(), con = con), "names a table", class = "rpicluster_error_usage")
})
