# written by rpicluster, changes are overwritten; see plan --diff
export JAVA_HOME=/usr/lib/jvm/java-17-openjdk-arm64
export SPARK_HOME=/opt/rpicluster/runtime
export HADOOP_CONF_DIR=/etc/rpicluster/hadoop
export SPARK_CONF_DIR=/etc/rpicluster/spark
case ":$PATH:" in *":$JAVA_HOME/bin:"*) ;; *) PATH="${PATH:+$PATH:}$JAVA_HOME/bin" ;; esac
case ":$PATH:" in *":$SPARK_HOME/bin:"*) ;; *) PATH="${PATH:+$PATH:}$SPARK_HOME/bin" ;; esac
export PATH
