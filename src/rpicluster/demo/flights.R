# Five dplyr pipelines over the flights of New York 2013, each on the cluster and in local R.
# Rscript flights.R CONNECTION DATA RESULTS
# Writes RESULTS/results.json (SQL, seconds, CPU-seconds, agreement) and RESULTS/timings.png.
suppressPackageStartupMessages({
  library(dplyr)
  library(rpicluster)
})
arguments <- commandArgs(trailingOnly = TRUE)
connection_file <- arguments[[1]]
data_folder <- arguments[[2]]
results_folder <- arguments[[3]]

say <- function(...) cat(sprintf(...), "\n", sep = "", file = stderr())

# --- the data, twice: in this R, and as tables on the cluster --------------------------------------
read_local <- function(name) {
  read.csv(file.path(data_folder, paste0(name, ".csv")), na.strings = c("NA", ""), stringsAsFactors = FALSE,
           encoding = "UTF-8", check.names = FALSE)
}
local <- sapply(c("flights", "airlines", "weather"), read_local, simplify = FALSE)
# the files write times as 2013-01-01T10:00:00Z; on the cluster they are timestamps
for (name in c("flights", "weather")) {
  local[[name]]$time_hour <- as.POSIXct(local[[name]]$time_hour, format = "%Y-%m-%dT%H:%M:%SZ", tz = "UTC")
}

con <- DBI::dbConnect(rpi(), cluster = connection_file, bigint = "numeric")
remote <- sapply(c("flights", "airlines", "weather"), function(name) tbl(con, name), simplify = FALSE)

# --- the pipelines: the same verbs for both -------------------------------------------------------
pipelines <- list(
  filter = list(
    verbs = "WHERE",
    run = function(t) {
      t$flights %>%
        filter(month == 1L, dep_delay > 120, !is.na(arr_delay)) %>%
        select(carrier, flight, tailnum, origin, dest, dep_delay, arr_delay, time_hour)
    }
  ),
  summarise = list(
    verbs = "GROUP BY",
    run = function(t) {
      t$flights %>%
        group_by(carrier, origin) %>%
        summarise(n = n(), late = mean(arr_delay, na.rm = TRUE), far = max(distance, na.rm = TRUE), .groups = "drop")
    }
  ),
  join = list(
    verbs = c("JOIN", "GROUP BY"),
    run = function(t) {
      t$flights %>%
        select(origin, carrier, time_hour, dep_delay) %>%
        inner_join(t$weather %>% select(origin, time_hour, visib), by = c("origin", "time_hour")) %>%
        left_join(t$airlines, by = "carrier") %>%
        group_by(name, clear = visib >= 5) %>%
        summarise(n = n(), late = mean(dep_delay, na.rm = TRUE), .groups = "drop")
    }
  ),
  window = list(
    verbs = "OVER",
    run = function(t) {
      t$flights %>%
        filter(!is.na(arr_delay)) %>%
        select(dest, carrier, flight, time_hour, arr_delay) %>%
        group_by(dest) %>%
        mutate(rank = min_rank(desc(arr_delay))) %>%
        ungroup() %>%
        filter(rank <= 3L)
    }
  ),
  collect = list(
    verbs = "SELECT",
    run = function(t) {
      t$flights %>% select(year, month, day, dep_time, arr_delay, carrier, flight, tailnum, distance, time_hour)
    }
  )
)

# --- comparing, timing ----------------------------------------------------------------------------
timed <- function(expression) {
  before <- proc.time()
  value <- expression
  spent <- proc.time() - before
  list(value = value, seconds = spent[["elapsed"]], cpu = sum(spent[c("user.self", "sys.self")]))
}

results <- lapply(names(pipelines), function(name) {
  pipeline <- pipelines[[name]]
  query <- pipeline$run(remote)
  sql <- as.character(dbplyr::sql_render(query))
  cluster <- timed(collect(query))
  here <- timed(as.data.frame(pipeline$run(local)))
  wrong <- rpicluster:::rows_difference(as.data.frame(ungroup(cluster$value)), as.data.frame(ungroup(here$value)))
  say("  %-10s %7d rows  cluster %5.2f s  (%.2f CPU-s of this machine's R)   local R %5.2f s (%.2f CPU-s)  %s",
      name, nrow(cluster$value), cluster$seconds, cluster$cpu, here$seconds, here$cpu,
      if (wrong == "") "same answer" else paste("WRONG:", wrong))
  list(name = name, verbs = pipeline$verbs, sql = sql, rows = nrow(cluster$value), wrong = wrong,
       cluster_s = cluster$seconds, cluster_cpu_s = cluster$cpu, local_s = here$seconds, local_cpu_s = here$cpu)
})
DBI::dbDisconnect(con)

# --- what was found, as JSON and as a picture ------------------------------------------------------
jsonlite::write_json(results, file.path(results_folder, "results.json"), auto_unbox = TRUE, digits = 6, pretty = TRUE)

values <- rbind(
  cluster = sapply(results, `[[`, "cluster_s"),
  local = sapply(results, `[[`, "local_s")
)
colnames(values) <- sapply(results, `[[`, "name")
png(file.path(results_folder, "timings.png"), width = 1200, height = 720, res = 144, type = "cairo")
par(mar = c(3.2, 4.2, 3.6, 1), las = 1, family = "sans")
colours <- c("#c51a4a", "#8a93a0")
places <- barplot(values, beside = TRUE, col = colours, border = NA, ylab = "seconds, elapsed",
                  ylim = c(0, max(values) * 1.25), main = "336,776 flights, five dplyr pipelines")
text(places, values, sprintf("%.2f", values), pos = 3, cex = 0.8)
legend("topleft", bty = "n", fill = colours, border = NA,
       legend = c("on the cluster (Spark on YARN)", "in local R (dplyr)"))
invisible(dev.off())
if (any(sapply(results, `[[`, "wrong") != "")) quit(status = 3)
