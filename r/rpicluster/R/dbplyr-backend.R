# Everything that dbplyr needs to write Spark SQL. It is written for dbplyr 2.3.0 (Debian 12), which knows Hive but not
# Spark SQL. Where a newer dbplyr has a Spark SQL translation of its own (simulate_spark_sql(), later dialect_spark_sql()),
# that is the base and ours lies over it. What is said here of newer versions is written from their documentation: dialects
# leave a connection that has none to its own methods, and named windows are asked for by a generic in old versions only.

# Generics that not every version has; S3method() in NAMESPACE would fail where they are gone.
register_optional_methods <- function(...) {
  namespace <- asNamespace("dbplyr")
  if (exists("supports_window_clause", namespace, inherits = FALSE)) {
    registerS3method("supports_window_clause", "RpiConnection", function(con) TRUE, envir = namespace)
  }
}

#' dplyr verbs on a cluster
#'
#' `dplyr::tbl(con, "flights")` is a lazy table; verbs on it become Spark SQL
#' through dbplyr and run on the cluster when the result is collected, pulled
#' or printed.
#'
#' @section What differs from local dplyr:
#' * Numbers with a decimal point in dplyr expressions are doubles, also inside
#'   [dbplyr::sql()]; write `1.5BD` there for a Spark decimal.
#' * Division, `%%` and `%/%` by zero give `NA`, where R gives `Inf`, `NaN` or `NA`.
#'   `%%` and `%/%` follow R's rule for signs.
#' * `as.integer()`, `as.numeric()` and the like give `NA` for what they cannot convert, as in R.
#' * `n()`, `n_distinct()`, `row_number()` and `sum()` of integers are 64-bit integers; see `bigint` in [rpi-connect].
#' * `is.na()` is true for `NULL`, which is R's `NA`, and false for `NaN`. Spark holds `NaN` equal to itself and
#'   greater than every other number.
#' * Regular expressions are Java's. `paste()` leaves out missing values; `str_c()` gives `NA` for them.
#' * `floor_date()` gives a timestamp, and a date keeps its day in the connection's `timezone`.
#' * Spark has no temporary tables: `compute()` makes a temporary view, which is computed again whenever it is used.
#'   `compute(cache = TRUE)` keeps its rows in the executors' memory and disk until the connection ends.
#'
#' @name rpi-dplyr
#' @examples
#' \dontrun{
#' con <- DBI::dbConnect(rpicluster::rpi())
#' flights <- dplyr::tbl(con, "flights")
#' dplyr::count(flights, carrier, sort = TRUE)
#' }
NULL

#' @exportS3Method dbplyr::dbplyr_edition
dbplyr_edition.RpiConnection <- function(con) 2L

#' @exportS3Method dbplyr::db_connection_describe
db_connection_describe.RpiConnection <- function(con, ...) {
  info <- dbGetInfo(con)
  known <- c(info$cluster, info$dbname)
  paste(c("Spark", info$db.version, sprintf("[%s]", paste(known[!is.na(known)], collapse = "/"))), collapse = " ")
}

#' @exportS3Method dbplyr::sql_expr_matches
sql_expr_matches.RpiConnection <- function(con, x, y, ...) {
  dbplyr::build_sql(x, " <=> ", y, con = con)
}

# ---- literals -----------------------------------------------------------------------------------------------------

#' @exportS3Method dbplyr::sql_escape_logical
sql_escape_logical.RpiConnection <- function(con, x) {
  text <- ifelse(x, "TRUE", "FALSE")
  text[is.na(x)] <- "NULL"
  text
}

#' @exportS3Method dbplyr::sql_escape_date
sql_escape_date.RpiConnection <- function(con, x) {
  vapply(seq_along(x), function(i) spark_literal(con, x[i]), "")
}

#' @exportS3Method dbplyr::sql_escape_datetime
sql_escape_datetime.RpiConnection <- function(con, x) {
  vapply(seq_along(x), function(i) spark_literal(con, x[i]), "")
}

#' @exportS3Method dbplyr::sql_escape_raw
sql_escape_raw.RpiConnection <- function(con, x) {
  if (is.null(x)) "NULL" else sprintf("X'%s'", paste(x, collapse = ""))
}

