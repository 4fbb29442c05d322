# Is the cluster worth it? Each pipeline runs there and in this R; the answers are compared, too.
library(dplyr, warn.conflicts = FALSE)
library(rpicluster)
source("connect.R")

found <- rpi_bench(
  airlines = flights |>
    group_by(carrier) |>
    summarise(n = n(), late = mean(arr_delay, na.rm = TRUE)),
  routes = flights |>
    filter(dep_delay > 60) |>
    count(origin, dest),
  worst = flights |>
    filter(!is.na(arr_delay)) |>
    group_by(dest) |>
    summarise(latest = max(arr_delay, na.rm = TRUE)),
  con = con,
  replications = 3
)
print(found)

dir.create("results", showWarnings = FALSE)
write.csv(found, "results/bench.csv", row.names = FALSE)

png("results/bench.png", width = 1200, height = 720, res = 144)
plot(found)
invisible(dev.off())
