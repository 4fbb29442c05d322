library(testthat)
library(rpicluster)

test_check("rpicluster")