# dbplyr writes R doubles as 1.5, which Spark reads as a decimal: count * 1.5 would become a decimal(22, 1) and leave R's
# numbers. escape() does not ask the connection about doubles, so the rendered SQL is mended here, outside strings,
# quoted names and comments.
doubles_not_decimals <- function(sql) {
  number <- "(?<![\\w.`])[0-9]+\\.[0-9]+(?![\\w.])"
  where <- gregexpr(sprintf("(?:%s)(*SKIP)(*FAIL)|%s", quoted_or_comment, number), sql, perl = TRUE)
  regmatches(sql, where) <- lapply(regmatches(sql, where), function(found) paste0(found, rep("D", length(found))))
  sql
}

#' @exportS3Method dbplyr::db_sql_render
db_sql_render.RpiConnection <- function(con, sql, ...) {
  rendered <- NextMethod()
  dbplyr::sql(doubles_not_decimals(as.character(rendered)))
}

# ---- tables and views ---------------------------------------------------------------------------------------------

# The same name for dbplyr's many ways to name a table, as SQL of this connection.
as_table <- function(con, table) {
  if (inherits(table, c("Id", "SQL"))) {
    return(dbQuoteIdentifier(con, table))
  }
  if (is.character(table) && !is.object(table)) {
    return(dbQuoteIdentifier(con, table))
  }
  if (inherits(table, "dbplyr_table_path")) {
    # dbplyr 2.5 and later, not run: a path is quoted already.
    return(SQL(as.character(unclass(table))))
  }
  SQL(as.character(dbplyr::escape(dbplyr::as.sql(table, con), con = con)))
}

#' @exportS3Method dbplyr::db_table_temporary
db_table_temporary.RpiConnection <- function(con, table, temporary, ...) list(table = table, temporary = temporary)

#' @exportS3Method dbplyr::sql_query_save
sql_query_save.RpiConnection <- function(con, sql, name, temporary = TRUE, ...) {
  what <- if (temporary) "CREATE OR REPLACE TEMPORARY VIEW " else "CREATE TABLE "
  dbplyr::sql(paste0(what, as_table(con, name), " AS\n", sql))
}

#' @exportS3Method dbplyr::db_compute
db_compute.RpiConnection <- function(con, table, sql, ..., temporary = TRUE, cache = FALSE) {
  check_flag(cache, "cache")
  if (cache && !temporary) abort_usage("`cache` is for temporary views only", "use temporary = TRUE")
  run(con, sql_query_save.RpiConnection(con, sql, table, temporary = temporary))
  if (cache) run(con, paste("CACHE TABLE", as_table(con, table)))
  table
}

#' @exportS3Method dbplyr::db_copy_to
db_copy_to.RpiConnection <- function(con, table, values, ..., overwrite = FALSE, types = NULL, temporary = TRUE) {
  # A view of a table would be taken for the table, so the name is checked before rows travel.
  dbWriteTable(con, as_table(con, table), values, overwrite = overwrite, temporary = temporary, field.types = types)
  table
}

#' @exportS3Method dbplyr::sql_table_analyze
sql_table_analyze.RpiConnection <- function(con, table, ...) NULL

#' @exportS3Method dbplyr::sql_query_explain
sql_query_explain.RpiConnection <- function(con, sql, ...) dbplyr::sql(paste0("EXPLAIN FORMATTED ", sql))

# dbplyr prints a plan as a data frame of one cell; Spark's plan is many lines of text.
#' @exportS3Method dplyr::explain
explain.tbl_RpiConnection <- function(x, ...) {
  sql <- dbplyr::remote_query(x)
  cat("<SQL>\n", as.character(sql), "\n\n<PLAN>\n", sep = "")
  cat(ask(dbplyr::remote_con(x), sql_query_explain.RpiConnection(NULL, sql))[[1]], sep = "\n")
  invisible(x)
}

# ---- functions ----------------------------------------------------------------------------------------------------

#' @exportS3Method dbplyr::sql_translation
sql_translation.RpiConnection <- function(con) rpi_translation(con)

rpi_translation <- function(con) {
  base <- newer_spark_translation()
  dbplyr::sql_variant(
    rpi_scalar(if (is.null(base)) dbplyr::base_odbc_scalar else base$scalar),
    rpi_aggregate(if (is.null(base)) dbplyr::base_odbc_agg else base$aggregate),
    rpi_window(if (is.null(base)) dbplyr::base_odbc_win else base$window)
  )
}

