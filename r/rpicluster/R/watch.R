# A watch beside a connection of sparklyr: while R waits for an answer it asks the gateway small questions on a socket of its
# own, so that a dead or frozen driver, a cut network and a lost answer are errors and not a hang. A long query is none of
# these: the gateway answers beside it.

ask_every_seconds <- 1.5
poll_answer_seconds <- 0.25
# The thread of a connection that has nothing to do, while its client waits, has sent an answer that will not arrive.
lost_answer_seconds <- 4

new_watch <- function(door, host, port, context, group, thread = NULL, progress = FALSE) {
  watch <- new.env(parent = emptyenv())
  watch$door <- door
  watch$host <- host
  watch$port <- port
  watch$context <- context
  watch$group <- group
  watch$thread <- thread
  watch$progress <- progress
  watch$lost <- NULL
  watch$busy <- FALSE
  watch$marker <- NULL
  watch$socket <- open_socket(host, port)
  watch$sockets <- list()
  watch$asked <- now()
  watch
}

# An answer that was not read to its end would be taken for the next one, so an interrupted question takes a new socket.
ask_gateway <- function(watch, frame, seconds = answer_seconds) {
  if (is.null(watch$socket)) {
    watch$socket <- open_socket(watch$host, watch$port)
  }
  whole <- FALSE
  on.exit(if (!whole) {
    close(watch$socket)
    watch$socket <- NULL
  })
  answer <- tryCatch(call_on(watch$socket, frame, door_name(watch$door), seconds), rpicluster_error_service = identity)
  whole <- TRUE
  watch$asked <- now()
  if (inherits(answer, "condition")) stop(answer)
  answer
}

echo_frame <- function(text) call_frame("Handler", "echo", list(text), static = TRUE)

chain <- function(watch, id, ...) ask_gateway(watch, call_frame(id, "%>%", list(...)))

# Called a few times a second while an answer is awaited; `since` is when its last byte came.
tick <- function(watch, since) {
  if (now() - watch$asked < ask_every_seconds) {
    return(invisible())
  }
  problem <- tryCatch(
    {
      if (is.null(watch$thread) || now() - since < lost_answer_seconds) {
        ask_gateway(watch, echo_frame("rpicluster"))
        watch$idle <- NULL
      } else {
        notice_lost_answer(watch, since)
      }
      show_progress(watch, since)
      NULL
    },
    rpicluster_error_unreachable = identity
  )
  if (!is.null(problem)) lose(watch, problem$reason)
  invisible()
}

# Two looks at the connection's thread, some seconds apart, that both find it waiting for a request.
notice_lost_answer <- function(watch, since) {
  if (!thread_is_idle(watch)) {
    watch$idle <- NULL
    return(invisible())
  }
  if (is.null(watch$idle) || watch$idle < since) {
    watch$idle <- now()
  } else if (now() - watch$idle >= lost_answer_seconds) {
    lose(watch, sprintf("%s has answered, and the answer did not arrive: this connection is cut", door_name(watch$door)))
  }
  invisible()
}

thread_is_idle <- function(watch) {
  stack <- ask_gateway(watch, call_frame(watch$thread, "getStackTrace", as_reference = TRUE))
  text <- ask_gateway(watch, call_frame("java.util.Arrays", "deepToString", list(stack), static = TRUE))
  send(watch$socket, forget_frame(stack$id), door_name(watch$door))
  grepl("NioEventLoop.select(", text, fixed = TRUE)
}

# The connection is gone for good: its sockets are closed, so that nothing later waits for them, and the reason is kept.
lose <- function(watch, why) {
  clear_progress(watch)
  watch$lost <- why
  session$orphans <- c(session$orphans, watch$group)
  for (socket in c(watch$sockets, list(watch$socket))) {
    # A socket may be closed already; then there is nothing to do.
    if (!is.null(socket)) try(close(socket), silent = TRUE)
  }
  watch$socket <- NULL
  refuse_lost(watch)
}

# What a lost connection still runs is cancelled as soon as there is a way again: nobody waits for it.
cancel_orphans <- function(watch) {
  for (group in session$orphans) ask_gateway(watch, call_frame(watch$context, "cancelJobGroup", list(group)))
  session$orphans <- character()
}

refuse_lost <- function(watch) {
  if (!is.null(watch$lost)) {
    abort("lost", paste0("the connection to the cluster is lost: ", watch$lost), "sc <- rpi_connect(); temporary views are gone")
  }
}

# What a socket has by now; with its time-out at zero R does not wait for the rest. Nothing means that it was closed.
arrived <- function(watch, socket, n) {
  socketTimeout(socket, 0L)
  part <- readBin(socket, raw(), n)
  if (!length(part)) {
    lose(watch, sprintf("%s closed it", door_name(watch$door)))
  }
  part
}

# `n` bytes of an answer, however long it takes, with a look at the watch whenever none come.
watched_bytes <- function(watch, socket, n) {
  since <- now()
  parts <- list()
  left <- n
  while (left > 0) {
    if (!socketSelect(list(socket), FALSE, poll_answer_seconds)) {
      tick(watch, since)
      next
    }
    part <- arrived(watch, socket, left)
    since <- now()
    if (length(part) == n) {
      return(part)
    }
    parts[[length(parts) + 1]] <- part
    left <- left - length(part)
  }
  as.raw(unlist(parts))
}

drain_seconds <- 10

# After an interrupt: cancel what this connection runs, then read its answer away, up to an echo of our own behind it.
cancel_call <- function(watch, socket) {
  clear_progress(watch)
  problem <- tryCatch(
    {
      ask_gateway(watch, call_frame(watch$context, "cancelJobGroup", list(watch$group)))
      watch$marker <- paste0("rpicluster-", paste(sample(c(letters, 0:9), 32, replace = TRUE), collapse = ""))
      send(socket, echo_frame(watch$marker), door_name(watch$door))
      drain(watch, socket, now() + drain_seconds)
      NULL
    },
    rpicluster_error = identity
  )
  # The next call says it; now the interrupt is what counts.
  if (!is.null(problem) && is.null(watch$lost)) watch$lost <- problem$reason
  invisible()
}

# Read up to the marker. Beyond the deadline it stays to be read before the next call.
drain <- function(watch, socket, deadline) {
  marker <- charToRaw(watch$marker)
  seen <- raw()
  since <- now()
  while (now() < deadline) {
    if (!socketSelect(list(socket), FALSE, poll_answer_seconds)) {
      tick(watch, since)
      next
    }
    seen <- utils::tail(c(seen, arrived(watch, socket, 65536L)), length(marker))
    since <- now()
    if (identical(seen, marker)) {
      watch$marker <- NULL
      return(invisible())
    }
  }
}
