# Columns travel as raw little-endian buffers with one validity byte a row; this file turns them into R vectors and back.
# The R type of a column depends on its Spark type and the connection's options, never on its values.

# The choices a connection makes about types R has no vector for.
type_options <- function(bigint = c("integer64", "integer", "numeric", "character"),
                         decimal = c("auto", "numeric", "character"),
                         timezone_out = "UTC") {
  check_choice <- function(value, choices, name) {
    if (identical(value, choices)) {
      return(choices[[1]])
    }
    if (!is.character(value) || length(value) != 1 || !value %in% choices) {
      abort_usage(sprintf("`%s` must be one of %s", name, paste0('"', choices, '"', collapse = ", ")))
    }
    value
  }
  if (!is.character(timezone_out) || length(timezone_out) != 1 || !timezone_out %in% c(OlsonNames(), "UTC", "")) {
    abort_usage("`timezone_out` must be a time zone name such as \"UTC\" or \"Europe/London\"", "see OlsonNames()")
  }
  list(
    bigint = check_choice(bigint, c("integer64", "integer", "numeric", "character"), "bigint"),
    decimal = check_choice(decimal, c("auto", "numeric", "character"), "decimal"),
    timezone_out = timezone_out
  )
}

# A decimal of at most 15 digits survives the way through a double; a longer one does not and stays text.
exact_digits <- 15L

decode_column <- function(column, options) {
  values <- decode_values(column, options)
  if (!is.null(column$valid) && !inherits(values, "blob")) {
    values[column$valid == as.raw(0L)] <- NA
  }
  values
}

decode_values <- function(column, options) {
  type <- sub("[(<].*$", "", column$type)
  n <- column$n
  switch(type,
    tinyint = , smallint = , int = decode_int(column),
    bigint = decode_bigint(column, options$bigint),
    float = , double = readBin(column$data, "double", n, size = 8L, endian = "little"),
    boolean = as.logical(column$data),
    date = structure(as.double(readBin(column$data, "integer", n, size = 4L, endian = "little")), class = "Date"),
    timestamp = decode_timestamp(column, options$timezone_out),
    timestamp_ntz = decode_timestamp(column, "UTC"),
    decimal = decode_decimal(column, options$decimal),
    binary = decode_binary(column),
    void = rep(NA, n),
    decode_string(column)
  )
}

decode_int <- function(column) {
  values <- readBin(column$data, "integer", column$n, size = 4L, endian = "little")
  warn_if_na_appeared(values, column, "-2147483648 is R's NA for integers")
  values
}

# bit64 keeps its numbers in the bits of doubles; its methods are there because the package imports from it.
int64_bits <- function(column) {
  structure(readBin(column$data, "double", column$n, size = 8L, endian = "little"), class = "integer64")
}

decode_bigint <- function(column, as) {
  values <- int64_bits(column)
  switch(as,
    integer64 = {
      warn_if_na_appeared(values, column, "-9223372036854775808 is bit64's NA")
      values
    },
    # DBI asks for silence here: who chooses "integer" chooses NA for what does not fit.
    integer = suppressWarnings(as.integer(values)),
    numeric = suppressWarnings(as.double(values)),
    character = as.character(values)
  )
}

warn_if_na_appeared <- function(values, column, why) {
  appeared <- is.na(values)
  if (!is.null(column$valid)) appeared <- appeared & column$valid != as.raw(0L)
  if (any(appeared)) {
    warning(sprintf("column %s: %d value(s) became NA: %s", column$name, sum(appeared), why), call. = FALSE)
  }
}

# Whole seconds and microseconds apart: together they are more than a double holds, long before the year 9999.
decode_timestamp <- function(column, timezone) {
  micros <- int64_bits(column)
  seconds <- micros %/% as.integer64(1000000L)
  rest <- micros - seconds * as.integer64(1000000L)
  structure(as.double(seconds) + as.double(rest) / 1e6, class = c("POSIXct", "POSIXt"), tzone = timezone)
}

decode_string <- function(column) {
  # One vector is cut at its NUL bytes in C: the fastest way base R has (0.6 s for 1e6 different strings).
  values <- readBin(column$data, "character", column$n)
  if (length(values) != column$n || sum_bytes(values) != length(column$data)) {
    abort(
      "data", sprintf("column %s holds a string with a NUL character, which R cannot", column$name),
      sprintf("select `replace(%s, '\\0', '')` instead, or cast it to BINARY", column$name)
    )
  }
  Encoding(values) <- "UTF-8"
  values
}

sum_bytes <- function(values) sum(nchar(values, "bytes")) + length(values)

decode_decimal <- function(column, as) {
  text <- decode_string(column)
  if (as == "auto") {
    precision <- as.integer(sub("^decimal\\(([0-9]+).*$", "\\1", column$type))
    as <- if (precision <= exact_digits) "numeric" else "character"
  }
  if (as == "character") {
    return(text)
  }
  if (!is.null(column$valid)) text[column$valid == as.raw(0L)] <- NA_character_
  as.double(text)
}

