# Run DBItest against a real connection and count every test, skipped ones included.
#
#   Rscript dbitest.R SKIPS.tsv RESULT.tsv      (RPICLUSTER_CONNECTION names the connection.json)
#
# SKIPS.tsv: test <tab> limit <tab> reproduced by. Tests that it names are not run and count as skipped.
# RESULT.tsv: group <tab> test <tab> passed|failed|skipped <tab> message.

arguments <- commandArgs(trailingOnly = TRUE)
skips_file <- arguments[[1]]
result_file <- arguments[[2]]
suppressPackageStartupMessages({
  library(DBItest)
  library(testthat)
})

skips <- utils::read.delim(skips_file, quote = "", comment.char = "#", stringsAsFactors = FALSE)

tweaks <- DBItest::tweaks(
  constructor_name = "rpi",
  constructor_relax_args = TRUE,
  # Spark has ? and :name.
  placeholder_pattern = c("?", ":name"),
  # hms and difftime go up as seconds: Spark 4.1 has no TIME type.
  time_typed = FALSE,
  temporary_tables = FALSE,
  union = function(x) paste(x, collapse = " UNION ALL "),
  date_cast = function(x) paste0("DATE '", x, "'"),
  time_cast = function(x) paste0("'", x, "'"),
  timestamp_cast = function(x) paste0("TIMESTAMP '", x, "'"),
  blob_cast = function(x) paste0("CAST(", x, " AS BINARY)"),
  is_null_check = function(x) paste0("(", x, " IS NULL)"),
  create_table_as = function(table_name, query) paste0("CREATE TABLE ", table_name, " AS ", query),
  dbitest_version = "1.7.2"
)

context <- DBItest::make_context(
  rpicluster::rpi(), list(), tweaks = tweaks, name = "rpicluster",
  default_skip = character()
)

# A few groups only, while something is being mended.
chosen <- Sys.getenv("RPICLUSTER_DBITEST_GROUPS")
groups <- if (nzchar(chosen)) strsplit(chosen, ",")[[1]] else {
  c("getting_started", "driver", "connection", "result", "sql", "meta", "transaction", "compliance")
}
rows <- list()
collector <- R6::R6Class("Collector",
  inherit = testthat::Reporter,
  public = list(
    add_result = function(context, test, result) {
      state <- if (inherits(result, "expectation_skip")) {
        "skipped"
      } else if (inherits(result, c("expectation_success", "expectation_warning"))) {
        "passed"
      } else {
        "failed"
      }
      rows[[length(rows) + 1]] <<- data.frame(
        group = group, test = sub("^DBItest.*?: .*?: ", "", test), state = state,
        message = substr(gsub("[\t\r\n]+", " / ", conditionMessage(result)), 1, 4000)
      )
    }
  )
)

# DBItest numbers tests of the same name: name...12
pattern_of <- function(names) sprintf("^(%s)([.]{3}[0-9]+)?$", paste(names, collapse = "|"))

# DBItest tells the tests that it was asked to leave out in one line; each of them is a test.
left_out <- function(all) {
  told <- all$test == "skipped tests"
  each <- lapply(which(told), function(i) {
    names <- strsplit(sub("^.*by request: ", "", all$message[[i]]), ", ")[[1]]
    data.frame(group = all$group[[i]], test = make.unique(names, "..."), state = "skipped", message = "")
  })
  do.call(rbind, c(list(all[!told, ]), each))
}

# A test with several expectations is one test: failed if any failed, skipped if any said skip, else passed.
summarised <- function() {
  all <- left_out(do.call(rbind, rows))
  key <- paste(all$group, all$test)
  do.call(rbind, lapply(split(all, factor(key, unique(key))), function(one) {
    state <- if ("failed" %in% one$state) "failed" else if ("skipped" %in% one$state) "skipped" else "passed"
    data.frame(group = one$group[[1]], test = one$test[[1]], state = state,
               message = if (state == "passed") "" else one$message[one$state == state][[1]])
  }))
}

for (group in groups) {
  started <- proc.time()[["elapsed"]]
  run <- get(paste0("test_", group), asNamespace("DBItest"))
  testthat::with_reporter(collector$new(), run(skip = pattern_of(skips$test), ctx = context))
  summary <- summarised()
  utils::write.table(summary, result_file, sep = "\t", quote = FALSE, row.names = FALSE)
  message(sprintf("%s: %.0f s", group, proc.time()[["elapsed"]] - started))
}

counts <- table(factor(summary$state, c("passed", "failed", "skipped")))
cat(sprintf("DBItest: %d of %d passed (%.1f %%), %d failed, %d skipped\n", counts[["passed"]], nrow(summary),
            100 * counts[["passed"]] / nrow(summary), counts[["failed"]], counts[["skipped"]]))
