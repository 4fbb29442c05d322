# dplyr verbs on a real cluster, each checked against dplyr on the same rows; skipped without a cluster.

skip_if_not_installed("dbplyr")
skip_if_not_installed("lubridate")
skip_if_not_installed("stringr")
suppressPackageStartupMessages({
  library(dplyr, warn.conflicts = FALSE)
  library(lubridate, warn.conflicts = FALSE)
  library(stringr)
})

local_rows <- tibble::tibble(
  id = 1:12,
  g = rep(c("a", "b", "c"), 4),
  x = c(5.5, -3, 0, 2.5, 3.5, NA, 7, 8, 9, -1.5, 1, 2),
  k = c(7L, -7L, 3L, 0L, NA, 2L, 5L, -5L, 1L, 2L, 3L, 4L),
  s = c("apple pie", "Banana", "a'b\\c", NA, "x$1", "\u00fcber", "  pad ", "foo123bar45", "a.b", "AAA", "b%c", "z"),
  d = as.Date("2021-02-26") + 0:11,
  ts = as.POSIXct("2021-02-26 13:37:42.25", tz = "UTC") + 3600 * 5 * (0:11),
  l = rep(c(TRUE, FALSE, NA), 4)
)

# Rows as a plain data frame in an order of their own; integers as doubles, since Spark's sums and counts are wider.
plain <- function(rows) {
  rows <- as.data.frame(rows)
  for (name in names(rows)) {
    if (is.factor(rows[[name]])) rows[[name]] <- as.character(rows[[name]])
    if (is.integer(rows[[name]])) rows[[name]] <- as.double(rows[[name]])
    attributes(rows[[name]])$tzone <- NULL
  }
  rows <- rows[do.call(order, unname(as.list(rows))), , drop = FALSE]
  rownames(rows) <- NULL
  rows
}

same <- function(remote, verbs) {
  expect_equal(plain(suppressWarnings(collect(verbs(remote)))), plain(suppressWarnings(verbs(local_rows))), ignore_attr = TRUE)
}

remote_rows <- function(frame = parent.frame()) {
  copy_to(cluster_connection(bigint = "numeric", frame = frame), local_rows, "local_rows", overwrite = TRUE)
}

by_id <- function(t) if (inherits(t, "tbl_lazy")) dbplyr::window_order(t, id) else arrange(t, id)

test_that("filters and arithmetic give what dplyr gives", {
  remote <- remote_rows()
  same(remote, function(t) filter(t, x > 1, g %in% c("a","b")))
  same(remote, function(t) filter(t, is.na(s) | !is.na(k)))
  same(remote, function(t) transmute(t, id, a=x/2, b=k*1.5, c=k+1L, d=-x, e=x^2))
  same(remote, function(t) transmute(t, id, a=k%%3L, b=k%%-3L, c=x%%2, d=k%/%2L, e=x%/%-2, f=7%%3))
  same(remote, function(t) transmute(t, id, a=round(x), b=floor(x), c=ceiling(x), d=trunc(x), e=round(x/3,2), f=abs(x), g2=sign(x)))
  same(remote, function(t) transmute(t, id, a=exp(x), b=log(abs(x)+1), c=log10(abs(x)+1), d=sqrt(abs(x)), e=log(abs(x)+1, 2), f=log2(abs(x)+1), g2=log1p(abs(x)), h=sin(x), i=atan2(x,1)))
  same(remote, function(t) transmute(t, id, a=is.finite(x), b=is.nan(x) & !is.na(x)))
  same(remote, function(t) transmute(t, id, a=bitwAnd(id,3L), b=bitwOr(id,8L), c=bitwXor(id,5L)))
  same(remote, function(t) transmute(t, id, a=pmin(id,5L,na.rm=TRUE), b=pmax(id,5L,na.rm=TRUE)))
  same(remote, function(t) transmute(t, id, a=is.na(x/0L) | is.infinite(x/0L)))
})

test_that("casts, conditions and constants give what dplyr gives", {
  remote <- remote_rows()
  same(remote, function(t) transmute(t, id, a=as.integer(x), b=as.character(k), c=as.numeric(k), d=as.logical(k), e=as.Date(ts)))
  same(remote, function(t) transmute(t, id, a=case_when(x>3~"big", x<0~"neg", TRUE~"mid"), b=if_else(k>2L,"y","n"), c=ifelse(is.na(k),0L,k), d=coalesce(k,0L), e=na_if(g,"a"), f=between(x,0,3)))
  same(remote, function(t) transmute(t, id, a=1.5, b=2, c=3L, d1=TRUE, e="x"))
  same(remote, function(t) mutate(t, z="it's a \\ \"q\" `b` 100% 1.5 \n nl"))
  same(remote, function(t) filter(t, s == "a'b\\c"))
  same(remote, function(t) t %>% count(g) %>% mutate(p=n*1.5/3, q=100*n, r=n/2, s1=0.1))
})

