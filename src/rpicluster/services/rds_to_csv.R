# Writes the data frame of an .rds file as CSV and, to stdout, its columns' types as JSON.
# Only base R: this runs wherever R does. Numbers keep 17 digits, so doubles survive; times are UTC.
arguments <- commandArgs(trailingOnly = TRUE)
data <- readRDS(arguments[[1]])
if (!is.data.frame(data)) stop("it holds a ", class(data)[[1]], ", not a data frame", call. = FALSE)
if (anyDuplicated(tolower(names(data)))) stop("two columns have the same name (Spark ignores case)", call. = FALSE)

type_of <- function(column) {
  if (!is.null(dim(column))) return(c(NA, if (is.data.frame(column)) "data frame" else "matrix"))
  if (is.factor(column)) return(c("string", "a factor's labels"))
  if (inherits(column, "POSIXct")) return(c("timestamp", "times"))
  if (inherits(column, "Date")) return(c("date", "dates"))
  if (inherits(column, "integer64")) return(c("bigint", "64-bit integers"))
  if (is.logical(column)) return(c("boolean", "logical"))
  if (is.integer(column)) return(c("int", "integers"))
  if (is.double(column)) return(c("double", "doubles"))
  if (is.character(column)) return(c("string", "text"))
  c(NA, class(column)[[1]])
}
types <- vapply(data, type_of, character(2))
if (anyNA(types[1, ])) {
  stop("column ", names(data)[is.na(types[1, ])][[1]], " is a ", types[2, is.na(types[1, ])][[1]],
       ", which has no type in a table", call. = FALSE)
}

text_of <- function(column) {
  if (is.factor(column)) return(enc2utf8(as.character(column)))
  if (is.character(column)) return(enc2utf8(column))
  if (inherits(column, "POSIXct")) return(format(column, "%Y-%m-%dT%H:%M:%OS6Z", tz = "UTC"))
  if (inherits(column, "Date")) return(format(column, "%Y-%m-%d"))
  if (inherits(column, "integer64")) return(bit64::as.character.integer64(column))
  if (is.logical(column)) return(ifelse(column, "true", "false"))
  if (is.double(column)) return(ifelse(is.na(column) & !is.nan(column), NA, sprintf("%.17g", column)))
  as.character(column)
}
quoted <- which(vapply(data, function(column) is.factor(column) || is.character(column), logical(1)))
text <- as.data.frame(lapply(data, text_of), stringsAsFactors = FALSE)
stopifnot(nrow(text) == nrow(data))
names(text) <- enc2utf8(names(data))
# write.table quotes the header itself as soon as it quotes any column
header <- if (length(quoted)) TRUE else paste0('"', gsub('"', '""', names(text), fixed = TRUE), '"')
utils::write.table(text, arguments[[2]], sep = ",", qmethod = "double", row.names = FALSE, col.names = header,
                   quote = if (length(quoted)) unname(quoted) else FALSE, na = "NA", fileEncoding = "UTF-8")

escape <- function(text) gsub('"', '\\"', gsub("\\", "\\\\", text, fixed = TRUE), fixed = TRUE)
cat("[", paste0('{"name":"', escape(enc2utf8(names(data))), '","type":"', types[1, ], '","reason":"', types[2, ], '"}',
                collapse = ","), "]", sep = "")
