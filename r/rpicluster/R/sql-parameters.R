# Placeholders of Spark SQL: `?` by position and `:name` by name, outside strings, quoted names and comments.

# Raw strings (r'...') know no escapes, and bracketed comments nest, as in Spark's own grammar.
quoted_or_comment <- paste(
  "(?<!\\w)[rR](?:'[^']*+'|\"[^\"]*+\")",
  "'(?:[^'\\\\]|\\\\.)*+'",
  "\"(?:[^\"\\\\]|\\\\.)*+\"",
  "`(?:[^`]|``)*+`",
  "--[^\\n]*+",
  "(/\\*(?:[^*/]|\\*(?!/)|/(?!\\*)|(?-1))*+\\*/)",
  sep = "|"
)

placeholder <- "\\?|(?<![:\\w`\\])}]):[A-Za-z_]\\w*"

locate_placeholders <- function(sql) {
  gregexpr(sprintf("(?:%s)(*SKIP)(*FAIL)|%s", quoted_or_comment, placeholder), sql, perl = TRUE)
}

# The placeholders of a statement in the order they stand there; an error when both kinds are mixed.
find_placeholders <- function(sql) {
  found <- regmatches(sql, locate_placeholders(sql))[[1]]
  named <- startsWith(found, ":")
  if (any(named) && !all(named)) {
    abort_usage("a statement cannot mix `?` and `:name` placeholders", "use one kind")
  }
  found
}

# Check values against placeholders; the answer is a list of equally long vectors, named when the placeholders are.
check_parameters <- function(placeholders, params) {
  if (any(vapply(as.list(params), is.factor, NA))) {
    warning("factors are bound as character", call. = FALSE)
  }
  params <- lapply(as.list(params), function(value) if (is.factor(value)) as.character(value) else value)
  wanted <- unique(sub("^:", "", placeholders))
  named <- any(startsWith(placeholders, ":"))
  given <- names(params)
  if (named) {
    if (is.null(given) || anyNA(given) || any(given == "")) {
      abort_usage(paste("values need the names of the placeholders:", paste(placeholders, collapse = ", ")))
    }
    if (anyDuplicated(given) || !setequal(given, wanted)) {
      abort_usage(sprintf(
        "placeholders %s do not match values %s", paste(wanted, collapse = ", "), paste(given, collapse = ", ")
      ))
    }
  } else {
    if (!is.null(given)) {
      abort_usage("values for `?` placeholders must have no names", "use unname(), or `:name` placeholders")
    }
    if (length(params) != length(placeholders)) {
      abort_usage(sprintf("the statement has %d placeholder(s), %d value(s) were given",
                          length(placeholders), length(params)))
    }
  }
  sizes <- vapply(params, parameter_length, 1L)
  if (length(unique(sizes)) > 1) {
    abort_usage(sprintf("all values must have the same length, not %s", paste(sizes, collapse = ", ")))
  }
  params
}

parameter_length <- function(value) if (is.null(value)) 0L else length(value)

# The i-th set of values as SQL literals.
parameter_literals <- function(con, params, i) {
  vapply(params, function(value) spark_literal(con, value[i]), "")
}

# The statement with literals in place of its placeholders. Spark could take values beside the text, but the parser that
# Iceberg's SQL extensions put before Spark 4.1's own drops them, and NaN is refused as a value.
fill_placeholders <- function(sql, literals) {
  where <- locate_placeholders(sql)
  found <- regmatches(sql, where)[[1]]
  regmatches(sql, where) <- list(if (any(startsWith(found, ":"))) literals[sub("^:", "", found)] else literals)
  sql
}

# One value of an R vector as a Spark SQL literal.
spark_literal <- function(con, x) {
  if (inherits(x, "AsIs")) x <- strip_as_is(x)
  type <- spark_type(x)
  if (missing_values(x)) {
    return("NULL")
  }
  if (type %in% c("INT", "BIGINT", "DOUBLE") && !inherits(x, "difftime")) {
    return(number_literal(x, type))
  }
  switch(type,
    BOOLEAN = if (x) "TRUE" else "FALSE",
    DOUBLE = number_literal(as.double(x, units = "secs"), "DOUBLE"),
    DATE = sprintf("DATE '%s'", format(x, "%Y-%m-%d")),
    TIMESTAMP = timestamp_literal(x),
    BINARY = sprintf("X'%s'", paste(if (is.raw(x)) x else x[[1]], collapse = "")),
    STRING = string_literal(as.character(x))
  )
}

number_literal <- function(x, type) {
  if (type == "INT") return(format(x, scientific = FALSE))
  if (type == "BIGINT") return(paste0(as.character(x), "L"))
  if (is.nan(x)) return("DOUBLE('NaN')")
  if (is.infinite(x)) return(if (x > 0) "DOUBLE('Infinity')" else "DOUBLE('-Infinity')")
  # 17 digits name every double exactly; D keeps Spark from reading a decimal.
  text <- format(x, digits = 15, scientific = NA)
  if (as.double(text) != x) text <- format(x, digits = 17)
  paste0(trimws(text), "D")
}

timestamp_literal <- function(x) {
  micros <- round(as.double(as.POSIXct(x)) * 1e6)
  seconds <- floor(micros / 1e6)
  whole <- format(as.POSIXct(seconds, origin = "1970-01-01", tz = "UTC"), "%Y-%m-%d %H:%M:%S", tz = "UTC")
  sprintf("TIMESTAMP '%s.%06d UTC'", whole, as.integer(micros - seconds * 1e6))
}

# Spark reads backslashes in strings as escapes, and joins 'a''b' to "ab": both quotes and backslashes need a backslash.
string_literal <- function(x) {
  x <- enc2utf8(x)
  x <- gsub("\\", "\\\\", x, fixed = TRUE)
  x <- gsub("'", "\\'", x, fixed = TRUE)
  ifelse(is.na(x), "NULL", paste0("'", x, "'"))
}