# dbplyr's own Spark SQL translation, where there is one.
newer_spark_translation <- function() {
  namespace <- asNamespace("dbplyr")
  if (exists("dialect_spark_sql", namespace)) {
    dbplyr::sql_translation(get("dialect_spark_sql", namespace)())
  } else if (exists("simulate_spark_sql", namespace)) {
    dbplyr::sql_translation(get("simulate_spark_sql", namespace)())
  }
}

# SQL from a template; {name} becomes the SQL of the value of that name: a column, an expression, or R values.
spark <- function(template, ...) {
  values <- lapply(list(...), value_sql)
  names <- regmatches(template, gregexpr("\\{[a-z_0-9]+\\}", template))
  regmatches(template, gregexpr("\\{[a-z_0-9]+\\}", template)) <- lapply(names, function(found) {
    unlist(values[substr(found, 2, nchar(found) - 1)], use.names = FALSE)
  })
  dbplyr::sql(template)
}

# dbplyr hands columns over as ident, expressions as sql, and everything else as the R values that the user wrote.
value_sql <- function(x) {
  if (inherits(x, "ident_q") || inherits(x, "sql")) {
    return(as.character(x))
  }
  if (inherits(x, "ident")) {
    return(quote_name(as.character(unclass(x))))
  }
  if (is.null(x)) {
    return("NULL")
  }
  text <- vapply(seq_along(x), function(i) spark_literal(NULL, x[i]), "")
  if (length(text) == 1) text else paste0("(", paste(text, collapse = ", "), ")")
}

# A number or string that the user wrote, not a column or expression.
is_literal <- function(x) is.atomic(x) && !is.null(x) && length(x) == 1 && !inherits(x, c("sql", "ident"))

literal_number <- function(x) is_literal(x) && is.numeric(x) && !is.na(x)

whole <- function(x) if (literal_number(x)) as.integer(x) else x

need_literal <- function(x, argument, f) {
  if (!is_literal(x)) {
    abort_usage(sprintf("%s() on a cluster needs a constant `%s`, not a column", f, argument))
  }
  x
}

cast_to <- function(type) function(x, ...) spark(paste0("TRY_CAST({x} AS ", type, ")"), x = x)

call_to <- function(f) function(x) spark(paste0(f, "({x})"), x = x)

rpi_scalar <- function(parent) {
  dbplyr::sql_translator(.parent = parent, .funs = c(
    scalar_numbers(), scalar_casts(), scalar_strings(), scalar_patterns(), scalar_times(), scalar_logic()
  ))
}

scalar_numbers <- function() {
  list(
    # ANSI mode makes a division by zero an error; NA for one row is nearer to R's Inf than no result at all.
    "/" = function(x, y) {
      if (literal_number(y) && y != 0) spark("{x} / {y}", x = x, y = y) else spark("TRY_DIVIDE({x}, {y})", x = x, y = y)
    },
    # R's remainder has the sign of the divisor.
    "%%" = function(x, y) {
      if (literal_number(y) && y > 0) {
        return(spark("PMOD({x}, {y})", x = x, y = y))
      }
      spark("MOD(MOD({x}, NULLIF({y}, 0)) + {y}, NULLIF({y}, 0))", x = x, y = y)
    },
    "%/%" = function(x, y) spark("CAST(FLOOR(TRY_DIVIDE({x}, {y})) AS DOUBLE)", x = x, y = y),
    floor = function(x) spark("CAST(FLOOR({x}) AS DOUBLE)", x = x),
    ceiling = function(x) spark("CAST(CEIL({x}) AS DOUBLE)", x = x),
    ceil = function(x) spark("CAST(CEIL({x}) AS DOUBLE)", x = x),
    trunc = function(x, ...) spark("CAST(IF({x} < 0, CEIL({x}), FLOOR({x})) AS DOUBLE)", x = x),
    # R rounds halves to the even digit, and so does BROUND; ROUND does not.
    round = function(x, digits = 0L) spark("BROUND({x}, {digits})", x = x, digits = whole(digits)),
    log2 = call_to("LOG2"),
    log1p = call_to("LOG1P"),
    expm1 = call_to("EXPM1"),
    is.nan = call_to("ISNAN"),
    is.finite = function(x) spark("COALESCE(ABS({x}) < DOUBLE('Infinity'), FALSE)", x = x),
    is.infinite = function(x) spark("COALESCE(ABS({x}) = DOUBLE('Infinity'), FALSE)", x = x),
    runif = function(n = NULL, min = 0, max = 1) {
      if (identical(min, 0) && identical(max, 1)) return(spark("RAND()"))
      spark("({min} + RAND() * ({max} - {min}))", min = min, max = max)
    },
    bitwShiftL = function(a, n) spark("SHIFTLEFT({a}, {n})", a = a, n = whole(n)),
    bitwShiftR = function(a, n) spark("SHIFTRIGHT({a}, {n})", a = a, n = whole(n))
  )
}

