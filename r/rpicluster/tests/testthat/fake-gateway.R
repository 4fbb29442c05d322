# A gateway of sparklyr, as far as this package's own questions go: Rscript fake-gateway.R PORTS. It answers until it is stopped.
# The first port is the gateway's, the second a connection's. A call of `sleep` gets no answer until `cancelJobGroup`.

out <- commandArgs(trailingOnly = TRUE)[[1]]
listen <- function() {
  for (try in 1:50) {
    port <- sample(20000:40000, 1)
    socket <- tryCatch(suppressWarnings(serverSocket(port)), error = function(e) NULL)
    if (!is.null(socket)) return(list(port = port, socket = socket))
  }
  stop("no free port")
}
int <- function(x) writeBin(as.integer(x), raw(), endian = "big")
text <- function(x) c(int(nchar(x, "bytes")), charToRaw(x))
read_int <- function(client) readBin(client, "integer", endian = "big")
read_text <- function(client) {
  n <- read_int(client)
  rawToChar(readBin(client, raw(), n)[seq_len(n - 1)])
}

gateway <- listen()
backend <- listen()
writeLines(as.character(c(gateway$port, backend$port, Sys.getpid())), paste0(out, ".new"))
file.rename(paste0(out, ".new"), out)
clients <- list()
sleeping <- NULL
stack <- "[java.lang.Object.wait()]"

answer <- function(client) {
  n <- read_int(client)
  if (!length(n)) return(FALSE)
  object <- read_text(client)
  flags <- readBin(client, "integer", 2L, endian = "big")
  method <- read_text(client)
  arguments <- readBin(client, raw(), n - 16L - nchar(object) - nchar(method) - 2L)
  first <- if (length(arguments) > 9 && rawToChar(arguments[5]) == "c") rawToChar(arguments[10:(length(arguments) - 1)])
  say <- function(...) writeBin(c(int(0), ...), client)
  switch(method,
    echo = say(charToRaw("c"), text(first)),
    sleep = sleeping <<- client,
    # From now on the thread that owes an answer looks idle, as if the answer had been sent.
    lose = {
      stack <<- "[sun.nio.ch.EPoll.wait(Native), io.netty.channel.nio.NioEventLoop.select(x)]"
      say(charToRaw("n"))
    },
    cancelJobGroup = {
      say(charToRaw("n"))
      if (!is.null(sleeping)) writeBin(c(int(-1), text("java.lang.Exception: cancelled\n\tat x")), sleeping)
      sleeping <<- NULL
    },
    getStackTrace = say(charToRaw("j"), text("7")),
    deepToString = say(charToRaw("c"), text(stack)),
    fail = writeBin(c(int(-1), text("org.apache.spark.SparkException: it failed\n\tat y")), client),
    rm = NULL,
    say(charToRaw("n"))
  )
  TRUE
}

repeat {
  ready <- socketSelect(c(list(gateway$socket, backend$socket), clients), timeout = 60)
  if (!any(ready)) quit(status = 1)
  if (ready[[1]]) {
    one <- socketAccept(gateway$socket, blocking = TRUE, open = "r+b", timeout = 5)
    if (length(readBin(one, "integer", 3L)) == 3) writeBin(int(c(-1, 0, 0)), one)
    close(one)
  }
  talking <- clients[ready[-(1:2)]]
  if (ready[[2]]) clients <- c(clients, list(socketAccept(backend$socket, blocking = TRUE, open = "r+b", timeout = 5)))
  for (client in talking) {
    if (!answer(client)) {
      clients <- Filter(function(other) !identical(other, client), clients)
      close(client)
    }
  }
}
