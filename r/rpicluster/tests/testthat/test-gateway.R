test_that("a gateway that answers is told from a port that is only open", {
  gateway <- fake_gateway()
  expect_lt(gateway_answers(gateway$door), answer_seconds)
  tools::pskill(gateway$pid, tools::SIGSTOP)
  began <- now()
  # The kernel of a frozen process still accepts connections.
  expect_error(gateway_answers(gateway$door, 2), "did not answer", class = "rpicluster_error_unreachable")
  expect_lt(now() - began, 5)
  tools::pskill(gateway$pid, tools::SIGCONT)
  expect_lt(gateway_answers(gateway$door), answer_seconds)
})

test_that("a port that nobody listens on is an error at once", {
  began <- now()
  expect_error(gateway_answers(list(host = "127.0.0.1", port = 1L)), "accepts no connection", class = "rpicluster_error_unreachable")
  expect_lt(now() - began, 4)
})

test_that("a server that is no gateway is not taken for one", {
  skip_on_os("windows")
  socket <- serverSocket(0L + (port <- sample(20000:40000, 1)))
  withr::defer(close(socket))
  expect_error(gateway_answers(list(host = "127.0.0.1", port = port), 1), class = "rpicluster_error_unreachable")
})

test_that("values of every kind come back as they were sent", {
  bytes <- c(
    int_bytes(0L), charToRaw("l"), int_bytes(7L), charToRaw("i"), int_bytes(-5L), charToRaw("b"), int_bytes(1L),
    charToRaw("d"), writeBin(0.1, raw(), endian = "big"), charToRaw("n"), charToRaw("c"), int_bytes(3L), charToRaw("\u00e9x"),
    charToRaw("j"), int_bytes(2L), charToRaw("17"), charToRaw("a"), charToRaw("i"), int_bytes(2L), int_bytes(3L), int_bytes(4L)
  )
  at <- 0
  got <- read_answer(function(n) {
    at <<- at + n
    bytes[at - n + seq_len(n)]
  })
  expect_identical(got, list(-5L, TRUE, 0.1, NULL, "\u00e9x", reference("17"), list(3L, 4L)))
})

test_that("a frame says its length, and its strings their end", {
  frame <- call_frame("Handler", "echo", list("hi", 2L, TRUE, 0.5, list("a"), reference("9")), static = TRUE)
  expect_identical(readBin(frame, "integer", endian = "big"), length(frame) - 4L)
  expect_identical(rawToChar(frame[9:15]), "Handler")
  expect_identical(frame[16], as.raw(0L))
})

test_that("an error of the cluster keeps Java's words and drops its stack", {
  gateway <- fake_gateway()
  fake <- fake_watch(gateway)
  error <- error_of(ask_gateway(fake$watch, call_frame("1", "fail")))
  expect_s3_class(error, "rpicluster_error_service")
  expect_identical(conditionMessage(error), "it failed")
  # The socket is as good as before.
  expect_identical(ask_gateway(fake$watch, echo_frame("after")), "after")
})