scalar_casts <- function() {
  list(
    as.integer = cast_to("INT"),
    as.integer64 = cast_to("BIGINT"),
    as.numeric = cast_to("DOUBLE"),
    as.double = cast_to("DOUBLE"),
    as.character = function(x, ...) spark("CAST({x} AS STRING)", x = x),
    as.logical = cast_to("BOOLEAN"),
    as.Date = cast_to("DATE"),
    as_date = cast_to("DATE"),
    as.POSIXct = cast_to("TIMESTAMP"),
    as_datetime = cast_to("TIMESTAMP")
  )
}

scalar_logic <- function() {
  list(xor = function(x, y) spark("(({x} OR {y}) AND NOT ({x} AND {y}))", x = x, y = y))
}

scalar_strings <- function() {
  list(
    nchar = function(x, type = "chars", ...) spark(if (type == "bytes") "OCTET_LENGTH({x})" else "LENGTH({x})", x = x),
    str_length = call_to("LENGTH"),
    toupper = call_to("UPPER"),
    tolower = call_to("LOWER"),
    str_to_title = call_to("INITCAP"),
    str_c = function(..., sep = "", collapse = NULL) {
      parts <- vapply(list(...), value_sql, "")
      if (sep != "") parts <- utils::head(as.vector(rbind(parts, value_sql(sep))), -1)
      joined <- dbplyr::sql(sprintf("CONCAT(%s)", paste(parts, collapse = ", ")))
      if (is.null(collapse)) joined else flatten(joined, collapse)
    },
    str_trim = function(string, side = c("both", "left", "right")) {
      trim <- c(both = "TRIM", left = "LTRIM", right = "RTRIM")[[match.arg(side)]]
      spark(paste0(trim, "({string})"), string = string)
    },
    trimws = function(x, which = c("both", "left", "right"), ...) {
      trim <- c(both = "TRIM", left = "LTRIM", right = "RTRIM")[[match.arg(which)]]
      spark(paste0(trim, "({x})"), x = x)
    },
    str_squish = function(string) spark("TRIM(REGEXP_REPLACE({string}, {spaces}, ' '))", string = string, spaces = "\\s+"),
    # LPAD and RPAD cut longer strings; R leaves them.
    str_pad = function(string, width, side = c("left", "right"), pad = " ") {
      f <- c(left = "LPAD", right = "RPAD")[[match.arg(side)]]
      spark(paste0(f, "({string}, GREATEST({width}, LENGTH({string})), {pad})"),
            string = string, width = whole(width), pad = pad)
    },
    str_dup = function(string, times) spark("REPEAT({string}, {times})", string = string, times = whole(times)),
    strrep = function(x, times) spark("REPEAT({x}, {times})", x = x, times = whole(times)),
    startsWith = function(x, prefix) spark("STARTSWITH({x}, {prefix})", x = x, prefix = prefix),
    endsWith = function(x, suffix) spark("ENDSWITH({x}, {suffix})", x = x, suffix = suffix),
    str_like = function(string, pattern, ignore_case = TRUE) {
      spark(if (ignore_case) "({string} ILIKE {pattern})" else "({string} LIKE {pattern})", string = string, pattern = pattern)
    }
  )
}

# Patterns ---------------------------------------------------------------------------------------------------------

fixed_pattern <- function(pattern) structure(list(text = pattern), class = "rpi_fixed")

is_fixed <- function(pattern) inherits(pattern, "rpi_fixed")

# A regular expression as SQL, from what stands before and behind it.
regex_sql <- function(pattern, before = "", after = "") {
  if (is_literal(pattern)) {
    return(paste0(unicode_flag(pattern), before, posix_classes(pattern), after))
  }
  if (before == "" && after == "") pattern else spark("CONCAT({b}, {p}, {a})", b = before, p = pattern, a = after)
}

# In R, \\w and its like know all letters; in Java they do so only when asked.
unicode_flag <- function(pattern) if (grepl("\\\\[wWdDsSbB]|\\[:", pattern)) "(?U)" else ""

