# Tables are Iceberg tables of the cluster; what DBI calls a temporary table is a temporary view of this connection.
# DBI has methods of its own for names that are strings, so each of ours is set for "character" as well as for "ANY".

table_name <- function(conn, name) {
  if (is(name, "Id") || is(name, "SQL")) {
    if (length(name) != 1 && !is(name, "Id")) abort_usage("`name` must be one table name")
    return(dbQuoteIdentifier(conn, name))
  }
  if (!is.character(name) || length(name) != 1 || is.na(name) || !nzchar(name)) {
    abort_usage("`name` must be one table name")
  }
  dbQuoteIdentifier(conn, name)
}

is_flag <- function(x) is.logical(x) && length(x) == 1 && !is.na(x)

check_flag <- function(x, name) if (!is_flag(x)) abort_usage(sprintf("`%s` must be TRUE or FALSE", name))

check_row_names <- function(row.names) {
  ok <- is.null(row.names) || (length(row.names) == 1 && (is.logical(row.names) || is.character(row.names)))
  if (!ok) abort_usage("`row.names` must be TRUE, FALSE, NA, NULL or one column name")
  if (is.null(row.names)) FALSE else row.names
}

check_field_types <- function(field.types, columns) {
  if (is.null(field.types)) {
    return(NULL)
  }
  if (!is.character(field.types) || is.null(names(field.types)) || anyDuplicated(names(field.types))) {
    abort_usage("`field.types` must be a character vector with column names as names")
  }
  unknown <- setdiff(names(field.types), columns)
  if (length(unknown)) {
    abort_usage(sprintf("`field.types` names no column: %s", paste(unknown, collapse = ", ")))
  }
  field.types
}

#' @rdname rpicluster-dbi
#' @export
setMethod("dbListTables", "RpiConnection", function(conn, ...) live(conn)$tables())

exists_table <- function(conn, name, ...) {
  live(conn)
  parts <- split_name(table_name(conn, name))
  if (length(parts) == 1) {
    return(tolower(parts) %in% tolower(dbListTables(conn)))
  }
  namespace <- paste(dbQuoteIdentifier(conn, parts[-length(parts)]), collapse = ".")
  tryCatch(
    tolower(parts[[length(parts)]]) %in% tolower(ask(conn, paste("SHOW TABLES IN", namespace))$tableName),
    rpicluster_error_sql = function(e) {
      if (grepl("NOT_FOUND", conditionMessage(e))) FALSE else stop(e)
    }
  )
}

#' @rdname rpicluster-dbi
#' @export
setMethod("dbExistsTable", c("RpiConnection", "ANY"), exists_table)

#' @rdname rpicluster-dbi
#' @export
setMethod("dbExistsTable", c("RpiConnection", "character"), exists_table)

list_fields <- function(conn, name, ...) {
  live(conn)
  names(ask(conn, sprintf("SELECT * FROM %s WHERE 1 = 0", table_name(conn, name))))
}

#' @rdname rpicluster-dbi
#' @export
setMethod("dbListFields", c("RpiConnection", "ANY"), list_fields)

#' @rdname rpicluster-dbi
#' @export
setMethod("dbListFields", c("RpiConnection", "character"), list_fields)

#' @rdname rpicluster-dbi
#' @export
setMethod("dbListObjects", c("RpiConnection", "ANY"), function(conn, prefix = NULL, ...) {
  live(conn)
  if (is.null(prefix)) {
    tables <- lapply(dbListTables(conn), function(table) Id(table = table))
    namespaces <- lapply(ask(conn, "SHOW NAMESPACES")[[1]], function(name) Id(schema = name))
  } else {
    quoted <- table_name(conn, prefix)
    parts <- if (is(prefix, "Id")) as.list(prefix@name) else list(schema = as.character(prefix))
    found <- ask(conn, paste("SHOW TABLES IN", quoted))
    tables <- lapply(found$tableName[!found$isTemporary], function(table) do.call(Id, c(parts, list(table = table))))
    namespaces <- list()
  }
  frame <- data.frame(is_prefix = rep(c(FALSE, TRUE), c(length(tables), length(namespaces))))
  frame$table <- c(tables, namespaces)
  frame[c("table", "is_prefix")]
})

read_table <- function(conn, name, ..., row.names = FALSE, check.names = TRUE) {
  row.names <- check_row_names(row.names)
  check_flag(check.names, "check.names")
  frame <- dbGetQuery(conn, paste("SELECT * FROM", table_name(conn, name)))
  if (is.character(row.names) && !row.names %in% names(frame)) {
    abort_usage(sprintf("there is no column %s for row names", row.names))
  }
  if (isTRUE(row.names) && !"row_names" %in% names(frame)) {
    abort_usage("there is no column row_names", "use row.names = FALSE")
  }
  frame <- sqlColumnToRownames(frame, row.names)
  if (check.names) names(frame) <- make.names(names(frame), unique = TRUE)
  frame
}

#' @rdname rpicluster-dbi
#' @export
setMethod("dbReadTable", c("RpiConnection", "ANY"), read_table)

#' @rdname rpicluster-dbi
#' @export
setMethod("dbReadTable", c("RpiConnection", "character"), read_table)

