# One operation of sparklyr, again and again until it is cut: Rscript cut.R OPERATION. Says READY when it works, then CONDITION
# with the time and the classes of what ended it.

operation <- commandArgs(trailingOnly = TRUE)[[1]]
suppressMessages({
  library(sparklyr)
  library(dplyr)
  library(rpicluster)
})
say <- function(...) {
  cat(format(as.double(Sys.time()), digits = 15), ..., "\n")
  flush(stdout())
}
sc <- rpi_connect(new = TRUE)
rows <- data.frame(a = 1:20000, b = runif(20000), c = sample(letters, 20000, TRUE), d = rnorm(20000))
few <- copy_to(sc, rows[1:2000, ], "few", overwrite = TRUE)
endless <- "SELECT SUM(SIN(id)) AS x FROM RANGE(0, 1000000000000, 1, 2)"
slow <- function(frame) {
  Sys.sleep(600)
  frame
}
once <- list(
  dbGetQuery = function() DBI::dbGetQuery(sc, endless),
  collect = function() collect(tbl(sc, sql(endless))),
  collect_rows = function() collect(sdf_len(sc, 200000)),
  copy_to = function() copy_to(sc, rows, "rows", overwrite = TRUE),
  ml = function() ml_linear_regression(few, b ~ a + d),
  spark_apply = function() collect(spark_apply(sdf_len(sc, 2), slow, columns = list(id = "integer"))),
  rpi_put = function() rpi_put(rows[1:5000, ], "put_rows", overwrite = TRUE)
)[[operation]]
if (operation %in% c("collect_rows", "copy_to", "ml", "rpi_put")) once()
say("READY", Sys.getpid(), sub("^.*:", "", summary(sc$backend)$description))
found <- tryCatch(repeat once(), error = identity)
say("CONDITION", paste(class(found), collapse = ","), "|", gsub("\n", " ", conditionMessage(found)))
began <- Sys.time()
again <- tryCatch(DBI::dbGetQuery(sc, "SELECT 1"), error = identity)
say("AGAIN", class(again)[[1]], format(as.double(Sys.time() - began, units = "secs")))