# Java writes [:alpha:] as \\p{Alpha}.
posix_classes <- function(pattern) {
  known <- c("Alpha", "Lower", "Upper", "Digit", "Alnum", "Punct", "Graph", "Print", "Blank", "Cntrl", "XDigit", "Space")
  for (class in known) {
    pattern <- gsub(sprintf("[:%s:]", tolower(class)), sprintf("\\p{%s}", class), pattern, fixed = TRUE)
  }
  pattern
}

# R writes groups as \\1, Java as $1; a dollar sign of the user's is no group. `shift` makes room for a group of ours.
replacement_sql <- function(replacement, shift = 0L) {
  if (!is_literal(replacement)) {
    return(replacement)
  }
  replacement <- gsub("$", "\\$", replacement, fixed = TRUE)
  for (group in 9:0) {
    replacement <- gsub(paste0("\\", group), paste0("$", group + shift), replacement, fixed = TRUE)
  }
  replacement
}

negated <- function(test, negate) if (isTRUE(negate)) spark("NOT({test})", test = test) else test

string_matches <- function(string, pattern, ignore_case = FALSE) {
  if (is_fixed(pattern)) {
    return(spark("CONTAINS({string}, {pattern})", string = string, pattern = pattern$text))
  }
  spark("({string} RLIKE {pattern})", string = string, pattern = regex_sql(pattern, if (ignore_case) "(?i)" else ""))
}

replace_all <- function(string, pattern, replacement) {
  if (is_fixed(pattern)) {
    return(spark("REPLACE({s}, {p}, {r})", s = string, p = pattern$text, r = replacement))
  }
  spark("REGEXP_REPLACE({s}, {p}, {r})", s = string, p = regex_sql(pattern), r = replacement_sql(replacement))
}

# Spark replaces all matches or none, so the first match is caught together with all that stands before it.
replace_first <- function(string, pattern, replacement) {
  if (is_fixed(pattern)) {
    pattern <- gsub("([][{}()+*^$|\\\\?.])", "\\\\\\1", need_literal(pattern$text, "pattern", "str_replace"))
    replacement <- gsub("\\", "\\\\", need_literal(replacement, "replacement", "str_replace"), fixed = TRUE)
  }
  replacement <- need_literal(replacement, "replacement", "str_replace")
  spark("REGEXP_REPLACE({s}, {p}, {r})", s = string, p = regex_sql(shift_groups(pattern), "^((?s:.*?))(?:", ")"),
        r = paste0("$1", braced(replacement_sql(replacement, 1L))))
}

# Back references inside a pattern move by one as well.
shift_groups <- function(pattern) {
  if (!is_literal(pattern)) {
    return(pattern)
  }
  for (group in 9:1) {
    pattern <- gsub(paste0("(?<!\\\\)\\\\", group), paste0("\\\\", group + 1L), pattern, perl = TRUE)
  }
  pattern
}

# "$1" followed by a digit would be another group in Java; the digit is escaped.
braced <- function(replacement) sub("^([0-9])", "\\\\\\1", replacement)

base_pattern <- function(pattern, fixed, ignore.case) {
  if (isTRUE(fixed)) fixed_pattern(pattern) else if (isTRUE(ignore.case)) regex_sql(pattern, "(?i)") else pattern
}

