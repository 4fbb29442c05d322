# What Spark says when a call fails, in the words of the cause instead of Java's stack.

java_exception <- "^([A-Za-z_][A-Za-z0-9_]*\\.)+[A-Za-z0-9_$]*(Exception|Error)\\b"
worker_failure <- "sparklyr worker rscript failure"

# A calling handler: it raises the condition that stands for an error of the cluster, and leaves other errors alone.
explain_failure <- function(sc, condition) {
  # conditionMessage() would break lines at the width of the console.
  text <- if (is.character(condition$message)) paste(condition$message, collapse = "\n") else conditionMessage(condition)
  if (inherits(condition, "rpicluster_error") || !grepl(java_exception, text)) {
    return(invisible())
  }
  watch <- sc$state$rpicluster
  clear_progress(watch)
  if (grepl("on a stopped SparkContext", text, fixed = TRUE)) {
    lose(watch, "the session's SparkContext has stopped; the cluster starts another one")
  }
  if (grepl(worker_failure, text, fixed = TRUE)) {
    words <- tryCatch(worker_words(sc, text), rpicluster_error_sql = function(e) NULL)
    abort(
      "apply",
      if (is.null(words)) "the function failed on a worker, and its words could not be fetched" else paste("the function failed on a worker:", words),
      "rpi_web(\"Spark\") leads to the executors' logs", spark = text
    )
  }
  abort("sql", spark_message(text), spark = text)
}

# Spark's message up to the plan or the stack, without the name of Java's class.
spark_message <- function(text) {
  text <- sub("\n(\tat |== SQL |'|[+:]- |Driver stacktrace).*$", "", text)
  trimws(sub(paste0(java_exception, ": *"), "", text))
}

# The R error that ended a worker: Spark only says that one ended, R's words are in the executor's log. The driver reads it
# from the NodeManager, as this machine may have no way there. NULL if it is not to be had.
worker_words <- function(sc, text) {
  executor <- sub("^.*\\bexecutor ([0-9]+)\\).*$", "\\1", gsub("\n", " ", text))
  # As a reference: sparklyr would make texts of its elements.
  executors <- sparklyr::j_invoke(sparklyr::spark_context(sc), "%>%", list("statusStore"), list("executorList", TRUE))
  for (i in seq_len(sparklyr::invoke(executors, "size")) - 1L) {
    one <- sparklyr::invoke(executors, "apply", i)
    if (identical(sparklyr::invoke(one, "id"), executor)) {
      page <- sparklyr::invoke(one, "executorLogs")[["stdout"]]
      if (is.null(page)) {
        return(NULL)
      }
      log <- sparklyr::invoke_static(sc, "scala.io.Source", "fromURL", log_address(page), "UTF-8")
      return(last_words(sparklyr::invoke(log, "mkString")))
    }
  }
}

# The plain text behind YARN's page of a container's log.
log_address <- function(page) {
  sub("^(https?://[^/]+)/node/containerlogs/([^/]+)/[^/]+/stdout.*$", "\\1/ws/v1/node/containerlogs/\\2/stdout?size=-65536", page)
}

last_words <- function(log) {
  found <- regmatches(log, gregexpr("(?<=terminated unexpectedly: )(?s:.+?)(?= *(\n\\d\\d/\\d\\d/\\d\\d |\n?End of LogType|$))", log, perl = TRUE))[[1]]
  if (length(found)) trimws(found[[length(found)]])
}