test_that("strings and patterns give what dplyr gives", {
  remote <- remote_rows()
  same(remote, function(t) transmute(t, id, a=toupper(s), b=tolower(s), c=nchar(s), d=substr(s,2,4), e=str_sub(s,1,2), f=str_sub(s,-3,-1), h=trimws(s), i=str_length(s), j=str_to_upper(s)))
  same(remote, function(t) transmute(t, id, a=paste(g,"x"), b=paste0(g,id), c=str_c(s,"-",g), d=paste(g,g,sep="'"), e=str_c(g,g,sep="\\")))
  same(remote, function(t) transmute(t, id, a=grepl("a", s), b=str_detect(s,"^[ab]"), c=str_replace_all(s,"[a-c]","<\\0>"), d=str_replace(s,"[a-z]","Z"), e=gsub("(\\w)(\\w)","\\2\\1",s), f=sub("(o)","[\\1]",s), g1=grepl(".",s,fixed=TRUE), h=str_detect(s,fixed(".")), i=str_extract(s,"[0-9]+"), j=str_count(s,"a"), k1=str_remove_all(s,"[aeiou]"), l1=str_remove(s,"[aeiou]"), m=str_starts(s,"a"), n=str_ends(s,"[0-9]"), o=startsWith(s,"a"), p=gsub(".","$1",s,fixed=TRUE), q=sub("$1","\\",s,fixed=TRUE), r=str_replace(s,"a","1x")))
  same(remote, function(t) transmute(t, id, a=str_replace_all(s,"[[:punct:][:space:]]","_"), b=gsub("[[:alpha:]]+","#",s)))
  same(remote, function(t) transmute(t, id, a=str_pad(g,3,"left","0"), b=str_pad(s,5,"right"), c=str_dup(g,2), d=str_squish(s), e=str_trim(s)))
})

test_that("dates and times give what dplyr gives", {
  remote <- remote_rows()
  same(remote, function(t) transmute(t, id, a=year(d), b=month(d), c=day(d), e=yday(d), f=wday(d), g1=hour(ts), h=minute(ts), i=second(ts), j=quarter(d), k1=isoweek(d), l1=week(d), m=wday(d,week_start=1), n=isoyear(d)))
  same(remote, function(t) transmute(t, id, a=floor_date(ts,"hour"), b=floor_date(ts,"day"), c=floor_date(ts,"week"), e=floor_date(ts,"month"), f=floor_date(ts,"15 minutes"), g1=floor_date(ts,"week",week_start=1), h=floor_date(ts, "year")))
  same(remote, function(t) transmute(t, id, a=make_date(2020L,id,3L)))
  same(remote, function(t) filter(t, d > as.Date("2021-03-01"), ts < as.POSIXct("2021-02-28 01:00:00.5", tz="UTC")))
  same(remote, function(t) transmute(t, id, a=as.numeric(difftime(ts, as.POSIXct("2021-01-01",tz="UTC"), units="hours"))))
  same(remote, function(t) transmute(t, id, a=ts + days(2), b=ts - hours(3)))
})

test_that("summaries give what dplyr gives", {
  remote <- remote_rows()
  same(remote, function(t) t %>% group_by(g) %>% summarise(n=n(), m=mean(x,na.rm=TRUE), s1=sum(k,na.rm=TRUE), mn=min(x,na.rm=TRUE), mx=max(x,na.rm=TRUE), sd=sd(x,na.rm=TRUE), v=var(x,na.rm=TRUE), md=median(x,na.rm=TRUE), q=quantile(x,0.25,na.rm=TRUE), nd=n_distinct(id), .groups="drop"))
  same(remote, function(t) t %>% group_by(g) %>% summarise(a=any(x>5,na.rm=TRUE), b=all(x>-2,na.rm=TRUE), .groups="drop"))
  same(remote, function(t) t %>% filter(!is.na(x),!is.na(k)) %>% group_by(g) %>% summarise(a=cor(x,k), .groups="drop"))
  same(remote, function(t) t %>% group_by(g) %>% summarise(across(c(x,k), ~mean(.x,na.rm=TRUE)), .groups="drop"))
  same(remote, function(t) count(t, g, l, sort=TRUE))
  same(remote, function(t) add_count(t, g))
  same(remote, function(t) distinct(t, g, l))
  same(remote, function(t) distinct(t, g, .keep_all=FALSE))
  same(remote, function(t) t %>% filter(id==1L) %>% group_by(g) %>% summarise(a=paste(s,collapse="|"), .groups="drop"))
})