decode_binary <- function(column) {
  ends <- as.double(structure(
    readBin(column$data, "double", column$n + 1L, size = 8L, endian = "little"),
    class = "integer64"
  ))
  start <- 8 * (column$n + 1)
  values <- lapply(seq_len(column$n), function(i) {
    if (!is.null(column$valid) && column$valid[[i]] == as.raw(0L)) NULL
    else if (ends[[i + 1]] == ends[[i]]) raw()
    else column$data[(start + ends[[i]] + 1):(start + ends[[i + 1]])]
  })
  blob::new_blob(values)
}

# Fetched columns as a data frame; names are kept as Spark gives them.
columns_to_frame <- function(columns, options) {
  values <- lapply(columns, decode_column, options)
  names(values) <- vapply(columns, `[[`, "", "name")
  n <- if (length(columns)) as.integer(columns[[1]]$n) else 0L
  structure(values, class = "data.frame", row.names = .set_row_names(n))
}

# The Spark type that holds an R vector without loss.
spark_type <- function(x) {
  if (inherits(x, "AsIs")) {
    x <- strip_as_is(x)
  }
  if (is.factor(x)) "STRING"
  else if (inherits(x, "integer64")) "BIGINT"
  else if (inherits(x, "Date")) "DATE"
  else if (inherits(x, "POSIXt")) "TIMESTAMP"
  else if (inherits(x, "difftime")) "DOUBLE"
  else if (inherits(x, "blob") || is.raw(x)) "BINARY"
  else if (is.list(x)) "BINARY"
  else switch(typeof(x),
    logical = "BOOLEAN",
    integer = "INT",
    double = "DOUBLE",
    character = "STRING",
    abort("data", sprintf("Spark has no type for an R value of class %s", paste(class(x), collapse = "/")),
          "convert the column first, for example with as.character()")
  )
}

strip_as_is <- function(x) {
  class(x) <- setdiff(class(x), "AsIs")
  if (identical(attr(x, "class"), character())) attr(x, "class") <- NULL
  x
}

# An R vector as a buffer column: the opposite of decode_column().
encode_column <- function(name, x) {
  if (inherits(x, "AsIs")) x <- strip_as_is(x)
  type <- spark_type(x)
  missing <- missing_values(x)
  list(
    name = enc2utf8(name), type = tolower(type), n = length(missing),
    data = encode_values(name, x, type),
    valid = if (any(missing)) as.raw(!missing)
  )
}

# NaN is a value in Spark, only NA is NULL.
missing_values <- function(x) {
  if (is.list(x) && !inherits(x, "POSIXlt")) {
    return(vapply(x, function(value) is.null(value) || (length(value) == 1 && !is.raw(value) && is.na(value)), NA))
  }
  if (is.raw(x)) {
    return(logical(length(x)))
  }
  if (is.double(x) && !is.object(x)) is.na(x) & !is.nan(x) else is.na(x)
}

encode_values <- function(name, x, type) {
  switch(type,
    BOOLEAN = {
      x[is.na(x)] <- FALSE
      as.raw(x)
    },
    INT = writeBin(as.integer(x), raw(), endian = "little"),
    BIGINT = writeBin(unclass(x), raw(), endian = "little"),
    DOUBLE = writeBin(if (inherits(x, "difftime")) as.double(x, units = "secs") else as.double(x), raw(), endian = "little"),
    DATE = writeBin(as.integer(floor(as.double(x))), raw(), endian = "little"),
    TIMESTAMP = encode_timestamp(x),
    STRING = writeBin(enc2utf8(as.character(x)), raw()),
    BINARY = encode_binary(name, x)
  )
}

encode_timestamp <- function(x) {
  x <- as.double(as.POSIXct(x))
  seconds <- floor(x)
  micros <- suppressWarnings(as.integer64(seconds) * as.integer64(1000000L) + as.integer64(round((x - seconds) * 1e6)))
  writeBin(unclass(micros), raw(), endian = "little")
}

encode_binary <- function(name, x) {
  if (is.raw(x)) x <- as.list(x)
  ok <- vapply(x, function(value) is.raw(value) || is.null(value) || identical(value, NA), NA)
  if (!all(ok)) {
    abort(
      "data", sprintf("column %s is a list with something else than raw vectors", name),
      "unnest the list, or turn each element into raw with serialize() or charToRaw()"
    )
  }
  values <- lapply(x, function(value) if (is.raw(value)) value else raw())
  offsets <- c(0, cumsum(as.double(lengths(values))))
  c(writeBin(unclass(as.integer64(offsets)), raw(), endian = "little"), as.raw(unlist(values)))
}
