# A signal lands anywhere, so a second R waits for Python many times and is interrupted at another moment each time.

test_that("an interrupt at any moment ends the wait as an interrupt, and Python goes on", {
  skip_on_os("windows")
  python <- tryCatch(find_python(), error = function(e) skip(conditionMessage(e)))
  withr::local_envvar(RPICLUSTER_PYTHON = python)
  script <- withr::local_tempfile(fileext = ".R")
  writeLines(c(
    load_this_package(),
    "rpi <- asNamespace('rpicluster')",
    "invisible(rpi$start_python())",
    "python <- rpi$session",
    "pool <- python$futures$ThreadPoolExecutor(1L)",
    "time <- reticulate::import('time', convert = FALSE)",
    "ends <- vapply(1:20, function(i) {",
    "  future <- pool$submit(time$sleep, 1)",
    "  system(sprintf('(sleep 0.%03d; kill -INT %d) &', (i * 37) %% 450, Sys.getpid()))",
    "  end <- tryCatch(",
    "    { suspendInterrupts(rpi$await(future, function() time$time())); 'finished' },",
    "    interrupt = function(e) 'interrupted'",
    "  )",
    "  paste(end, tryCatch(reticulate::py_eval('1 / 0'), error = function(e) 'error', interrupt = function(e) 'interrupt'))",
    "}, '')",
    "cat('ENDS', unique(ends), sep = ': ')"
  ), script)
  said <- system2(file.path(R.home("bin"), "Rscript"), script, stdout = TRUE, stderr = TRUE, timeout = 120)
  expect_identical(said[[length(said)]], "ENDS: interrupted error")
})