test_that("window functions give what dplyr gives", {
  remote <- remote_rows()
  same(remote, function(t) t %>% group_by(g) %>% by_id() %>% mutate(a=lag(x), b=lead(k,2), c=lag(x,default=0), r=row_number(), cs=cumsum(id), cm=cummean(id), f=first(x), l1=last(id), n1=nth(id,2)) %>% ungroup() %>% select(id,a,b,c,r,cs,cm,f,l1,n1))
  same(remote, function(t) t %>% mutate(a=min_rank(x), b=dense_rank(k), c=percent_rank(id), d1=cume_dist(id), e=ntile(id,3L), f=row_number(desc(id)), h=min_rank(desc(x))) %>% select(id,a,b,c,d1,e,f,h))
  same(remote, function(t) t %>% group_by(g) %>% mutate(a=mean(x,na.rm=TRUE), b=sd(x,na.rm=TRUE), c=median(x,na.rm=TRUE), d1=n(), e=quantile(x,0.5,na.rm=TRUE), f=sum(k,na.rm=TRUE), h=max(id), i=n_distinct(id)) %>% ungroup() %>% select(id,a,b,c,d1,e,f,h,i))
  same(remote, function(t) t %>% group_by(g) %>% filter(x == max(x,na.rm=TRUE)) %>% ungroup())
  same(remote, function(t) t %>% group_by(g) %>% slice_min(id, n=2) %>% ungroup())
  same(remote, function(t) t %>% slice_max(id, n=3))
})

test_that("joins give what dplyr gives", {
  remote <- remote_rows()
  same(remote, function(t) inner_join(t, filter(t, id>3) %>% select(id, y=x), by="id"))
  same(remote, function(t) left_join(t, filter(t, id>3) %>% select(id, y=x), by="id"))
  same(remote, function(t) right_join(filter(t,id<5), t %>% select(id, y=x), by="id"))
  same(remote, function(t) full_join(filter(t,id<5) %>% select(id,x), filter(t,id>3) %>% select(id, y=x), by="id"))
  same(remote, function(t) semi_join(t, filter(t, id>3), by="id"))
  same(remote, function(t) anti_join(t, filter(t, id>3), by="id"))
  same(remote, function(t) inner_join(t, t %>% group_by(g) %>% summarise(mx=max(id), .groups="drop"), by=c("g"="g","id"="mx")))
  same(remote, function(t) inner_join(t %>% select(id,k), t %>% select(id2=id,k), by="k", na_matches="na"))
  same(remote, function(t) left_join(t %>% select(id,x), t %>% select(id,x), by="id"))
})

test_that("set operations and order give what dplyr gives", {
  remote <- remote_rows()
  same(remote, function(t) dplyr::union(t %>% select(g), t %>% select(g)))
  same(remote, function(t) union_all(t %>% select(g), t %>% select(g)))
  same(remote, function(t) dplyr::intersect(t %>% filter(id<8) %>% select(g,id), t %>% filter(id>3)%>% select(g,id)))
  same(remote, function(t) dplyr::setdiff(t %>% select(g,id), t %>% filter(id>3)%>% select(g,id)))
  same(remote, function(t) t %>% arrange(desc(id)) %>% head(3))
  same(remote, function(t) t %>% rename(`a b`=x) %>% relocate(s))
})

test_that("pull, compute, copy_to, schemas and explain work", {
  con <- cluster_connection()
  rows <- copy_to(con, local_rows, "pulled", overwrite = TRUE)
  expect_identical(pull(filter(rows, id < 3), x), c(5.5, -3))
  view <- compute(filter(rows, id > 5), name = "r_view")
  expect_identical(nrow(collect(view)), 7L)
  expect_true("r_view" %in% DBI::dbListTables(con))
  expect_identical(nrow(collect(compute(filter(rows, id > 6), cache = TRUE))), 6L)
  withr::defer(DBI::dbRemoveTable(con, "r_table", fail_if_missing = FALSE))
  DBI::dbRemoveTable(con, "r_table", fail_if_missing = FALSE)
  compute(filter(rows, id > 7), name = "r_table", temporary = FALSE)
  for (name in list("r_table", dbplyr::in_schema("default", "r_table"), dbplyr::in_catalog("rpi", "default", "r_table"),
                    DBI::Id(schema = "default", table = "r_table"))) {
    expect_identical(nrow(collect(tbl(con, name))), 5L)
  }
  copy_to(con, local_rows, "r_table", temporary = FALSE, overwrite = TRUE)
  expect_identical(collect(count(tbl(con, "r_table")))$n, bit64::as.integer64(12))
  expect_output(explain(filter(rows, x > 1.5)), "Physical Plan")
  expect_identical(nrow(collect(dbplyr::copy_inline(con, head(local_rows, 2)))), 2L)
})

test_that("an error in collect() keeps its class", {
  con <- cluster_connection()
  broken <- tbl(con, dbplyr::sql("SELECT RAISE_ERROR('on purpose') AS x"))
  expect_error(collect(broken), "on purpose", class = "rpicluster_error_sql")
})
