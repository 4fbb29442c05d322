# Which airlines are late, and when? The cluster reads 336,776 flights, R gets the few rows to show.
library(dplyr, warn.conflicts = FALSE)
library(rpicluster)
source("connect.R")

flights <- tbl(con, "flights")
airlines <- tbl(con, "airlines")

late <- flights |>
  filter(!is.na(arr_delay)) |>
  group_by(carrier) |>
  summarise(flights = n(), minutes = mean(arr_delay, na.rm = TRUE)) |>
  inner_join(airlines, by = "carrier") |>
  select(name, flights, minutes) |>
  arrange(desc(minutes)) |>
  collect()

by_hour <- flights |>
  filter(!is.na(dep_delay)) |>
  group_by(hour) |>
  summarise(minutes = mean(dep_delay, na.rm = TRUE)) |>
  arrange(hour) |>
  collect()

print(late, n = Inf)

dir.create("results", showWarnings = FALSE)
write.csv(late, "results/airlines.csv", row.names = FALSE)

png("results/delay-by-hour.png", width = 1200, height = 720, res = 144)
plot(
  by_hour$hour, by_hour$minutes,
  type = "h", lwd = 8, col = "#c51a4a", bty = "n", ylim = c(0, max(by_hour$minutes)),
  xlab = "hour of departure", ylab = "minutes late, on average", main = "Fly early"
)
invisible(dev.off())