scalar_patterns <- function() {
  list(
    fixed = function(pattern, ...) fixed_pattern(pattern),
    regex = function(pattern, ignore_case = FALSE, ...) if (ignore_case) regex_sql(pattern, "(?i)") else pattern,
    # grepl() says FALSE for NA, str_detect() says NA.
    grepl = function(pattern, x, ignore.case = FALSE, fixed = FALSE, ...) {
      spark("COALESCE({test}, FALSE)", test = string_matches(x, base_pattern(pattern, fixed, ignore.case)))
    },
    str_detect = function(string, pattern, negate = FALSE) negated(string_matches(string, pattern), negate),
    str_starts = function(string, pattern, negate = FALSE) {
      if (is_fixed(pattern)) return(negated(spark("STARTSWITH({s}, {p})", s = string, p = pattern$text), negate))
      negated(spark("({s} RLIKE {p})", s = string, p = regex_sql(pattern, "^(?:", ")")), negate)
    },
    str_ends = function(string, pattern, negate = FALSE) {
      if (is_fixed(pattern)) return(negated(spark("ENDSWITH({s}, {p})", s = string, p = pattern$text), negate))
      negated(spark("({s} RLIKE {p})", s = string, p = regex_sql(pattern, "(?:", ")$")), negate)
    },
    str_replace = function(string, pattern, replacement) replace_first(string, pattern, replacement),
    str_replace_all = function(string, pattern, replacement) replace_all(string, pattern, replacement),
    str_remove = function(string, pattern) replace_first(string, pattern, ""),
    str_remove_all = function(string, pattern) replace_all(string, pattern, ""),
    sub = function(pattern, replacement, x, ignore.case = FALSE, fixed = FALSE, ...) {
      replace_first(x, base_pattern(pattern, fixed, ignore.case), replacement)
    },
    gsub = function(pattern, replacement, x, ignore.case = FALSE, fixed = FALSE, ...) {
      replace_all(x, base_pattern(pattern, fixed, ignore.case), replacement)
    },
    str_extract = function(string, pattern) spark("REGEXP_SUBSTR({s}, {p})", s = string, p = regex_sql(pattern)),
    str_count = function(string, pattern) spark("REGEXP_COUNT({s}, {p})", s = string, p = regex_sql(pattern))
  )
}

# Dates and times --------------------------------------------------------------------------------------------------

scalar_times <- function() {
  part <- function(f) function(x) spark(paste0(f, "({x})"), x = x)
  interval <- function(slot) {
    arguments <- append(rep("0", 6), "{n}", slot - 1)[seq_len(slot)]
    function(x) spark(sprintf("MAKE_INTERVAL(%s)", paste(arguments, collapse = ", ")), n = whole(x))
  }
  list(
    year = part("YEAR"), quarter = part("QUARTER"), day = part("DAY"), mday = part("DAY"), yday = part("DAYOFYEAR"),
    hour = part("HOUR"), minute = part("MINUTE"), isoweek = part("WEEKOFYEAR"),
    isoyear = function(x) spark("EXTRACT(YEAROFWEEK FROM {x})", x = x),
    week = function(x) spark("CAST(FLOOR((DAYOFYEAR({x}) - 1) / 7) + 1 AS INT)", x = x),
    second = function(x) spark("CAST(EXTRACT(SECOND FROM {x}) AS DOUBLE)", x = x),
    month = function(x, label = FALSE, abbr = TRUE) {
      if (!label) return(spark("MONTH({x})", x = x))
      spark(if (abbr) "DATE_FORMAT({x}, 'MMM')" else "DATE_FORMAT({x}, 'MMMM')", x = x)
    },
    wday = function(x, label = FALSE, abbr = TRUE, week_start = getOption("lubridate.week.start", 7)) {
      if (label) return(spark(if (abbr) "DATE_FORMAT({x}, 'EEE')" else "DATE_FORMAT({x}, 'EEEE')", x = x))
      spark("(PMOD(DAYOFWEEK({x}) + 6 - {start}, 7) + 1)", x = x, start = whole(week_start))
    },
    today = function(...) spark("CURRENT_DATE()"),
    now = function(...) spark("CURRENT_TIMESTAMP()"),
    Sys.Date = function() spark("CURRENT_DATE()"),
    Sys.time = function() spark("CURRENT_TIMESTAMP()"),
    make_date = function(year = 1970L, month = 1L, day = 1L) {
      spark("MAKE_DATE({y}, {m}, {d})", y = whole(year), m = whole(month), d = whole(day))
    },
    make_datetime = function(year = 1970L, month = 1L, day = 1L, hour = 0L, min = 0L, sec = 0, tz = NULL) {
      spark("MAKE_TIMESTAMP({y}, {mo}, {d}, {h}, {mi}, {s})", y = whole(year), mo = whole(month), d = whole(day),
            h = whole(hour), mi = whole(min), s = sec)
    },
    years = interval(1), months = interval(2), weeks = interval(3), days = interval(4),
    hours = interval(5), minutes = interval(6),
    seconds = function(x) spark("MAKE_INTERVAL(0, 0, 0, 0, 0, 0, {x})", x = x),
    difftime = function(time1, time2, tz = NULL, units = "days") {
      seconds <- c(secs = 1, mins = 60, hours = 3600, days = 86400, weeks = 604800)
      if (!units %in% names(seconds)) abort_usage("difftime() on a cluster needs `units`: secs, mins, hours, days or weeks")
      spark("(UNIX_MICROS(CAST({a} AS TIMESTAMP)) - UNIX_MICROS(CAST({b} AS TIMESTAMP))) / {unit}",
            a = time1, b = time2, unit = seconds[[units]] * 1e6)
    },
    floor_date = floor_date_sql
  )
}

