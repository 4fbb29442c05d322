"""The command line: thin commands over `rpicluster.cluster`; `console` owns every byte that is printed."""
