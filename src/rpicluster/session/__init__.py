"""The R user's doors: the warm application on YARN, kept alive by its keeper."""