# lubridate's week starts on Sunday unless told otherwise, Spark's on Monday.
floor_date_sql <- function(x, unit = "seconds", week_start = getOption("lubridate.week.start", 7)) {
  size <- regmatches(unit, regexec("^([0-9]*) *([a-z]+?)s?$", unit))[[1]]
  number <- if (length(size) && size[[2]] != "") as.integer(size[[2]]) else 1L
  name <- if (length(size)) size[[3]] else unit
  seconds <- c(second = 1, minute = 60)
  if (number > 1 && name %in% names(seconds) && 60 %% number == 0) {
    micros <- format(number * seconds[[name]] * 1e6, scientific = FALSE)
    return(spark(sprintf("TIMESTAMP_MICROS(UNIX_MICROS({x}) - PMOD(UNIX_MICROS({x}), %sL))", micros), x = x))
  }
  if (number != 1 || !name %in% c(names(seconds), "hour", "day", "week", "month", "quarter", "year")) {
    abort_usage(
      sprintf("floor_date() on a cluster cannot floor to \"%s\"", unit),
      "use second, minute, hour, day, week, month, quarter, year, or a number of seconds or minutes that divides 60"
    )
  }
  if (name != "week") {
    return(spark(sprintf("DATE_TRUNC('%s', {x})", toupper(name)), x = x))
  }
  spark("(DATE_TRUNC('DAY', {x}) - MAKE_INTERVAL(0, 0, 0, PMOD(DAYOFWEEK({x}) + 6 - {start}, 7)))",
        x = x, start = whole(week_start))
}

# Aggregates and windows -------------------------------------------------------------------------------------------

flatten <- function(x, collapse = "") spark("ARRAY_JOIN(COLLECT_LIST({x}), {collapse})", x = x, collapse = collapse)

percentile <- function(x, probs) {
  spark("PERCENTILE({x}, {probs})", x = x, probs = need_literal(probs, "probs", "quantile"))
}

rpi_aggregate <- function(parent) {
  dbplyr::sql_translator(
    .parent = parent,
    sd = dbplyr::sql_aggregate("STDDEV_SAMP", "sd"),
    var = dbplyr::sql_aggregate("VAR_SAMP", "var"),
    cor = dbplyr::sql_aggregate_2("CORR"),
    cov = dbplyr::sql_aggregate_2("COVAR_SAMP"),
    any = dbplyr::sql_aggregate("BOOL_OR", "any"),
    all = dbplyr::sql_aggregate("BOOL_AND", "all"),
    median = dbplyr::sql_aggregate("MEDIAN", "median"),
    quantile = function(x, probs, na.rm = TRUE, ...) percentile(x, probs),
    n_distinct = function(..., na.rm = TRUE) {
      dbplyr::sql(sprintf("COUNT(DISTINCT %s)", paste(vapply(list(...), value_sql, ""), collapse = ", ")))
    },
    first = function(x, ...) spark("FIRST({x})", x = x),
    last = function(x, ...) spark("LAST({x})", x = x),
    str_flatten = function(string, collapse = "", ...) flatten(string, collapse),
    paste = function(..., sep = " ", collapse = NULL) paste_sql(list(...), sep, collapse),
    paste0 = function(..., collapse = NULL) paste_sql(list(...), "", collapse)
  )
}

paste_sql <- function(parts, sep, collapse, flatten_with = flatten) {
  joined <- dbplyr::sql(sprintf(
    "CONCAT_WS(%s)", paste(c(value_sql(sep), vapply(parts, value_sql, "")), collapse = ", ")
  ))
  if (is.null(collapse)) joined else flatten_with(joined, collapse)
}

over_group <- function(expression) dbplyr::win_over(expression, partition = dbplyr::win_current_group())

# The frame is the whole group: with Spark's default frame the last row would be the current one.
over_ordered_group <- function(expression, order_by) {
  order <- if (is.null(order_by)) dbplyr::win_current_order() else order_by
  dbplyr::win_over(
    expression, partition = dbplyr::win_current_group(), order = order,
    frame = if (length(order)) c(-Inf, Inf)
  )
}

