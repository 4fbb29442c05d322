# One line that says what the cluster does for a call of sparklyr that takes longer.

progress_after_seconds <- 2

wants_progress <- function() isTRUE(getOption("rpicluster.progress", interactive()))

show_progress <- function(watch, since) {
  if (!watch$progress || now() - watch$began < progress_after_seconds) {
    return(invisible())
  }
  text <- tryCatch(progress_text(watch), rpicluster_error_service = function(e) NULL)
  if (!is.null(text)) {
    watch$shown <- max(nchar(text), if (is.null(watch$shown)) 0 else watch$shown)
    cat("\r", formatC(text, width = -watch$shown), sep = "", file = stderr())
  }
}

clear_progress <- function(watch) {
  if (!is.null(watch$shown)) {
    cat("\r", strrep(" ", watch$shown), "\r", sep = "", file = stderr())
    watch$shown <- NULL
  }
}

progress_text <- function(watch) {
  tracker <- function(...) chain(watch, watch$context, list("statusTracker"), ...)
  jobs <- unlist(tracker(list("getJobIdsForGroup", watch$group)))
  running <- intersect(jobs, unlist(tracker(list("getActiveJobIds"))))
  seconds <- sprintf("%.0f s", now() - watch$began)
  if (!length(running)) {
    return(paste0("cluster: planning, ", seconds))
  }
  stages <- unlist(tracker(list("getJobInfo", as.integer(max(running))), list("get"), list("stageIds")))
  # A stage that was not submitted yet, or is forgotten already, has no numbers.
  number <- function(stage, what) {
    tryCatch(
      as.integer(tracker(list("getStageInfo", as.integer(stage)), list("get"), list(what))),
      rpicluster_error_service = function(e) NA_integer_
    )
  }
  tasks <- vapply(stages, number, 1L, "numTasks")
  done <- vapply(stages, number, 1L, "numCompletedTasks")
  active <- vapply(stages, number, 1L, "numActiveTasks")
  sprintf(
    "cluster: job %d, stage %d of %d, %d of %d tasks done, %d running%s, %s",
    max(running), max(1L, sum(done == tasks | active > 0, na.rm = TRUE)), length(stages), sum(done, na.rm = TRUE),
    sum(tasks, na.rm = TRUE), sum(active, na.rm = TRUE), busy_nodes(watch), seconds
  )
}

busy_nodes <- function(watch) {
  executors <- chain(watch, watch$context, list("statusTracker"), list("getExecutorInfos"))
  about <- function(method) lapply(executors, function(executor) ask_gateway(watch, call_frame(executor$id, method)))
  hosts <- unlist(about("host"))[unlist(about("numRunningTasks")) > 0]
  send(watch$socket, forget_frame(vapply(executors, `[[`, "", "id")), door_name(watch$door))
  if (length(hosts)) paste0(" on ", paste(unique(hosts), collapse = ", ")) else ""
}
