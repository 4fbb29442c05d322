# written by rpicluster, changes are overwritten; see plan --diff
export JAVA_HOME=/usr/lib/jvm/java-17-openjdk-arm64
export SPARK_HOME=/opt/rpicluster/runtime
export HADOOP_CONF_DIR=/etc/rpicluster/hadoop
export SPARK_CONF_DIR=/etc/rpicluster/spark
export PATH="$PATH:$JAVA_HOME/bin:$SPARK_HOME/bin"
