"""rpicluster: a drawer of Raspberry Pis becomes the Spark-on-YARN back end of R on a laptop."""

__version__ = "0.1.0"
