# The line by which a second R loads the package under test.
load_this_package <- function() {
  if (isNamespaceLoaded("pkgload") && pkgload::is_dev_package("rpicluster")) {
    sprintf("pkgload::load_all(%s, quiet = TRUE)", deparse(pkgload::pkg_path()))
  } else {
    "library(rpicluster)"
  }
}

# Runs a script that says READY and its process id before a long call; sends it an interrupt, and expects an ANSWER "interrupted"
# within some seconds, then a SECOND call that gives 7, and its END. Every line begins with the time.
expect_interrupted <- function(script, said, within) {
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
  expect_lt(as.double(answer[[1]]) - sent, within)
  expect_identical(wait_for("SECOND", 60)[[3]], "7")
  wait_for("END", 60)
}
