# One analysis, by sparklyr on a cluster and in plain R: what it found, as JSON in the last line.
#
#     Rscript analysis.R plain
#     Rscript analysis.R CLUSTER      the cluster's name, or the path of its cluster.yml
#
# Both sides make the same rows from their number, so that every figure can be compared.

suppressMessages(library(dplyr))

ROWS <- 400000
PARTS <- 8 # files of the table, so that both of two workers have some

rows_in_r <- function() {
  id <- seq_len(ROWS) - 1
  data.frame(
    id = id,
    carrier = paste0("c", id %% 7),
    dep = (id * 37) %% 1009 / 10,
    miles = (id * 91) %% 2003,
    noise = (id * 13) %% 11 - 5
  )
}

rows_in_sql <- sprintf(
  "create or replace table analysis as
   select cast(id as double) as id, concat('c', id %% 7) as carrier, (id * 37) %% 1009 / 10 as dep,
          cast((id * 91) %% 2003 as double) as miles, cast((id * 13) %% 11 - 5 as double) as noise
   from range(0, %d, 1, %d)", ROWS, PARTS
)

# Three heaps of points that nobody can tell apart wrongly: any start finds the same centres.
heaps <- function(rows) {
  transmute(
    filter(rows, id < 3000),
    x = noise + 100 * (id %% 3), y = noise * 0.5 - 100 * (id %% 3)
  )
}

with_arrival <- function(rows) mutate(rows, arr = 3 + 0.9 * dep - 0.01 * miles + noise)

# The verbs are the same on both sides.
by_verbs <- function(rows, names) {
  list(
    grouped = rows |>
      filter(miles > 500) |> group_by(carrier) |>
      summarise(n = n(), mean = mean(dep, na.rm = TRUE), sd = sd(miles, na.rm = TRUE), .groups = "drop") |>
      collect() |> arrange(carrier) |> mutate(n = as.numeric(n)) |> as.list(),
    joined = rows |>
      inner_join(names, by = "carrier") |> group_by(name) |>
      summarise(total = sum(miles, na.rm = TRUE), .groups = "drop") |> collect() |> arrange(name) |> as.list(),
    ranked = rows |>
      filter(id < 7000) |> group_by(carrier) |> filter(row_number(desc(dep * 10000 + id)) <= 3) |>
      ungroup() |> collect() |> arrange(carrier, id) |> pull(id)
  )
}

sorted_centres <- function(centres) {
  centres <- as.matrix(centres[, c("x", "y")])
  unname(split(centres[order(centres[, "x"]), ], rep(1:3, 2)))
}

in_plain_r <- function() {
  rows <- rows_in_r()
  model <- lm(arr ~ dep + miles, with_arrival(rows))
  points <- heaps(rows)
  # A start in each heap: plain R's own choice of one is random.
  found <- kmeans(points, points[c(1, 2, 3), ])
  keys <- split(rows$id, rows$carrier)
  c(
    by_verbs(rows, data.frame(carrier = c("c1", "c4"), name = c("one", "four"))),
    list(
      rows = nrow(rows),
      coefficients = unname(coef(model)),
      centres = sorted_centres(found$centers),
      quantiles = unname(quantile(rows$miles, c(0.1, 0.5, 0.9), type = 1)),
      described = c(mean(rows$dep), sd(rows$dep), min(rows$dep), max(rows$dep)),
      crosstab = unname(as.vector(table(rows$noise, rows$carrier)["0", ])),
      applied = unname(vapply(keys, \(id) digest::digest(sum(id)), ""))
    )
  )
}

on_a_cluster <- function(cluster) {
  suppressMessages(library(sparklyr))
  stopifnot(Sys.which("java") == "")
  sc <- rpicluster::rpi_connect(cluster = cluster)
  on.exit(rpicluster::rpi_disconnect(sc))
  DBI::dbExecute(sc, rows_in_sql)
  rows <- tbl(sc, "analysis")
  names <- copy_to(sc, data.frame(carrier = c("c1", "c4"), name = c("one", "four")), "names_of_carriers")
  model <- ml_linear_regression(with_arrival(rows), arr ~ dep + miles)
  points <- compute(heaps(rows), "heaps")
  found <- ml_kmeans(points, ~ x + y, k = 3, seed = 7)
  described <- collect(sdf_describe(rows, "dep"))
  crosstab <- collect(sdf_crosstab(rows, "noise", "carrier"))
  applied <- spark_apply(
    sdf_repartition(select(rows, id, carrier), PARTS, "carrier"),
    function(part) {
      data.frame(
        hash = digest::digest(sum(part$id)), node = Sys.info()[["nodename"]],
        version = as.character(utils::packageVersion("digest"))
      )
    },
    group_by = "carrier",
    columns = c(carrier = "character", hash = "character", node = "character", version = "character")
  ) |> collect() |> arrange(carrier)
  nodes <- applied$node
  result <- c(
    by_verbs(rows, names),
    list(
      rows = sdf_nrow(rows),
      coefficients = unname(model$coefficients),
      centres = sorted_centres(found$centers),
      quantiles = unname(sdf_quantile(rows, "miles", c(0.1, 0.5, 0.9), relative.error = 0)),
      described = as.numeric(described$dep[match(c("mean", "stddev", "min", "max"), described$summary)]),
      crosstab = unname(as.numeric(crosstab[crosstab$noise_carrier == "0.0", paste0("c", 0:6)])),
      applied = applied$hash,
      nodes = I(unique(nodes))
    )
  )
  DBI::dbExecute(sc, "drop table analysis")
  result
}

where <- commandArgs(TRUE)[[1]]
found <- if (where == "plain") in_plain_r() else on_a_cluster(where)
cat("\n", jsonlite::toJSON(found, digits = NA, auto_unbox = TRUE), "\n", sep = "")
