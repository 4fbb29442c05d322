# `con`, the connection to the cluster: sparklyr where R has it and the cluster a door for it
# (config.yml names it), else DBI over Spark Connect. dplyr's verbs are the same.
if (file.exists("config.yml") && requireNamespace("sparklyr", quietly = TRUE)) {
  con <- sparklyr::spark_connect()
  DBI::dbExecute(con, "USE rpi.default")
} else {
  con <- DBI::dbConnect(rpicluster::rpi(), bigint = "numeric")
}

if (!DBI::dbExistsTable(con, "flights")) {
  stop("the cluster has no table `flights` yet: type `rpicluster project flights`", call. = FALSE)
}