#' @rdname rpicluster-dbi
#' @export
setMethod("dbCreateTable", "RpiConnection", function(conn, name, fields, ..., row.names = NULL, temporary = FALSE) {
  if (!is.null(row.names)) abort_usage("`row.names` must be NULL here")
  check_flag(temporary, "temporary")
  if (temporary) no_temporary_tables()
  if (is.data.frame(fields)) fields <- data_type(fields)
  if (!is.character(fields) || is.null(names(fields)) || anyNA(names(fields))) {
    abort_usage("`fields` must be a data frame or a character vector of types with names")
  }
  run(conn, create_sql(conn, table_name(conn, name), fields))
  invisible(TRUE)
})

create_sql <- function(conn, name, fields) {
  sprintf("CREATE TABLE %s (%s)", name, paste(dbQuoteIdentifier(conn, names(fields)), fields, collapse = ", "))
}

no_temporary_tables <- function() {
  abort(
    "unsupported", "Spark has no temporary tables, only temporary views, and rows cannot be added to a view",
    "use dbWriteTable(temporary = TRUE) for a view of a data frame, or a table and dbRemoveTable()"
  )
}

write_table <- function(conn, name, value, ..., row.names = FALSE,
                        overwrite = FALSE, append = FALSE,
                        field.types = NULL, temporary = FALSE) {
  live(conn)
  check_flag(overwrite, "overwrite")
  check_flag(append, "append")
  check_flag(temporary, "temporary")
  if (overwrite && append) abort_usage("`overwrite` and `append` cannot both be TRUE")
  if (append && !is.null(field.types)) abort_usage("`field.types` cannot be given with `append = TRUE`")
  if (append && temporary) no_temporary_tables()
  if (!is.data.frame(value)) abort_usage("`value` must be a data frame")
  table <- table_name(conn, name)
  value <- sqlRownamesToColumn(value, check_row_names(row.names))
  field.types <- check_field_types(field.types, names(value))
  exists <- dbExistsTable(conn, name)
  if (exists && !overwrite && !append) {
    abort_usage(sprintf("table %s exists already", table), "use overwrite = TRUE or append = TRUE")
  }
  if (temporary) {
    upload_view(conn, table, value, field.types)
  } else {
    mode <- if (append && exists) "append" else if (overwrite) "overwrite" else "create"
    upload(conn, name, table, value, mode, field.types)
  }
  invisible(TRUE)
}

#' @rdname rpicluster-dbi
#' @export
setMethod("dbWriteTable", c("RpiConnection", "ANY"), write_table)

#' @rdname rpicluster-dbi
#' @export
setMethod("dbWriteTable", c("RpiConnection", "character"), write_table)

#' @rdname rpicluster-dbi
#' @export
setMethod("dbAppendTable", "RpiConnection", function(conn, name, value, ..., row.names = NULL) {
  if (!is.null(row.names)) abort_usage("`row.names` must be NULL here")
  if (!is.data.frame(value)) abort_usage("`value` must be a data frame")
  live(conn)
  if (any(vapply(value, is.factor, NA))) warning("factors are appended as character", call. = FALSE)
  upload(conn, name, table_name(conn, name), value, "append", NULL)
  as.double(nrow(value))
})

upload <- function(conn, name, table, value, mode, types) {
  if (!ncol(value)) abort_usage("`value` has no columns")
  if (mode == "append") {
    unknown <- setdiff(tolower(names(value)), tolower(dbListFields(conn, name)))
    if (length(unknown)) {
      abort_usage(sprintf("table %s has no column %s", table, paste(unknown, collapse = ", ")))
    }
  }
  live(conn)$write_table(split_name(table), encode_frame(value), mode, types)
}

encode_frame <- function(value) Map(encode_column, names(value), as.list(value), USE.NAMES = FALSE)

# A view holds its rows in the session; types are casts in a second view over them.
upload_view <- function(conn, table, value, types) {
  if (!ncol(value)) abort_usage("`value` has no columns")
  parts <- split_name(table)
  if (length(parts) != 1) abort_usage("a temporary view has no catalog and no schema", "give the name alone")
  if (is.null(types)) {
    return(live(conn)$write_view(parts, encode_frame(value)))
  }
  source <- paste0("rpicluster_rows_", paste(sample(c(letters, 0:9), 16, replace = TRUE), collapse = ""))
  live(conn)$write_view(source, encode_frame(value))
  columns <- dbQuoteIdentifier(conn, names(value))
  typed <- names(value) %in% names(types)
  columns[typed] <- SQL(sprintf("CAST(%s AS %s) AS %s", columns[typed], types[names(value)[typed]], columns[typed]))
  run(conn, sprintf("CREATE OR REPLACE TEMPORARY VIEW %s AS SELECT %s FROM %s", table,
                    paste(columns, collapse = ", "), dbQuoteIdentifier(conn, source)))
}

remove_table <- function(conn, name, ..., temporary = FALSE,
                         fail_if_missing = TRUE) {
  check_flag(temporary, "temporary")
  check_flag(fail_if_missing, "fail_if_missing")
  live(conn)
  table <- table_name(conn, name)
  what <- if (temporary || is_view(conn, table)) "VIEW" else "TABLE"
  run(conn, paste("DROP", what, if (!fail_if_missing) "IF EXISTS", table))
  invisible(TRUE)
}

#' @rdname rpicluster-dbi
#' @export
setMethod("dbRemoveTable", c("RpiConnection", "ANY"), remove_table)

#' @rdname rpicluster-dbi
#' @export
setMethod("dbRemoveTable", c("RpiConnection", "character"), remove_table)

# A temporary view hides a table of the same name, so the view is what the name means.
is_view <- function(conn, table) {
  parts <- split_name(table)
  length(parts) == 1 && tolower(parts) %in% tolower(live(conn)$views())
}
