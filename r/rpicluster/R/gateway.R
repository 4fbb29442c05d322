# The wire protocol of sparklyr's gateway, as far as this package speaks it itself: short questions with a deadline, on
# sockets of its own. A frame is its length and a call: object, static, wants a reference, method, arguments. An answer is a
# status, then a typed value or the error's text. All numbers are big-endian.

# A Pi's driver may pause for seconds; with the time between questions, a loss is said within ten.
answer_seconds <- 6
get_ports <- 0L
# No session has this number, so the gateway answers at once and opens nothing.
nobodys_session <- -1L

now <- function() proc.time()[["elapsed"]]

int_bytes <- function(x) writeBin(as.integer(x), raw(), endian = "big")

# A string is sent with its end, and comes without one.
string_bytes <- function(x) {
  bytes <- charToRaw(enc2utf8(x))
  c(int_bytes(length(bytes) + 1L), bytes, as.raw(0L))
}

reference <- function(id) structure(list(id = id), class = "rpi_reference")

typed_bytes <- function(x) {
  if (inherits(x, "rpi_reference")) {
    return(c(charToRaw("j"), string_bytes(x$id)))
  }
  if (is.list(x)) {
    return(c(charToRaw("l"), int_bytes(length(x)), unlist(lapply(x, typed_bytes))))
  }
  switch(typeof(x),
    character = c(charToRaw("c"), string_bytes(x)),
    integer = c(charToRaw("i"), int_bytes(x)),
    logical = c(charToRaw("b"), int_bytes(x)),
    double = c(charToRaw("d"), writeBin(x, raw(), endian = "big"))
  )
}

call_frame <- function(object, method, arguments = list(), static = FALSE, as_reference = FALSE) {
  body <- c(
    string_bytes(object), int_bytes(static), int_bytes(as_reference), string_bytes(method),
    int_bytes(length(arguments)), unlist(lapply(arguments, typed_bytes))
  )
  c(int_bytes(length(body)), body)
}

# Objects of the gateway that nobody needs any more; this call has no answer.
forget_frame <- function(ids) {
  names <- unlist(lapply(ids, string_bytes))
  body <- c(
    string_bytes("Handler"), int_bytes(TRUE), int_bytes(FALSE), string_bytes("rm"), int_bytes(1L),
    charToRaw("ac"), int_bytes(length(ids)), names
  )
  c(int_bytes(length(body)), body)
}

silent <- function(where, seconds) {
  abort("unreachable", sprintf("%s did not answer within %g s", where, seconds), "rpi_status() says what is dead")
}

hung_up <- function(where) {
  abort("unreachable", sprintf("%s closed the connection", where), "rpi_status() says what is dead")
}

# `n` bytes from a socket, or an error at the deadline. R's own reads would give fewer without a word.
read_bytes <- function(socket, n, deadline, where) {
  parts <- list()
  left <- n
  while (left > 0) {
    wait <- deadline - now()
    if (wait <= 0 || !socketSelect(list(socket), FALSE, wait)) {
      silent(where, answer_seconds)
    }
    part <- readBin(socket, raw(), left)
    if (!length(part)) {
      hung_up(where)
    }
    parts <- c(parts, list(part))
    left <- left - length(part)
  }
  if (length(parts) == 1) parts[[1]] else as.raw(unlist(parts))
}

# What answers a call: a function that gives the next `n` bytes is all that is needed.
read_answer <- function(bytes) {
  int <- function() readBin(bytes(4L), "integer", endian = "big")
  string <- function() {
    n <- int()
    if (n < 0) {
      return(NA_character_)
    }
    text <- if (n) rawToChar(bytes(n)) else ""
    Encoding(text) <- "UTF-8"
    text
  }
  value <- function(type = rawToChar(bytes(1L))) {
    switch(type,
      n = NULL,
      i = int(),
      b = as.logical(int()),
      d = readBin(bytes(8L), "double", endian = "big"),
      c = string(),
      j = reference(string()),
      f = strsplit(string(), "\u0019", fixed = TRUE)[[1]],
      l = lapply(seq_len(int()), function(i) value()),
      a = {
        element <- rawToChar(bytes(1L))
        lapply(seq_len(int()), function(i) value(element))
      },
      abort("service", sprintf("the gateway answered with a value of the unknown kind %s", dQuote(type, FALSE)))
    )
  }
  status <- int()
  if (status != 0L) {
    abort("service", java_message(string()))
  }
  value()
}

open_socket <- function(host, port, seconds = answer_seconds) {
  tryCatch(
    suppressWarnings(socketConnection(host, port, blocking = TRUE, open = "r+b", timeout = seconds)),
    error = function(e) {
      abort(
        "unreachable", sprintf("%s:%d accepts no connection", host, as.integer(port)),
        "rpi_status() says what is dead; `rpicluster connect` opens the way to a cluster on nodes"
      )
    }
  )
}

send <- function(socket, frame, where) {
  tryCatch(writeBin(frame, socket), warning = function(w) hung_up(where), error = function(e) hung_up(where))
}

# One call on a socket of ours and its answer, or an error after `seconds`.
call_on <- function(socket, frame, where, seconds = answer_seconds) {
  send(socket, frame, where)
  deadline <- now() + seconds
  read_answer(function(n) read_bytes(socket, n, deadline, where))
}

# Ask the gateway a question that it answers without opening anything. An open port is no answer: a frozen driver's kernel
# still accepts, and so does a tunnel whose other end is gone. Returns the seconds that it took.
gateway_answers <- function(door, seconds = answer_seconds) {
  where <- door_name(door)
  began <- now()
  socket <- open_socket(door$host, door$port, seconds)
  on.exit(close(socket))
  send(socket, c(int_bytes(get_ports), int_bytes(nobodys_session), int_bytes(0L)), where)
  answer <- readBin(read_bytes(socket, 12L, began + seconds, where), "integer", 3L, endian = "big")
  if (answer[[1]] != nobodys_session) {
    abort("service", sprintf("%s answers, but it is no gateway of sparklyr", where), "rpicluster status")
  }
  now() - began
}

door_name <- function(door) sprintf("the session's sparklyr gateway at %s:%d", door$host, as.integer(door$port))

# The first line of a Java exception, without the names of its class and of what follows.
java_message <- function(text) {
  line <- sub("\n.*$", "", text)
  sub("^([a-z][A-Za-z0-9_]*\\.)+[A-Za-z0-9_$]*(Exception|Error): *", "", line)
}
