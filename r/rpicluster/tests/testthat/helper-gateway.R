# A fake gateway in a process of its own, which can really be killed and frozen, and a watched connection to it.

fake_gateway <- function(frame = parent.frame()) {
  out <- tempfile("gateway-")
  script <- testthat::test_path("fake-gateway.R")
  system2(file.path(R.home("bin"), "Rscript"), c("--vanilla", shQuote(script), shQuote(out)), wait = FALSE, stdout = FALSE, stderr = FALSE)
  deadline <- now() + 60
  while (!file.exists(out) && now() < deadline) Sys.sleep(0.05)
  if (!file.exists(out)) stop("the fake gateway did not start within 60 s")
  said <- as.integer(readLines(out))
  withr::defer(tools::pskill(said[[3]], tools::SIGKILL), frame)
  list(door = list(host = "127.0.0.1", port = said[[1]], session = 42L, last_port = said[[2]]), backend = said[[2]], pid = said[[3]])
}

fake_watch <- function(gateway, progress = FALSE, frame = parent.frame()) {
  watch <- new_watch(gateway$door, "127.0.0.1", gateway$backend, context = "1", group = "mine", thread = "2", progress = progress)
  watch$began <- now()
  backend <- open_socket("127.0.0.1", gateway$backend)
  watch$sockets <- list(backend)
  withr::defer(if (is.null(watch$lost)) {
    close(backend)
    if (!is.null(watch$socket)) close(watch$socket)
  }, frame)
  list(watch = watch, backend = backend)
}

# What came of waiting for an answer, and after how many seconds.
waited <- function(fake) {
  began <- now()
  error <- error_of(watched_bytes(fake$watch, fake$backend, 4L))
  list(error = error, seconds = now() - began)
}
