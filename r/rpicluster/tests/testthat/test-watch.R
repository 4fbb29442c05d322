# The rule that nothing hangs, against a gateway that is really killed and really frozen.

test_that("a gateway that is killed is a condition within ten seconds", {
  gateway <- fake_gateway()
  fake <- fake_watch(gateway)
  send(fake$backend, call_frame("1", "sleep"), "x")
  tools::pskill(gateway$pid, tools::SIGKILL)
  found <- waited(fake)
  expect_s3_class(found$error, "rpicluster_error_lost")
  expect_lt(found$seconds, 10)
  expect_error(refuse_lost(fake$watch), "lost", class = "rpicluster_error_lost")
})

test_that("a gateway that is frozen is a condition within ten seconds", {
  gateway <- fake_gateway()
  fake <- fake_watch(gateway)
  send(fake$backend, call_frame("1", "sleep"), "x")
  tools::pskill(gateway$pid, tools::SIGSTOP)
  found <- waited(fake)
  expect_s3_class(found$error, "rpicluster_error_lost")
  expect_match(conditionMessage(found$error), "did not answer within 6 s")
  expect_lt(found$seconds, 10)
})

test_that("an answer that was sent and never came is a condition within twenty seconds", {
  gateway <- fake_gateway()
  fake <- fake_watch(gateway)
  send(fake$backend, call_frame("1", "sleep"), "x")
  ask_gateway(fake$watch, call_frame("1", "lose"))
  found <- waited(fake)
  expect_s3_class(found$error, "rpicluster_error_lost")
  expect_match(conditionMessage(found$error), "did not arrive")
  expect_lt(found$seconds, 20)
})

test_that("a long query lives on while the gateway answers beside it", {
  gateway <- fake_gateway()
  fake <- fake_watch(gateway)
  send(fake$backend, call_frame("1", "sleep"), "x")
  socketTimeout(fake$backend, 0L)
  since <- now()
  while (now() - since < 12) {
    tick(fake$watch, since)
    Sys.sleep(0.2)
  }
  expect_null(fake$watch$lost)
})

test_that("an interrupt cancels the call, and the next answer is the next call's", {
  gateway <- fake_gateway()
  fake <- fake_watch(gateway)
  send(fake$backend, call_frame("1", "sleep"), "x")
  Sys.sleep(0.5)
  cancel_call(fake$watch, fake$backend)
  expect_null(fake$watch$lost)
  expect_null(fake$watch$marker)
  expect_identical(call_on(fake$backend, echo_frame("mine"), "x"), "mine")
})

test_that("a wait for Python ends when the gateway does", {
  gateway <- fake_gateway()
  check <- watch_door(list(sparklyr = gateway$door))
  asked <- environment(check)
  asked$asked <- now() - 10
  expect_silent(check())
  tools::pskill(gateway$pid, tools::SIGKILL)
  asked$asked <- now() - 10
  expect_error(check(), "cluster is lost", class = "rpicluster_error_lost")
  expect_null(watch_door(list(sparklyr = NULL)))
})

test_that("what a lost connection still ran is cancelled by the next one", {
  gateway <- fake_gateway()
  fake <- fake_watch(gateway)
  send(fake$backend, call_frame("1", "sleep"), "x")
  Sys.sleep(0.5)
  withr::defer(session$orphans <- character())
  session$orphans <- "gone"
  cancel_orphans(fake$watch)
  expect_identical(session$orphans, character())
  # The sleeping call has ended.
  expect_error(read_answer(function(n) read_bytes(fake$backend, n, now() + 5, "x")), "cancelled")
})
