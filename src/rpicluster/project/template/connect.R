# Makes `con`, the connection to the cluster: by sparklyr where R has it and the cluster a door for
# it, else by DBI over Spark Connect. dplyr's verbs are the same.
library(rpicluster)

con <- tryCatch(
  rpi_connect(),
  rpicluster_error_sparklyr = function(e) {
    message("By DBI: ", conditionMessage(e))
    DBI::dbConnect(rpi(), bigint = "numeric")
  }
)

if (!DBI::dbExistsTable(con, "flights")) {
  stop("the cluster has no table `flights` yet: type `rpicluster project flights`", call. = FALSE)
}