over_order <- function(expression, order_by) {
  order <- if (is.null(order_by)) dbplyr::win_current_order() else order_by
  dbplyr::win_over(expression, partition = dbplyr::win_current_group(), order = order)
}

shifted <- function(f, x, n, default) {
  if (is.null(default) || (is_literal(default) && is.na(default))) {
    return(spark(paste0(f, "({x}, {n})"), x = x, n = whole(n)))
  }
  spark(paste0(f, "({x}, {n}, {default})"), x = x, n = whole(n), default = default)
}

# R gives missing values no rank and does not count them. desc(x) comes as "x DESC", of which x alone can be missing.
ranked <- function(f) function(order = NULL) {
  call <- dbplyr::sql(paste0(f, "()"))
  if (is.null(order)) {
    return(over_order(call, NULL))
  }
  missing <- dbplyr::sql(sprintf("(%s) IS NULL", sub(" DESC$", "", value_sql(order))))
  partition <- c(dbplyr::win_current_group(), spark("({m})", m = missing))
  over <- dbplyr::win_over(call, partition = partition, order = order)
  spark("CASE WHEN NOT ({m}) THEN {over} END", m = missing, over = over)
}

rpi_window <- function(parent) {
  dbplyr::sql_translator(
    .parent = parent,
    sd = dbplyr::win_aggregate("STDDEV_SAMP"),
    var = dbplyr::win_aggregate("VAR_SAMP"),
    cor = dbplyr::win_aggregate_2("CORR"),
    cov = dbplyr::win_aggregate_2("COVAR_SAMP"),
    any = dbplyr::win_aggregate("BOOL_OR"),
    all = dbplyr::win_aggregate("BOOL_AND"),
    # The offset must be a whole number for Spark, and 2 is a double in R.
    lag = function(x, n = 1L, default = NULL, order_by = NULL) over_order(shifted("LAG", x, n, default), order_by),
    lead = function(x, n = 1L, default = NULL, order_by = NULL) over_order(shifted("LEAD", x, n, default), order_by),
    row_number = ranked("ROW_NUMBER"),
    min_rank = ranked("RANK"),
    rank = ranked("RANK"),
    dense_rank = ranked("DENSE_RANK"),
    percent_rank = ranked("PERCENT_RANK"),
    cume_dist = ranked("CUME_DIST"),
    median = function(x, na.rm = TRUE) over_group(spark("MEDIAN({x})", x = x)),
    quantile = function(x, probs, na.rm = TRUE, ...) over_group(percentile(x, probs)),
    # DISTINCT is not allowed in a window; like COUNT(DISTINCT), a set leaves NULL out.
    n_distinct = function(x, na.rm = TRUE) {
      over_group(spark("COLLECT_SET({x})", x = x)) -> set
      spark("CAST(SIZE({set}) AS BIGINT)", set = set)
    },
    first = function(x, order_by = NULL, ...) over_ordered_group(spark("FIRST_VALUE({x})", x = x), order_by),
    last = function(x, order_by = NULL, ...) over_ordered_group(spark("LAST_VALUE({x})", x = x), order_by),
    nth = function(x, n, order_by = NULL, ...) {
      over_ordered_group(spark("NTH_VALUE({x}, {n})", x = x, n = whole(n)), order_by)
    },
    str_flatten = function(string, collapse = "", ...) flatten_over(string, collapse),
    paste = function(..., sep = " ", collapse = NULL) paste_sql(list(...), sep, collapse, flatten_over),
    paste0 = function(..., collapse = NULL) paste_sql(list(...), "", collapse, flatten_over)
  )
}

flatten_over <- function(x, collapse) {
  rows <- over_group(spark("COLLECT_LIST({x})", x = x))
  spark("ARRAY_JOIN({rows}, {collapse})", rows = rows, collapse = collapse)
}

#' @exportS3Method dbplyr::sql_random
sql_random.RpiConnection <- function(con) dbplyr::sql("RAND()")

# dbplyr wraps errors of collect() into its own; a caller who waits for a rpicluster_error_* should get it.
#' @exportS3Method dplyr::collect
collect.tbl_RpiConnection <- function(x, ...) {
  tryCatch(NextMethod(), error = function(e) {
    cause <- e
    while (!inherits(cause, "rpicluster_error") && inherits(cause$parent, "condition")) cause <- cause$parent
    stop(if (inherits(cause, "rpicluster_error")) cause else e)
  })
}
