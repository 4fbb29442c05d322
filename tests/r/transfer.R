# A million rows of four columns from the cluster into R and back: Rscript transfer.R FIGURES.json
#
# The first round warms the session; the figures are the best of three. CPU seconds are this R process's own, Python's
# part in it included.

library(DBI)
out <- commandArgs(trailingOnly = TRUE)[[1]]
con <- dbConnect(rpicluster::rpi())
query <- paste(
  "SELECT CAST(id AS INT) AS i, id * 2.5D AS d, CONCAT('row ', CAST(id AS STRING)) AS s, DATE_ADD(DATE '2000-01-01', CAST(id % 9999 AS INT)) AS day",
  "FROM RANGE(1000000)"
)
measured <- function(expression) {
  call <- substitute(expression)
  env <- parent.frame()
  runs <- lapply(1:4, function(i) {
    gc()
    time <- system.time(eval(call, env))
    c(elapsed = time[["elapsed"]], cpu = time[["user.self"]] + time[["sys.self"]])
  })[-1]
  runs[[which.min(vapply(runs, `[[`, 0, "elapsed"))]]
}
down <- measured(rows <- dbGetQuery(con, query))
up <- measured(dbWriteTable(con, "r_transfer", rows, overwrite = TRUE))
back <- dbReadTable(con, "r_transfer")
back <- back[order(back$i), ]
rownames(back) <- NULL
dbRemoveTable(con, "r_transfer")
dbDisconnect(con)
jsonlite::write_json(list(
  rows = nrow(rows), columns = ncol(rows), same = identical(back, rows[order(rows$i), ]) || isTRUE(all.equal(back, rows)),
  down_s = down[["elapsed"]], down_r_cpu_s = down[["cpu"]], up_s = up[["elapsed"]], up_r_cpu_s = up[["cpu"]]
), out, auto_unbox = TRUE, digits = 6)
