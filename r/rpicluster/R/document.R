# The connection document: where a cluster's doors are. It is read from the state folder without starting a process, by
# the same rules by which the command line tool finds a cluster.

document_name <- "connection.json"

state_root <- function() {
  given <- Sys.getenv("RPICLUSTER_STATE_DIR")
  if (nzchar(given)) {
    return(given)
  }
  if (Sys.info()[["sysname"]] == "Darwin") {
    return(path.expand("~/Library/Application Support/rpicluster"))
  }
  base <- Sys.getenv("XDG_STATE_HOME")
  file.path(if (nzchar(base)) base else path.expand("~/.local/state"), "rpicluster")
}

cluster_folders <- function() {
  found <- Sys.glob(file.path(state_root(), "clusters", "*", "cluster.yml"))
  stats::setNames(dirname(found), basename(dirname(found)))
}

# The path of the document of `cluster`: a name, a cluster.yml, a connection.json or a folder with one, or NULL for
# RPICLUSTER_CONNECTION, ./cluster.yml and the only cluster there is, in this order.
document_path <- function(cluster = NULL) {
  cluster <- chosen_cluster(cluster)
  if (is.null(cluster) && nzchar(Sys.getenv("RPICLUSTER_CONNECTION"))) cluster <- Sys.getenv("RPICLUSTER_CONNECTION")
  if (is.null(cluster) && file.exists("cluster.yml")) cluster <- normalizePath("cluster.yml")
  if (!is.null(cluster) && basename(cluster) == document_name) {
    return(cluster)
  }
  if (!is.null(cluster) && file.exists(file.path(cluster, document_name))) {
    return(file.path(cluster, document_name))
  }
  file.path(cluster_folder(cluster), document_name)
}

cluster_folder <- function(cluster) {
  known <- cluster_folders()
  if (is.null(cluster)) {
    if (length(known) == 1) {
      return(known[[1]])
    }
    abort_usage(
      if (length(known)) paste("there are several clusters:", paste(names(known), collapse = ", ")) else "there is no cluster",
      if (length(known)) sprintf("cluster = \"%s\"", names(known)[[1]]) else "rpicluster init"
    )
  }
  if (cluster %in% names(known)) {
    return(known[[cluster]])
  }
  if (grepl("/", cluster, fixed = TRUE) || grepl("\\.ya?ml$", cluster)) {
    found <- Filter(function(folder) identical(spec_of(folder), normalizePath(cluster, mustWork = FALSE)), known)
    if (length(found)) {
      return(found[[1]])
    }
    abort_usage(sprintf("%s is no cluster that was brought up from this machine", cluster), "rpicluster up")
  }
  abort_usage(
    sprintf("no cluster is called %s%s", cluster, if (length(known)) paste0(", known: ", paste(names(known), collapse = ", ")) else ""),
    "name a cluster.yml, or make one with `rpicluster init`"
  )
}

# Which cluster.yml a state folder belongs to.
spec_of <- function(folder) {
  path <- file.path(folder, "cluster.yml.path")
  if (file.exists(path)) normalizePath(readLines(path, n = 1, warn = FALSE), mustWork = FALSE)
}

read_document <- function(cluster = NULL) {
  path <- document_path(cluster)
  if (!file.exists(path)) {
    abort_usage(sprintf("%s does not exist", path), "rpicluster up")
  }
  document <- tryCatch(jsonlite::fromJSON(path), error = function(e) NULL)
  if (is.null(document) || !identical(as.integer(document$schema), 1L) || is.null(document$cluster)) {
    abort_usage(sprintf("%s is not a connection file of this version", path), "rpicluster connect")
  }
  document$path <- path
  document
}
